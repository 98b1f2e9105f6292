//! How a leader hands over: refuse or stop, wait until the candidate has all WAL, give it the lock; or go on leading.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::view::{
    Control, ControlState, Deed, Fence, Guard, LeaseId, Member, PrimaryFacts, Revision, StopMode, Tick,
    Verdict,
};
use crate::cluster::{FailoverRequest, Lsn, MemberName, Role, State, SyncMode};

use super::draft::{Choice, Draft, Wake};
use super::memory::HandOver;
use super::reason::Refusal;
use super::situation::{LeaseWord, Situation, Was};
use super::{Action, Reason, Why, sync};

/// How long the old primary stays down for a candidate that does not get its WAL.
///
/// A stop writes a checkpoint just after another one, and a candidate that streams has the rest in milliseconds; writes
/// must be possible again within 5 s of a hand-over that fails.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(4);

/// How long a candidate that lacks too much may take to catch up before the request is refused.
///
/// A switch to the next WAL segment, as each copy of the data makes, puts every standby 16 MB behind for a moment.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// How far the deadline must be away when the server is stopped for a hand-over.
const DEADLINE_AWAY: Duration = Duration::from_secs(3);

/// How long peers' answers serve while the server is down and nobody can write.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A request is there and the server is a primary: refuse it, or begin.
pub(super) fn rule(
    s: &Situation<'_>,
    fence: Fence,
    facts: &PrimaryFacts,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    let Some(keyed) = &s.snapshot()?.failover else {
        draft.memory.handover = None;
        draft.memory.switchover_seen = None;
        return None;
    };
    let request = &keyed.value;
    let seen = keyed.mod_revision;
    if draft.memory.handover.as_ref().is_some_and(|handover| handover.undone) {
        let candidate = draft.memory.handover.take().map(|handover| handover.candidate)?;
        draft.act(Action::ClearFailover { fence, seen });
        return Some((Reason::HandOverUndone { candidate }, Wake::After));
    }
    if draft.memory.handover.is_some() {
        // The stop was not carried out; it is asked for again.
        draft.stop(StopMode::Fast);
        let candidate = draft.memory.handover.as_ref().map(|handover| handover.candidate.clone())?;
        return Some((Reason::SteppingDownFor { candidate }, Wake::Progress));
    }
    if request.candidate.as_ref() == Some(&s.view.me) {
        // Fulfilled: a paused cluster keeps the request until its candidate is primary.
        draft.act(Action::ClearFailover { fence, seen });
        return None;
    }
    let paused = s.view.settings.pause;
    let scheduled = request.scheduled_at.filter(|at| *at > s.view.wall);
    let chosen = if paused && (request.candidate.is_none() || scheduled.is_some()) {
        Err(Refusal::PausedWithoutCandidate)
    } else if request.leader.as_ref().is_some_and(|leader| *leader != s.view.me) {
        Err(Refusal::LeaderIsAnother)
    } else if scheduled.is_some() {
        // Who can take over is a question of that moment.
        super::leader::maintain(s, fence, facts, draft);
        return Some((
            Reason::SwitchoverScheduled { request: request.clone() },
            Wake::At(until(s, request), Why::Limit),
        ));
    } else {
        candidate(s, request, facts)
    };
    match chosen {
        Err(Refusal::CandidateBehind) if s.now().since(first_seen(s, seen, draft)) < CATCH_UP_LIMIT => {
            super::leader::maintain(s, fence, facts, draft);
            Some((Reason::SwitchoverAwaitsCandidate { request: request.clone() }, Wake::Progress))
        }
        Err(why) => {
            draft.act(Action::ClearFailover { fence, seen });
            Some((Reason::SwitchoverRefused { request: request.clone(), why }, Wake::After))
        }
        Ok(candidate) => {
            let LeaseWord::Safe { deadline, .. } = s.lease else { return None };
            if deadline.since(s.now()) < DEADLINE_AWAY {
                return Some((Reason::Leading, Wake::Progress)); // after the next keepalive
            }
            draft.memory.handover = Some(HandOver {
                candidate: candidate.clone(),
                since: s.now(),
                stopped: None,
                sent: false,
                undone: false,
            });
            draft.act(Action::Stop { mode: StopMode::Fast, checkpoint: true });
            Some((Reason::SteppingDownFor { candidate }, Wake::Progress))
        }
    }
}

/// Returns when the request of this revision was first looked at.
fn first_seen(s: &Situation<'_>, seen: Revision, draft: &mut Draft<'_>) -> Tick {
    let known = draft.memory.switchover_seen.filter(|(revision, _)| *revision == seen);
    draft.memory.switchover_seen.insert(known.unwrap_or((seen, s.now()))).1
}

fn until(s: &Situation<'_>, request: &FailoverRequest) -> Tick {
    let away = request.scheduled_at.map_or(0, |at| at.0.saturating_sub(s.view.wall.0));
    s.now() + Duration::from_millis(u64::try_from(away).unwrap_or(0))
}

