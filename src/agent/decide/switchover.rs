//! How a leader hands over: refuse or stop, wait until the candidate has all WAL, give it the lock; or go on leading.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::view::{
    Control, ControlState, Deed, Fence, Guard, Hazards, LeaseId, Member, PreflightState, PrimaryFacts,
    Revision, Room, StopMode, Tick, Verdict,
};
use crate::cluster::{FailoverRequest, Lsn, MemberName, Role, State, SyncMode};

use super::draft::{Choice, Draft, Wake};
use super::memory::HandOver;
use super::reason::{Refusal, Undone};
use super::situation::{LeaseWord, Situation, Was};
use super::{Action, Reason, Why, sync};

/// How long the old primary stays down for a candidate that does not get its WAL.
///
/// A stop writes a checkpoint just after another one, and a candidate that streams has the rest in milliseconds; writes
/// must be possible again within 5 s of a hand-over that fails.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(4);

/// How long the old primary may take to its shutdown checkpoint, which follows another one, before it goes on instead.
const STOP_FOR_HAND_OVER: Duration = Duration::from_secs(5);

/// How soon a server that stops for a hand-over is looked at again: nobody can write meanwhile.
const STOPPING_LOOK: Duration = Duration::from_millis(10);

/// How long a candidate that lacks too much may take to catch up before the request is refused.
///
/// A switch to the next WAL segment, as each copy of the data makes, puts every standby a whole segment behind for a moment.
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
    if let Some(why) = draft.memory.handover.as_ref().and_then(|handover| handover.undone) {
        let candidate = draft.memory.handover.take().map(|handover| handover.candidate)?;
        draft.act(Action::ClearFailover { fence, seen });
        return Some((Reason::HandOverUndone { candidate, why }, Wake::After));
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
    let chosen = chosen.and_then(|candidate| prepared(s, seen, request, candidate, facts, draft));
    match chosen {
        Ok(Prepared::NotYet(choice)) => {
            super::leader::maintain(s, fence, facts, draft);
            Some(choice)
        }
        Err(why) if passes_soon(&why) && s.now().since(first_seen(s, seen, draft)) < CATCH_UP_LIMIT => {
            super::leader::maintain(s, fence, facts, draft);
            Some((Reason::SwitchoverAwaitsCandidate { request: request.clone() }, Wake::Progress))
        }
        Err(why) => {
            draft.act(Action::ClearFailover { fence, seen });
            Some((Reason::SwitchoverRefused { request: request.clone(), why }, Wake::After))
        }
        Ok(Prepared::For(candidate)) => {
            let LeaseWord::Safe { deadline, .. } = s.lease else { return None };
            if deadline.since(s.now()) < DEADLINE_AWAY {
                return Some((Reason::Leading, Wake::Progress)); // after the next keepalive
            }
            draft.memory.handover = Some(HandOver {
                candidate: candidate.clone(),
                since: s.now(),
                stopped: None,
                sent: false,
                undone: None,
            });
            // Clients are not ended before: the stop ends them all at once, and one that was ended earlier would be back
            // before it. Measured with 50 clients that write: 147 ms to the shutdown checkpoint, 155 ms the other way.
            draft.act(Action::Stop { mode: StopMode::Fast, checkpoint: false });
            Some((Reason::SteppingDownFor { candidate }, Wake::Progress))
        }
    }
}

/// Whether everything is ready for the stop.
enum Prepared {
    For(MemberName),
    NotYet(Choice),
}

