//! What a member does while etcd does not answer: a primary goes on until its lease may end, a replica changes nothing.

use crate::agent::view::{Guard, Started, StopMode, Upstream};

use super::draft::{Choice, Draft, Wake};
use super::situation::{LeaseWord, Server, Situation, Was};
use super::{Action, Reason, Why, disk, failsafe, slots, stopping};

pub(super) fn rule(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    if s.server.may_write() || draft.memory.promoting_since.is_some() {
        let choice = writing(s, draft);
        let stops = draft.actions.iter().any(|action| matches!(action, Action::Stop { .. }));
        if matches!(s.server, Server::Primary(_)) && !stops {
            disk::brake(s, draft);
        }
        return choice;
    }
    match s.server {
        Server::NoData | Server::Unfinished => (Reason::EtcdSilentFollowing, Wake::Loop),
        Server::Unreadable => (Reason::UnreadableData, Wake::Loop),
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Down { control, .. } => {
            if control.bootstrap_unfinished || s.view.settings.pause {
                return (Reason::EtcdSilentFollowing, Wake::Loop);
            }
            if let Some(choice) = start_under_own_lease(s, draft) {
                return choice;
            }
            draft.start_replica(Upstream::Nobody, Reason::EtcdSilentStarting)
        }
        Server::Replica(facts) => {
            slots::in_silence(s, &facts.slots, Started::Replica, Some(facts.replayed), draft);
            (Reason::EtcdSilentFollowing, Wake::Loop)
        }
        Server::Primary(_) | Server::Starting { .. } | Server::Unresponsive { .. } => {
            (Reason::EtcdSilentFollowing, Wake::Loop)
        }
    }
}

fn writing(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    if s.view.settings.pause && s.view.guard == Guard::Released {
        return (Reason::PausedIdle, Wake::Loop);
    }
    if let Some(choice) = failsafe::lead(s, draft) {
        return choice;
    }
    match (s.lease, s.view.guard) {
        (LeaseWord::Safe { deadline, stop_at, .. }, _) => {
            (Reason::EtcdSilentLeading { deadline }, Wake::At(stop_at, Why::LeaseMargin))
        }
        // A new agent that has not reached etcd yet: the guard holds the deadline of the lease before it.
        (LeaseWord::None, Guard::Armed { until, .. }) if s.now() < until => {
            (Reason::EtcdSilentLeading { deadline: until }, Wake::Progress)
        }
        (LeaseWord::Doubtful { deadline }, _) => {
            draft.stop(StopMode::Fast);
            (Reason::LeaseDoubtful { deadline }, Wake::Progress)
        }
        (LeaseWord::None | LeaseWord::Lost, _) => {
            draft.stop(StopMode::Immediate);
            (Reason::LeaseLost, Wake::Progress)
        }
    }
}

/// A leader whose server crashed starts it again while its own lease surely lives, unless the lock may have been handed
/// over meanwhile.
fn start_under_own_lease(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    let Server::Down { control, .. } = s.server else { return None };
    let LeaseWord::Safe { id, .. } = s.lease else { return None };
    let Guard::Armed { fence, .. } = s.view.guard else { return None };
    let key = s.view.dcs.last()?.leader.as_ref()?;
    let handed_over = draft.memory.handover.as_ref().is_some_and(|handover| handover.sent);
    if key.name != s.view.me || key.fence() != fence || fence.lease != id || handed_over {
        return None;
    }
    if Was::of(control) == Was::Replica || draft.memory.giving_up.is_some() {
        return None;
    }
    if disk::is_full(s) && Was::of(control) == Was::CrashedPrimary {
        return Some(disk::wait(s));
    }
    if let Some(until) = draft.start_backoff() {
        return Some((Reason::StartingAsPrimary, Wake::At(until, Why::Backoff)));
    }
    draft.count_start();
    draft.act(Action::StartPrimary { fence });
    Some((Reason::StartingAsPrimary, Wake::After))
}
