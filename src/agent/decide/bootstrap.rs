//! Making the cluster, and keeping out what is not of it.

use crate::agent::view::{Control, Fence, Guard, Initialize, Job, JobReport, JobState, LeaseId, StopMode};
use crate::cluster::{SyncMode, SyncState, SystemId};

use super::action::ExitStatus;
use super::draft::{Choice, Draft, Wake, living_lease};
use super::memory::GivingUp;
use super::situation::{Lock, Server, Situation, Was};
use super::{Action, Reason, election, stopping};

/// How often the roles of a new cluster are tried: the first attempt may have failed with a server that fell.
const ROLES_ATTEMPTS: u32 = 2;

/// Refuses data of another cluster, and puts aside what a failed attempt to make this one left.
pub(super) fn identity(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    let control = s.view.postgres.control()?;
    let initialize = s.snapshot()?.initialize.as_ref().map(|keyed| &keyed.value);
    let theirs = match initialize {
        Some(Initialize::Done(theirs)) => *theirs,
        Some(Initialize::UnderWay { .. } | Initialize::Invalid) | None => return None,
    };
    if control.system_id == theirs {
        return None;
    }
    if control.bootstrap_unfinished {
        return Some(match s.server {
            Server::Down { .. } => {
                draft.act(Action::SetDataAside);
                (Reason::InitializeFailed, Wake::After)
            }
            Server::Stopping { mode, since } => stopping(s, draft, mode, since),
            Server::NoData
            | Server::Unfinished
            | Server::Unreadable
            | Server::Starting { .. }
            | Server::Primary(_)
            | Server::Replica(_)
            | Server::Unresponsive { .. } => {
                draft.stop(StopMode::Immediate);
                (Reason::InitializeFailed, Wake::Progress)
            }
        });
    }
    let reason = Reason::ForeignData { mine: control.system_id, theirs };
    if s.view.settings.pause {
        if let Lock::Mine(fence) = s.lock
            && !s.server.may_write()
        {
            draft.act(Action::ReleaseLeaderKey { fence, optime: None });
        }
        return Some((reason, Wake::Loop));
    }
    Some(match s.server {
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Down { .. } | Server::NoData | Server::Unfinished | Server::Unreadable => {
            if let Lock::Mine(fence) = s.lock {
                draft.act(Action::ReleaseLeaderKey { fence, optime: None });
            }
            draft.act(Action::Exit { status: ExitStatus::Failure });
            (reason, Wake::After)
        }
        Server::Starting { .. } | Server::Primary(_) | Server::Replica(_) | Server::Unresponsive { .. } => {
            draft.stop(StopMode::Fast);
            (reason, Wake::Progress)
        }
    })
}

/// What a member without usable data does while there is no leader.
pub(super) fn rule(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    let initialize = s.snapshot().and_then(|snapshot| snapshot.initialize.as_ref()).map(|keyed| &keyed.value);
    let Some(lease) = living_lease(s) else { return (Reason::NoLease, Wake::Progress) };
    match initialize {
        Some(Initialize::Done(id)) => initialized(s, lease, *id, draft),
        Some(Initialize::UnderWay { lease: claim }) if *claim == lease => make(s, lease, draft),
        Some(Initialize::UnderWay { .. } | Initialize::Invalid) => (Reason::AnotherInitializes, Wake::Loop),
        None => {
            if leftover(s) {
                draft.act(Action::SetDataAside);
                return (Reason::InitializeFailed, Wake::After);
            }
            if let Some(JobReport {
                job: Job::Initdb | Job::CloneRemote,
                state: JobState::Failed { at },
                ..
            }) = &s.view.job
            {
                let until = *at + super::draft::JOB_BACKOFF;
                if s.now() < until {
                    return (Reason::JobBackoff { until }, Wake::At(until, super::Why::Backoff));
                }
            }
            if s.view.local.joins_only || s.view.tags.failover_priority() == 0 {
                return (Reason::JoiningOnly, Wake::Loop);
            }
            draft.act(Action::ClaimInitialize { lease });
            (Reason::ClaimingInitialize, Wake::After)
        }
    }
}

/// Tells whether this member makes the cluster, under the lease that it has.
pub(super) fn claimed(s: &Situation<'_>) -> bool {
    let initialize = s.snapshot().and_then(|snapshot| snapshot.initialize.as_ref()).map(|keyed| &keyed.value);
    match (initialize, living_lease(s)) {
        (Some(Initialize::UnderWay { lease: claim }), Some(lease)) => *claim == lease,
        (Some(_) | None, _) => false,
    }
}

