//! What a member does while nobody leads: start, look around, and take the lock if nobody is fitter.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::view::{
    Fence, Initialize, Member, PeerFacts, ReplicaFacts, Revision, Room, Snapshot, Tick, Watchdog,
};
use crate::cluster::{FailoverRequest, History, MemberName, Role, State, SyncState, SystemId, Timeline};

use super::action::{Compared, Identifier};
use super::draft::{Choice, Draft, Wake, living_lease};
use super::memory::RacePosition;
use super::rewind::Home;
use super::situation::{Server, Situation, Was};
use super::{
    Action, Reason, Why, bootstrap, disk, failsafe, identity, remote, replica, rewind, standby, stopping,
    sync,
};

/// How long each member with precedence among equals gets, so that one transaction decides.
const TURN: Duration = Duration::from_millis(50);

/// How soon the others are asked again while one of them keeps this member from standing.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long a Patroni member that sees the free lock may take to it: it asks all others first, one that hangs for 2 s.
const RACE_OF_PATRONI: Duration = Duration::from_secs(5);

/// Nobody leads and the cluster is not paused.
pub(super) fn rule(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    replica::close_gate(s, draft);
    match s.server {
        Server::NoData | Server::Unfinished => bootstrap::rule(s, draft),
        Server::Unreadable => (Reason::UnreadableData, Wake::Loop),
        Server::Down { control, .. } => {
            if s.unfinished().is_some() {
                return bootstrap::rule(s, draft);
            }
            if remote::is_known(s)
                && let Some(choice) = rewind::before_start(s, Home::Remote { leader: None }, draft)
            {
                return choice;
            }
            // Half-written data is none.
            if control.half_rewound.is_some() {
                return (Reason::NobodyToClone, Wake::Loop);
            }
            let known =
                s.snapshot().and_then(|snapshot| snapshot.initialize.as_ref()).map(|keyed| &keyed.value);
            let lost = matches!(known, None | Some(Initialize::Invalid));
            // In a standby cluster all data is a replica's, and whose it is will be seen where it streams from.
            let standby_cluster = s.view.settings.standby_cluster.is_some();
            if lost && (Was::of(control) != Was::Replica || standby_cluster) {
                draft.memory.adopting = true;
            }
            draft.start_replica(standby::upstream(s), Reason::StartingBeforeRace)
        }
        Server::Starting { since, .. } => (Reason::ReplicaIsStarting { since }, Wake::ProgressSince(since)),
        Server::Unresponsive { since, .. } => (Reason::ReplicaUnresponsive { since }, Wake::Progress),
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Replica(facts) => match replica::restart(s, draft) {
            Some(choice) => choice,
            None => stand(s, facts, draft),
        },
        // `must_not_write` has spoken before.
        Server::Primary(_) => (Reason::LeaderKeyGone, Wake::Progress),
    }
}

/// The key bears this member's name under a lease that is dead for it. It may live on in etcd for a whole ttl: a new leader
/// of etcd extends every lease. What this process had held itself it deletes once its server only reads; a key of an
/// earlier process, or of another host by this name, ends by itself.
pub(super) fn leave_old_lock(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    match s.server {
        Server::Replica(_) if draft.memory.led == Some(fence) => {
            replica::close_gate(s, draft);
            draft.act(Action::ReleaseLeaderKey { fence, optime: None });
            (Reason::DeletingOldLock, Wake::After)
        }
        Server::Down { control, .. } if s.unfinished().is_none() && control.half_rewound.is_none() => {
            draft.start_replica(standby::upstream(s), Reason::StartingBeforeRace)
        }
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::NoData
        | Server::Unfinished
        | Server::Unreadable
        | Server::Down { .. }
        | Server::Starting { .. }
        | Server::Primary(_)
        | Server::Replica(_)
        | Server::Unresponsive { .. } => (Reason::OwnOldLease, Wake::Progress),
    }
}

