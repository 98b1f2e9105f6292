//! What a member does while the cluster is paused: Postgres is left alone, the lock stays with a running primary.

use crate::agent::view::{Fence, Guard, Upstream};

use super::draft::{Choice, Draft, Wake, living_lease};
use super::situation::{Lock, Server, Situation, Was};
use super::{
    Action, Reason, Why, bootstrap, disk, election, identity, leader, replica, rewind, standby, stopping,
    switchover,
};

pub(super) fn rule(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    match s.lock {
        Lock::Mine(fence) => holding(s, fence, draft),
        Lock::Other(key) => other(s, &key.name, draft),
        Lock::Free | Lock::OldMine(_) => free(s, draft),
        Lock::Making(fence) => bootstrap::make(s, fence, draft),
        Lock::Unknown => (Reason::EtcdSilentFollowing, Wake::Loop),
    }
}

/// This member holds the lock.
fn holding(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    match s.server {
        Server::Primary(facts) => {
            match s.view.guard {
                Guard::Released => {}
                // The gate was opened for another server, or by nobody: only the holder of the lock opens it.
                Guard::Armed { .. } | Guard::Closed | Guard::Absent | Guard::Fencing => {
                    draft.act(Action::ReleaseGate);
                }
            }
            if let Some(choice) = switchover::rule(s, fence, facts, draft) {
                return choice;
            }
            if let Some(request) = &s.view.requests.reinitialize {
                draft.act(Action::AnswerRequest { id: request.id, done: false });
            }
            if let Some(choice) = replica::restart(s, draft) {
                return choice;
            }
            let wake = leader::maintain(s, fence, facts, draft);
            let braked = disk::brake(s, draft);
            (if braked { Reason::LeadingBraked } else { Reason::PausedLeading }, wake)
        }
        Server::Replica(facts) if s.view.settings.standby_cluster.is_some() => {
            standby::lead(s, fence, facts, draft)
        }
        Server::Replica(facts) if asked_to_lead(s) || draft.memory.promoting_since.is_some() => {
            leader::promote(s, fence, facts, draft)
        }
        Server::Stopping { mode, since } => {
            switchover::while_stopping(s, fence, draft).unwrap_or_else(|| stopping(s, draft, mode, since))
        }
        Server::Starting { since, .. } => (Reason::PrimaryIsStarting { since }, Wake::ProgressSince(since)),
        Server::Unresponsive { since, .. } => (Reason::PrimaryUnresponsive { since }, Wake::Progress),
        Server::Down { control, .. } => {
            if let Some(choice) = switchover::after_stop(s, fence, control, draft) {
                return choice;
            }
            let undone = draft.memory.handover.as_ref().is_some_and(|handover| handover.undone.is_some());
            if (undone || draft.memory.restart.is_some()) && Was::of(control) != Was::Replica {
                if let Some(until) = draft.start_backoff() {
                    return (Reason::StartingAsPrimary, Wake::At(until, Why::Backoff));
                }
                draft.count_start();
                leader::keep_gate(s, fence, draft);
                draft.act(Action::StartPrimary { fence });
                return (Reason::StartingAsPrimary, Wake::After);
            }
            let_go(s, fence, draft)
        }
        Server::NoData | Server::Unfinished | Server::Unreadable | Server::Replica(_) => {
            let_go(s, fence, draft)
        }
    }
}

fn let_go(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
        draft.act(Action::Disarm);
    }
    draft.act(Action::ReleaseLeaderKey { fence, optime: None });
    (Reason::PausedNotPrimary, Wake::After)
}

/// Tells whether the failover key names this member, by hand or kept by the leader that handed over.
fn asked_to_lead(s: &Situation<'_>) -> bool {
    let request = s.snapshot().and_then(|snapshot| snapshot.failover.as_ref()).map(|keyed| &keyed.value);
    request.and_then(|request| request.candidate.as_ref()) == Some(&s.view.me)
}

/// Another member holds the lock.
fn other(s: &Situation<'_>, holder: &crate::cluster::MemberName, draft: &mut Draft<'_>) -> Choice {
    match s.server {
        Server::Primary(_) => (Reason::PausedPrimaryWithoutLock, Wake::Loop),
        Server::Replica(facts) => {
            replica::close_gate(s, draft);
            replica::follow(s, holder, facts, draft)
        }
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Down { .. } if wanted_by_person(s, draft) => {
            note_start(s, draft);
            rewind::come_back(s, holder, draft)
        }
        Server::NoData | Server::Unfinished if draft.memory.reinitialize.is_some() => {
            replica::clone(s, holder, false, draft)
        }
        Server::NoData
        | Server::Unfinished
        | Server::Unreadable
        | Server::Down { .. }
        | Server::Starting { .. }
        | Server::Unresponsive { .. } => (Reason::PausedIdle, Wake::Loop),
    }
}

/// Tells whether a person asked for this server to be started: by a restart, a new copy, or a switchover that it has
/// just handed over in.
fn wanted_by_person(s: &Situation<'_>, draft: &Draft<'_>) -> bool {
    s.view.requests.restart.is_some()
        || s.view.requests.reinitialize.is_some()
        || draft.memory.reinitialize.is_some()
        || draft.memory.stepped_down
}

/// A restart of a server that is down is a start.
fn note_start(s: &Situation<'_>, draft: &mut Draft<'_>) {
    if let Some(request) = &s.view.requests.restart
        && draft.memory.restart.is_none()
    {
        draft.memory.restart = Some(super::memory::Restart { id: request.id, stopped: true });
    }
}

/// Nobody holds the lock.
fn free(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    let Some(snapshot) = s.snapshot() else { return (Reason::EtcdSilentFollowing, Wake::Loop) };
    match s.server {
        Server::Primary(facts) if matches!(s.lock, Lock::Free) => {
            // It may have been frozen while others led; a person may choose it all the same.
            let mine = (facts.timeline, Some(&facts.history));
            let behind = election::left_behind(s, snapshot, mine, draft);
            if let Some(reason) = behind.filter(|_| !asked_to_lead(s)) {
                return (reason, Wake::Loop);
            }
            let own = s.view.postgres.control().map(|control| control.system_id);
            let initialize = own.and_then(|own| identity::of_own(s, snapshot, own, draft));
            match (living_lease(s), initialize, own) {
                (Some(lease), Some(initialize), Some(own)) => {
                    draft.act(election::take(s, snapshot, lease, initialize, own));
                    (Reason::PausedTakingLock, Wake::After)
                }
                _ => (Reason::PausedPrimaryWithoutLock, Wake::Loop),
            }
        }
        Server::Primary(_) => (Reason::PausedPrimaryWithoutLock, Wake::Loop),
        Server::Replica(facts) if asked_to_lead(s) && matches!(s.lock, Lock::Free) => {
            election::stand(s, facts, draft)
        }
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Down { .. } if s.view.requests.restart.is_some() => {
            note_start(s, draft);
            draft.start_replica(Upstream::Nobody, Reason::StartingBeforeRace)
        }
        Server::NoData
        | Server::Unfinished
        | Server::Unreadable
        | Server::Down { .. }
        | Server::Starting { .. }
        | Server::Replica(_)
        | Server::Unresponsive { .. } => (Reason::PausedIdle, Wake::Loop),
    }
}
