//! What a member can do.
//!
//! Actions are goals and idempotent. Each carries its own fence; whoever carries it out adds no condition and makes no
//! choice. The actions of one decision are carried out in order, and the first that is not done ends the list (the
//! others are reported as skipped). None waits for a server to start, stop or be promoted: it sets that going, and the
//! next look sees how far it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::view::{
    Deed, Fence, Job, LeaseId, MemberFacts, RequestId, Revision, Started, Status, StopMode, Upstream,
};
use crate::cluster::slot::SlotKind;
use crate::cluster::{History, Lsn, MemberName, SyncNames, SyncState, SystemId, Timeline};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    // ── etcd ──
    /// Put `initialize` = "" under the own lease, if neither it nor any key that a leader writes is there: this member
    /// will make the cluster, and its death gives the claim back.
    ClaimInitialize {
        lease: LeaseId,
    },
    /// One transaction: `initialize` is the claim made under `lease`, leader is absent → `initialize` = the identifier
    /// (no lease), `leader` = this member under `lease`, `config` from the local bootstrap section if absent, and the
    /// first `sync` value if given.
    FinishInitialize {
        lease: LeaseId,
        system_id: SystemId,
        sync: Option<SyncState>,
    },
    /// Delete `initialize` if it is the claim made under `lease`.
    AbandonInitialize {
        lease: LeaseId,
    },
    /// A keepalive, and right after its answer one transaction that compares all of `compared` and puts `leader` =
    /// this member under `lease`, with the new `sync` value and `failover` = `{}` where they are given.
    TakeLeaderKey {
        lease: LeaseId,
        compared: Compared,
        sync: Option<SyncState>,
        spend_failover: bool,
    },
    /// Fenced: `status` with this position, and the leader key deleted. Only given when no writable server is left.
    ReleaseLeaderKey {
        fence: Fence,
        optime: Option<Lsn>,
    },
    /// One transaction: own fence, the candidate's member key present and bound to `candidate_lease` → `leader` =
    /// candidate under that lease, `status`, `sync` if given, and `failover` = `{}` unless it is kept for a paused
    /// cluster.
    HandOver {
        fence: Fence,
        candidate: MemberName,
        candidate_lease: LeaseId,
        optime: Lsn,
        sync: Option<SyncState>,
        keep_failover: bool,
    },
    /// One transaction: own fence, the own member document not written since `seen` → `leader` and the document, with these
    /// facts, under the lease `to`, which takes the place of the fence's.
    MoveLock {
        fence: Fence,
        seen: Revision,
        to: LeaseId,
        facts: MemberFacts,
    },
    /// Nothing of this member's hangs on the lease before this one any more: the keeper lets that end.
    SettleLease {
        lease: LeaseId,
    },
    /// Put the own member document, under the own lease, unless it was written since `seen`, the revision of the look: one
    /// that was given up and comes late must not tell what was. Addresses and versions are added on the way.
    PublishMember {
        lease: LeaseId,
        seen: Revision,
        facts: MemberFacts,
    },
    /// Fenced put of `status`.
    WriteStatus {
        fence: Fence,
        status: Status,
    },
    /// Fenced put of `history`, if nobody has written it since this look: what a process before this one sent under the
    /// same lock may be on its way still. Lines that etcd has already keep their time and leader there.
    WriteHistory {
        fence: Fence,
        seen: Revision,
        history: History,
    },
    /// Fenced put of `failsafe`: these members with their addresses.
    WriteFailsafe {
        fence: Fence,
        members: BTreeSet<MemberName>,
    },
    /// Fenced put of `initialize`, if it is absent or still as seen.
    WriteInitialize {
        fence: Fence,
        seen: Revision,
        system_id: SystemId,
    },
    /// Fenced put of `config` from memory, if it is absent.
    RestoreConfig {
        fence: Fence,
    },
    /// Fenced put of `sync`, if it is still as seen (zero: absent).
    WriteSync {
        fence: Fence,
        seen: Revision,
        sync: SyncState,
    },
    /// Fenced delete of `sync`, if it is still as seen.
    DeleteSync {
        fence: Fence,
        seen: Revision,
    },
    /// Fenced: `failover` = `{}`, if it is still as seen.
    ClearFailover {
        fence: Fence,
        seen: Revision,
    },

    // ── other members ──
    /// Ask all members of the snapshot, and `also`, for their state, in parallel, each with 150 ms at most.
    AskPeers {
        also: BTreeSet<MemberName>,
    },

    /// Ask these members not to take the lock, telling them the positions of the own slots; the guard gets the deadline
    /// that their promises make. Fails unless all of them promise.
    AskForPromises {
        members: BTreeSet<MemberName>,
        slots: BTreeMap<String, Lsn>,
    },

    // ── the gate ──
    /// Give the guard the fence and the present deadline; the keeper extends it from there on.
    Arm {
        fence: Fence,
    },
    /// Take the deadline from the guard: a server that may write is stopped in stages from this moment.
    Disarm,
    /// Open the gate for a pause.
    ReleaseGate,

    // ── Postgres ──
    /// Start out of recovery, through the gate: no signal files, no change of timeline.
    StartPrimary {
        fence: Fence,
    },
    /// Start in recovery, with this upstream, and with `restore_command` if `archive`.
    StartReplica {
        upstream: Upstream,
        archive: bool,
    },
    /// Leave recovery, through the gate.
    Promote {
        fence: Fence,
    },
    /// Stop. With `checkpoint`, one is made first while clients still write, so that the stop is short.
    Stop {
        mode: StopMode,
        checkpoint: bool,
    },
    /// Change where a running replica gets its WAL from, by reload where the version allows it.
    Follow {
        upstream: Upstream,
    },
    /// Set `synchronous_standby_names`, and move replication by a small transaction where the server is a primary.
    SetSyncNames {
        names: SyncNames,
    },
    /// Drop and make slots, and move unused ones on.
    KeepSlots {
        create: BTreeMap<String, SlotKind>,
        drop: BTreeSet<String>,
        advance: BTreeMap<String, (SlotKind, Lsn)>,
    },
    /// Get the state of logical slots from the running leader; the next start in recovery puts it in place. Fails if the
    /// leader has none of them.
    FetchSlots {
        source: MemberName,
        slots: BTreeMap<String, SlotKind>,
    },
    /// Ask the server of this member, beside the loop, from where on it has WAL.
    AskForWal {
        source: MemberName,
    },
    /// Ask the primary of the cluster that this standby cluster follows, beside the loop, how its WAL came to be.
    AskRemote,
    /// CHECKPOINT, in the background.
    Checkpoint,
    /// In the background, for the request of this revision: checkpoints until one is short, and a look at what may delay
    /// the stop.
    Preflight {
        request: Revision,
    },
    /// On: clients may only read from here on, and transactions that wrote before are ended; it is given again as long as
    /// that goes on. Off: they may write again.
    Brake {
        on: bool,
    },
    /// Write the configuration files as they should be and reload.
    ApplyConfiguration,

    // ── jobs ──
    StartJob {
        job: Job,
    },
    /// End the job under way and everything it started.
    CancelJob,
    /// Move the data directory of a failed bootstrap to a name ending in `.failed`.
    SetDataAside,
    /// Note on the data that this member has begun the timeline it writes on.
    SignTimeline {
        timeline: Timeline,
    },
    /// Remove from `pg_wal` what is of this timeline, which is not the leader's and which the data has nothing of.
    LeaveTimeline {
        timeline: Timeline,
    },
    /// Take from the data the mark of the making: it is the cluster's.
    EndBootstrap,

    // ── towards people ──
    /// Run the configured callbacks, without waiting for them.
    Callback {
        event: CallbackEvent,
        role: CallbackRole,
    },
    /// Tell the asker how it ended.
    AnswerRequest {
        id: RequestId,
        done: bool,
    },
    /// End this process.
    Exit {
        status: ExitStatus,
    },
}