/// Prepares the stop while clients still write: checkpoints that leave little to the last one, and a proof that the
/// candidate takes and replays what it is sent.
fn prepared(
    s: &Situation<'_>,
    seen: Revision,
    request: &FailoverRequest,
    candidate: MemberName,
    facts: &PrimaryFacts,
    draft: &mut Draft<'_>,
) -> Result<Prepared, Refusal> {
    let Some(preflight) = s.view.preflight.as_ref().filter(|preflight| preflight.request == seen) else {
        draft.act(Action::Preflight { request: seen });
        return Ok(Prepared::NotYet((Reason::PreparingHandOver { candidate }, Wake::Progress)));
    };
    let (at, lsn, hazards) = match &preflight.state {
        PreflightState::Running => {
            return Ok(Prepared::NotYet((Reason::PreparingHandOver { candidate }, Wake::Progress)));
        }
        PreflightState::Slow => return Err(Refusal::CheckpointsTooSlow),
        PreflightState::NoRoom => return Err(Refusal::NoRoomForCheckpoint),
        PreflightState::Failed => return Err(Refusal::NotPrepared),
        PreflightState::Ready { at, lsn, hazards } => (*at, *lsn, hazards),
    };
    if !hazards.is_empty() && draft.memory.hazards_told != Some(seen) {
        draft.memory.hazards_told = Some(seen);
        let reason = Reason::HandOverHampered { candidate, hazards: Hazards(hazards.clone()) };
        return Ok(Prepared::NotYet((reason, Wake::After)));
    }
    let standby = facts.standbys.get(&candidate).ok_or(Refusal::CandidateNotStreaming)?;
    // Who asks for a failover accepts what the candidate lacks, and that its promotion takes its time.
    let manual = request.leader.is_none();
    let lacks = if standby.flushed < lsn {
        Refusal::CandidateDoesNotConfirm
    } else if standby.replayed < lsn && !manual {
        Refusal::CandidateDoesNotReplay
    } else {
        return Ok(Prepared::For(candidate));
    };
    if s.now().since(at) >= CATCH_UP_LIMIT {
        return Err(lacks);
    }
    let reason = Reason::SwitchoverAwaitsCandidate { request: request.clone() };
    Ok(Prepared::NotYet((reason, Wake::ProgressSince(at))))
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
        if member.facts.room == Room::Full {
            return Err(Refusal::CandidateFull);
        }
        let standby = facts.standbys.get(name).filter(|standby| standby.streaming);
        let Some(standby) =
            standby.filter(|_| member.facts.role == Role::Replica && member.facts.state == State::Running)
        else {
            return Err(Refusal::CandidateNotStreaming);
        };
        if !member.keddah && member.facts.lsn.is_none() {
            return Err(Refusal::CandidateBusy);
        }
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
        None => {
            let others = snapshot.members.iter().filter(|(name, _)| **name != s.view.me);
            let (mut best, mut none) = (None, Refusal::NoCandidate);
            for (name, member) in others {
                match fit(name, member) {
                    Ok(flushed) => {
                        best =
                            best.max(Some((member.facts.tags.failover_priority(), flushed, Reverse(name))));
                    }
                    Err(why) if passes_soon(&why) => none = why,
                    Err(_) => {}
                }
            }
            best.map(|(_, _, Reverse(name))| name.clone()).ok_or(none)
        }
    }
}

/// Tells whether what keeps a candidate from the lead ends by itself in a moment, as a rule.
fn passes_soon(why: &Refusal) -> bool {
    matches!(why, Refusal::CandidateBehind | Refusal::CandidateBusy)
}

