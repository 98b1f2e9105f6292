//! The one question that each look asks of the server.

use crate::cluster::{Lsn, PgVersion, SegmentSize, Timeline};

use super::{ANSWER_GRACE, QueryError, STATEMENT_LIMIT, Session, answered};

/// What one look at the server sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitored {
    pub in_recovery: bool,
    pub version: PgVersion,
    /// Of the WAL that is written, on a primary; of the WAL last received or replayed, on a replica.
    pub timeline: Timeline,
    /// Of the latest checkpoint.
    pub checkpoint_timeline: Timeline,
    /// Flushed, on a primary.
    pub flushed: Option<Lsn>,
    /// Received and flushed since the last start, on a replica.
    pub received: Option<Lsn>,
    pub replayed: Option<Lsn>,
    pub replay_paused: bool,
    /// When the commit that was replayed last was made; seconds since 1970.
    pub replayed_at: Option<f64>,
    /// Where WAL is fetched from an archive: how.
    pub restore_command: String,
    /// Seconds since 1970.
    pub started: f64,
    /// When the server last read its configuration; seconds since 1970.
    pub loaded: f64,
    pub synchronous_standby_names: String,
    pub synchronous_commit: String,
    pub primary_conninfo: String,
    pub primary_slot_name: String,
    pub segment: SegmentSize,
    /// The WAL receiver, where one runs.
    pub receiver: Option<Receiver>,
    /// Who streams from here.
    pub senders: Vec<Sender>,
}

/// The WAL receiver of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// `streaming`, `waiting`, …
    pub status: String,
    pub slot: Option<String>,
    pub conninfo: Option<String>,
    /// The end of the upstream's WAL as it last said.
    pub latest_end: Option<Lsn>,
}

/// One client of a WAL sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub application_name: String,
    pub user: Option<String>,
    /// None: it came by a Unix socket.
    pub address: Option<String>,
    /// `streaming`, `catchup`, `backup`, …
    pub state: String,
    /// `async`, `potential`, `sync` or `quorum`.
    pub sync_state: String,
    pub sync_priority: i64,
    pub written: Option<Lsn>,
    pub flushed: Option<Lsn>,
    pub replayed: Option<Lsn>,
}

/// One question for everything, so that a look is one round trip. Positions travel as bytes.
const MONITOR: &str = "
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN
            COALESCE(r.received_tli, GREATEST(
                (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), c.timeline_id))
       ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
            )::pg_catalog.bit(32)::pg_catalog.int4 END,
       c.timeline_id,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE
            pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0')::pg_catalog.int8 END,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_receive_lsn(), '0/0')::pg_catalog.int8,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.int8,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
       EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.float8,
       EXTRACT(epoch FROM pg_catalog.pg_conf_load_time())::pg_catalog.float8,
       pg_catalog.current_setting('synchronous_standby_names'),
       pg_catalog.current_setting('synchronous_commit'),
       pg_catalog.current_setting('primary_conninfo'),
       pg_catalog.current_setting('primary_slot_name'),
       r.status, r.slot_name, r.conninfo,
       pg_catalog.pg_wal_lsn_diff(r.latest_end_lsn, '0/0')::pg_catalog.int8,
       (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
                'usename', usename, 'application_name', application_name, 'client_addr', client_addr,
                'state', state, 'sync_state', sync_state, 'sync_priority', sync_priority,
                'written', write_lsn, 'flushed', flush_lsn, 'replayed', replay_lsn)), '[]')
          FROM pg_catalog.pg_stat_replication),
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')),
       EXTRACT(epoch FROM pg_catalog.pg_last_xact_replay_timestamp())::pg_catalog.float8,
       pg_catalog.current_setting('restore_command')
  FROM pg_catalog.pg_control_checkpoint() c
  LEFT JOIN pg_catalog.pg_stat_get_wal_receiver() r ON true";

impl Session {
    /// Looks at the server.
    ///
    /// # Errors
    /// It did not answer within 3 s, or this user may not see replication.
    pub async fn monitor(&self) -> Result<Monitored, QueryError> {
        let answer = async {
            let statement = self.monitor.get_or_try_init(|| self.client.prepare(MONITOR)).await?;
            self.client.query_one(statement, &[]).await
        };
        let row = answered(STATEMENT_LIMIT + ANSWER_GRACE, answer).await?;
        read_monitored(&row).ok_or(QueryError::Unreadable("the monitoring query"))
    }
}

fn read_monitored(row: &tokio_postgres::Row) -> Option<Monitored> {
    let lsn = |column: usize| -> Option<Option<Lsn>> {
        let bytes: Option<i64> = row.try_get(column).ok()?;
        bytes.map_or(Some(None), |bytes| Some(Some(Lsn(u64::try_from(bytes).ok()?))))
    };
    let text = |column: usize| -> Option<String> { row.try_get(column).ok() };
    let maybe = |column: usize| -> Option<Option<String>> { row.try_get(column).ok() };
    let number = |column: usize| -> Option<u32> { u32::try_from(row.try_get::<_, i32>(column).ok()?).ok() };
    let (slot, conninfo, latest_end) = (maybe(15)?, maybe(16)?, lsn(17)?);
    let senders: serde_json::Value = row.try_get(18).ok()?;
    Some(Monitored {
        in_recovery: row.try_get(0).ok()?,
        version: PgVersion(number(1)?),
        timeline: Timeline(number(2)?),
        checkpoint_timeline: Timeline(number(3)?),
        flushed: lsn(4)?,
        received: lsn(5)?,
        replayed: lsn(6)?,
        replay_paused: row.try_get(7).ok()?,
        replayed_at: row.try_get(20).ok()?,
        restore_command: text(21)?,
        started: row.try_get(8).ok()?,
        loaded: row.try_get(9).ok()?,
        synchronous_standby_names: text(10)?,
        synchronous_commit: text(11)?,
        primary_conninfo: text(12)?,
        primary_slot_name: text(13)?,
        segment: SegmentSize::new(u64::try_from(row.try_get::<_, i64>(19).ok()?).ok()?)?,
        receiver: maybe(14)?.map(|status| Receiver { status, slot, conninfo, latest_end }),
        senders: senders.as_array()?.iter().map(read_sender).collect::<Option<_>>()?,
    })
}

/// Reads a WAL sender; None where this user may not see it, whose answers would be nulls.
fn read_sender(value: &serde_json::Value) -> Option<Sender> {
    let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str);
    let lsn = |key: &str| text(key).and_then(|lsn| lsn.parse().ok());
    Some(Sender {
        application_name: text("application_name")?.to_owned(),
        user: text("usename").map(str::to_owned),
        address: text("client_addr").map(str::to_owned),
        state: text("state")?.to_owned(),
        sync_state: text("sync_state")?.to_owned(),
        sync_priority: value.get("sync_priority")?.as_i64()?,
        written: lsn("written"),
        flushed: lsn("flushed"),
        replayed: lsn("replayed"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_sender_that_has_said_nothing_yet_has_no_positions() {
        let value = serde_json::json!({"application_name": "db2", "state": "startup", "sync_state": "async",
            "sync_priority": 0, "written": null, "flushed": null, "replayed": null});
        let sender = read_sender(&value).unwrap();
        assert_eq!((sender.application_name.as_str(), sender.flushed), ("db2", None));
    }
}
