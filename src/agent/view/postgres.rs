//! The server of this member and its data.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::slot::SlotKind;
use crate::cluster::{History, Lsn, MemberName, PgVersion, ReplicationState, SyncNames, SystemId, Timeline};

use super::Tick;

/// The Postgres of this member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Postgres {
    pub data: Data,
    pub process: Process,
    pub configuration: Configuration,
    /// A changed parameter waits for a restart.
    pub pending_restart: bool,
    /// Its clients were told to only read.
    pub braked: bool,
    pub version: Option<PgVersion>,
}

impl Postgres {
    /// Returns what runs, if it answers.
    pub fn running(&self) -> Option<&Running> {
        match &self.process {
            Process::Running(running) => Some(running),
            Process::Stopped
            | Process::Crashed
            | Process::Starting { .. }
            | Process::Unresponsive { .. }
            | Process::Stopping { .. } => None,
        }
    }

    /// Returns what pg_control says, if there is a data directory.
    pub fn control(&self) -> Option<&Control> {
        match &self.data {
            Data::Present(control) => Some(control),
            Data::Empty | Data::Unfinished | Data::Unreadable => None,
        }
    }
}

/// The data directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// Absent or empty.
    Empty,
    /// What an interrupted clone left: it never held a whole cluster and may be removed.
    Unfinished,
    /// A whole cluster.
    Present(Control),
    /// Something is there and pg_control cannot be read. Never touched.
    Unreadable,
}

/// What pg_control and the files beside it say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Control {
    pub system_id: SystemId,
    pub state: ControlState,
    /// Timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// Where the latest checkpoint record begins; after a clean stop of a primary it is the last record.
    pub checkpoint: Lsn,
    /// Where recovery must reach before the data is consistent; None on a primary.
    pub minimum_recovery: Option<(Lsn, Timeline)>,
    /// How its timeline came to be, by its own history file; None: the file is not here.
    pub history: Option<History>,
    /// The newest timeline that lies in `pg_wal` beyond that of the data, with how it came to be: a start in recovery goes
    /// on to it. None while a server runs.
    pub beyond: Option<(Timeline, History)>,
    /// Data checksums or `wal_log_hints`: pg_rewind can work.
    pub rewindable: bool,
    /// `standby.signal`, `recovery.signal` or the label of a copy is there: a start leads into recovery.
    pub recovery_signal: bool,
    /// The cluster was made here, and the mark of the making is still there: unless etcd has this identifier, it is what
    /// an attempt has left.
    pub bootstrap_unfinished: bool,
    /// It was made by the user's program: its first start may lead through a recovery that ends by itself.
    pub restored: bool,
    /// A rewind from a leader on this timeline was begun and has not ended: the data is half written.
    pub half_rewound: Option<Timeline>,
}

impl Control {
    /// Returns the timeline that the data is on: a promotion or a replica may be beyond the latest checkpoint's.
    pub fn reached(&self) -> Timeline {
        self.minimum_recovery.map_or(self.timeline, |(_, on)| on.max(self.timeline))
    }
}

/// The state that pg_control records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ControlState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// The postmaster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Process {
    /// Not running, after a stop that was asked for, or never started by this guard.
    Stopped,
    /// Not running, and nobody asked for it: it ended by itself, or its start failed.
    Crashed,
    Starting {
        role: Started,
        since: Tick,
        /// When it was last seen to do something.
        progressed: Tick,
    },
    Running(Running),
    /// The postmaster lives and the probes fail.
    Unresponsive {
        role: Started,
        since: Tick,
    },
    Stopping {
        mode: StopMode,
        since: Tick,
    },
}

/// As what a server was started, or what it was last seen as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Started {
    Primary,
    Replica,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopMode {
    /// SIGINT: clients are disconnected, a shutdown checkpoint is written.
    Fast,
    /// SIGQUIT: no checkpoint; recovery at the next start.
    Immediate,
}

