//! Why a member does what it does, as values.
//!
//! The log line, the REST field, `keddah explain` and the reference page all come from here.

use crate::agent::view::{Hazards, Origin, StopMode, Tick};
use crate::cluster::{FailoverRequest, Lsn, MemberName, SystemId, Timeline};

/// Declares the reasons: doc comment, name, fields, and the sentence for people.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident $({ $($field:ident: $type:ty),+ $(,)? })? => $text:literal;)+) => {
        /// Why a decision is what it is.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name $({ $($field: $type),+ })?,)+
        }

        impl Reason {
            /// The code and the meaning of every reason, in the order of the reference page.
            pub const ALL: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc),+).trim_ascii())),+];

            /// Returns the code: the name by which documents and tools know the reason.
            pub const fn code(&self) -> &'static str {
                match self {
                    $(Reason::$name { .. } => stringify!($name),)+
                }
            }
        }

        impl std::fmt::Display for Reason {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Reason::$name $({ $($field),+ })? => write!(f, $text),)+
                }
            }
        }
    };
}

reasons! {
    // ── leading ──
    /// This member holds the lock and its server is a writable primary.
    Leading => "I hold the lock and Postgres is primary";
    /// The lock is held and the server leaves recovery.
    Promoting { timeline: Timeline, lsn: Lsn } => "I hold the lock and promote Postgres at {lsn} on timeline {timeline}";
    /// The lock of a standby cluster is held: the server follows the other cluster, and the members follow it.
    LeadingStandby => "I hold the lock of a standby cluster and follow the other cluster";
    /// The cluster has become a standby cluster: its primary is stopped and follows the other cluster.
    DemotingCluster => "the cluster is to be a standby cluster; I stop my primary";
    /// The demoted server is down, and the last of its WAL goes to the archive for those who read it there.
    ArchivingLast => "I archive the last WAL of my former primary";
    /// The lock is held, and the user's program comes before the promotion.
    RunningPrePromote => "I hold the lock and run pre_promote";
    /// The user's program before the promotion failed: the lock goes, and this member does not stand for a ttl.
    PrePromoteFailed => "pre_promote failed; I do not lead for now";
    /// The lock is held, and before the promotion the synchronous set must be this member's.
    PreparingSyncForPromotion => "I hold the lock and write the synchronous set before I promote";
    /// The lock is held and the server was ended, so it is started again as primary, on the same timeline.
    StartingAsPrimary => "I hold the lock and start Postgres as primary again";
    /// The lock is held, the server is not running and was in recovery, so it is started as a replica and promoted then.
    StartingToPromote => "I hold the lock and start Postgres as replica to promote it";
    /// The server starts as primary, within its time.
    PrimaryIsStarting { since: Tick } => "I hold the lock and Postgres has been starting since {since}";
    /// The server needed longer than `primary_start_timeout`, so the lock is given up for a member that can serve.
    StartTookTooLong => "Postgres did not come up within primary_start_timeout; I stop it and give up the lock";
    /// The server cannot be started as primary, so the lock is given up.
    StartFailed => "Postgres does not start as primary; I give up the lock";
    /// `primary_start_timeout` is zero: a crash of the primary is answered by a failover.
    CrashMeansFailover => "Postgres has crashed and primary_start_timeout is 0; I give up the lock";
    /// The promotion did not end within `primary_start_timeout`.
    PromotionTookTooLong => "Postgres did not leave recovery within primary_start_timeout; I give up the lock";
    /// The lock is held without a data directory to serve.
    LeadingWithoutData => "I hold the lock and have no data; I give up the lock";
    /// A watchdog is required and cannot be used, so this member does not lead.
    WatchdogUnusable => "the watchdog is required and cannot be used; I do not lead";
    /// The gate is closed because no guard answers.
    GuardAbsent => "no guard answers; Postgres cannot be made writable";
    /// A volume is below `disk.brake`: clients may only read until it has room again.
    LeadingBraked => "I hold the lock; a volume is nearly full, so clients may only read until it has room again";
    /// The server ended without a shutdown checkpoint, or is to be promoted, and a volume has no room for what it would
    /// write; another member has.
    FullMeansFailover => "a volume is full and Postgres cannot lead without room; I give up the lock to a member that has some";
    /// A volume has no room for what a recovery or promotion writes, and no other member has either, or leads already.
    NoRoom => "a volume is full: Postgres would end for lack of room as soon as it wrote; I wait until there is some";
    /// The lock is held, and the probes of a living server fail, within `primary_start_timeout`.
    PrimaryUnresponsive { since: Tick } => "I hold the lock and Postgres has not answered since {since}";

    // ── stepping down ──
    /// etcd has been silent so long that the lease may end: the server is stopped before it can.
    LeaseDoubtful { deadline: Tick } => "the lease may end at {deadline} and etcd does not answer; I stop Postgres";
    /// The lease is lost: the server must not be writable.
    LeaseLost => "my lease is lost; I stop Postgres";
    /// The leader key is gone while the server is primary.
    LeaderKeyGone => "the leader key is gone; I stop Postgres and then stand for election";
    /// Another member holds the lock while the server is primary.
    AnotherLeads { leader: MemberName } => "{leader} holds the lock; I stop my primary";
    /// The server is still stopping.
    Stopping { mode: StopMode, since: Tick } => "Postgres has been stopping ({mode}) since {since}";
    /// A fast stop took longer than its limit, so it is made immediate.
    StopTookTooLong => "the fast stop did not end within its limit; I stop Postgres at once";
    /// The lock was this process's until its lease ended for it; etcd has extended that, and nobody could lead until it ends.
    DeletingOldLock => "the leader key bears my name under a lease that has ended for me; I delete it";
    /// The lock is held under a lease of an earlier process of this member, or of one that is not stopped yet.
    OwnOldLease => "the leader key bears my name under a lease that is not mine any more; I wait for its end";

    // ── handing over ──
    /// A switchover is prepared while clients still write.
    PreparingHandOver { candidate: MemberName } => "I write checkpoints while clients write, to hand over to {candidate} quickly";
    /// A switchover goes on, and this may make it or what comes after it longer.
    HandOverHampered { candidate: MemberName, hazards: Hazards } => "what may delay the hand-over to {candidate}: {hazards}";
    /// A switchover begins: the server is stopped, with the lock held.
    SteppingDownFor { candidate: MemberName } => "I stop Postgres to hand over to {candidate}";
    /// The server is stopped, and the candidate must have all its WAL before it gets the lock.
    WaitingForCandidate { candidate: MemberName, lsn: Lsn } => "I wait until {candidate} has my WAL beyond {lsn}";
    /// The candidate has all WAL and gets the lock.
    HandingOver { candidate: MemberName } => "{candidate} has all my WAL; I hand over the lock";
    /// The candidate could not take over within the limit: the old primary serves again.
    HandOverUndone { candidate: MemberName, why: Undone } => "I do not hand over to {candidate}: {why}; I lead again";
    /// The candidate's member key is gone or Patroni's: the lock is released to an ordinary election.
    ReleasedForCandidate { candidate: MemberName } => "I release the lock so that {candidate} can take it";
    /// The request cannot be carried out, so it is cleared.
    SwitchoverRefused { request: FailoverRequest, why: Refusal } => "the {request} is refused: {why}";
    /// The request is for a later time.
    SwitchoverScheduled { request: FailoverRequest } => "the {request} waits for its time";
    /// The candidate lacks too much WAL just now; it may take a moment to catch up.
    SwitchoverAwaitsCandidate { request: FailoverRequest } => "the {request} waits for its candidate to catch up";

    // ── following ──
    /// The server streams from where it should.
    Following { upstream: MemberName } => "I follow {upstream}";
    /// The server is a replica without an upstream by its tag.
    FollowingNobody => "the tag nostream keeps me from streaming";
    /// The server is a replica, and its upstream does not stream to it.
    WaitingForStream { upstream: MemberName } => "I follow {upstream} and wait for WAL to stream";
    /// The upstream has removed WAL that this replica lacks, and no archive brings it: only a new copy helps.
    WalGone { upstream: MemberName, lsn: Lsn } => "{upstream} has no WAL from {lsn} on any more; I cannot stream from it";
    /// The server is told another upstream.
    ChangingUpstream { upstream: MemberName } => "I follow {upstream} from here on";
    /// The server is started as a replica.
    StartingAsReplica => "I start Postgres as replica";
    /// The server is starting as a replica.
    ReplicaIsStarting { since: Tick } => "Postgres has been starting as replica since {since}";
    /// The start of a replica has done nothing for too long: it is ended, and tried again; after two such starts the data
    /// is copied anew where that is allowed.
    ReplicaStartHangs { since: Tick } => "Postgres has been starting as replica since {since} and does nothing; I end it";
    /// A replica's server does not come up; it is tried again later.
    ReplicaStartFailed => "Postgres does not start as replica; I try again";
    /// The probes of a living replica fail.
    ReplicaUnresponsive { since: Tick } => "Postgres has not answered since {since}";
    /// The leader has logical slots that this member lacks: their state is copied, for which the server is stopped.
    CopyingSlots { leader: MemberName } => "I copy logical slots of {leader} and restart Postgres for it";
    /// A former primary waits until the leader is a running primary, so that it can be told apart from it.
    WaitingForLeader { leader: Origin } => "I wait until {leader} runs as primary before I follow it";

    // ── coming back ──
    /// The data directory is empty and is filled from another member, or from the other cluster where a standby cluster has
    /// nobody else.
    Cloning { source: Origin } => "I copy the data of {source}";
    /// A method that needs no other member fills the data directory.
    Restoring => "there is no leader; I make my data by a method that needs none";
    /// There is nobody to copy from.
    NobodyToClone => "I have no data and nobody to copy it from";
    /// The last attempt failed; it is repeated after a while.
    JobBackoff { until: Tick } => "the last attempt failed; I try again at {until}";
    /// A new copy does not fit on the volumes here, what its removal frees counted in: the data that is here is left as it is,
    /// and it is tried again after a while.
    NoRoomForCopy { missing_mb: u64 } => "a new copy needs {missing_mb} MB more than there is room for; I leave my data as it is";
    /// A crashed former primary finds the end of its WAL first; so does a replica that is to be rewound and has not ended in
    /// order, or whose last checkpoint is of an older timeline than its data, for pg_rewind judges by both.
    RecoveringFromCrash => "I recover from the crash in single-user mode to see how far my WAL goes";
    /// A member that is gone has begun a timeline that the cluster went on without. This replica has received WAL of it, and
    /// its data has nothing of it yet: that WAL is removed, since a start would go on with it.
    LeavingTimeline { timeline: Timeline } => "my WAL of timeline {timeline} is not the leader's and not in my data yet; I remove it";
    /// The data has parted from the leader's, or that of a standby cluster's member from the other cluster's: the server is
    /// stopped so that it can be rewound or copied.
    StoppingToRewind { leader: Origin } => "my WAL has parted from that of {leader}; I stop Postgres to come back";
    /// The data has parted from the leader's and is brought back by pg_rewind.
    Rewinding { leader: Origin } => "my WAL has parted from that of {leader}; I rewind";
    /// The data has parted from the leader's, and the user of pg_rewind is not let in there or may not read the files: a new
    /// copy is made where that is allowed, and it is tried again otherwise.
    RewindNotGranted { leader: Origin } => "my WAL has parted from that of {leader}, whose files the user of pg_rewind may not read";
    /// pg_rewind can work only after the leader's first checkpoint on its timeline.
    WaitingForCheckpoint { leader: Origin } => "I wait for the first checkpoint of {leader} before I rewind";
    /// The data has parted from the leader's and pg_rewind has failed or cannot be used, no WAL is left for it, or it cannot
    /// be started; a new copy is allowed.
    CloningAfterDivergence { source: Origin } => "my data cannot follow the leader's; I copy the data of {source} anew";
    /// The data of a standby cluster's leader has parted from the other cluster's and only a new copy would bring it back,
    /// which takes long; another member's data has not, so that one is to lead.
    HandingToUnparted { peer: MemberName } => "my WAL has parted from that of the other cluster and that of {peer} has not; I let it lead before I copy its data";
    /// The data has parted from the leader's, and what would bring it back is not allowed. In a standby cluster it may go on
    /// being read.
    Diverged { leader: Origin } => "my WAL has parted from that of {leader}, and neither pg_rewind nor a new copy is allowed";
    /// A person asked for a new copy.
    Reinitializing => "I was asked for a new copy of the data";

    // ── standing for election ──
    /// The other members are asked how far they are.
    AskingPeers => "there is no leader; I ask the others how far they are";
    /// This member takes the lock.
    TakingLock { lsn: Lsn, timeline: Timeline } => "there is no leader and nobody is ahead of me at {lsn} on timeline {timeline}; I take the lock";
    /// Where `primary_race_backoff` is set: the member that led may be cut off from etcd alone.
    WalStillMoves { lsn: Lsn, until: Tick } => "there is no leader; while my wal position moved since last heart beat loop (it is {lsn}) I wait, until {until} at the latest";
    /// Another member with the same position has precedence for a moment.
    LettingPeerGoFirst { peer: MemberName } => "{peer} is as far as I am and goes first";
    /// Another reachable member is further.
    PeerAhead { peer: MemberName } => "Wal position of {peer} is ahead of my wal position";
    /// Another reachable member is as far and has a higher priority.
    PeerPreferred { peer: MemberName, theirs: i64, mine: i64 } => "{peer} has equally tolerable WAL position and priority {theirs}, while this node has priority {mine}";
    /// A reachable member still runs as primary.
    PeerIsPrimary { peer: MemberName } => "{peer} still runs as primary; nobody takes the lock meanwhile";
    /// The tags keep this member from leading.
    NotAllowedByTags => "following a different leader because I am not allowed to promote";
    /// This member lacks more WAL than `maximum_lag_on_failover` allows.
    TooFarBehind { bytes: u64 } => "I lack {bytes} bytes of WAL, more than maximum_lag_on_failover allows";
    /// This member's timeline has been left by the cluster.
    OldTimeline { mine: Timeline, known: Timeline } => "the cluster has left my timeline {mine} and was on {known} last";
    /// This member is not in the synchronous set, so it may lack acknowledged commits.
    NotInSyncSet => "I am not in the synchronous set and may lack acknowledged commits";
    /// In quorum mode too few of the synchronous standbys have answered that this member is as far as they are.
    VotesMissing { votes: u32, needed: u32 } => "I have {votes} of the {needed} votes that prove me to have every acknowledged commit";
    /// This member has promised a leader without etcd not to take the lock, or may have done so before it started.
    HasPromised { until: Tick } => "I have promised not to take the lock before {until}";
    /// Members that the last leader did not know never stand in failsafe mode.
    NotInFailsafe => "the failsafe set does not name me; I do not stand";
    /// A named candidate has precedence.
    WaitingForNamedCandidate { candidate: MemberName } => "the failover asks for {candidate}";
    /// This member was asked to hand over the lock, and another one is as far: it gets time to take the lock.
    GivingWay { peer: MemberName } => "I was asked to hand over the lock; {peer} is as far as I am and may take it";
    /// This member was asked to hand over the lock, and nobody has taken it: it goes on leading.
    TakingLockBack { lsn: Lsn, timeline: Timeline } => "I released the lock and no other member has taken it; I take it back at {lsn} on timeline {timeline}";
    /// This member has no lease to take the lock with.
    NoLease => "I have no lease to take the lock with";
    /// The server must be running before it can stand.
    StartingBeforeRace => "there is no leader; I start Postgres as replica before I stand for election";

    // ── making the cluster ──
    /// Nobody has made the cluster; this member claims to.
    ClaimingInitialize => "there is no cluster; I claim to make it";
    /// There is no cluster, and this member's tags or the lack of a `bootstrap` section keep it from making one.
    JoiningOnly => "there is no cluster, and I am not to make one; I wait";
    /// Another member makes the cluster.
    AnotherInitializes => "another member makes the cluster";
    /// The data of a new standby cluster is copied from the cluster that it follows.
    CloningRemote => "I make the standby cluster by a copy of the other cluster";
    /// initdb is running.
    Initializing => "I make the cluster by initdb";
    /// The server of the new cluster is started, under the claim to make it.
    StartingNewCluster => "the data is made; I start Postgres to make the roles";
    /// The server of the new cluster starts, or does not answer yet.
    NewClusterIsStarting { since: Tick } => "Postgres of the new cluster has been starting since {since}";
    /// The new cluster can serve: it gets its identifier and its leader.
    FinishingInitialize => "the cluster is made; I give it its identifier and lead";
    /// Roles are made on the new primary.
    CreatingRoles => "I make the roles of the cluster";
    /// The data was restored and goes through a recovery of its own, which ends by itself.
    RecoveringRestored => "I made the cluster from a backup and wait for the end of its recovery";
    /// Making the cluster failed, or the claim to make it is lost; the data is put aside.
    InitializeFailed => "making the cluster failed; I put the data aside and hold no claim to make it";
    /// The cluster has no identifier, and nothing speaks against that of this member's data: it becomes the cluster's.
    AdoptingData => "the cluster has no identifier; it gets that of my data";
    /// The cluster has no identifier, this member's data is a replica's, and nothing else tells whose it is.
    NoIdentifier => "the cluster has no identifier and my data is a replica's; I wait";
    /// The cluster has no identifier, and another member's data has another one than this member's: a person chooses.
    IdentifiersDiffer { peer: MemberName, mine: SystemId, theirs: SystemId } => "the cluster has no identifier, my data has {mine} and that of {peer} has {theirs}; I wait until `initialize` names one of them";
    /// The cluster has no identifier, and another member with data does not tell that of its data.
    IdentifierUntold { peer: MemberName } => "the cluster has no identifier, and I wait for {peer} to tell that of its data";
    /// There is no identifier, but what a leader wrote is still there: this member makes no new cluster beside it.
    RemainsOfCluster { key: &'static str } => "the cluster has no identifier, and its key `{key}` is there; I have no data and make no other cluster in its place";
    /// There is no identifier, but a member with data is there: this member makes no new cluster beside it.
    DataElsewhere { peer: MemberName } => "the cluster has no identifier, and {peer} has data; I have none and make no other cluster in its place";

    // ── what keeps a member out ──
    /// The data belongs to another cluster.
    ForeignData { mine: SystemId, theirs: SystemId } => "my data is of cluster {mine}, not of {theirs}; I leave";
    /// The data directory holds something that is not readable as a cluster.
    UnreadableData => "the data directory is not empty and pg_control cannot be read; I leave it alone";

    // ── etcd is silent ──
    /// etcd does not answer, the lease lives: the primary goes on.
    EtcdSilentLeading { deadline: Tick } => "etcd does not answer; I lead until my lease may end at {deadline}";
    /// etcd does not answer: a replica changes nothing.
    EtcdSilentFollowing => "etcd does not answer; I change nothing";
    /// etcd does not answer and the server is stopped: it is started read-only.
    EtcdSilentStarting => "etcd does not answer; I start Postgres read-only";

    /// etcd does not answer, and all members of `/failsafe` have promised not to take the lock meanwhile.
    FailsafeLeading { deadline: Tick } => "etcd does not answer; all members have promised not to take the lock, I lead until {deadline}";
    /// The others are asked not to take the lock while etcd does not answer.
    AskingForPromises => "etcd does not answer; I ask all members not to take the lock meanwhile";
    /// etcd does not answer and not every member promised: the server is stopped before somebody else leads.
    NotAllPromised => "etcd does not answer and not all members have promised not to take the lock; I stop Postgres";
    /// etcd answers again and the lock has ended meanwhile: under the others' promises the primary takes it anew.
    RegainingLock => "etcd answers again and nobody leads; I take the lock that was mine";

    // ── a job is under way ──
    /// A job runs; everything else waits for it.
    JobUnderWay { job: &'static str, since: Tick } => "{job} has been running since {since}";
    /// A job's ground is gone, so it is ended.
    CancellingJob { job: &'static str } => "{job} has lost its ground; I end it";

    // ── pause ──
    /// The cluster is paused and this member's primary holds the lock.
    PausedLeading => "the cluster is paused; I hold the lock";
    /// The cluster is paused: a primary without the lock goes on.
    PausedPrimaryWithoutLock => "the cluster is paused; Postgres is primary without the lock";
    /// The cluster is paused: nothing is touched.
    PausedIdle => "the cluster is paused; I leave Postgres alone";
    /// The cluster is paused and the leader's server is not a running primary: the lock is released.
    PausedNotPrimary => "the cluster is paused and my Postgres is not primary; I release the lock";
    /// The cluster is paused and has no leader: the running primary takes the lock.
    PausedTakingLock => "the cluster is paused and has no leader; my primary takes the lock";

    // ── requests ──
    /// A restart was asked for.
    Restarting => "I was asked to restart Postgres";
    /// The agent ends and stops its server.
    ShuttingDown => "I was asked to end; Postgres is stopped first";
    /// The agent ends and its server is stopped, or left alone in a pause.
    Leaving => "I was asked to end";
}

/// Why a switchover or failover is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The request names a leader that does not lead.
    LeaderIsAnother,
    /// The candidate has no member document.
    CandidateUnknown,
    /// No member can take over.
    NoCandidate,
    /// The candidate's tags do not let it lead.
    CandidateTags,
    /// A volume of the candidate has no room.
    CandidateFull,
    /// The candidate does not stream from the leader.
    CandidateNotStreaming,
    /// The candidate's Patroni does not tell where its server is: it starts it or makes it follow, and stands in no election
    /// meanwhile.
    CandidateBusy,
    /// The candidate lacks more WAL than `maximum_lag_on_failover` allows.
    CandidateBehind,
    /// The candidate is not in the synchronous set.
    CandidateNotSync,
    /// The candidate streams and does not confirm what it is sent.
    CandidateDoesNotConfirm,
    /// The candidate has received WAL and does not replay it in time, which its promotion would wait for.
    CandidateDoesNotReplay,
    /// Checkpoints take long: the one at the stop would keep everybody from writing.
    CheckpointsTooSlow,
    /// The volume of the data is so full that the server would crash at a checkpoint, the one at its stop too.
    NoRoomForCheckpoint,
    /// The server does not answer the preparation.
    NotPrepared,
    /// In a pause the candidate must be named, and a time must not.
    PausedWithoutCandidate,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::LeaderIsAnother => "the leader it names does not lead",
            Refusal::CandidateUnknown => "the candidate is no member",
            Refusal::NoCandidate => "no member can take over",
            Refusal::CandidateTags => "the candidate's tags do not let it lead",
            Refusal::CandidateFull => "a volume of the candidate is full",
            Refusal::CandidateNotStreaming => "the candidate does not stream from the leader",
            Refusal::CandidateBusy => {
                "the candidate's Patroni starts its server or makes it follow, and cannot take the lock meanwhile; try again"
            }
            Refusal::CandidateBehind => "the candidate is behind by more than maximum_lag_on_failover",
            Refusal::CandidateNotSync => "the candidate is not in the synchronous set",
            Refusal::CandidateDoesNotConfirm => "the candidate does not confirm the WAL that it is sent",
            Refusal::CandidateDoesNotReplay => {
                "the candidate does not replay what it has received: is its replay paused or delayed?"
            }
            Refusal::CheckpointsTooSlow => {
                "checkpoints take long, too much is unwritten for a short stop; the last one goes on, try again after it"
            }
            Refusal::NoRoomForCheckpoint => {
                "the volume of the leader's data is full, and Postgres crashes at a checkpoint that has no room; make some first"
            }
            Refusal::NotPrepared => "Postgres did not answer the preparation",
            Refusal::PausedWithoutCandidate => "in a pause a switchover needs a candidate and no time",
        })
    }
}

/// Why a hand-over that had begun is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Undone {
    /// The server did not come to its shutdown checkpoint within the limit.
    StopTooSlow,
    /// The server is down without a shutdown checkpoint.
    NotClean,
    /// The candidate did not get all WAL within the limit.
    CandidateBehind,
    /// The candidate has no member document any more.
    CandidateGone,
    /// The keys of the hand-over have changed in between.
    Fenced,
}

impl std::fmt::Display for Undone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Undone::StopTooSlow => "Postgres did not stop in time",
            Undone::NotClean => "Postgres ended without a shutdown checkpoint",
            Undone::CandidateBehind => "it did not get all my WAL in time",
            Undone::CandidateGone => "it is no member any more",
            Undone::Fenced => "its member key or mine has changed in between",
        })
    }
}
