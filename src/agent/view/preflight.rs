//! What was done and found before a hand-over, while clients still write.

use std::collections::BTreeSet;
use std::fmt;

use super::{Revision, Tick};
use crate::cluster::Lsn;

/// The preparation of the request of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Preflight {
    pub request: Revision,
    pub state: PreflightState,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PreflightState {
    Running,
    /// A checkpoint just before a stop would be short. The WAL up to `lsn` was on disk at that moment.
    Ready {
        at: Tick,
        lsn: Lsn,
        hazards: BTreeSet<Hazard>,
    },
    /// Checkpoints did not get short within the limit: the shutdown checkpoint would keep everybody from writing.
    Slow,
    /// The data's volume lacks the room that a checkpoint needs: the server would crash at it.
    NoRoom,
    /// The server did not answer.
    Failed,
}

/// What may make a stop, or what comes after it, longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hazard {
    /// WAL waits for `archive_command`, the oldest file for so long.
    Archive { files: usize, oldest_s: u64 },
    /// Logical subscribers read from this server; each is waited for by the server's end.
    LogicalSenders(usize),
    /// Base backups are being taken from this server; they end with it.
    BackupSenders(usize),
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hazard::Archive { files, oldest_s } => {
                write!(
                    f,
                    "archive_command lags: {files} files of WAL wait for it, the oldest for {oldest_s} s"
                )
            }
            Hazard::LogicalSenders(count) => write!(f, "{count} logical subscribers are connected"),
            Hazard::BackupSenders(count) => write!(f, "{count} base backups are being taken and will end"),
        }
    }
}

/// Writes hazards for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hazards(pub BTreeSet<Hazard>);

impl fmt::Display for Hazards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, hazard) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{hazard}")?;
        }
        Ok(())
    }
}
