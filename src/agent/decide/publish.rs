//! What a member says about itself: its document in etcd, and its callbacks.

use crate::agent::view::{
    Deed, Guard, Job, JobState, Lease, LeaseId, MemberFacts, Process, Running, Started, Verdict,
};
use crate::cluster::{Role, State};

use super::Action;
use super::action::{CallbackEvent, CallbackRole};
use super::draft::Draft;
use super::lease;
use super::memory::Announced;
use super::situation::{Lock, Server, Situation, Was};

/// Adds the member document, where it is due, and the callbacks of a changed role.
pub(super) fn publish(s: &Situation<'_>, draft: &mut Draft<'_>) {
    let document = match (s.snapshot(), s.view.lease) {
        (Some(snapshot), Lease::Held { id, next, deadline, .. }) if s.now() < deadline => {
            Some((snapshot, id, next, facts(s, draft)))
        }
        (Some(_) | None, Lease::Held { .. } | Lease::Lost { .. } | Lease::None) => None,
    };
    let first = draft.actions.iter().position(Action::comes_after_document);
    let tail = first.map(|at| draft.actions.split_off(at)).unwrap_or_default();
    if let Some((snapshot, id, next, facts)) = document {
        let seen = snapshot.revision;
        if let Some((fence, to)) = lease::moves(s, id, next, draft) {
            draft.act(Action::MoveLock { fence, seen, to, facts: facts.clone() });
            draft.memory.published = Some((s.now(), to, facts));
        } else {
            let lease = lease::of_document(s, id, next);
            let missing = snapshot.members.get(&s.view.me).is_none_or(|member| member.lease != lease);
            if missing || due(s, draft, lease, &facts) {
                draft.act(Action::PublishMember { lease, seen, facts: facts.clone() });
                draft.memory.published = Some((s.now(), lease, facts));
            }
        }
        if let Some(lease) = lease::settles(s, snapshot, next) {
            draft.act(Action::SettleLease { lease });
        }
    }
    callbacks(s, draft);
    draft.actions.extend(tail);
}

fn due(s: &Situation<'_>, draft: &Draft<'_>, lease: LeaseId, facts: &MemberFacts) -> bool {
    let Some((at, under, said)) = &draft.memory.published else { return true };
    let undone = [Verdict::Fenced, Verdict::Failed, Verdict::Unknown, Verdict::Skipped];
    let failed = draft.last(Deed::PublishMember, &undone);
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
        restart_at: s.view.requests.restart_at,
        gate_released: s.view.guard == Guard::Released,
        system_id: s
            .view
            .postgres
            .control()
            .filter(|_| s.unfinished().is_none())
            .map(|control| control.system_id),
        room: s.view.disk.room,
    };
    match s.view.postgres.running() {
        Some(Running::Primary(primary)) => {
            facts.lsn = Some(primary.lsn);
            facts.timeline = Some(primary.timeline);
            facts.checkpoint_pending = primary.checkpoint_pending;
        }
        Some(Running::Replica(replica)) => {
            facts.lsn = Some(replica.lsn());
            // After a restart what was replayed may be further than what this server has received and flushed by itself.
            facts.received = replica.received.map(|_| replica.lsn());
            facts.replayed = Some(replica.replayed);
            facts.timeline = Some(replica.timeline);
            facts.replication = replica.replication();
        }
        None => {}
    }
    facts
}

