//! What a member says about itself: its document in etcd, and its callbacks.

use crate::agent::view::{
    Deed, Guard, Job, JobState, Lease, LeaseId, MemberFacts, Process, Running, Started, Verdict,
};
use crate::cluster::{ReplicationState, Role, State};

use super::Action;
use super::action::{CallbackEvent, CallbackRole};
use super::draft::Draft;
use super::situation::{Lock, Server, Situation, Was};

/// Adds the member document, where it is due, and the callbacks of a changed role.
pub(super) fn publish(s: &Situation<'_>, draft: &mut Draft<'_>) {
    // Nobody stands while a document says that its member may be writing, so it goes before the release of the lock.
    let last = draft
        .actions
        .iter()
        .position(|action| matches!(action, Action::Exit { .. } | Action::ReleaseLeaderKey { .. }));
    let tail = last.map(|at| draft.actions.split_off(at)).unwrap_or_default();
    if let (Some(snapshot), Lease::Held { id, deadline, .. }) = (s.snapshot(), s.view.lease)
        && s.now() < deadline
    {
        let facts = facts(s, draft);
        let missing = snapshot.members.get(&s.view.me).is_none_or(|member| member.lease != id);
        if missing || due(s, draft, id, &facts) {
            draft.act(Action::PublishMember { lease: id, facts: facts.clone() });
            draft.memory.published = Some((s.now(), id, facts));
        }
    }
    callbacks(s, draft);
    draft.actions.extend(tail);
}

fn due(s: &Situation<'_>, draft: &Draft<'_>, lease: LeaseId, facts: &MemberFacts) -> bool {
    let Some((at, under, said)) = &draft.memory.published else { return true };
    let failed = draft.last(Deed::PublishMember, &[Verdict::Failed, Verdict::Unknown, Verdict::Skipped]);
    let old = s.now().since(*at) >= s.view.settings.loop_wait;
    failed || *under != lease || without_positions(said) != without_positions(facts) || (old && said != facts)
}

/// Positions move with each commit; they are published once in a `loop_wait`, everything else at once.
fn without_positions(facts: &MemberFacts) -> MemberFacts {
    MemberFacts { lsn: None, received: None, replayed: None, ..facts.clone() }
}

fn facts(s: &Situation<'_>, draft: &Draft<'_>) -> MemberFacts {
    let (state, role) = words(s, draft);
    let mut facts = MemberFacts {
        state,
        role,
        version: s.view.postgres.version,
        lsn: None,
        received: None,
        replayed: None,
        timeline: None,
        replication: None,
        tags: s.view.tags.clone(),
        pause: s.view.settings.pause,
        pending_restart: s.view.postgres.pending_restart,
        checkpoint_pending: false,
        gate_released: s.view.guard == Guard::Released,
    };
    match s.view.postgres.running() {
        Some(Running::Primary(primary)) => {
            facts.lsn = Some(primary.lsn);
            facts.timeline = Some(primary.timeline);
            facts.checkpoint_pending = primary.checkpoint_pending;
        }
        Some(Running::Replica(replica)) => {
            facts.lsn = Some(replica.lsn());
            facts.received = replica.received;
            facts.replayed = Some(replica.replayed);
            facts.timeline = Some(replica.timeline);
            facts.replication = Some(match replica.streaming {
                true => ReplicationState::Streaming,
                false => ReplicationState::InArchiveRecovery,
            });
        }
        None => {}
    }
    facts
}

fn words(s: &Situation<'_>, draft: &Draft<'_>) -> (State, Role) {
    let running_job =
        s.view.job.as_ref().filter(|report| report.state == JobState::Running).map(|report| &report.job);
    match running_job {
        Some(Job::Initdb) => return (State::Initializing, Role::Uninitialized),
        Some(Job::Clone { .. }) => return (State::CreatingReplica, Role::Replica),
        // Nobody copies from a primary whose replication role is not made yet.
        Some(Job::PostBootstrap { .. }) => return (State::CustomBootstrap, Role::Primary),
        Some(Job::Rewind { .. } | Job::CrashRecovery) | None => {}
    }
    let of = |role: Started| match role {
        Started::Primary => Role::Primary,
        Started::Replica => Role::Replica,
    };
    match s.server {
        Server::NoData | Server::Unfinished => (State::Stopped, Role::Uninitialized),
        Server::Unreadable => (State::Unknown, Role::Replica),
        Server::Down { control, crashed } => {
            let state = match (crashed, draft.memory.starts.tried) {
                (true, 0) => State::Crashed,
                (true, _) => State::StartFailed,
                (false, _) => State::Stopped,
            };
            let role = if Was::of(control) == Was::Replica { Role::Replica } else { Role::Demoted };
            (state, role)
        }
        Server::Starting { role, .. } => (State::Starting, of(role)),
        Server::Stopping { .. } => {
            // Until it is down it may be writing.
            let was_primary =
                s.view.postgres.control().is_some_and(|control| Was::of(control) != Was::Replica);
            (State::Stopping, if was_primary { Role::Primary } else { Role::Replica })
        }
        Server::Unresponsive { role, .. } => (State::Running, of(role)),
        Server::Primary(_) => {
            let unfinished = s.view.postgres.control().is_some_and(|control| control.bootstrap_unfinished);
            (if unfinished { State::CustomBootstrap } else { State::Running }, Role::Primary)
        }
        Server::Replica(_) => {
            let promoted = draft.memory.promoting_since.is_some();
            (State::Running, if promoted { Role::Promoted } else { Role::Replica })
        }
    }
}

/// Tells callbacks about a role that has changed.
fn callbacks(s: &Situation<'_>, draft: &mut Draft<'_>) {
    let role = match (&s.view.postgres.process, s.lock) {
        (Process::Running(Running::Primary(_)), Lock::Mine(_)) => CallbackRole::Primary,
        (Process::Running(Running::Replica(_)), _) => CallbackRole::Replica,
        (Process::Stopped | Process::Crashed, Lock::Other(_) | Lock::Free)
            if draft.memory.announced == Some(CallbackRole::Primary) =>
        {
            CallbackRole::Demoted
        }
        (
            Process::Running(Running::Primary(_))
            | Process::Stopped
            | Process::Crashed
            | Process::Starting { .. }
            | Process::Stopping { .. }
            | Process::Unresponsive { .. },
            _,
        ) => return,
    };
    let event = match draft.memory.announced {
        Some(told) if told == role => return,
        Some(_) => CallbackEvent::RoleChange,
        None => CallbackEvent::Start,
    };
    draft.memory.announced = Some(role);
    draft.act(Action::Callback { event, role });
}