/// What the holder of the claim does.
fn make(s: &Situation<'_>, lease: LeaseId, draft: &mut Draft<'_>) -> Choice {
    let standby_cluster = s.view.settings.standby_cluster.is_some();
    let made = s.view.postgres.control().filter(|control| {
        control.bootstrap_unfinished || (standby_cluster && Was::of(control) == Was::Replica)
    });
    if let Some(control) = made {
        let sync = first_sync(s);
        draft.act(Action::FinishInitialize { lease, system_id: control.system_id, sync });
        return (Reason::FinishingInitialize, Wake::After);
    }
    let job = if standby_cluster { Job::CloneRemote } else { Job::Initdb };
    let failed = s
        .view
        .job
        .as_ref()
        .is_some_and(|report| report.job == job && matches!(report.state, JobState::Failed { .. }));
    // A claim outlives one failed attempt only to be given back.
    let give_back = failed && draft.start_would_wait();
    if matches!(s.server, Server::NoData) && !give_back {
        let reason = if standby_cluster { Reason::CloningRemote } else { Reason::Initializing };
        return draft.start_job(job, reason);
    }
    if !matches!(s.server, Server::NoData) {
        draft.act(Action::SetDataAside);
    }
    draft.act(Action::AbandonInitialize { lease });
    // A restored backup may take hours; whether it is worth another attempt is for a person to say.
    if failed && s.view.local.custom_bootstrap {
        draft.act(Action::Exit { status: ExitStatus::Failure });
    }
    (Reason::InitializeFailed, Wake::After)
}

/// The cluster has an identifier and no leader, and this member has nothing that could be started.
fn initialized(s: &Situation<'_>, lease: LeaseId, id: SystemId, draft: &mut Draft<'_>) -> Choice {
    let own = s.view.postgres.control().filter(|control| control.bootstrap_unfinished);
    if let (Some(control), Some(snapshot)) = (own, s.snapshot()) {
        // Made here, and the lock was lost before the roles were: nobody else has this data.
        draft.act(election::take(s, snapshot, lease, Some(id), control.system_id));
        return (Reason::TakingLock { lsn: control.checkpoint, timeline: control.timeline }, Wake::After);
    }
    if s.view.local.copies_without_leader {
        return draft.start_job(Job::Restore, Reason::Restoring);
    }
    (Reason::NobodyToClone, Wake::Loop)
}

/// Takes back a cluster that could not be made, and ends: its data is put aside for a person to look at.
pub(super) fn give_up(s: &Situation<'_>, fence: Fence, control: &Control, draft: &mut Draft<'_>) -> Choice {
    if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
        draft.act(Action::Disarm);
    }
    let config = s.snapshot().is_some_and(|snapshot| snapshot.config == fence.create_revision);
    draft.act(Action::ForsakeInitialize { fence, system_id: control.system_id, config });
    draft.act(Action::SetDataAside);
    draft.act(Action::Exit { status: ExitStatus::Failure });
    (Reason::InitializeFailed, Wake::After)
}

/// Tells whether the data directory holds what an attempt to make a cluster left.
fn leftover(s: &Situation<'_>) -> bool {
    matches!(s.server, Server::Unfinished)
        || s.view.postgres.control().is_some_and(|control| control.bootstrap_unfinished)
}

fn first_sync(s: &Situation<'_>) -> Option<SyncState> {
    (s.view.settings.synchronous_mode != SyncMode::Off)
        .then(|| SyncState { leader: Some(s.view.me.clone()), ..SyncState::default() })
}

