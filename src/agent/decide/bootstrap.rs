//! Making the cluster, and keeping out what is not of it.

use crate::agent::view::{
    Control, Fence, Guard, Initialize, Job, JobReport, JobState, LeaseId, Origin, StopMode, Watchdog,
};
use crate::cluster::{State, SyncMode, SyncState};

use super::action::ExitStatus;
use super::draft::{Choice, Draft, Wake, living_lease};
use super::situation::{Lock, Server, Situation, Was};
use super::{Action, Reason, Why, identity, leader, remote, stopping};

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
        if control.bootstrap_unfinished {
            draft.act(Action::EndBootstrap);
        }
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
        Some(Initialize::Done(_)) if s.view.local.copies_without_leader => {
            draft.start_job(Job::Restore, Reason::Restoring)
        }
        Some(Initialize::Done(_)) if remote::is_known(s) && !somebody_runs(s) => {
            let reason = Reason::Cloning { source: Origin::Remote };
            draft.start_job(Job::CloneRemote { replaces: true }, reason)
        }
        Some(Initialize::Done(_)) => (Reason::NobodyToClone, Wake::Loop),
        Some(Initialize::UnderWay { .. }) => (Reason::AnotherInitializes, Wake::Loop),
        Some(Initialize::Invalid) | None => {
            let attempt = s.unfinished().is_some();
            let not_new = s.snapshot().and_then(|snapshot| identity::not_new(s, snapshot));
            if let Some(reason) = not_new.filter(|_| !attempt) {
                return (reason, Wake::Loop);
            }
            if attempt || matches!(s.server, Server::Unfinished) {
                draft.act(Action::SetDataAside);
                return (Reason::InitializeFailed, Wake::After);
            }
            if let Some(JobReport {
                job: Job::Initdb | Job::CloneRemote { .. },
                state: JobState::Failed { at, .. },
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
            if s.view.watchdog == Watchdog::Unusable {
                return (Reason::WatchdogUnusable, Wake::Loop);
            }
            draft.act(Action::ClaimInitialize { lease });
            (Reason::ClaimingInitialize, Wake::After)
        }
    }
}

/// Tells whether another member has a running server, which may lead soon.
fn somebody_runs(s: &Situation<'_>) -> bool {
    let mut members = s.snapshot().into_iter().flat_map(|snapshot| &snapshot.members);
    members.any(|(name, member)| *name != s.view.me && member.facts.state == State::Running)
}

/// What the holder of the claim does, until the cluster has its identifier and its leader. Both come last: whoever sees
/// a leader sees a cluster that serves.
pub(super) fn make(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    let standby_cluster = s.view.settings.standby_cluster.is_some();
    match s.server {
        Server::NoData => make_data(s, fence.lease, standby_cluster, draft),
        Server::Down { control, .. } if standby_cluster && Was::of(control) == Was::Replica => {
            finish(s, fence.lease, control, draft)
        }
        Server::Down { control, crashed } if control.bootstrap_unfinished => {
            start(s, fence, control, crashed, draft)
        }
        Server::Down { .. } | Server::Unfinished => {
            draft.act(Action::SetDataAside);
            draft.act(Action::AbandonInitialize { lease: fence.lease });
            (Reason::InitializeFailed, Wake::After)
        }
        Server::Unreadable => {
            draft.act(Action::AbandonInitialize { lease: fence.lease });
            (Reason::UnreadableData, Wake::After)
        }
        Server::Starting { since, .. } | Server::Unresponsive { since, .. } => {
            leader::keep_gate(s, fence, draft);
            (Reason::NewClusterIsStarting { since }, Wake::ProgressSince(since))
        }
        Server::Stopping { mode, since } => {
            leader::keep_gate(s, fence, draft);
            stopping(s, draft, mode, since)
        }
        Server::Replica(_) => {
            leader::keep_gate(s, fence, draft);
            (Reason::RecoveringRestored, Wake::Progress)
        }
        Server::Primary(_) => {
            leader::keep_gate(s, fence, draft);
            serve(s, fence, draft)
        }
    }
}

/// Makes the data of the new cluster, or gives the claim back after the attempt that failed.
fn make_data(s: &Situation<'_>, lease: LeaseId, standby_cluster: bool, draft: &mut Draft<'_>) -> Choice {
    let job = if standby_cluster { Job::CloneRemote { replaces: false } } else { Job::Initdb };
    let failed = s
        .view
        .job
        .as_ref()
        .is_some_and(|report| report.job == job && matches!(report.state, JobState::Failed { .. }));
    // A claim outlives one failed attempt only to be given back.
    if !failed || !draft.start_would_wait() {
        let reason = if standby_cluster { Reason::CloningRemote } else { Reason::Initializing };
        return draft.start_job(job, reason);
    }
    draft.act(Action::AbandonInitialize { lease });
    // A restored backup may take hours; whether it is worth another attempt is for a person to say.
    if s.view.local.custom_bootstrap {
        draft.act(Action::Exit { status: ExitStatus::Failure });
    }
    (Reason::InitializeFailed, Wake::After)
}

