//! Replication slots.

use crate::cluster::Lsn;
use crate::postgres::query::{QueryError, Session, quote_literal};

/// A slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub kind: Kind,
    pub active: bool,
    /// From where on WAL is kept; None for one that was never used.
    pub restart: Option<Lsn>,
    /// True where it holds back vacuum.
    pub has_xmin: bool,
    /// True where the WAL that it needs is gone.
    pub lost: bool,
}

/// What a slot is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Physical,
    Logical { database: String, plugin: String, confirmed: Option<Lsn> },
}

const LIST: &str =
    "SELECT slot_name, slot_type, active, restart_lsn, xmin IS NOT NULL OR catalog_xmin IS NOT NULL,
    COALESCE(wal_status = 'lost', false), database, plugin, confirmed_flush_lsn
    FROM pg_catalog.pg_replication_slots WHERE NOT temporary ORDER BY slot_name";

/// Lists the slots that outlive their session.
///
/// # Errors
/// The server did not answer.
pub async fn list(session: &Session) -> Result<Vec<Slot>, QueryError> {
    let rows = session.rows(LIST).await?;
    rows.iter().map(|row| read(row).ok_or(QueryError::Unreadable("the list of slots"))).collect()
}

fn read(row: &[Option<String>]) -> Option<Slot> {
    let value = |column: usize| row.get(column).and_then(Option::as_deref);
    let lsn = |column: usize| value(column).and_then(|text| text.parse::<Lsn>().ok());
    let kind = match value(1)? {
        "physical" => Kind::Physical,
        _ => {
            Kind::Logical { database: value(6)?.to_owned(), plugin: value(7)?.to_owned(), confirmed: lsn(8) }
        }
    };
    Some(Slot {
        name: value(0)?.to_owned(),
        kind,
        active: value(2)? == "t",
        restart: lsn(3),
        has_xmin: value(4)? == "t",
        lost: value(5)? == "t",
    })
}

/// Makes a physical slot that keeps WAL from this moment on. One that is there already is success.
///
/// # Errors
/// The server has no room for more slots, or did not answer.
pub async fn create_physical(session: &Session, name: &str) -> Result<(), QueryError> {
    let name = quote_literal(name);
    let statement = format!(
        "SELECT pg_catalog.pg_create_physical_replication_slot({name}, true) WHERE NOT EXISTS
         (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {name})"
    );
    session.execute(&statement).await
}

/// Drops a slot that nobody uses. Returns false where it is in use, true where it is gone.
///
/// # Errors
/// The server did not answer.
pub async fn drop_idle(session: &Session, name: &str) -> Result<bool, QueryError> {
    let name = quote_literal(name);
    let statement = format!(
        "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots
         WHERE slot_name = {name} AND NOT active;
         SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}"
    );
    match session.rows(&statement).await {
        Ok(rows) => Ok(!rows.iter().flatten().any(|value| value.as_deref() == Some("1"))),
        // It was taken into use between the look and the drop.
        Err(error) if error.sqlstate() == Some("55006") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves an idle slot on to `lsn`, so that it does not keep WAL which its user has. A slot that is ahead stays.
///
/// # Errors
/// The slot is gone or in use, or the server did not answer.
pub async fn advance(session: &Session, name: &str, lsn: Lsn) -> Result<(), QueryError> {
    let name = quote_literal(name);
    let statement = format!(
        "SELECT pg_catalog.pg_replication_slot_advance(slot_name, '{lsn}') FROM pg_catalog.pg_replication_slots
         WHERE slot_name = {name} AND NOT active AND restart_lsn < '{lsn}'"
    );
    session.execute(&statement).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| (!value.is_empty()).then(|| (*value).to_owned())).collect()
    }

    #[test]
    fn both_kinds_are_read() {
        let physical = read(&row(&["db2", "physical", "t", "0/3000148", "f", "f", "", "", ""])).unwrap();
        assert_eq!(physical.kind, Kind::Physical);
        assert_eq!((physical.active, physical.restart), (true, Some(Lsn(0x0300_0148))));

        let logical = read(&row(&["cdc", "logical", "f", "", "t", "t", "shop", "pgoutput", "0/1"])).unwrap();
        let kind =
            Kind::Logical { database: "shop".into(), plugin: "pgoutput".into(), confirmed: Some(Lsn(1)) };
        assert_eq!((logical.kind, logical.lost, logical.restart), (kind, true, None));
        assert_eq!(read(&row(&["x"])), None);
    }
}
