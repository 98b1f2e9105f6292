//! What a decision leaves for the next one.

use std::collections::BTreeMap;

use crate::agent::view::{LeaseId, MemberFacts, RequestId, StopMode, Tick};
use crate::cluster::{Lsn, MemberName, SyncNames, Timeline};

use super::action::CallbackRole;

/// What is remembered from look to look. It goes in and comes out; nothing else writes it.
///
/// Losing it (a new process) costs time and never safety.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    /// The member document last published: when, under which lease, and what it said.
    pub published: Option<(Tick, LeaseId, MemberFacts)>,
    /// When `status` was last written.
    pub status_written: Option<Tick>,
    /// Since when etcd has answered that there is no leader.
    pub leaderless_since: Option<Tick>,
    /// The highest timeline that a leader of this cluster was seen on.
    pub leader_timeline: Option<Timeline>,
    /// Since when the server was told to leave recovery.
    pub promoting_since: Option<Tick>,
    /// The switchover that this leader carries out.
    pub handover: Option<HandOver>,
    /// The restart that is under way.
    pub restart: Option<Restart>,
    /// The new copy that is under way for a person.
    pub reinitialize: Option<RequestId>,
    /// How this member came back so far.
    pub recovery: Recovery,
    /// Failed starts since the server last ran, and when the last one was tried.
    pub starts: Attempts,
    /// The change of `synchronous_standby_names` that standbys must have passed: the names, and where WAL ended when
    /// they were seen in force.
    pub sync_changed: Option<(SyncNames, Lsn)>,
    /// When each inactive slot was first seen without its member.
    pub slots_unused: BTreeMap<String, Tick>,
    /// The role that callbacks were last told.
    pub announced: Option<CallbackRole>,
    /// The end that was asked for, and whether the lock has been released for it.
    pub stop_mode: Option<StopMode>,
}

/// A switchover from the side of the old leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HandOver {
    pub candidate: MemberName,
    /// When the stop of the server was begun.
    pub since: Tick,
    /// The transaction may have been sent: from then on it is never undone, only repeated.
    pub sent: bool,
    /// The limit has passed before the transaction: the old leader goes on.
    pub undone: bool,
}

/// A restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Restart {
    pub id: RequestId,
    /// The server has been seen stopped.
    pub stopped: bool,
}

/// How a member that parted from the leader comes back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Recovery {
    /// pg_rewind failed against a leader on this timeline.
    pub rewind_failed: Option<Timeline>,
    /// Single-user recovery was tried and failed.
    pub crash_recovery_failed: bool,
}

/// How often something failed, and when last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attempts {
    pub failed: u32,
    pub last: Option<Tick>,
}
