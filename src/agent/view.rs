//! Everything that a decision may rest on, as plain data.
//!
//! A [`View`] is made by `observe` for each look and never changed. *Unknown* is a state of its own: what comes from
//! outside is [`Seen`], so that silence never reads as absence. "The key is absent" is a value inside it.
//!
//! Invariant: nothing here does anything; only clones, compares and hashes.

pub mod disk;
mod keys;
mod postgres;
pub mod preflight;
mod work;

use std::collections::BTreeMap;

use crate::cluster::{Lsn, MemberName, SystemId, Tags, Timeline, UnixMs};
use crate::settings::Settings;
pub use crate::sys::clock::Tick;

pub use disk::{Disk, Room};
pub use keys::{
    Fence, Initialize, Keyed, LeaderKey, LeaseId, Member, MemberFacts, Revision, Snapshot, Status,
};
pub use postgres::{
    CommitLevel, Configuration, Control, ControlState, Data, OldestWal, Postgres, PrimaryFacts, Process,
    Remote, ReplicaFacts, Running, Slot, Standby, Started, StopMode, Upstream,
};
pub use preflight::{Hazard, Hazards, Preflight, PreflightState};
pub use work::{Deed, Job, JobFailure, JobReport, JobState, Origin, Outcome, Verdict};

/// One look at the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// When the look was completed.
    pub now: Tick,
    /// The wall clock at that moment; for schedules only.
    pub wall: UnixMs,
    /// The name of this member.
    pub me: MemberName,
    /// The tags of this member, from its own configuration.
    pub tags: Tags,
    /// What else of its own configuration matters.
    pub local: Local,
    /// The dynamic configuration last seen, with the local one merged in.
    pub settings: Settings,
    /// What etcd says. `Now` only for a snapshot that an answered read of this look, or an unbroken watch, vouches for.
    pub dcs: Seen<Snapshot>,
    /// The keeper's verdict on this member's own lease.
    pub lease: Lease,
    /// What members have promised each other for the time of a silent etcd.
    pub failsafe: Failsafe,
    /// What the guard says about the gate.
    pub guard: Guard,
    pub watchdog: Watchdog,
    pub postgres: Postgres,
    /// How much room its volumes have.
    pub disk: Disk,
    /// What the other members answered last.
    pub peers: Peers,
    /// The long-running job: the one under way, or the last one until the next begins.
    pub job: Option<JobReport>,
    /// The preparation of a hand-over: the one under way, or the last one.
    pub preflight: Option<Preflight>,
    /// What another member's server keeps of its WAL, as it was last asked.
    pub oldest_wal: Option<OldestWal>,
    /// What the primary of the cluster that this standby cluster follows answered last.
    pub remote: Option<Remote>,
    /// What became of the actions of the last decision, in their order. The snapshot, if it is of this look, is at
    /// least as new as any of them.
    pub outcomes: Vec<Outcome>,
    /// What was asked of this agent by signal or REST and has not been answered.
    pub requests: Requests,
}

/// What a member's own configuration says about how its data comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Local {
    /// The configuration has no `bootstrap` section: this member makes no cluster.
    pub joins_only: bool,
    /// The cluster is made by the user's program instead of initdb.
    pub custom_bootstrap: bool,
    /// There is a method that makes a replica without any other member.
    pub copies_without_leader: bool,
    /// A program of the user's must end well before a promotion.
    pub pre_promote: bool,
}

/// A value from outside, with how fresh it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Seen<T> {
    /// Answered in this look.
    Now(T),
    /// Not answered in this look; the last answer, and since when there was none.
    Stale { value: T, since: Tick },
    /// Never answered in this process.
    Never,
}

impl<T> Seen<T> {
    /// Returns the value if it is of this look.
    pub fn now(&self) -> Option<&T> {
        match self {
            Seen::Now(value) => Some(value),
            Seen::Stale { .. } | Seen::Never => None,
        }
    }