/// The server of a handing-over leader is on its way down. Its shutdown checkpoint decides, not its end: an archiver or a
/// subscriber may keep it for long. None: nothing is being handed over.
pub(super) fn while_stopping(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Option<Choice> {
    let handover = draft.memory.handover.clone()?;
    let control = s.view.postgres.control()?;
    if handover.undone.is_none() {
        if control.state == ControlState::ShutDown {
            if let Some(choice) = after_stop(s, fence, control, draft) {
                return Some(choice);
            }
        } else if s.now().since(handover.since) >= STOP_FOR_HAND_OVER {
            undo(handover, Undone::StopTooSlow, draft);
        } else {
            let reason = Reason::SteppingDownFor { candidate: handover.candidate };
            return Some((reason, Wake::At(s.now() + STOPPING_LOOK, Why::Progress)));
        }
    }
    super::leader::keep_gate(s, fence, draft);
    draft.stop(StopMode::Immediate);
    let HandOver { candidate, undone, .. } = draft.memory.handover.clone()?;
    Some((Reason::HandOverUndone { candidate, why: undone? }, Wake::Progress))
}

/// The server of a handing-over leader is down: hand over, wait, or go back. None: nothing is being handed over.
pub(super) fn after_stop(
    s: &Situation<'_>,
    fence: Fence,
    control: &Control,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    let mut handover = draft.memory.handover.clone()?;
    if handover.undone.is_some() {
        return None;
    }
    // A fenced hand-over did nothing, and the snapshot is newer than its answer: the lock is still here.
    if draft.last(Deed::HandOver, &[Verdict::Fenced]) {
        return undo(handover, Undone::Fenced, draft);
    }
    if draft.last(Deed::HandOver, &[Verdict::Failed, Verdict::Skipped]) {
        handover.sent = false;
    }
    let candidate = handover.candidate.clone();
    let clean = control.state == ControlState::ShutDown && Was::of(control) == Was::CleanPrimary;
    let stopped = *handover.stopped.get_or_insert(s.now());
    let late = s.now().since(stopped) >= HAND_OVER_LIMIT;
    if !handover.sent && (!clean || late) {
        let why = if clean { Undone::CandidateBehind } else { Undone::NotClean };
        return undo(handover, why, draft);
    }
    let member = s.snapshot().and_then(|snapshot| snapshot.members.get(&candidate));
    let Some(member) = member else {
        if !handover.sent {
            return undo(handover, Undone::CandidateGone, draft);
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
fn undo(handover: HandOver, why: Undone, draft: &mut Draft<'_>) -> Option<Choice> {
    draft.memory.handover = Some(HandOver { undone: Some(why), ..handover });
    None
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{END, Fixture, NOW, healthy, name, prepared, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Data, Hazard, Keyed, Preflight, Process, StopMode};

    const ASKED: Revision = Revision(15);

    fn asked() -> Fixture {
        healthy("a").with(|f| {
            let (leader, candidate) = (Some(name("a")), Some(name("b")));
            let value = FailoverRequest { leader, candidate, scheduled_at: None };
            f.snapshot.failover = Some(Keyed { value, mod_revision: ASKED });
        })
    }

    fn decision(world: Fixture) -> Decision {
        decide(&world.view(), &Memory::default())
    }

    fn gives(decision: &Decision, deed: Deed) -> bool {
        decision.actions.iter().any(|action| action.deed() == deed)
    }

    /// What becomes of the request so long after a preparation that ended like this.
    fn after(state: PreflightState, seconds: u64, change: impl FnOnce(&mut PrimaryFacts)) -> Reason {
        let mut world = asked().with(|f| {
            f.view.preflight = Some(Preflight { request: ASKED, state });
            f.view.now = NOW + secs(seconds);
        });
        change(world.primary());
        decision(world).reason
    }

    fn ready() -> PreflightState {
        prepared(ASKED).state
    }

    fn refusal(reason: &Reason) -> Option<&Refusal> {
        match reason {
            Reason::SwitchoverRefused { why, .. } => Some(why),
            _ => None,
        }
    }

    #[test]
    fn nothing_is_stopped_before_the_preparation_of_this_very_request_has_ended() {
        let begins = decision(asked());
        let of_another = decision(asked().with(|f| f.view.preflight = Some(prepared(Revision(14)))));

        assert_eq!(begins.reason, Reason::PreparingHandOver { candidate: name("b") });
        assert!(gives(&begins, Deed::Preflight) && !gives(&begins, Deed::Stop));
        assert!(gives(&of_another, Deed::Preflight) && !gives(&of_another, Deed::Stop));
    }

    #[test]
    fn what_stands_in_the_way_is_a_typed_refusal() {
        let silent = |facts: &mut PrimaryFacts| {
            facts.standbys.get_mut(&name("b")).unwrap().flushed = Lsn(END.0 - 8);
        };
        let paused = |facts: &mut PrimaryFacts| {
            facts.standbys.get_mut(&name("b")).unwrap().replayed = Lsn(END.0 - 8);
        };
        let early = after(ready(), 1, silent);

        assert_eq!(early.code(), "SwitchoverAwaitsCandidate");
        assert_eq!(refusal(&after(ready(), 2, silent)), Some(&Refusal::CandidateDoesNotConfirm));
        assert_eq!(refusal(&after(ready(), 2, paused)), Some(&Refusal::CandidateDoesNotReplay));
        assert_eq!(refusal(&after(PreflightState::Slow, 0, |_| {})), Some(&Refusal::CheckpointsTooSlow));
        assert_eq!(refusal(&after(PreflightState::NoRoom, 0, |_| {})), Some(&Refusal::NoRoomForCheckpoint));
        assert_eq!(refusal(&after(PreflightState::Failed, 0, |_| {})), Some(&Refusal::NotPrepared));
    }

    #[test]
    fn a_patroni_member_that_tells_no_position_is_waited_for_a_moment_and_not_handed_over_to() {
        let (at, busy) = (NOW, Refusal::CandidateBusy);
        let reason = |candidate: Option<&str>, seconds| {
            let world = asked().with(|f| {
                f.snapshot.failover.as_mut().unwrap().value.candidate = candidate.map(name);
                f.view.now = NOW + secs(seconds);
                for member in ["b", "c"].map(name) {
                    let member = f.snapshot.members.get_mut(&member).unwrap();
                    (member.keddah, member.facts.lsn) = (false, None);
                }
            });
            let memory = Memory { switchover_seen: Some((ASKED, at)), ..Memory::default() };
            decide(&world.view(), &memory).reason
        };

        for candidate in [Some("b"), None] {
            assert_eq!(reason(candidate, 1).code(), "SwitchoverAwaitsCandidate");
            assert_eq!(refusal(&reason(candidate, 2)), Some(&busy));
        }
    }

    #[test]
    fn hazards_are_told_once_and_keep_nobody_from_going_on() {
        let hazard = Hazard::Archive { files: 2, oldest_s: 9 };
        let state = PreflightState::Ready { at: NOW, lsn: END, hazards: [hazard].into() };
        let world = asked().with(|f| f.view.preflight = Some(Preflight { request: ASKED, state }));
        let told = decision(world.clone());
        let goes_on = decide(&world.view(), &told.memory);

        assert_eq!(told.reason.code(), "HandOverHampered");
        assert!(told.reason.to_string().contains("archive_command lags"), "{}", told.reason);
        assert_eq!(goes_on.reason, Reason::SteppingDownFor { candidate: name("b") });
    }

    /// The stop was begun at `NOW`; so long later the server is still on its way down.
    fn stopping(state: ControlState, seconds: u64) -> Decision {
        let world = asked().with(|f| f.view.preflight = Some(prepared(ASKED)));
        let begun = decision(world.clone());
        let view = world.with(|f| {
            f.view.now = NOW + secs(seconds);
            f.view.postgres.process = Process::Stopping { mode: StopMode::Fast, since: NOW };
            let Data::Present(control) = &mut f.view.postgres.data else { panic!("no data") };
            control.state = state;
        });
        decide(&view.view(), &begun.memory)
    }

    #[test]
    fn the_shutdown_checkpoint_is_enough_whatever_the_server_still_waits_for() {
        let waits = stopping(ControlState::ShutDown, 1);

        assert_eq!(waits.reason.code(), "WaitingForCandidate");
        assert!(gives(&waits, Deed::AskPeers) && !gives(&waits, Deed::Stop));
    }

    #[test]
    fn a_stop_that_does_not_come_to_its_checkpoint_is_undone() {
        let early = stopping(ControlState::ShuttingDown, 4);
        let late = stopping(ControlState::ShuttingDown, 5);

        assert_eq!(early.reason, Reason::SteppingDownFor { candidate: name("b") });
        let why = Undone::StopTooSlow;
        assert_eq!(late.reason, Reason::HandOverUndone { candidate: name("b"), why });
        assert!(late.actions.contains(&Action::Stop { mode: StopMode::Immediate, checkpoint: false }));
    }
}