impl fmt::Display for StopMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        })
    }
}

/// A server that answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Running {
    Primary(PrimaryFacts),
    Replica(ReplicaFacts),
}

impl Running {
    /// Returns as what it runs.
    pub fn started(&self) -> Started {
        match self {
            Running::Primary(_) => Started::Primary,
            Running::Replica(_) => Started::Replica,
        }
    }
}

/// A server out of recovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PrimaryFacts {
    pub timeline: Timeline,
    /// Flushed position.
    pub lsn: Lsn,
    /// Ancestors of its timeline, from the timeline file.
    pub history: History,
    pub sync_names: SyncNames,
    pub commit_level: CommitLevel,
    /// Members that stream from here.
    pub standbys: BTreeMap<MemberName, Standby>,
    pub slots: BTreeMap<String, Slot>,
    /// The first checkpoint on this timeline is not written yet.
    pub checkpoint_pending: bool,
}

/// How far a standby must be before a commit counts as being there: `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommitLevel {
    Write,
    Flush,
    Apply,
}

/// A server in recovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReplicaFacts {
    /// Timeline of the WAL last received, or of the last checkpoint where none was received.
    pub timeline: Timeline,
    /// How this timeline came to be, by its own history file; None: the file is not here.
    pub history: Option<History>,
    pub received: Option<Lsn>,
    pub replayed: Lsn,
    pub streaming: bool,
    /// There is a `restore_command`, which brings WAL while nothing streams.
    pub has_archive: bool,
    pub upstream: Upstream,
    pub sync_names: SyncNames,
    pub slots: BTreeMap<String, Slot>,
}

impl ReplicaFacts {
    /// Returns where its WAL ends: the larger of received and replayed.
    pub fn lsn(&self) -> Lsn {
        self.received.unwrap_or_default().max(self.replayed)
    }

    /// Returns where its WAL comes from; None: from nowhere at present.
    pub fn replication(&self) -> Option<ReplicationState> {
        match (self.streaming, self.has_archive) {
            (true, _) => Some(ReplicationState::Streaming),
            (false, true) => Some(ReplicationState::InArchiveRecovery),
            (false, false) => None,
        }
    }
}

/// A WAL sender's client, as `pg_stat_replication` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Standby {
    pub streaming: bool,
    /// `sync_state` is `sync` or `quorum`.
    pub sync: bool,
    pub written: Lsn,
    pub flushed: Lsn,
    pub replayed: Lsn,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    pub kind: SlotKind,
    pub active: bool,
    /// From where on WAL is kept for it; for a logical one, up to where its user has confirmed.
    pub lsn: Option<Lsn>,
    /// It holds back vacuum.
    pub has_xmin: bool,
    /// The WAL that it needs is gone.
    pub lost: bool,
    /// Postgres itself keeps it on standbys.
    pub failover: bool,
}

/// Where a replica gets its WAL from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Upstream {
    /// From the archive, or not at all.
    Nobody,
    Member {
        name: MemberName,
        /// Through this slot there; None where slots are off.
        slot: Option<String>,
    },
    /// The cluster that this standby cluster follows, through this slot there.
    Remote { slot: Option<String> },
    /// A connection that leads to no present member in its present place.
    Other,
}

/// The server's configuration files beside what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Configuration {
    InStep,
    /// Files or reloadable parameters differ.
    Differs,
}

/// The primary of the cluster that a standby cluster follows, as it was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Remote {
    pub asked: Tick,
    /// A standby cluster has the identifier of the cluster that it follows.
    pub system_id: SystemId,
    pub timeline: Timeline,
    /// Ancestors of its timeline.
    pub history: History,
    /// The first checkpoint on this timeline is not written yet.
    pub checkpoint_pending: bool,
}

/// Where the WAL begins that a member's server has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OldestWal {
    pub member: MemberName,
    pub asked: Tick,
    pub lsn: Lsn,
}
