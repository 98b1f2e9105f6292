//! Making the cluster, and keeping out what is not of it.

use crate::agent::view::{Fence, Initialize, Job, JobReport, JobState, LeaseId, StopMode};
use crate::cluster::{SyncMode, SyncState};

use super::action::ExitStatus;
use super::draft::{Choice, Draft, Wake, living_lease};
use super::situation::{Lock, Server, Situation};
use super::{Action, Reason, stopping};

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
        Some(Initialize::Done(_)) => (Reason::NobodyToClone, Wake::Loop),
        Some(Initialize::UnderWay { lease: claim }) if *claim == lease => make(s, lease, draft),
        Some(Initialize::UnderWay { .. } | Initialize::Invalid) => (Reason::AnotherInitializes, Wake::Loop),
        None => {
            if leftover(s) {
                draft.act(Action::SetDataAside);
                return (Reason::InitializeFailed, Wake::After);
            }
            if let Some(JobReport { job: Job::Initdb, state: JobState::Failed { at }, .. }) = &s.view.job {
                let until = *at + super::draft::JOB_BACKOFF;
                if s.now() < until {
                    return (Reason::JobBackoff { until }, Wake::At(until, super::Why::Backoff));
                }
            }
            draft.act(Action::ClaimInitialize { lease });
            (Reason::ClaimingInitialize, Wake::After)
        }
    }
}

/// What the holder of the claim does.
fn make(s: &Situation<'_>, lease: LeaseId, draft: &mut Draft<'_>) -> Choice {
    let made = s.view.postgres.control().filter(|control| control.bootstrap_unfinished);
    if let Some(control) = made {
        let sync = first_sync(s);
        draft.act(Action::FinishInitialize { lease, system_id: control.system_id, sync });
        return (Reason::FinishingInitialize, Wake::After);
    }
    if matches!(s.server, Server::NoData) {
        // A claim outlives one failed attempt only to be given back.
        let failed =
            matches!(&s.view.job, Some(JobReport { job: Job::Initdb, state: JobState::Failed { .. }, .. }));
        if failed && draft.start_would_wait() {
            draft.act(Action::AbandonInitialize { lease });
            return (Reason::InitializeFailed, Wake::After);
        }
        return draft.start_job(Job::Initdb, Reason::Initializing);
    }
    draft.act(Action::SetDataAside);
    draft.act(Action::AbandonInitialize { lease });
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
    Some(draft.start_job(Job::PostBootstrap { fence }, Reason::CreatingRoles))
}