/// Returns the member to hand over to: the one named, or the best.
fn candidate(
    s: &Situation<'_>,
    request: &FailoverRequest,
    facts: &PrimaryFacts,
) -> Result<MemberName, Refusal> {
    let snapshot = s.snapshot().ok_or(Refusal::NoCandidate)?;
    let manual = request.leader.is_none();
    let fit = |name: &MemberName, member: &Member| -> Result<Lsn, Refusal> {
        let set = snapshot.sync.as_ref().map(|keyed| &keyed.value).filter(|set| set.leader.is_some());
        if member.facts.tags.failover_priority() == 0 {
            return Err(Refusal::CandidateTags);
        }
        let standby = facts.standbys.get(name).filter(|standby| standby.streaming);
        let Some(standby) =
            standby.filter(|_| member.facts.role == Role::Replica && member.facts.state == State::Running)
        else {
            return Err(Refusal::CandidateNotStreaming);
        };
        if facts.lsn.bytes_ahead_of(standby.flushed) > s.view.settings.maximum_lag_on_failover {
            return Err(Refusal::CandidateBehind);
        }
        // Where any standbys will do, the hand-over waits until the candidate has everything.
        let members_only = match s.view.settings.synchronous_mode {
            SyncMode::Off | SyncMode::Quorum | SyncMode::QuorumStrict => false,
            SyncMode::On | SyncMode::Strict => true,
        };
        if members_only && !manual && set.is_none_or(|set| !set.holds(name)) {
            return Err(Refusal::CandidateNotSync);
        }
        Ok(standby.flushed)
    };
    match &request.candidate {
        Some(name) => {
            let member = snapshot.members.get(name).ok_or(Refusal::CandidateUnknown)?;
            fit(name, member).map(|_| name.clone())
        }
        None => snapshot
            .members
            .iter()
            .filter(|(name, _)| **name != s.view.me)
            .filter_map(|(name, member)| {
                Some((member.facts.tags.failover_priority(), fit(name, member).ok()?, name))
            })
            .max_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)).then(other.2.cmp(one.2)))
            .map(|(_, _, name)| name.clone())
            .ok_or(Refusal::NoCandidate),
    }
}

/// The server of a handing-over leader is down: hand over, wait, or go back. None: nothing is being handed over.
pub(super) fn after_stop(
    s: &Situation<'_>,
    fence: Fence,
    control: &Control,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    let mut handover = draft.memory.handover.clone()?;
    if handover.undone {
        return None;
    }
    // A fenced hand-over did nothing, and the snapshot is newer than its answer: the lock is still here.
    if draft.last(Deed::HandOver, &[Verdict::Fenced]) {
        return undo(handover, draft);
    }
    if draft.last(Deed::HandOver, &[Verdict::Failed, Verdict::Skipped]) {
        handover.sent = false;
    }
    let candidate = handover.candidate.clone();
    let clean = control.state == ControlState::ShutDown && Was::of(control) == Was::CleanPrimary;
    let stopped = *handover.stopped.get_or_insert(s.now());
    let late = s.now().since(stopped) >= HAND_OVER_LIMIT;
    if !handover.sent && (!clean || late) {
        return undo(handover, draft);
    }
    let member = s.snapshot().and_then(|snapshot| snapshot.members.get(&candidate));
    let Some(member) = member else {
        if !handover.sent {
            return undo(handover, draft);
        }
        // What was sent may still arrive. A deleted leader key makes sure that it compares unequal for ever.
        draft.memory.handover = Some(handover);
        return Some(release(s, fence, candidate, control, draft));
    };
    if handover.sent {
        return Some(hand_over(s, fence, member.lease, control, handover, draft));
    }
    let caught_up = s
        .answer_since(stopped, &candidate)
        .is_some_and(|peer| !peer.primary && peer.lsn > control.checkpoint);
    if !caught_up {
        draft.memory.handover = Some(handover);
        draft.act(Action::AskPeers { also: BTreeSet::from([candidate.clone()]) });
        let reason = Reason::WaitingForCandidate { candidate, lsn: control.checkpoint };
        return Some((reason, Wake::At(s.now() + ASK_EVERY, Why::Progress)));
    }
    if !member.keddah {
        draft.memory.handover = Some(handover);
        return Some(release(s, fence, candidate, control, draft));
    }
    Some(hand_over(s, fence, member.lease, control, handover, draft))
}

/// Deletes the leader key, so that the candidate may take it in an ordinary election.
fn release(
    s: &Situation<'_>,
    fence: Fence,
    candidate: MemberName,
    control: &Control,
    draft: &mut Draft<'_>,
) -> Choice {
    if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
        draft.act(Action::Disarm);
    }
    draft.act(Action::ReleaseLeaderKey { fence, optime: Some(control.checkpoint) });
    (Reason::ReleasedForCandidate { candidate }, Wake::After)
}

/// Sends the hand-over, or sends it again while nobody knows whether it was carried out.
fn hand_over(
    s: &Situation<'_>,
    fence: Fence,
    candidate_lease: LeaseId,
    control: &Control,
    mut handover: HandOver,
    draft: &mut Draft<'_>,
) -> Choice {
    let candidate = handover.candidate.clone();
    let reason = Reason::HandingOver { candidate: candidate.clone() };
    if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
        draft.act(Action::Disarm);
    }
    draft.act(Action::HandOver {
        fence,
        candidate: candidate.clone(),
        candidate_lease,
        optime: control.checkpoint,
        sync: sync::set_of(s, &candidate),
        keep_failover: s.view.settings.pause,
    });
    handover.sent = true;
    draft.memory.handover = Some(handover);
    (reason, Wake::After)
}

/// Goes on leading: the caller starts the server again. The request is cleared once it serves.
fn undo(handover: HandOver, draft: &mut Draft<'_>) -> Option<Choice> {
    draft.memory.handover = Some(HandOver { undone: true, ..handover });
    None
}