/// A replica stands, unless something or somebody keeps it from it.
pub(super) fn stand(s: &Situation<'_>, facts: &ReplicaFacts, draft: &mut Draft<'_>) -> Choice {
    let Some(snapshot) = s.snapshot() else { return (Reason::EtcdSilentFollowing, Wake::Loop) };
    let Some(lease) = living_lease(s) else { return (Reason::NoLease, Wake::Progress) };
    let request = snapshot.failover.as_ref().map(|keyed| &keyed.value);
    let initialize = match identity::of_cluster(s, snapshot, draft) {
        Ok(initialize) => initialize,
        Err(choice) => return choice,
    };
    if let Some(choice) = not_eligible(s, snapshot, facts, request, draft) {
        return choice;
    }
    if let Some(peer) = says_it_may_write(s, snapshot) {
        return (Reason::PeerIsPrimary { peer }, Wake::Progress);
    }
    let since = draft.memory.leaderless_since.unwrap_or(s.now());
    if let Some(choice) = await_silent_primary(s, facts, request, since, draft) {
        return choice;
    }
    let Some(answers) = s.answers_since(since) else {
        draft.act(Action::AskPeers { also: also_ask(snapshot) });
        return (Reason::AskingPeers, Wake::After);
    };
    let answers: Vec<(&MemberName, &PeerFacts)> = answers.collect();
    if let Some(reason) = somebody_fitter(s, snapshot, facts, request, &answers, since) {
        draft.act(Action::AskPeers { also: also_ask(snapshot) });
        return (reason, Wake::At(s.now() + ASK_AGAIN, Why::Turn));
    }
    let named = request.and_then(|request| request.candidate.as_ref()) == Some(&s.view.me);
    let set = snapshot.sync.as_ref().map(|keyed| &keyed.value).filter(|_| !(named && is_failover(request)));
    if let Some(reason) = set.and_then(|set| votes_missing(s, set, facts, &answers)) {
        draft.act(Action::AskPeers { also: also_ask(snapshot) });
        return (reason, Wake::At(s.now() + ASK_AGAIN, Why::Turn));
    }
    if let Some((peer, until)) = turn(s, facts, &answers, since) {
        return (Reason::LettingPeerGoFirst { peer }, Wake::At(until, Why::Turn));
    }
    let Some(control) = s.view.postgres.control() else { return (Reason::UnreadableData, Wake::Loop) };
    draft.act(take(s, snapshot, lease, initialize, control.system_id));
    let (lsn, timeline) = (facts.lsn(), facts.timeline);
    let reason = match initialize {
        Identifier::Is(_) if gives_way(s, request) => Reason::TakingLockBack { lsn, timeline },
        Identifier::Is(_) => Reason::TakingLock { lsn, timeline },
        Identifier::Missing { .. } => Reason::AdoptingData,
    };
    (reason, Wake::After)
}

/// Waits for a primary that has lost its key and goes on sending WAL: it may be cut off from etcd alone, and come back.
/// Positions are compared once in a `loop_wait`, so within the first one nothing is known yet.
fn await_silent_primary(
    s: &Situation<'_>,
    facts: &ReplicaFacts,
    request: Option<&FailoverRequest>,
    since: Tick,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    let settings = &s.view.settings;
    let named = request.is_some_and(|request| request.candidate.is_some());
    if settings.pause || named || settings.primary_race_backoff.is_zero() {
        return None;
    }
    let limit = since + settings.primary_race_backoff;
    let lsn = facts.lsn();
    let first = RacePosition { compared: s.now(), lsn, settled: false };
    let position = draft.memory.race_position.get_or_insert(first);
    if s.now() >= position.compared + settings.loop_wait {
        let settled = position.settled || !facts.streaming || lsn <= position.lsn;
        *position = RacePosition { compared: s.now(), lsn, settled };
    }
    if position.settled || s.now() >= limit {
        return None;
    }
    let next = limit.min(position.compared + settings.loop_wait);
    Some((Reason::WalStillMoves { lsn, until: limit }, Wake::At(next, Why::Turn)))
}

