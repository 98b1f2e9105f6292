//! What a decision leaves for the next one.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::view::{Fence, LeaseId, MemberFacts, RequestId, Revision, Status, Tick};
use crate::cluster::{Lsn, MemberName, SyncNames, SystemId, Timeline};

use super::action::CallbackRole;
use super::reason::Undone;

/// What is remembered from look to look. It goes in and comes out; nothing else writes it.
///
/// Losing it (a new process) costs time and never safety.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    /// The member document last published: when, under which lease, and what it said.
    pub published: Option<(Tick, LeaseId, MemberFacts)>,
    /// When `status` was last written, and what it held.
    pub status_written: Option<(Tick, Status)>,
    /// What this process held the lock by last.
    pub led: Option<Fence>,
    /// Since when etcd has answered that there is no leader.
    pub leaderless_since: Option<Tick>,
    /// What this member's WAL did while nobody led.
    pub race_position: Option<RacePosition>,
    /// The server ended while it left recovery, so what it restores from the archive may be broken.
    pub promotion_crashed: bool,
    /// The identifier of the cluster, as etcd last told it to this process.
    pub identifier: Option<SystemId>,
    /// The timeline that a leader of this cluster was seen on last.
    pub leader_timeline: Option<Timeline>,
    /// Since when the server was told to leave recovery.
    pub promoting_since: Option<Tick>,
    /// When it was told so last.
    pub promote_given: Option<Tick>,
    /// The timeline whose first checkpoint was asked for: nobody may rewind before it, and by itself it takes minutes.
    pub checkpoint_asked: Option<Timeline>,
    /// When the user's program before a promotion failed last.
    pub pre_promote_failed: Option<Tick>,
    /// The switchover that this leader carries out.
    pub handover: Option<HandOver>,
    /// When the request for a switchover was first seen, by its revision.
    pub switchover_seen: Option<(Revision, Tick)>,
    /// The request whose hazards have been told.
    pub hazards_told: Option<Revision>,
    /// The server cannot serve: it is stopped and the lock is released.
    pub giving_up: Option<GivingUp>,
    /// The restart that is under way.
    pub restart: Option<Restart>,
    /// The new copy that is under way for a person.
    pub reinitialize: Option<Reinitialize>,
    /// This replica neither streams nor moves.
    pub stuck: Option<Stuck>,
    /// This member of a standby cluster gets no WAL.
    pub adrift: Option<Adrift>,
    /// When it was stopped because its upstream has no WAL for it any more.
    pub wal_gone: Option<Tick>,
    /// How this member came back so far.
    pub recovery: Recovery,
    /// Starts since the server last ran.
    pub starts: Starts,
    /// The server was stopped for a switchover and is to follow, in a paused cluster too.
    pub stepped_down: bool,
    /// The data was one to lead with when it was started for a cluster without an identifier.
    pub adopting: bool,
    /// The first start of a restored cluster was given by this process: an end that is seen is that start's.
    pub restored_began: bool,
    /// A primary is being stopped to become the leader of a standby cluster.
    pub demoting_cluster: bool,
    /// The change of `synchronous_standby_names` that standbys must have passed.
    pub sync_change: Option<SyncChange>,
    /// When each member was last seen by this leader, by its slot.
    pub members_seen: BTreeMap<String, Tick>,
    /// The slots that were asked for in the last look: those that are made are told to the others at once, and those
    /// that cannot be made are not asked for in a circle.
    pub slots_asked: BTreeSet<String>,
    /// When copies of the leader's logical slots were last asked for.
    pub slots_copied: Option<Tick>,
    /// What callbacks were last told.
    pub announced: Announced,
}

/// What callbacks were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Announced {
    /// The role that they were last told.
    pub role: Option<CallbackRole>,
    /// The server has been seen down since.
    pub down: bool,
    /// It went down for a restart.
    pub restarting: bool,
}

/// Where this member's WAL ended while nobody led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RacePosition {
    pub compared: Tick,
    pub lsn: Lsn,
    /// It was the same one `loop_wait` later: nobody sends any more.
    pub settled: bool,
}

/// A replica that gets no WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stuck {
    /// Where it stands, and since when.
    pub lsn: Lsn,
    pub since: Tick,
    /// When its upstream was asked last what WAL it has.
    pub asked: Option<Tick>,
}

/// A member of a standby cluster that gets no WAL: its data may have parted from the other cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Adrift {
    /// Where it stands, and since when.
    pub lsn: Lsn,
    pub since: Tick,
    /// When the other cluster was asked last.
    pub asked: Option<Tick>,
    /// What was replayed has parted from the other cluster's WAL, on this timeline.
    pub parted: Option<Timeline>,
}

/// Why a leader gives up the lock as soon as its server is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GivingUp {
    StartTookTooLong,
    PromotionTookTooLong,
    /// In failsafe mode some member did not promise to leave the lock alone.
    NotAllPromised,
}

/// A change of `synchronous_standby_names`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SyncChange {
    /// The names in force.
    pub names: SyncNames,
    /// When they were first seen in force.
    pub seen: Tick,
    /// Where WAL ended once every process had time to take them over: a standby that has flushed this far has every
    /// commit that was acknowledged without waiting for it.
    pub lsn: Option<Lsn>,
}

/// A switchover from the side of the old leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HandOver {
    pub candidate: MemberName,
    /// When the stop of the server was begun.
    pub since: Tick,
    /// When the server was first seen down.
    pub stopped: Option<Tick>,
    /// The transaction may have been sent: from then on it is never undone, only repeated.
    pub sent: bool,
    /// Why it is not carried out: the old leader goes on.
    pub undone: Option<Undone>,
}

/// A restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Restart {
    pub id: RequestId,
    /// The server has been seen stopped.
    pub stopped: bool,
}

/// A new copy that a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reinitialize {
    pub id: RequestId,
    /// The copying has begun.
    pub began: bool,
}

/// How a member that parted from the leader comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Recovery {
    /// How often pg_rewind failed against leaders on this timeline.
    pub rewinds_failed: Option<(Timeline, u32)>,
    pub crash_recoveries_failed: u32,
    /// How often WAL of a timeline that the cluster went on without was removed since this member last streamed.
    pub timelines_left: u32,
    /// How often the roles of a new cluster could not be made.
    pub roles_failed: u32,
    /// The end of the job that was counted last.
    pub counted: Option<Tick>,
}

/// Starts of the server since it last ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Starts {
    pub tried: u32,
    pub last: Option<Tick>,
    /// How many of them hung, and since when the last of these was starting.
    pub hung: u32,
    pub hung_since: Option<Tick>,
}