/// Makes the roles of a new cluster on its running primary.
pub(super) fn make_roles(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Option<Choice> {
    s.view.postgres.control().filter(|control| control.bootstrap_unfinished)?;
    if draft.memory.recovery.roles_failed >= ROLES_ATTEMPTS {
        draft.memory.giving_up = Some(GivingUp::BootstrapFailed);
        draft.stop(StopMode::Fast);
        return Some((Reason::InitializeFailed, Wake::Progress));
    }
    Some(draft.start_job(Job::PostBootstrap { fence }, Reason::CreatingRoles))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW, control, healthy, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{ControlState, Data, Deed, Keyed, Local, Process, Revision, Running, Snapshot};

    const FENCE: Fence = Fence { lease: LeaseId(1), create_revision: Revision(5) };

    fn deeds(decision: &Decision) -> Vec<Deed> {
        let all = decision.actions.iter().map(Action::deed);
        all.filter(|deed| ![Deed::PublishMember, Deed::Callback, Deed::WriteStatus].contains(deed)).collect()
    }

    /// `a` leads a cluster that its own program restored; the server is down.
    fn restored() -> Fixture {
        healthy("a").with(|f| {
            f.view.local.custom_bootstrap = true;
            f.view.postgres.process = Process::Stopped;
            let made = Control { bootstrap_unfinished: true, restored: true, ..control() };
            f.view.postgres.data = Data::Present(made);
        })
    }

    #[test]
    fn a_restored_cluster_starts_through_the_gate_although_it_will_recover() {
        let start = decide(&restored().view(), &Memory::default());

        assert_eq!(start.reason, Reason::StartingAsPrimary);
        assert_eq!(deeds(&start), [Deed::StartPrimary]);
    }

    #[test]
    fn the_recovery_of_a_restored_cluster_is_left_to_end_by_itself() {
        let replica = healthy("b").view.postgres.process;
        let recovering = restored().with(|f| f.view.postgres.process = replica);

        let decision = decide(&recovering.view(), &Memory::default());

        assert_eq!(decision.reason, Reason::RecoveringRestored);
        assert_eq!(deeds(&decision), []);
    }

    #[test]
    fn a_recovery_that_ends_the_server_takes_the_cluster_back() {
        let fell = restored().with(|f| f.view.postgres.process = Process::Crashed);

        let first = decide(&fell.clone().view(), &Memory::default());
        let decision = decide(&fell.view(), &first.memory);

        assert_eq!(deeds(&first), [Deed::StartPrimary], "an end from before is not of this recovery");

        assert_eq!(decision.reason, Reason::InitializeFailed);
        assert_eq!(deeds(&decision), [Deed::Disarm, Deed::ForsakeInitialize, Deed::SetDataAside, Deed::Exit]);
        let forsake = Action::ForsakeInitialize { fence: FENCE, system_id: SystemId(7), config: false };
        assert!(decision.actions.contains(&forsake), "the configuration was there before: it stays");
    }

    #[test]
    fn roles_that_cannot_be_made_take_the_cluster_back_after_the_second_attempt() {
        let failed = |at| JobReport {
            job: Job::PostBootstrap { fence: FENCE },
            started: NOW,
            progressed: NOW,
            state: JobState::Failed { at },
        };
        let serving = healthy("a").with(|f| {
            let made = Control { bootstrap_unfinished: true, ..control() };
            f.view.postgres.data = Data::Present(Control { state: ControlState::InProduction, ..made });
            f.view.job = Some(failed(NOW));
        });
        let first = decide(&serving.clone().view(), &Memory::default());
        let again = serving.with(|f| f.view.job = Some(failed(NOW + secs(1))));
        let second = decide(&again.clone().view(), &first.memory);
        let down = again.with(|f| f.view.postgres.process = Process::Stopped);
        let third = decide(&down.view(), &second.memory);

        assert!(matches!(first.reason, Reason::JobBackoff { .. }));
        assert_eq!(deeds(&second), [Deed::Stop]);
        assert_eq!(deeds(&third), [Deed::Disarm, Deed::ForsakeInitialize, Deed::SetDataAside, Deed::Exit]);
    }

    #[test]
    fn whoever_made_the_cluster_takes_the_lock_again_and_goes_on() {
        let lost = restored().leader_gone();

        let decision = decide(&lost.view(), &Memory::default());

        assert_eq!(deeds(&decision), [Deed::Disarm, Deed::TakeLeaderKey]);
    }

    #[test]
    fn a_failed_program_gives_the_claim_back_and_ends_the_agent() {
        let mut empty = healthy("b").with(|f| {
            let value = Initialize::UnderWay { lease: LeaseId(2) };
            let initialize = Some(Keyed { value, mod_revision: Revision(1) });
            f.snapshot = Snapshot { initialize, ..Snapshot::default() };
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
            let state = JobState::Failed { at: NOW };
            f.view.job = Some(JobReport { job: Job::Initdb, started: NOW, progressed: NOW, state });
        });
        let built_in = decide(&empty.clone().view(), &Memory::default());
        empty.view.local = Local { custom_bootstrap: true, ..Local::default() };
        let custom = decide(&empty.view(), &Memory::default());

        assert_eq!(deeds(&built_in), [Deed::AbandonInitialize]);
        assert_eq!(deeds(&custom), [Deed::AbandonInitialize, Deed::Exit]);
    }

    #[test]
    fn who_may_not_lead_or_has_no_bootstrap_section_makes_no_cluster() {
        let empty = healthy("b").with(|f| {
            f.snapshot = Snapshot::default();
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
        });
        let tagged = empty.clone().with(|f| f.view.tags.nofailover = true);
        let joins = empty.clone().with(|f| f.view.local.joins_only = true);

        assert_eq!(deeds(&decide(&empty.view(), &Memory::default())), [Deed::ClaimInitialize]);
        for world in [tagged, joins] {
            let decision = decide(&world.view(), &Memory::default());
            assert_eq!((&decision.reason, deeds(&decision)), (&Reason::JoiningOnly, vec![]));
        }
    }

    #[test]
    fn a_method_that_needs_no_leader_is_used_while_there_is_none() {
        let mut empty = healthy("b").leader_gone().with(|f| {
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
        });
        let waits = decide(&empty.clone().view(), &Memory::default());
        empty.view.local.copies_without_leader = true;
        let restores = decide(&empty.view(), &Memory::default());

        assert_eq!(waits.reason, Reason::NobodyToClone);
        assert_eq!(restores.actions[0], Action::StartJob { job: Job::Restore });
    }

    #[test]
    fn a_running_primary_is_needed_to_make_roles() {
        let primary = healthy("a").view.postgres.process;
        assert!(matches!(primary, Process::Running(Running::Primary(_))));
        let made = restored().with(|f| f.view.postgres.process = primary);

        let decision = decide(&made.view(), &Memory::default());

        assert_eq!(decision.actions[0], Action::StartJob { job: Job::PostBootstrap { fence: FENCE } });
    }
}
