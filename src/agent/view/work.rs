//! What runs beside the loop, and what has become of the last decision.

use std::fmt;

use crate::cluster::{Lsn, MemberName, Timeline};

use super::{Fence, Tick};

/// Whose data counts for this member's, or is copied for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Member(MemberName),
    /// The primary of the cluster that this standby cluster follows.
    Remote,
}

impl From<MemberName> for Origin {
    fn from(name: MemberName) -> Origin {
        Origin::Member(name)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Member(name) => name.fmt(f),
            Origin::Remote => f.write_str("the other cluster"),
        }
    }
}

/// A long-running job. One at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Job {
    /// initdb, or the user's program in its place, into the empty data directory; leaves the mark
    /// `bootstrap_unfinished`. Writes no roles.
    Initdb,
    /// Roles, grants and `post_bootstrap` on the running primary, under this claim of `initialize`.
    PostBootstrap { fence: Fence },
    /// The user's program before a promotion under this lock.
    PrePromote { fence: Fence },
    /// A base backup from `source`. With `replaces`, the data directory, which must not be in use, is removed first;
    /// what an interrupted clone left is always removed.
    Clone { source: MemberName, replaces: bool },
    /// A copy by the user's methods that need no other member, such as a restored backup.
    Restore,
    /// A base backup from the cluster that this standby cluster follows: the beginning of this cluster, or in place of data
    /// that is not its own, which is removed first.
    CloneRemote { replaces: bool },
    /// The WAL file of a shutdown checkpoint is archived by hand: the server that wrote it archives it no more.
    ArchiveLast { checkpoint: Lsn },
    /// pg_rewind against `source`, a running primary on this timeline.
    Rewind { source: Origin, timeline: Timeline },
    /// Single-user start and stop, so that a crashed primary's WAL has an end that pg_rewind can read.
    CrashRecovery,
}

impl Job {
    /// Returns its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Job::Initdb => "initdb",
            Job::PostBootstrap { .. } => "post-bootstrap",
            Job::PrePromote { .. } => "pre_promote",
            Job::Clone { .. } => "clone",
            Job::Restore => "restore",
            Job::CloneRemote { .. } => "clone of the other cluster",
            Job::ArchiveLast { .. } => "archiving of the last WAL",
            Job::Rewind { .. } => "rewind",
            Job::CrashRecovery => "crash recovery",
        }
    }
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobReport {
    pub job: Job,
    pub started: Tick,
    /// Its last sign of life.
    pub progressed: Tick,
    pub state: JobState,
}

/// Whether a job is under way or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    Running,
    Done { at: Tick },
    Failed { at: Tick, why: JobFailure },
}

/// Why a job failed, as far as it decides what is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobFailure {
    /// The next attempt may work.
    Transient,
    /// The source lets nobody in as the user of pg_rewind, or this user may not read its files: nothing was begun.
    NotGranted,
    /// A copy does not fit, by so much, even where what is here is removed: nothing was begun.
    NoRoom { missing_mb: u64 },
}

/// What became of one action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub deed: Deed,
    pub verdict: Verdict,
}

/// The kind of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    ClaimInitialize,
    FinishInitialize,
    AbandonInitialize,
    TakeLeaderKey,
    ReleaseLeaderKey,
    HandOver,
    MoveLock,
    SettleLease,
    PublishMember,
    WriteStatus,
    WriteHistory,
    WriteFailsafe,
    WriteInitialize,
    RestoreConfig,
    WriteSync,
    DeleteSync,
    ClearFailover,
    AskPeers,
    AskForPromises,
    Arm,
    Disarm,
    ReleaseGate,
    StartPrimary,
    StartReplica,
    Promote,
    Stop,
    Follow,
    SetSyncNames,
    KeepSlots,
    FetchSlots,
    AskForWal,
    AskRemote,
    Checkpoint,
    Preflight,
    Brake,
    ApplyConfiguration,
    StartJob,
    CancelJob,
    SetDataAside,
    SignTimeline,
    LeaveTimeline,
    EndBootstrap,
    Callback,
    AnswerRequest,
    Exit,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It reached its goal, or set it going.
    Done,
    /// A comparison of its transaction failed, or the gate was closed: the world has changed; nothing was done.
    Fenced,
    /// It failed and surely did nothing that lasts.
    Failed,
    /// It may or may not have happened: no answer came in time.
    Unknown,
    /// An action before it in the list was not `Done`.
    Skipped,
}