    /// Returns the value however old it is.
    pub fn last(&self) -> Option<&T> {
        match self {
            Seen::Now(value) | Seen::Stale { value, .. } => Some(value),
            Seen::Never => None,
        }
    }
}

/// The keeper's verdict on this member's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lease {
    /// None was granted yet.
    None,
    /// Surely alive until `deadline` (D). A primary begins to stop at `stop_at` (D − m1).
    ///
    /// With another ttl asked for, `next` lives beside it and takes its place once nothing hangs on `id` any more; D is that
    /// of the one that ends first.
    Held { id: LeaseId, next: Option<LeaseId>, deadline: Tick, stop_at: Tick },
    /// Dead for ever: D has passed, or etcd said so. The keeper asks for another one.
    Lost { id: LeaseId },
}

/// Promises between members, which stand in for a lease while etcd is silent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Failsafe {
    /// What this leader got in its last round in which all answered.
    pub lead: Option<Promised>,
    /// What this member must not do before when.
    pub promise: Option<Promise>,
    /// Positions of slots that were told beside etcd.
    pub slots: BTreeMap<String, Lsn>,
}

/// A deadline made of the others' promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Promised {
    /// When the first question of the round was sent.
    pub asked: Tick,
    pub deadline: Tick,
    /// When a primary begins to stop.
    pub stop_at: Tick,
}

/// A promise not to take the lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Promise {
    /// To whom; None where an earlier process may have promised, and to whom is not known.
    pub leader: Option<MemberName>,
    pub until: Tick,
}

/// The gate, as the guard reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// No guard answers: nothing can be started or promoted.
    Absent,
    /// No deadline is armed: no writable server is allowed.
    Closed,
    /// Writing is allowed until `until` less the margins, under this fence.
    Armed { fence: Fence, until: Tick },
    /// Opened for a pause: writing is allowed without a deadline.
    Released,
    /// A deadline came: the stages are under way or done.
    Fencing,
}

/// The watchdog device, as far as the configuration asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watchdog {
    /// Off, or automatic: its absence is no obstacle.
    NotRequired,
    /// Required and usable.
    Usable,
    /// Required and not usable: this member must not lead.
    Unusable,
}

/// What the other members answered when they were last asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Peers {
    /// When the questions were sent; None if nobody was asked yet.
    pub asked: Option<Tick>,
    pub answers: BTreeMap<MemberName, Answer>,
}

/// One member's answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// No answer, or one without a WAL position.
    Unreachable,
    Reached(PeerFacts),
}

/// What a reached member said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerFacts {
    /// Its server runs out of recovery.
    pub primary: bool,
    pub timeline: Option<Timeline>,
    /// The larger of received and replayed; flushed on a primary.
    pub lsn: Lsn,
    pub tags: Tags,
    /// Its watchdog, where required, can be used.
    pub watchdog_usable: bool,
    pub system_id: Option<SystemId>,
    /// It has had no answer of etcd for longer than its `loop_wait`, so it cannot take the lock.
    pub etcd_silent: bool,
    /// How much room its volumes have.
    pub room: Room,
}

/// What is asked of this agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Requests {
    /// SIGTERM: end, and stop Postgres unless paused.
    pub stop: bool,
    pub restart: Option<RestartRequest>,
    /// When a restart is scheduled for.
    pub restart_at: Option<UnixMs>,
    pub reinitialize: Option<ReinitializeRequest>,
}

/// Names a request, so that its answer finds the asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A person asks for a restart of this member's Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RestartRequest {
    pub id: RequestId,
    /// Only while the server has this role.
    pub only_role: Option<Started>,
    /// Only if a changed parameter waits for it.
    pub only_if_pending: bool,
}

/// A person asks for a new copy of this member's data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReinitializeRequest {
    pub id: RequestId,
    /// Copy from the leader even if another member offers itself.
    pub from_leader: bool,
}
