//! How a primary goes on while etcd is silent: every member that could take the lock promises not to, round by round.
//!
//! The deadline of a round counts from its first question and is as long as the shortest promise, so that it has passed
//! before any member is free again. A round that fails is answered by a stop at once.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::view::{Deed, Guard, Promised, Seen, Snapshot, Started, StopMode, Verdict};
use crate::cluster::MemberName;

use super::draft::{Choice, Draft, Wake, living_lease};
use super::memory::GivingUp;
use super::situation::{LeaseWord, Lock, Server, Situation};
use super::{Action, Reason, Why, election, identity, slots};

/// Returns what the failsafe set should be, if etcd holds another one.
pub(super) fn members(s: &Situation<'_>, snapshot: &Snapshot) -> Option<BTreeSet<MemberName>> {
    let mut wanted: BTreeSet<MemberName> = snapshot.members.keys().cloned().collect();
    wanted.insert(s.view.me.clone());
    let present = snapshot.failsafe.as_ref().map(|keyed| &keyed.value);
    (s.view.settings.failsafe_mode && present != Some(&wanted)).then_some(wanted)
}

/// Says what of the failsafe mode keeps a replica from standing.
pub(super) fn forbids(s: &Situation<'_>, snapshot: &Snapshot) -> Option<Choice> {
    if !s.view.settings.failsafe_mode {
        return None;
    }
    let set = snapshot.failsafe.as_ref().map(|keyed| &keyed.value).filter(|set| !set.is_empty())?;
    if !set.contains(&s.view.me) {
        return Some((Reason::NotInFailsafe, Wake::Loop));
    }
    let promise = s.view.failsafe.promise.as_ref().filter(|promise| s.now() < promise.until)?;
    if promise.leader.as_ref() == Some(&s.view.me) {
        return None;
    }
    Some((Reason::HasPromised { until: promise.until }, Wake::At(promise.until, Why::Limit)))
}

/// Returns the deadline made of promises, while it lets this primary write.
fn promised(s: &Situation<'_>) -> Option<Promised> {
    s.view.failsafe.lead.filter(|lead| s.now() < lead.stop_at)
}

/// etcd is silent and the server may write: leads by the others' promises. None: the lease alone decides.
pub(super) fn lead(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    let Seen::Stale { value: snapshot, since } = &s.view.dcs else { return None };
    let held = snapshot.leader.as_ref().is_some_and(|key| key.name == s.view.me);
    let silent = s.now().since(*since) >= s.view.settings.retry_timeout;
    if !held || (!silent && promised(s).is_none()) {
        return None;
    }
    round(s, snapshot, draft)
}

/// Asks for promises when they are due, or goes on under those there are.
fn round(s: &Situation<'_>, snapshot: &Snapshot, draft: &mut Draft<'_>) -> Option<Choice> {
    let set = snapshot.failsafe.as_ref().map(|keyed| &keyed.value)?;
    let armed = matches!(s.view.guard, Guard::Armed { .. });
    let Server::Primary(facts) = s.server else { return None };
    if !s.view.settings.failsafe_mode || s.view.settings.pause || !set.contains(&s.view.me) || !armed {
        return None;
    }
    if draft.last(Deed::AskForPromises, &[Verdict::Failed, Verdict::Unknown]) {
        draft.memory.giving_up = Some(GivingUp::NotAllPromised);
        draft.act(Action::Disarm);
        draft.stop(StopMode::Fast);
        return Some((Reason::NotAllPromised, Wake::Progress));
    }
    let lead = promised(s);
    let next = lead.map(|lead| lead.asked + period(s, lead));
    if let (Some(lead), Some(next)) = (lead, next)
        && s.now() < next
    {
        slots::in_silence(s, &facts.slots, Started::Primary, None, draft);
        return Some((Reason::FailsafeLeading { deadline: lead.deadline }, Wake::At(next, Why::Limit)));
    }
    let members = set.iter().filter(|name| **name != s.view.me).cloned().collect();
    draft.act(Action::AskForPromises {
        members,
        slots: slots::positions(s, snapshot, &facts.slots, facts.lsn),
    });
    let reason = match lead {
        Some(lead) => Reason::FailsafeLeading { deadline: lead.deadline },
        None => Reason::AskingForPromises,
    };
    Some((reason, Wake::After))
}

/// How long after a round the next one begins: each look, and in any case while half of the promise is left.
fn period(s: &Situation<'_>, lead: Promised) -> Duration {
    s.view.settings.loop_wait.min(lead.deadline.since(lead.asked) / 2)
}