/// Starts the new data under the claim.
fn start(s: &Situation<'_>, fence: Fence, control: &Control, crashed: bool, draft: &mut Draft<'_>) -> Choice {
    // A recovery that ended the server ends the next one in the same place.
    let ends_again = control.restored && crashed && draft.memory.restored_began;
    let tried = draft.memory.starts.tried >= leader::STARTS_UNDER_LOCK;
    if draft.memory.recovery.roles_failed >= ROLES_ATTEMPTS || tried || ends_again {
        return give_up(s, fence.lease, draft);
    }
    if s.view.guard == Guard::Absent {
        return (Reason::GuardAbsent, Wake::Progress);
    }
    if let Some(until) = draft.start_backoff() {
        return (Reason::StartingNewCluster, Wake::At(until, Why::Backoff));
    }
    draft.count_start();
    draft.memory.restored_began |= control.restored;
    leader::keep_gate(s, fence, draft);
    draft.act(Action::StartPrimary { fence });
    (Reason::StartingNewCluster, Wake::After)
}

/// Makes the roles of the new cluster on its running primary, and then the cluster known.
fn serve(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    let job = Job::PostBootstrap { fence };
    let report = s.view.job.as_ref().filter(|report| report.job == job).map(|report| report.state);
    if let (Some(JobState::Done { .. }), Some(control)) = (report, s.view.postgres.control()) {
        return finish(s, fence.lease, control, draft);
    }
    if draft.memory.recovery.roles_failed >= ROLES_ATTEMPTS {
        draft.stop(StopMode::Fast);
        return (Reason::InitializeFailed, Wake::Progress);
    }
    draft.start_job(job, Reason::CreatingRoles)
}

fn finish(s: &Situation<'_>, lease: LeaseId, control: &Control, draft: &mut Draft<'_>) -> Choice {
    let sync = first_sync(s);
    draft.act(Action::FinishInitialize { lease, system_id: control.system_id, sync });
    (Reason::FinishingInitialize, Wake::After)
}

/// Takes back a cluster that could not be made, and ends: its data is put aside for a person to look at.
fn give_up(s: &Situation<'_>, lease: LeaseId, draft: &mut Draft<'_>) -> Choice {
    if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
        draft.act(Action::Disarm);
    }
    draft.act(Action::AbandonInitialize { lease });
    draft.act(Action::SetDataAside);
    draft.act(Action::Exit { status: ExitStatus::Failure });
    (Reason::InitializeFailed, Wake::After)
}