fn words(s: &Situation<'_>, draft: &Draft<'_>) -> (State, Role) {
    let running_job =
        s.view.job.as_ref().filter(|report| report.state == JobState::Running).map(|report| &report.job);
    match running_job {
        Some(Job::Initdb) if s.view.local.custom_bootstrap => {
            return (State::CustomBootstrap, Role::Uninitialized);
        }
        Some(Job::Initdb | Job::CloneRemote { replaces: false }) => {
            return (State::Initializing, Role::Uninitialized);
        }
        Some(Job::Clone { .. } | Job::Restore | Job::CloneRemote { replaces: true }) => {
            return (State::CreatingReplica, Role::Replica);
        }
        // Nobody copies from a primary whose replication role is not made yet.
        Some(Job::PostBootstrap { .. }) => return (State::CustomBootstrap, Role::Primary),
        Some(Job::Rewind { .. } | Job::CrashRecovery | Job::PrePromote { .. } | Job::ArchiveLast { .. })
        | None => {}
    }
    let of = |role: Started| match role {
        Started::Primary => Role::Primary,
        Started::Replica => Role::Replica,
    };
    if draft.actions.iter().any(|action| matches!(action, Action::StartPrimary { .. })) {
        return (State::Starting, Role::Primary);
    }
    match s.server {
        Server::NoData | Server::Unfinished => (State::Stopped, Role::Uninitialized),
        Server::Unreadable => (State::Unknown, Role::Replica),
        Server::Down { control, crashed } => {
            // In a pause nobody looks into how it ended.
            let state = match (crashed && !s.view.settings.pause, draft.memory.starts.tried) {
                (true, 0) => State::Crashed,
                (true, _) => State::StartFailed,
                (false, _) => State::Stopped,
            };
            let role = if Was::of(control) == Was::Replica { Role::Replica } else { Role::Demoted };
            (state, role)
        }
        Server::Starting { role, .. } => (State::Starting, of(role)),
        Server::Stopping { .. } => {
            // Until its shutdown checkpoint is written it may be writing.
            let role = match s.view.postgres.control().map(Was::of) {
                Some(Was::CrashedPrimary) => Role::Primary,
                Some(Was::CleanPrimary) => Role::Demoted,
                Some(Was::Replica) | None => Role::Replica,
            };
            (State::Stopping, role)
        }
        Server::Unresponsive { role, .. } => (State::Running, of(role)),
        Server::Primary(_) => {
            let finished = s.unfinished().is_none();
            (if finished { State::Running } else { State::CustomBootstrap }, Role::Primary)
        }
        Server::Replica(_) if leads_standby_cluster(s) => (State::Running, Role::StandbyLeader),
        Server::Replica(_) => {
            let promoted = draft.memory.promoting_since.is_some();
            (State::Running, if promoted { Role::Promoted } else { Role::Replica })
        }
    }
}

fn leads_standby_cluster(s: &Situation<'_>) -> bool {
    s.view.settings.standby_cluster.is_some() && matches!(s.lock, Lock::Mine(_))
}

/// Tells callbacks what has happened to the server since they were told last.
fn callbacks(s: &Situation<'_>, draft: &mut Draft<'_>) {
    let told = draft.memory.announced;
    let role = match (&s.view.postgres.process, s.lock) {
        (Process::Running(Running::Primary(_)), Lock::Mine(_)) => CallbackRole::Primary,
        (Process::Running(Running::Replica(_)), _) if leads_standby_cluster(s) => CallbackRole::StandbyLeader,
        (Process::Running(Running::Replica(_)), _) => CallbackRole::Replica,
        (Process::Stopped | Process::Crashed, lock) => return went_down(s, lock, draft),
        (
            Process::Running(Running::Primary(_))
            | Process::Starting { .. }
            | Process::Stopping { .. }
            | Process::Unresponsive { .. },
            _,
        ) => return,
    };
    let event = match told.role {
        None => CallbackEvent::Start,
        Some(before) if before != role => CallbackEvent::RoleChange,
        Some(_) if told.down && told.restarting => CallbackEvent::Restart,
        Some(_) if told.down => CallbackEvent::Start,
        Some(_) => return,
    };
    draft.memory.announced = Announced { role: Some(role), down: false, restarting: false };
    draft.act(Action::Callback { event, role });
}