/// etcd answers again and the lock has ended meanwhile: nobody else takes it before the promises end, so the primary
/// that holds them does.
pub(super) fn regain(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    let snapshot = s.snapshot()?;
    promised(s)?;
    let Server::Primary(_) = s.server else { return None };
    match s.lock {
        Lock::Free => {
            let (lease, control) = (living_lease(s), s.view.postgres.control()?);
            let mine = control.system_id;
            let (Some(lease), Some(initialize)) = (lease, identity::of_own(s, snapshot, mine, draft)) else {
                return round(s, snapshot, draft);
            };
            draft.act(election::take(s, snapshot, lease, initialize, mine));
            Some((Reason::RegainingLock, Wake::After))
        }
        // It ends by itself. What is left of the promises must reach until then.
        Lock::OldMine(_) => round(s, snapshot, draft),
        Lock::Mine(_) if matches!(s.lease, LeaseWord::Safe { .. }) => None,
        Lock::Mine(_) => round(s, snapshot, draft),
        Lock::Other(_) | Lock::Making(_) | Lock::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{END, Fixture, NOW, healthy, name, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Keyed, Lease, LeaseId, Outcome, Promise, Revision, Tick, View};

    fn world(me: &str, set: &[&str]) -> Fixture {
        healthy(me).with(|f| {
            f.view.settings.failsafe_mode = true;
            let value = set.iter().map(|member| name(member)).collect();
            f.snapshot.failsafe = Some(Keyed { value, mod_revision: Revision(8) });
        })
    }

    /// The leader's view after etcd has been silent for so long.
    fn silent(set: &[&str], seconds: u64) -> View {
        let Fixture { mut view, snapshot } = world("a", set);
        view.now = NOW + secs(seconds);
        view.dcs = Seen::Stale { value: snapshot, since: NOW };
        view
    }

    fn deeds(decision: &Decision) -> Vec<Deed> {
        decision.actions.iter().map(Action::deed).collect()
    }

    fn lead(asked: Tick) -> Option<Promised> {
        Some(Promised { asked, deadline: asked + secs(30), stop_at: asked + secs(27) })
    }

    #[test]
    fn promises_are_asked_for_once_keepalives_have_failed_for_retry_timeout() {
        let early = decide(&silent(&["a", "b", "c"], 9), &Memory::default());
        let due = decide(&silent(&["a", "b", "c"], 10), &Memory::default());
        let unknown = decide(&silent(&["b", "c"], 10), &Memory::default());

        assert!(matches!(early.reason, Reason::EtcdSilentLeading { .. }));
        assert_eq!(due.reason, Reason::AskingForPromises);
        let asked = due.actions.iter().find_map(|action| match action {
            Action::AskForPromises { members, slots } => Some((members.clone(), slots.get("a").copied())),
            _ => None,
        });
        assert_eq!(asked, Some(([name("b"), name("c")].into(), Some(END))));
        assert!(matches!(unknown.reason, Reason::EtcdSilentLeading { .. }));
    }

    #[test]
    fn promises_outlive_the_lease_and_are_renewed() {
        let mut view = silent(&["a", "b", "c"], 40);
        view.lease = Lease::Lost { id: LeaseId(1) };
        view.failsafe.lead = lead(NOW + secs(38));
        let going_on = decide(&view, &Memory::default());
        view.now = NOW + secs(48);
        let renewing = decide(&view, &Memory::default());

        assert_eq!(going_on.reason, Reason::FailsafeLeading { deadline: NOW + secs(68) });
        assert_eq!(deeds(&going_on), []);
        assert_eq!(deeds(&renewing), [Deed::AskForPromises]);
    }

    #[test]
    fn a_round_that_fails_stops_the_primary_although_its_lease_lives() {
        let mut view = silent(&["a", "b", "c"], 12);
        view.outcomes = vec![Outcome { deed: Deed::AskForPromises, verdict: Verdict::Failed }];
        let decision = decide(&view, &Memory::default());

        assert_eq!(decision.reason, Reason::NotAllPromised);
        assert_eq!(deeds(&decision), [Deed::Disarm, Deed::Stop]);
        assert_eq!(decision.memory.giving_up, Some(GivingUp::NotAllPromised));
    }

    #[test]
    fn the_lock_is_taken_anew_when_etcd_is_back_and_the_promises_last() {
        let mut world = world("a", &["a", "b", "c"]);
        world.snapshot.leader = None;
        world.view.failsafe.lead = lead(NOW - secs(5));
        let regained = decide(&world.clone().view(), &Memory::default());
        world.view.failsafe.lead = lead(NOW - secs(28));
        let too_late = decide(&world.view(), &Memory::default());

        assert_eq!(regained.reason, Reason::RegainingLock);
        assert!(deeds(&regained).contains(&Deed::TakeLeaderKey));
        assert_eq!(too_late.reason, Reason::LeaderKeyGone);
    }

    #[test]
    fn who_has_promised_and_who_is_not_of_the_set_does_not_stand() {
        let promise = |leader: Option<&str>| Promise { leader: leader.map(name), until: NOW + secs(3) };
        let stands = |set: &[&str], promise: Option<Promise>| {
            let mut world = world("b", set).leader_gone();
            world.view.failsafe.promise = promise;
            decide(&world.view(), &Memory::default()).reason
        };

        assert!(matches!(stands(&["a", "b"], None), Reason::TakingLock { .. }));
        assert_eq!(stands(&["a", "c"], None), Reason::NotInFailsafe);
        assert_eq!(
            stands(&["a", "b"], Some(promise(Some("a")))),
            Reason::HasPromised { until: NOW + secs(3) }
        );
        assert_eq!(stands(&["a", "b"], Some(promise(None))), Reason::HasPromised { until: NOW + secs(3) });
        assert!(matches!(stands(&["a", "b"], Some(promise(Some("b")))), Reason::TakingLock { .. }));
    }

    #[test]
    fn a_leader_writes_the_set_of_those_whom_it_would_ask() {
        let written = decide(&world("a", &["a", "b"]).view(), &Memory::default());
        let same = decide(&world("a", &["a", "b", "c"]).view(), &Memory::default());

        assert!(deeds(&written).contains(&Deed::WriteFailsafe));
        assert!(!deeds(&same).contains(&Deed::WriteFailsafe));
    }
}
