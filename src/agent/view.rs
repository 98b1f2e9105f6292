//! Everything that a decision may rest on, as plain data.
//!
//! A [`View`] is made by `observe` for each look and never changed. *Unknown* is a state of its own: what comes from
//! outside is [`Seen`], so that silence never reads as absence. "The key is absent" is a value inside it.
//!
//! Invariant: nothing here does anything; only clones, compares and hashes.

pub mod disk;
pub mod preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::cluster::slot::SlotKind;
use crate::cluster::{
    FailoverRequest, History, Lsn, MemberName, PgVersion, ReplicationState, Role, State, SyncNames,
    SyncState, SystemId, Tags, Timeline, UnixMs,
};
use crate::settings::Settings;
pub use crate::sys::clock::Tick;

pub use disk::{Disk, Room};
pub use preflight::{Hazard, Hazards, Preflight, PreflightState};

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

/// A revision of etcd's store. As a modification revision, zero stands for an absent key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

/// An etcd lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What proves in a transaction that the leader key is still ours: both must compare equal.
///
/// A hand-over puts the key anew without deleting it, so the create revision alone proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub lease: LeaseId,
    pub create_revision: Revision,
}

/// What etcd holds under the cluster's prefix, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Snapshot {
    /// The revision of the store that all of it was read at.
    pub revision: Revision,
    pub leader: Option<LeaderKey>,
    pub members: BTreeMap<MemberName, Member>,
    pub initialize: Option<Keyed<Initialize>>,
    /// The modification revision of the `config` key; its content is in [`View::settings`]. Zero: absent.
    pub config: Revision,
    pub sync: Option<Keyed<SyncState>>,
    /// None also where the key holds `{}`.
    pub failover: Option<Keyed<FailoverRequest>>,
    /// The modification revision of the `failover` key whatever it holds. Zero: absent.
    pub failover_revision: Revision,
    pub status: Option<Keyed<Status>>,
    pub history: Option<Keyed<History>>,
    /// The members without whose word nobody leads while etcd is silent.
    pub failsafe: Option<Keyed<BTreeSet<MemberName>>>,
}

/// A value with the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Keyed<T> {
    pub value: T,
    pub mod_revision: Revision,
}

/// The `leader` key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaderKey {
    pub name: MemberName,
    /// The lease it is bound to; zero for none.
    pub lease: LeaseId,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

impl LeaderKey {
    /// Returns the fence of whoever owns the key's lease.
    pub fn fence(&self) -> Fence {
        Fence { lease: self.lease, create_revision: self.create_revision }
    }
}

/// The `initialize` key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Initialize {
    /// Empty: a member is making the cluster, under this lease (zero where the claim is bound to none).
    UnderWay { lease: LeaseId },
    /// The cluster's system identifier.
    Done(SystemId),
    /// Text that is no system identifier.
    Invalid,
}

/// A member's document, and the lease it is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub lease: LeaseId,
    pub mod_revision: Revision,
    /// Whether Keddah wrote it; Patroni's members hand over by deleting the leader key.
    pub keddah: bool,
    pub facts: MemberFacts,
}

/// What a member says about itself. The addresses are not decided on, so they are not here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemberFacts {
    pub state: State,
    pub role: Role,
    pub version: Option<PgVersion>,
    /// Flushed on a primary; the larger of received and replayed on a replica.
    pub lsn: Option<Lsn>,
    pub received: Option<Lsn>,
    pub replayed: Option<Lsn>,
    pub timeline: Option<Timeline>,
    pub replication: Option<ReplicationState>,
    pub tags: Tags,
    pub pause: bool,
    pub pending_restart: bool,
    /// A promoted server has not written its first checkpoint, so nobody may rewind from it.
    pub checkpoint_pending: bool,
    /// When its server is to be restarted.
    pub restart_at: Option<UnixMs>,
    /// The gate is released (pause): this primary writes without a deadline.
    pub gate_released: bool,
    /// The identifier of its data; None where it has none, or does not tell.
    pub system_id: Option<SystemId>,
    /// How much room its volumes have.
    pub room: Room,
}

/// The `status` key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Status {
    /// Where the leader's WAL ended when it wrote this.
    pub optime: Option<Lsn>,
    pub slots: BTreeMap<String, Lsn>,
    /// Slots of members that are kept although the members may be away.
    pub retain_slots: BTreeSet<String>,
    /// The timeline of the primary that wrote this, so that it is known without `history` too.
    pub timeline: Option<Timeline>,
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
    pub upstream: Upstream,
    pub sync_names: SyncNames,
    pub slots: BTreeMap<String, Slot>,
}

impl ReplicaFacts {
    /// Returns where its WAL ends: the larger of received and replayed.
    pub fn lsn(&self) -> Lsn {
        self.received.unwrap_or_default().max(self.replayed)
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

/// Where the WAL begins that a member's server has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OldestWal {
    pub member: MemberName,
    pub asked: Tick,
    pub lsn: Lsn,
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
    /// A base backup from the cluster that this standby cluster follows; the beginning of this cluster.
    CloneRemote,
    /// The WAL file of a shutdown checkpoint is archived by hand: the server that wrote it archives it no more.
    ArchiveLast { checkpoint: Lsn },
    /// pg_rewind against `source`, the running leader on this timeline.
    Rewind { source: MemberName, timeline: Timeline },
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
            Job::CloneRemote => "clone of the other cluster",
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
    Checkpoint,
    Preflight,
    Brake,
    ApplyConfiguration,
    StartJob,
    CancelJob,
    SetDataAside,
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
