//! What a member does when it was asked to end: the server stops and the lock goes, unless the cluster is paused.

use crate::agent::view::{Fence, Guard, JobState, StopMode};

use super::action::ExitStatus;
use super::draft::{Choice, Draft, Wake};
use super::situation::{Lock, Server, Situation};
use super::{Action, Reason, stopping};

pub(super) fn rule(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    if !s.view.requests.stop {
        return None;
    }
    if s.view.job.as_ref().is_some_and(|report| report.state == JobState::Running) {
        draft.act(Action::CancelJob);
        return Some((Reason::ShuttingDown, Wake::Progress));
    }
    if s.view.settings.pause {
        if matches!(s.lock, Lock::Mine(_)) && s.server.may_write() && s.view.guard != Guard::Released {
            draft.act(Action::ReleaseGate);
        }
        draft.act(Action::Exit { status: ExitStatus::Clean });
        return Some((Reason::Leaving, Wake::Progress));
    }
    Some(match s.server {
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Primary(_) => {
            draft.act(Action::Stop { mode: StopMode::Fast, checkpoint: true });
            (Reason::ShuttingDown, Wake::Progress)
        }
        Server::Replica(_) | Server::Starting { .. } | Server::Unresponsive { .. } => {
            draft.act(Action::Stop { mode: StopMode::Fast, checkpoint: false });
            (Reason::ShuttingDown, Wake::Progress)
        }
        Server::NoData | Server::Unfinished | Server::Unreadable | Server::Down { .. } => {
            // Nothing here can write: the watchdog may be left alone by the guard, and the lease serve this member again.
            if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
                draft.act(Action::Disarm);
            }
            if let Lock::Mine(fence) = s.lock {
                let optime = s.view.postgres.control().map(|control| control.checkpoint);
                draft.act(Action::ReleaseLeaderKey { fence, optime });
            }
            if let Lock::Making(Fence { lease, .. }) = s.lock {
                draft.act(Action::AbandonInitialize { lease });
            }
            draft.act(Action::Exit { status: ExitStatus::Clean });
            (Reason::Leaving, Wake::After)
        }
    })
}
