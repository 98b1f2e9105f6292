//! The preparation of a hand-over, while clients still write: checkpoints until one is short, so that the one at the
//! stop is, and a look at what may delay the stop.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::agent::instance::Instance;
use crate::agent::view::{Hazard, Preflight, PreflightState, Revision};
use crate::cluster::Lsn;
use crate::postgres::query::{QueryError, Session, connect};
use crate::sys::{clock, files, volume};

/// How long checkpoints are written before the request is judged by the last one.
const LIMIT: Duration = Duration::from_secs(15);

/// A checkpoint that nobody notices.
const SHORT: Duration = Duration::from_millis(100);

/// The longest checkpoint that clients may have to wait for, where none was short within the limit.
const BEARABLE: Duration = Duration::from_secs(2);

/// What a checkpoint writes beside the pages of tables, and more: states of slots, positions of origins, transaction states.
/// Measured on Postgres 15: without room for the origins' file a checkpoint ends in a crash of the whole server.
const CHECKPOINT_BYTES: u64 = 1 << 20;

/// WAL that waits for longer is a backlog.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(5);

/// Runs one preparation at a time.
#[derive(Debug, Clone)]
pub struct Preflights {
    report: Arc<Mutex<Option<Preflight>>>,
    wake: Arc<Notify>,
}

impl Preflights {
    pub fn new(wake: Arc<Notify>) -> Preflights {
        Preflights { report: Arc::default(), wake }
    }

    /// Returns how the preparation stands.
    pub fn report(&self) -> Option<Preflight> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn settle(&self, request: Revision, state: PreflightState) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(Preflight { request, state });
        self.wake.notify_one();
    }

    /// Begins the preparation for a request, unless it is under way.
    pub fn begin(&self, request: Revision, instance: &Instance) {
        let running = Preflight { request, state: PreflightState::Running };
        if self.report().as_ref() == Some(&running) {
            return;
        }
        self.settle(request, PreflightState::Running);
        let (preflights, instance) = (self.clone(), instance.clone());
        tokio::spawn(async move {
            let state = prepare(&instance).await.unwrap_or_else(|error| {
                tracing::warn!(error = %crate::sys::chain(&error), "the preparation of a hand-over failed");
                PreflightState::Failed
            });
            preflights.settle(request, state);
        });
    }
}

async fn prepare(instance: &Instance) -> Result<PreflightState, QueryError> {
    // A volume that does not tell is no reason to refuse.
    if let Ok(Some(volume)) = volume::of(instance.data_dir())
        && volume.free < CHECKPOINT_BYTES
    {
        return Ok(PreflightState::NoRoom);
    }
    let session = connect(&instance.target("Keddah checkpoint")).await?;
    let began = clock::now();
    loop {
        let begun = clock::now();
        let left = LIMIT.saturating_sub(begun.since(began)).max(BEARABLE);
        let done = session.checkpoint(left).await;
        let (now, took) = (clock::now(), clock::now().since(begun));
        match done {
            Ok(()) if took < SHORT => break,
            Ok(()) if now.since(began) < LIMIT => {}
            Ok(()) if took < BEARABLE => break,
            Ok(()) => return Ok(PreflightState::Slow),
            Err(error) if took >= left => {
                tracing::warn!(error = %crate::sys::chain(&error), "a checkpoint takes longer than {left:?}");
                return Ok(PreflightState::Slow);
            }
            Err(error) => return Err(error),
        }
    }
    let lsn = flushed(&session).await?;
    let mut hazards = senders(&session).await?;
    hazards.extend(archive(&instance.data_dir().join("pg_wal/archive_status")));
    Ok(PreflightState::Ready { at: clock::now(), lsn, hazards })
}

async fn flushed(session: &Session) -> Result<Lsn, QueryError> {
    let rows = session.rows("SELECT pg_catalog.pg_current_wal_flush_lsn()").await?;
    let text = rows.into_iter().flatten().flatten().next();
    text.and_then(|text| text.parse().ok()).ok_or(QueryError::Unreadable("the end of the WAL"))
}

async fn senders(session: &Session) -> Result<BTreeSet<Hazard>, QueryError> {
    let statement =
        "SELECT pg_catalog.count(*) FILTER (WHERE s.state = 'backup'), pg_catalog.count(r.slot_name)
        FROM pg_catalog.pg_stat_replication s
        LEFT JOIN pg_catalog.pg_replication_slots r ON r.active_pid = s.pid AND r.slot_type = 'logical'";
    let row = session.rows(statement).await?.into_iter().next().unwrap_or_default();
    let counts: Vec<usize> = row.into_iter().flatten().filter_map(|count| count.parse().ok()).collect();
    let [backups, logical] = counts[..] else {
        return Err(QueryError::Unreadable("the number of WAL senders"));
    };
    let found = [
        (backups > 0).then_some(Hazard::BackupSenders(backups)),
        (logical > 0).then_some(Hazard::LogicalSenders(logical)),
    ];
    Ok(found.into_iter().flatten().collect())
}

/// Looks for WAL that waits to be archived for too long.
fn archive(status: &Path) -> Option<Hazard> {
    let names = files::list(status).ok()?;
    let ready = names.iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "ready"));
    let now = clock::wall();
    let ages: Vec<Duration> = ready
        .filter_map(|name| files::stat(&status.join(name)).ok()?)
        .map(|stat| age(now, stat.modified))
        .collect();
    let oldest = ages.iter().max().filter(|age| **age >= ARCHIVED_WITHIN)?;
    Some(Hazard::Archive { files: ages.len(), oldest_s: oldest.as_secs() })
}

fn age(now: jiff::Timestamp, modified: f64) -> Duration {
    let now = Duration::try_from(now.as_duration()).unwrap_or_default();
    Duration::try_from_secs_f64(modified).map_or(Duration::ZERO, |modified| now.saturating_sub(modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_wal_that_has_waited() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("000000010000000000000003.ready");
        let touched = std::fs::File::create(&file).unwrap();
        std::fs::File::create(temp.path().join("000000010000000000000002.done")).unwrap();
        assert_eq!(archive(temp.path()), None, "it has just become ready");

        touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(matches!(archive(temp.path()), Some(Hazard::Archive { files: 1, .. })));
    }
}