/// Everything that a candidate's eligibility rested on. Zero stands for an absent key; the leader key must be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compared {
    pub initialize: Identifier,
    /// The identifier of the own data.
    pub system_id: SystemId,
    pub sync: Revision,
    pub config: Revision,
    pub failover: Revision,
    pub failsafe: Revision,
    pub history: Revision,
}

/// What `initialize` must still be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identifier {
    Is(SystemId),
    /// It names no cluster, last changed at this revision (zero: absent); the transaction writes the own identifier.
    Missing {
        seen: Revision,
    },
}

/// What a callback is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallbackEvent {
    Start,
    Stop,
    Restart,
    Reload,
    RoleChange,
}

/// The role a callback is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallbackRole {
    Primary,
    Replica,
    StandbyLeader,
    Demoted,
}

impl From<Started> for CallbackRole {
    fn from(role: Started) -> Self {
        match role {
            Started::Primary => CallbackRole::Primary,
            Started::Replica => CallbackRole::Replica,
        }
    }
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitStatus {
    Clean,
    Failure,
}

impl Action {
    /// Returns the kind, by which its outcome is reported.
    pub const fn deed(&self) -> Deed {
        match self {
            Action::ClaimInitialize { .. } => Deed::ClaimInitialize,
            Action::FinishInitialize { .. } => Deed::FinishInitialize,
            Action::AbandonInitialize { .. } => Deed::AbandonInitialize,
            Action::TakeLeaderKey { .. } => Deed::TakeLeaderKey,
            Action::ReleaseLeaderKey { .. } => Deed::ReleaseLeaderKey,
            Action::HandOver { .. } => Deed::HandOver,
            Action::MoveLock { .. } => Deed::MoveLock,
            Action::SettleLease { .. } => Deed::SettleLease,
            Action::PublishMember { .. } => Deed::PublishMember,
            Action::WriteStatus { .. } => Deed::WriteStatus,
            Action::WriteHistory { .. } => Deed::WriteHistory,
            Action::WriteFailsafe { .. } => Deed::WriteFailsafe,
            Action::WriteInitialize { .. } => Deed::WriteInitialize,
            Action::RestoreConfig { .. } => Deed::RestoreConfig,
            Action::WriteSync { .. } => Deed::WriteSync,
            Action::DeleteSync { .. } => Deed::DeleteSync,
            Action::ClearFailover { .. } => Deed::ClearFailover,
            Action::AskPeers { .. } => Deed::AskPeers,
            Action::AskForPromises { .. } => Deed::AskForPromises,
            Action::Arm { .. } => Deed::Arm,
            Action::Disarm => Deed::Disarm,
            Action::ReleaseGate => Deed::ReleaseGate,
            Action::StartPrimary { .. } => Deed::StartPrimary,
            Action::StartReplica { .. } => Deed::StartReplica,
            Action::Promote { .. } => Deed::Promote,
            Action::Stop { .. } => Deed::Stop,
            Action::Follow { .. } => Deed::Follow,
            Action::SetSyncNames { .. } => Deed::SetSyncNames,
            Action::KeepSlots { .. } => Deed::KeepSlots,
            Action::FetchSlots { .. } => Deed::FetchSlots,
            Action::AskForWal { .. } => Deed::AskForWal,
            Action::AskRemote => Deed::AskRemote,
            Action::Checkpoint => Deed::Checkpoint,
            Action::Preflight { .. } => Deed::Preflight,
            Action::Brake { .. } => Deed::Brake,
            Action::ApplyConfiguration => Deed::ApplyConfiguration,
            Action::StartJob { .. } => Deed::StartJob,
            Action::CancelJob => Deed::CancelJob,
            Action::SetDataAside => Deed::SetDataAside,
            Action::SignTimeline { .. } => Deed::SignTimeline,
            Action::LeaveTimeline { .. } => Deed::LeaveTimeline,
            Action::EndBootstrap => Deed::EndBootstrap,
            Action::Callback { .. } => Deed::Callback,
            Action::AnswerRequest { .. } => Deed::AnswerRequest,
            Action::Exit { .. } => Deed::Exit,
        }
    }