/// Names a member whose document says that its server may be writing.
///
/// A document lives under the lease that its member leads by: where that lease has ended, both keys went together. A
/// leader key without its document's end was deleted by hand, and its old holder is still on its way down.
///
/// That is a Keddah member's word. A Patroni member gives the lock away once its server is down and says so in its
/// document later, so there only its answer counts.
fn says_it_may_write(s: &Situation<'_>, snapshot: &Snapshot) -> Option<MemberName> {
    let may_write = |member: &Member| {
        matches!(member.facts.role, Role::Primary | Role::Promoted)
            && match member.facts.state {
                State::Running
                | State::Starting
                | State::Restarting
                | State::Stopping
                | State::StopFailed
                | State::CustomBootstrap
                | State::Unknown => true,
                State::StartFailed
                | State::RestartFailed
                | State::Stopped
                | State::Crashed
                | State::Initializing
                | State::InitializeFailed
                | State::CustomBootstrapFailed
                | State::CreatingReplica => false,
            }
    };
    snapshot
        .members
        .iter()
        .find(|(name, member)| **name != s.view.me && member.keddah && may_write(member))
        .map(|(name, _)| name.clone())
}

/// Returns the action that takes the lock in one transaction over all that eligibility rested on.
pub(super) fn take(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    lease: crate::agent::view::LeaseId,
    initialize: Identifier,
    system_id: SystemId,
) -> Action {
    let revision = |keyed: Option<Revision>| keyed.unwrap_or_default();
    let compared = Compared {
        initialize,
        system_id,
        sync: revision(snapshot.sync.as_ref().map(|keyed| keyed.mod_revision)),
        config: snapshot.config,
        failover: snapshot.failover_revision,
        failsafe: revision(snapshot.failsafe.as_ref().map(|keyed| keyed.mod_revision)),
        history: revision(snapshot.history.as_ref().map(|keyed| keyed.mod_revision)),
    };
    let sync = sync::set_of(s, &s.view.me);
    // In a pause the request stays until the promotion: it is what allows one.
    let spend_failover = snapshot.failover.is_some() && !s.view.settings.pause;
    Action::TakeLeaderKey { lease, compared, sync, spend_failover }
}

/// Returns whom to ask beyond those with a document: the synchronous set may hold the one that is ahead.
fn also_ask(snapshot: &Snapshot) -> BTreeSet<MemberName> {
    let set = snapshot.sync.as_ref().map(|keyed| &keyed.value);
    set.map(|set| set.standbys.iter().chain(&set.leader).cloned().collect()).unwrap_or_default()
}

/// Says what about this member keeps it from leading.
fn not_eligible(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    facts: &ReplicaFacts,
    request: Option<&FailoverRequest>,
    draft: &Draft<'_>,
) -> Option<Choice> {
    let named = request.and_then(|request| request.candidate.as_ref()) == Some(&s.view.me);
    let forced = named && is_failover(request);
    let again = draft.memory.pre_promote_failed.map(|at| at + s.view.settings.ttl);
    if let Some(until) = again.filter(|until| s.now() < *until) {
        return Some((Reason::PrePromoteFailed, Wake::At(until, Why::Backoff)));
    }
    if s.view.tags.failover_priority() == 0 {
        return Some((Reason::NotAllowedByTags, Wake::Loop));
    }
    if s.view.watchdog == Watchdog::Unusable {
        return Some((Reason::WatchdogUnusable, Wake::Loop));
    }
    if disk::is_full(s) {
        return Some(disk::wait(s));
    }
    if let Some(choice) = failsafe::forbids(s, snapshot) {
        return Some(choice);
    }
    match left_behind(s, snapshot, (facts.timeline, facts.history.as_ref()), draft) {
        // Who names a member by a failover wants what it has, and knows that others had more.
        Some(Reason::NotInSyncSet | Reason::OldTimeline { .. }) if forced => {}
        Some(reason) => return Some((reason, Wake::Loop)),
        None => {}
    }
    if forced {
        return None;
    }
    let optime = snapshot.status.as_ref().and_then(|keyed| keyed.value.optime).unwrap_or_default();
    let bytes = optime.bytes_ahead_of(facts.lsn());
    if bytes > s.view.settings.maximum_lag_on_failover {
        return Some((Reason::TooFarBehind { bytes }, Wake::Progress));
    }
    None
}