/// The server is down: a stop, but not where a restart goes on, and the end of a role where the lock is another's.
fn went_down(s: &Situation<'_>, lock: Lock<'_>, draft: &mut Draft<'_>) {
    let Some(role) = draft.memory.announced.role else { return };
    if !draft.memory.announced.down {
        draft.memory.announced.down = true;
        draft.memory.announced.restarting = draft.memory.restart.is_some();
        if !draft.memory.announced.restarting && s.view.postgres.process == Process::Stopped {
            draft.act(Action::Callback { event: CallbackEvent::Stop, role });
        }
    }
    if role == CallbackRole::Primary && matches!(lock, Lock::Other(_) | Lock::Free) {
        draft.memory.announced.role = Some(CallbackRole::Demoted);
        draft.act(Action::Callback { event: CallbackEvent::RoleChange, role: CallbackRole::Demoted });
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, healthy, name};
    use super::super::{Memory, decide};
    use super::*;
    use crate::agent::view::{LeaderKey, RequestId, RestartRequest, Revision};
    use crate::cluster::{Lsn, ReplicationState};

    /// Returns what callbacks are told in these looks, one after the other.
    fn told(looks: &[Fixture]) -> Vec<(CallbackEvent, CallbackRole)> {
        let mut memory = Memory::default();
        let mut told = Vec::new();
        for look in looks {
            let decision = decide(&look.clone().view(), &memory);
            told.extend(decision.actions.iter().filter_map(|action| match action {
                Action::Callback { event, role } => Some((*event, *role)),
                _ => None,
            }));
            memory = decision.memory;
        }
        told
    }

    fn down(world: Fixture) -> Fixture {
        world.with(|f| f.view.postgres.process = Process::Stopped)
    }

    #[test]
    fn a_server_that_comes_is_a_start_and_one_that_goes_a_stop() {
        let replica = healthy("b");

        assert_eq!(
            told(&[replica.clone(), replica.clone(), down(replica.clone()), down(replica.clone()), replica]),
            [
                (CallbackEvent::Start, CallbackRole::Replica),
                (CallbackEvent::Stop, CallbackRole::Replica),
                (CallbackEvent::Start, CallbackRole::Replica),
            ]
        );
    }

    /// Returns what a replica's document says of where its WAL comes from and how far it has come.
    fn shown(change: impl FnOnce(&mut Fixture)) -> MemberFacts {
        let actions = decide(&healthy("b").with(change).view(), &Memory::default()).actions;
        let published = actions.into_iter().find_map(|action| match action {
            Action::PublishMember { facts, .. } => Some(facts),
            _ => None,
        });
        published.expect("it is written")
    }

    #[test]
    fn a_replica_says_where_its_wal_comes_from_and_how_far_it_is() {
        let silent = |has_archive| {
            shown(|f| (f.replica().streaming, f.replica().has_archive) = (false, has_archive)).replication
        };
        assert_eq!(silent(true), Some(ReplicationState::InArchiveRecovery));
        assert_eq!(silent(false), None);

        let again = shown(|f| f.replica().received = Some(Lsn(0x200_0000)));
        assert_eq!(again.received, again.replayed, "its segment is received anew after a restart");
    }

    #[test]
    fn a_restart_is_told_as_one() {
        let request = RestartRequest { id: RequestId(4), only_role: None, only_if_pending: false };
        let asked = healthy("b").with(|f| f.view.requests.restart = Some(request));

        assert_eq!(
            told(&[asked.clone(), down(asked.clone()), asked]),
            [(CallbackEvent::Start, CallbackRole::Replica), (CallbackEvent::Restart, CallbackRole::Replica),]
        );
    }

    #[test]
    fn a_primary_that_loses_the_lock_is_demoted_and_then_a_replica() {
        let leader = LeaderKey {
            name: name("b"),
            lease: crate::agent::view::LeaseId(2),
            create_revision: Revision(8),
            mod_revision: Revision(8),
        };
        let lost = |world: Fixture| world.with(|f| f.snapshot.leader = Some(leader.clone()));
        let follows = healthy("b").view.postgres.process;
        let replica = lost(healthy("a").with(|f| f.view.postgres.process = follows));
        let fell = lost(down(healthy("a")));

        assert_eq!(
            told(&[healthy("a"), fell, replica]),
            [
                (CallbackEvent::Start, CallbackRole::Primary),
                (CallbackEvent::Stop, CallbackRole::Primary),
                (CallbackEvent::RoleChange, CallbackRole::Demoted),
                (CallbackEvent::RoleChange, CallbackRole::Replica),
            ]
        );
    }
}