fn first_sync(s: &Situation<'_>) -> Option<SyncState> {
    (s.view.settings.synchronous_mode != SyncMode::Off)
        .then(|| SyncState { leader: Some(s.view.me.clone()), ..SyncState::default() })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW, control, healthy, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{
        ControlState, Data, Deed, JobFailure, Keyed, Local, Process, Revision, Snapshot,
    };

    /// The claim of `a`, as a fence.
    const CLAIM: Fence = Fence { lease: LeaseId(1), create_revision: Revision(3) };

    /// What takes a cluster back that could not be made.
    const TAKEN_BACK: [Deed; 4] = [Deed::Disarm, Deed::AbandonInitialize, Deed::SetDataAside, Deed::Exit];

    fn deeds(decision: &Decision) -> Vec<Deed> {
        let all = decision.actions.iter().map(Action::deed);
        all.filter(|deed| ![Deed::PublishMember, Deed::Callback, Deed::WriteStatus].contains(deed)).collect()
    }

    /// `a` makes the cluster, by a program that restored it; the server is down.
    fn restored() -> Fixture {
        healthy("a").leader_gone().with(|f| {
            let value = Initialize::UnderWay { lease: CLAIM.lease };
            f.snapshot.initialize = Some(Keyed { value, mod_revision: CLAIM.create_revision });
            f.view.local.custom_bootstrap = true;
            f.view.postgres.process = Process::Stopped;
            let made = Control { bootstrap_unfinished: true, restored: true, ..control() };
            f.view.postgres.data = Data::Present(made);
        })
    }

    /// The same once the server has come out of recovery.
    fn serving() -> Fixture {
        let primary = healthy("a").view.postgres.process;
        restored().with(|f| {
            f.view.postgres.process = primary;
            let made = Control { bootstrap_unfinished: true, ..control() };
            f.view.postgres.data = Data::Present(Control { state: ControlState::InProduction, ..made });
        })
    }

    fn roles(state: JobState) -> JobReport {
        JobReport { job: Job::PostBootstrap { fence: CLAIM }, started: NOW, progressed: NOW, state }
    }

    #[test]
    fn a_restored_cluster_starts_through_the_gate_although_it_will_recover() {
        let start = decide(&restored().view(), &Memory::default());

        assert_eq!(start.reason, Reason::StartingNewCluster);
        assert_eq!(deeds(&start), [Deed::Arm, Deed::StartPrimary]);
    }

    #[test]
    fn the_recovery_of_a_restored_cluster_is_left_to_end_by_itself() {
        let replica = healthy("b").view.postgres.process;
        let recovering = restored().with(|f| f.view.postgres.process = replica);

        let decision = decide(&recovering.view(), &Memory::default());

        assert_eq!(decision.reason, Reason::RecoveringRestored);
        assert_eq!(deeds(&decision), [Deed::Arm]);
    }

    #[test]
    fn a_recovery_that_ends_the_server_takes_the_cluster_back() {
        let fell = restored().with(|f| f.view.postgres.process = Process::Crashed);

        let first = decide(&fell.clone().view(), &Memory::default());
        let decision = decide(&fell.view(), &first.memory);

        assert_eq!(
            deeds(&first),
            [Deed::Arm, Deed::StartPrimary],
            "an end from before is not of this recovery"
        );

        assert_eq!(decision.reason, Reason::InitializeFailed);
        assert_eq!(deeds(&decision), TAKEN_BACK);
    }

    #[test]
    fn a_cluster_is_known_and_led_once_it_serves() {
        let begins = decide(&serving().view(), &Memory::default());
        let made = serving().with(|f| f.view.job = Some(roles(JobState::Done { at: NOW })));
        let finishes = decide(&made.clone().view(), &Memory::default());
        let led = made.with(|f| {
            f.snapshot.leader = healthy("a").snapshot.leader;
            f.snapshot.initialize = healthy("a").snapshot.initialize;
        });
        let leads = decide(&led.view(), &Memory::default());

        assert_eq!(deeds(&begins), [Deed::Arm, Deed::StartJob]);
        assert_eq!(deeds(&finishes), [Deed::Arm, Deed::FinishInitialize]);
        assert_eq!(leads.reason, Reason::Leading);
        assert_eq!(deeds(&leads)[0], Deed::EndBootstrap);
    }

    #[test]
    fn roles_that_cannot_be_made_take_the_cluster_back_after_the_second_attempt() {
        let serving = serving()
            .with(|f| f.view.job = Some(roles(JobState::Failed { at: NOW, why: JobFailure::Transient })));
        let first = decide(&serving.clone().view(), &Memory::default());
        let again = serving.with(|f| {
            f.view.job = Some(roles(JobState::Failed { at: NOW + secs(1), why: JobFailure::Transient }));
        });
        let second = decide(&again.clone().view(), &first.memory);
        let down = again.with(|f| f.view.postgres.process = Process::Stopped);
        let third = decide(&down.view(), &second.memory);

        assert!(matches!(first.reason, Reason::JobBackoff { .. }));
        assert_eq!(deeds(&second), [Deed::Arm, Deed::Stop]);
        assert_eq!(deeds(&third), TAKEN_BACK);
    }

    #[test]
    fn a_lost_claim_ends_the_server_and_its_data_is_put_aside() {
        let lost = serving().with(|f| f.snapshot.initialize = None);
        let stops = decide(&lost.clone().view(), &Memory::default());
        let down = lost.with(|f| f.view.postgres.process = Process::Stopped);
        let cleans = decide(&down.view(), &stops.memory);

        assert_eq!(
            (&stops.reason, deeds(&stops)),
            (&Reason::InitializeFailed, vec![Deed::Disarm, Deed::Stop])
        );
        assert_eq!(deeds(&cleans), [Deed::Disarm, Deed::SetDataAside]);
    }

    #[test]
    fn a_failed_program_gives_the_claim_back_and_ends_the_agent() {
        let mut empty = healthy("b").with(|f| {
            let value = Initialize::UnderWay { lease: LeaseId(2) };
            let initialize = Some(Keyed { value, mod_revision: Revision(1) });
            f.snapshot = Snapshot { initialize, ..Snapshot::default() };
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
            let state = JobState::Failed { at: NOW, why: JobFailure::Transient };
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
}