/// Says whether others may have gone on, or acknowledged commits, without this member.
///
/// After a failover to a member of an older timeline the highest number is not the last: who was on it is told by
/// where it came from, and the named member may lead again, should it have gone before it was promoted.
pub(super) fn left_behind(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    (mine, history): (Timeline, Option<&History>),
    draft: &Draft<'_>,
) -> Option<Reason> {
    let known = s.known_timeline(&draft.memory);
    let told = snapshot.history.as_ref().map(|keyed| &keyed.value);
    let parted = told.zip(history).is_some_and(|(told, history)| history.contradicts(told));
    // WAL of a standby cluster comes from elsewhere, where numbers may be lower than those that this cluster had.
    let own = s.view.settings.standby_cluster.is_none();
    if own && (parted || known > Some(mine)) && !led_last(s, snapshot) {
        return Some(Reason::OldTimeline { mine, known: known.unwrap_or(mine) });
    }
    members_only(s, snapshot).is_some_and(|set| !set.holds(&s.view.me)).then_some(Reason::NotInSyncSet)
}

/// Tells whether this member took the lock after the history was written: everybody who takes it is the leader of the
/// synchronous set from then on.
fn led_last(s: &Situation<'_>, snapshot: &Snapshot) -> bool {
    let told = snapshot.history.as_ref().map(|keyed| keyed.mod_revision);
    snapshot
        .sync
        .as_ref()
        .is_some_and(|set| set.value.leader.as_ref() == Some(&s.view.me) && Some(set.mod_revision) > told)
}

/// Names a reached member that leads still, or should lead instead.
fn somebody_fitter(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    facts: &ReplicaFacts,
    request: Option<&FailoverRequest>,
    answers: &[(&MemberName, &PeerFacts)],
    since: Tick,
) -> Option<Reason> {
    let own = s.view.postgres.control().map(|control| control.system_id);
    let of_this_cluster = |peer: &PeerFacts| peer.system_id.is_none() || peer.system_id == own;
    let mut answers = answers.iter().filter(|(_, peer)| of_this_cluster(peer));
    if let Some((peer, _)) = answers.clone().find(|(_, peer)| peer.primary) {
        return Some(Reason::PeerIsPrimary { peer: (*peer).clone() });
    }
    // Somebody further or preferred who does not take the lock for a whole ttl cannot; what it has more is within the
    // allowed lag, or of a timeline that was given up, and in a synchronous set every acknowledged commit is here too.
    let patient = s.now().since(since) < s.view.settings.ttl;
    if let Some(candidate) = request.and_then(|request| request.candidate.as_ref()) {
        if *candidate == s.view.me {
            return None;
        }
        let reached = answers.clone().find(|(name, _)| *name == candidate);
        if patient && reached.is_some_and(|(_, peer)| can_lead(peer)) {
            return Some(Reason::WaitingForNamedCandidate { candidate: candidate.clone() });
        }
    }
    let gives_way =
        gives_way(s, request) && s.now().since(since) < s.view.settings.loop_wait + RACE_OF_PATRONI;
    let set = members_only(s, snapshot);
    answers.find_map(|(name, peer)| {
        let may = can_lead(peer) && set.is_none_or(|set| set.holds(name));
        let former_leader = set.is_some_and(|set| set.leader.as_ref() == Some(*name));
        if !may || !patient {
            return None;
        }
        if newer_timeline(peer, facts.timeline) {
            return Some(Reason::PeerAhead { peer: (*name).clone() });
        }
        // Without its primary a Patroni member may not tell its timeline.
        if gives_way && peer.timeline.is_none_or(|theirs| theirs == facts.timeline) && peer.lsn >= facts.lsn()
        {
            return Some(Reason::GivingWay { peer: (*name).clone() });
        }
        if former_leader { None } else { precedence(s, facts, name, peer) }
    })
}

/// Says in what a peer surpasses this member, if in anything: position, or priority at the same position.
fn precedence(
    s: &Situation<'_>,
    facts: &ReplicaFacts,
    name: &MemberName,
    peer: &PeerFacts,
) -> Option<Reason> {
    let (theirs, mine) = ((peer.timeline, peer.lsn), (Some(facts.timeline), facts.lsn()));
    if theirs > mine {
        return Some(Reason::PeerAhead { peer: name.clone() });
    }
    let (theirs_priority, mine_priority) = (peer.tags.failover_priority(), s.view.tags.failover_priority());
    (theirs == mine && theirs_priority > mine_priority).then(|| Reason::PeerPreferred {
        peer: name.clone(),
        theirs: theirs_priority,
        mine: mine_priority,
    })
}