    /// Tells whether the member's document, where it is due, is written before this: others act on what it says, and after
    /// this it would be false, or could not be written any more.
    pub const fn comes_after_document(&self) -> bool {
        match self {
            // They let the server write: nobody stands while a document says that its member may be writing.
            Action::StartPrimary { .. } | Action::Promote { .. } => true,
            // They leave the lock, or the cluster in the making, to whoever stands, and that one looks at the document. (At a
            // hand-over nobody stands.)
            Action::ReleaseLeaderKey { .. } | Action::AbandonInitialize { .. } => true,
            // A full volume may refuse it, which ends the list.
            Action::Brake { .. } => true,
            // Nothing comes after it.
            Action::Exit { .. } => true,
            Action::ClaimInitialize { .. }
            | Action::FinishInitialize { .. }
            | Action::TakeLeaderKey { .. }
            | Action::HandOver { .. }
            | Action::MoveLock { .. }
            | Action::SettleLease { .. }
            | Action::PublishMember { .. }
            | Action::WriteStatus { .. }
            | Action::WriteHistory { .. }
            | Action::WriteFailsafe { .. }
            | Action::WriteInitialize { .. }
            | Action::RestoreConfig { .. }
            | Action::WriteSync { .. }
            | Action::DeleteSync { .. }
            | Action::ClearFailover { .. }
            | Action::AskPeers { .. }
            | Action::AskForPromises { .. }
            | Action::Arm { .. }
            | Action::Disarm
            | Action::ReleaseGate
            | Action::StartReplica { .. }
            | Action::Stop { .. }
            | Action::Follow { .. }
            | Action::SetSyncNames { .. }
            | Action::KeepSlots { .. }
            | Action::FetchSlots { .. }
            | Action::AskForWal { .. }
            | Action::AskRemote
            | Action::Checkpoint
            | Action::Preflight { .. }
            | Action::ApplyConfiguration
            | Action::StartJob { .. }
            | Action::CancelJob
            | Action::SetDataAside
            | Action::SignTimeline { .. }
            | Action::LeaveTimeline { .. }
            | Action::EndBootstrap
            | Action::Callback { .. }
            | Action::AnswerRequest { .. } => false,
        }
    }
}
