//! Replication slots.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::cluster::Lsn;
use crate::cluster::slot::SlotKind;
use crate::postgres::query::{QueryError, Session, quote_literal};
use crate::sys::files::{self, Attributes, FileError};

/// A slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub kind: SlotKind,
    pub active: bool,
    /// From where on WAL is kept; None for one that was never used.
    pub restart: Option<Lsn>,
    /// Up to where the user of a logical slot has confirmed.
    pub confirmed: Option<Lsn>,
    /// True where it holds back vacuum.
    pub has_xmin: bool,
    /// True where the WAL that it needs is gone.
    pub lost: bool,
    /// True where Postgres itself keeps it on standbys.
    pub failover: bool,
}

// The server's own copies on standbys are its own business. Versions below 17 have no such columns.
const LIST: &str = "SELECT slot_name, slot_type, active, restart_lsn, xmin IS NOT NULL,
    COALESCE(wal_status = 'lost', false), database, plugin, confirmed_flush_lsn,
    COALESCE((pg_catalog.to_jsonb(s) ->> 'failover')::boolean, false)
    FROM pg_catalog.pg_replication_slots s WHERE NOT temporary
    AND NOT COALESCE((pg_catalog.to_jsonb(s) ->> 'synced')::boolean, false) ORDER BY slot_name";

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
        "physical" => SlotKind::Physical,
        _ => SlotKind::Logical { database: value(6)?.to_owned(), plugin: value(7)?.to_owned() },
    };
    Some(Slot {
        name: value(0)?.to_owned(),
        kind,
        active: value(2)? == "t",
        restart: lsn(3),
        confirmed: lsn(8),
        has_xmin: value(4)? == "t",
        lost: value(5)? == "t",
        failover: value(9)? == "t",
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

/// Makes a logical slot; the session must be in its database. It waits for transactions that are open, `limit` at most.
/// One that is there already is success.
///
/// # Errors
/// The plugin is not there, the server has no room for more slots, or it took longer.
pub async fn create_logical(
    session: &Session,
    name: &str,
    plugin: &str,
    limit: Duration,
) -> Result<(), QueryError> {
    let (name, plugin) = (quote_literal(name), quote_literal(plugin));
    let statement = format!(
        "SELECT pg_catalog.pg_create_logical_replication_slot({name}, {plugin}) WHERE NOT EXISTS
         (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {name})"
    );
    session.execute_within(&statement, limit).await
}

/// Moves an idle logical slot on to `lsn`; the session must be in its database. It decodes what lies between.
///
/// # Errors
/// As [`advance`]; `55000` and `58P01` where the slot cannot be moved any more.
pub async fn advance_logical(
    session: &Session,
    name: &str,
    lsn: Lsn,
    limit: Duration,
) -> Result<(), QueryError> {
    let name = quote_literal(name);
    let statement = format!(
        "SELECT pg_catalog.pg_replication_slot_advance(slot_name, '{lsn}') FROM pg_catalog.pg_replication_slots
         WHERE slot_name = {name} AND NOT active AND confirmed_flush_lsn < '{lsn}'"
    );
    session.execute_within(&statement, limit).await
}

/// Reads the state of logical slots from a primary, as far as they are there and of this kind. Those that the server
/// itself keeps on standbys are left to it.
///
/// # Errors
/// The server did not answer, or this user may not read its files.
pub async fn states(
    session: &Session,
    slots: &BTreeMap<String, SlotKind>,
) -> Result<BTreeMap<String, Vec<u8>>, QueryError> {
    let names: Vec<String> = slots.keys().map(|name| quote_literal(name)).collect();
    let statement = format!(
        "SELECT slot_name, datname, plugin, pg_catalog.encode(
             pg_catalog.pg_read_binary_file('pg_replslot/' || slot_name || '/state'), 'hex')
         FROM pg_catalog.pg_get_replication_slots() s JOIN pg_catalog.pg_database ON datoid = oid
         WHERE slot_type = 'logical' AND NOT COALESCE((pg_catalog.to_jsonb(s) ->> 'failover')::boolean, false)
         AND NOT pg_catalog.pg_is_in_recovery() AND slot_name IN ({})",
        names.join(", ")
    );
    let state = |row: Vec<Option<String>>| {
        let mut values = row.into_iter().flatten();
        let (name, database, plugin) = (values.next()?, values.next()?, values.next()?);
        let kind = SlotKind::Logical { database, plugin };
        let state = unhex(&values.next()?)?;
        (slots.get(&name) == Some(&kind)).then_some((name, state))
    };
    Ok(session.rows(&statement).await?.into_iter().filter_map(state).collect())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    digits?.chunks(2).map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect()
}

/// Puts the state of a slot into the data directory of a server that is down.
///
/// # Errors
/// The data directory may not be written.
pub fn install(data_dir: &Path, name: &str, state: &[u8]) -> Result<(), FileError> {
    let folder = data_dir.join("pg_replslot").join(name);
    files::make_folders(&folder)?;
    files::set_mode(&folder, 0o700)?;
    files::replace(&folder.join("state"), state, Attributes::OWNER_ONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| (!value.is_empty()).then(|| (*value).to_owned())).collect()
    }

    #[test]
    fn both_kinds_are_read() {
        let physical = read(&row(&["db2", "physical", "t", "0/3000148", "f", "f", "", "", "", "f"])).unwrap();
        assert_eq!(physical.kind, SlotKind::Physical);
        assert_eq!((physical.active, physical.restart), (true, Some(Lsn(0x0300_0148))));

        let logical =
            read(&row(&["cdc", "logical", "f", "", "t", "t", "shop", "pgoutput", "0/1", "f"])).unwrap();
        let kind = SlotKind::Logical { database: "shop".into(), plugin: "pgoutput".into() };
        assert_eq!((logical.kind, logical.lost, logical.restart), (kind, true, None));
        assert_eq!(logical.confirmed, Some(Lsn(1)));
        assert_eq!(read(&row(&["x"])), None);
    }

    #[test]
    fn a_state_travels_as_hexadecimal_digits() {
        assert_eq!(unhex("00ff7a"), Some(vec![0, 255, 122]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }

    #[test]
    fn a_state_is_put_where_postgres_looks() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("pg_replslot")).unwrap();

        install(temp.path(), "cdc", b"state").unwrap();

        assert_eq!(std::fs::read(temp.path().join("pg_replslot/cdc/state")).unwrap(), b"state");
    }
}