/// Says why the new leader and not this member took the lock, where the race was over before this member's turn to
/// decide: the answers it had asked for tell.
pub(super) fn lost_to(s: &Situation<'_>, leader: &MemberName, facts: &ReplicaFacts) -> Option<Reason> {
    let (name, peer) = s.answers_since(Tick(0))?.find(|(name, _)| *name == leader)?;
    precedence(s, facts, name, peer)
}

/// Tells whether this member was asked to give the lock to another one. Patroni's members find the free lock in their own
/// time, once in a `loop_wait` at the latest; an old leader that is as fast as ever would take it back before them.
fn gives_way(s: &Situation<'_>, request: Option<&FailoverRequest>) -> bool {
    request.is_some_and(|request| {
        request.leader.as_ref() == Some(&s.view.me) && request.scheduled_at.is_none_or(|at| at <= s.view.wall)
    })
}

/// Tells whether a person asks for a failover: who names a candidate without a leader accepts what it lacks.
fn is_failover(request: Option<&FailoverRequest>) -> bool {
    request.is_some_and(|request| request.leader.is_none())
}

/// Returns the synchronous set if only its members may take the lock, since they have every acknowledged commit.
fn members_only<'a>(s: &Situation<'_>, snapshot: &'a Snapshot) -> Option<&'a SyncState> {
    let set = snapshot.sync.as_ref().map(|keyed| &keyed.value).filter(|set| set.leader.is_some())?;
    (!by_votes(s, set)).then_some(set)
}

/// Tells whether a taker must prove by votes that it lacks nothing: so it is with a quorum, whatever the mode has become.
fn by_votes(s: &Situation<'_>, set: &SyncState) -> bool {
    s.view.settings.synchronous_mode.is_quorum() || set.quorum > 0
}

/// Says how many votes are missing for this member to lack nothing that was acknowledged. A standby of the set votes for
/// it by answering that it is not ahead, itself included; who has led until then needs none.
fn votes_missing(
    s: &Situation<'_>,
    set: &SyncState,
    facts: &ReplicaFacts,
    answers: &[(&MemberName, &PeerFacts)],
) -> Option<Reason> {
    if !by_votes(s, set) || set.leader.as_ref().is_none_or(|leader| *leader == s.view.me) {
        return None;
    }
    let own = s.view.postgres.control().map(|control| control.system_id);
    let not_ahead = |peer: &PeerFacts| {
        !peer.primary
            && peer.timeline.is_some()
            && (peer.timeline, peer.lsn) <= (Some(facts.timeline), facts.lsn())
            && (peer.system_id.is_none() || peer.system_id == own)
    };
    let mine = u32::from(set.has_standby(&s.view.me));
    let theirs = answers.iter().filter(|(name, peer)| set.has_standby(name) && not_ahead(peer)).count();
    let votes = mine.saturating_add(u32::try_from(theirs).unwrap_or(u32::MAX));
    let needed = set.quorum.saturating_add(1);
    (votes < needed).then_some(Reason::VotesMissing { votes, needed })
}

fn newer_timeline(peer: &PeerFacts, mine: Timeline) -> bool {
    peer.timeline.is_some_and(|theirs| theirs > mine)
}

fn can_lead(peer: &PeerFacts) -> bool {
    peer.tags.failover_priority() > 0 && peer.watchdog_usable && !peer.etcd_silent && peer.room != Room::Full
}

/// Returns the last of the equals that go before this member, while their turns last.
fn turn(
    s: &Situation<'_>,
    facts: &ReplicaFacts,
    answers: &[(&MemberName, &PeerFacts)],
    since: Tick,
) -> Option<(MemberName, Tick)> {
    let equal = |peer: &PeerFacts| {
        can_lead(peer)
            && (peer.timeline, peer.lsn) == (Some(facts.timeline), facts.lsn())
            && peer.tags.failover_priority() == s.view.tags.failover_priority()
    };
    let before: Vec<&MemberName> = answers
        .iter()
        .filter(|(name, peer)| **name < s.view.me && equal(peer))
        .map(|(name, _)| *name)
        .collect();
    let last = before.last()?;
    let until = since + TURN * u32::try_from(before.len()).unwrap_or(u32::MAX);
    (s.now() < until).then(|| ((*last).clone(), until))
}
