//! Decides what this member does next.
//!
//! Start at [`decide`]. Numbers become words in `situation`; the rules are one file per part: who leads in `leader`, who
//! follows in `replica`, who stands in `election`. What comes out is a [`Decision`]: what to do ([`Action`]), why
//! ([`Reason`]), when to look again, and what to remember ([`Memory`]).
//!
//! Invariant: nothing here reads a clock, a file or a socket, and nothing logs. See ARCHITECTURE.md, "The agent".
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

pub mod action;
pub mod memory;
pub mod reason;

mod agreement;
mod bootstrap;
mod disk;
mod draft;
mod election;
mod failsafe;
mod identity;
mod leader;
mod lease;
mod leaving;
mod pause;
mod publish;
mod remote;
mod replica;
mod rewind;
mod silence;
mod situation;
mod slots;
mod standby;
mod switchover;
mod sync;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use action::Action;
pub use memory::Memory;
pub use reason::Reason;
pub use slots::needs_feedback;

use crate::agent::view::{ControlState, Guard, Job, JobState, StopMode, Tick, View};

use draft::{Choice, Draft, Wake};
use situation::{LeaseWord, Lock, Server, Situation};

/// What a member does next, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Decision {
    /// In order; the first that is not done ends the list.
    pub actions: Vec<Action>,
    pub reason: Reason,
    /// The latest moment of the next look, and what makes it the latest. An event may make it earlier.
    pub look_again: (Tick, Why),
    pub memory: Memory,
}

/// Why the next look is no later than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// `loop_wait` has passed.
    LoopWait,
    /// The lease must be renewed by then, or the stop begins.
    LeaseMargin,
    /// An action was given whose effect is to be seen at once.
    AfterAction,
    /// A server or job is on its way and is looked at often.
    Progress,
    /// A limit comes.
    Limit,
    /// A peer with precedence has had its moment.
    Turn,
    /// A failed attempt may be repeated.
    Backoff,
}

/// Chooses what this member does next. Pure, total, deterministic: same inputs, same Decision.
pub fn decide(view: &View, memory: &Memory) -> Decision {
    let situation = Situation::of(view);
    let mut draft = Draft::new(situation, memory.clone());
    if let Lock::Mine(fence) = situation.lock {
        draft.memory.led = Some(fence);
    }
    let (reason, wake) = choose(&situation, &mut draft);
    sign_timeline(&situation, &mut draft);
    publish::publish(&situation, &mut draft);
    draft.finish(reason, wake)
}

/// Notes on a primary's data who has begun its timeline, before anything that needs etcd: only its beginner is ever primary
/// on a timeline, and where nobody is told of it, this alone tells it from another one of that number.
fn sign_timeline(s: &Situation<'_>, draft: &mut Draft<'_>) {
    if let Server::Primary(facts) = s.server
        && facts.history.last().is_some_and(|entry| entry.leader.is_none())
    {
        draft.actions.insert(0, Action::SignTimeline { timeline: facts.timeline });
    }
}

/// The order of the questions: does etcd answer; may a server write; is the data this cluster's; is anything under
/// way; what does the lock say.
fn choose(s: &Situation<'_>, draft: &mut Draft<'_>) -> Choice {
    if let Some(choice) = leaving::rule(s, draft) {
        return choice;
    }
    if s.lock == Lock::Unknown {
        return silence::rule(s, draft);
    }
    let paused = s.view.settings.pause;
    if let Some(choice) = failsafe::regain(s, draft) {
        return choice;
    }
    if !paused && let Some(choice) = must_not_write(s, draft) {
        return choice;
    }
    if let Some(choice) = bootstrap::identity(s, draft) {
        return choice;
    }
    if let Some(report) = s.view.job.as_ref().filter(|report| report.state == JobState::Running) {
        let grounded = match report.job {
            Job::PostBootstrap { fence } => s.lock == Lock::Making(fence),
            Job::PrePromote { .. } => matches!(s.lock, Lock::Mine(_)),
            Job::Initdb
            | Job::Clone { .. }
            | Job::Restore
            | Job::CloneRemote { .. }
            | Job::ArchiveLast { .. }
            | Job::Rewind { .. }
            | Job::CrashRecovery => true,
        };
        if !grounded {
            draft.act(Action::CancelJob);
            return (Reason::CancellingJob { job: report.job.name() }, Wake::Progress);
        }
        if let (Lock::Mine(fence), _) | (Lock::Making(fence), Job::PostBootstrap { .. }) =
            (s.lock, &report.job)
            && s.view.settings.standby_cluster.is_none()
        {
            leader::keep_gate(s, fence, draft);
        }
        return (Reason::JobUnderWay { job: report.job.name(), since: report.started }, Wake::Progress);
    }
    if paused {
        return pause::rule(s, draft);
    }
    match s.lock {
        Lock::Mine(fence) if s.view.settings.standby_cluster.is_some() => standby::rule(s, fence, draft),
        Lock::Mine(fence) => leader::rule(s, fence, draft),
        Lock::Other(key) => replica::rule(s, &key.name, draft),
        Lock::Free => election::rule(s, draft),
        Lock::OldMine(key) => election::leave_old_lock(s, key.fence(), draft),
        Lock::Making(fence) => bootstrap::make(s, fence, draft),
        Lock::Unknown => silence::rule(s, draft),
    }
}

/// Stops a server that may write without a lease and lock that surely allow it.
fn must_not_write(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    if !s.server.may_write() && draft.memory.promoting_since.is_none() {
        return None;
    }
    let (reason, mode) = match (s.lock, s.lease) {
        (Lock::Mine(_) | Lock::Making(_), LeaseWord::Safe { .. }) => return None,
        (Lock::Mine(_) | Lock::Making(_), LeaseWord::Doubtful { deadline }) => {
            (Reason::LeaseDoubtful { deadline }, StopMode::Fast)
        }
        (Lock::Mine(_) | Lock::Making(_), LeaseWord::Lost | LeaseWord::None) => {
            (Reason::LeaseLost, StopMode::Immediate)
        }
        // A new agent beside an armed guard: the keeper adopts the lease or gets another one, and then it is told apart.
        (Lock::OldMine(_), LeaseWord::None) => return None,
        (Lock::OldMine(_), LeaseWord::Safe { .. } | LeaseWord::Doubtful { .. } | LeaseWord::Lost) => {
            (Reason::LeaseLost, StopMode::Immediate)
        }
        (Lock::Other(key), _) => (Reason::AnotherLeads { leader: key.name.clone() }, StopMode::Immediate),
        (Lock::Free, _) if s.unfinished().is_some() => (Reason::InitializeFailed, StopMode::Immediate),
        (Lock::Free, _) => (Reason::LeaderKeyGone, StopMode::Fast),
        (Lock::Unknown, _) => return None,
    };
    // Without the lock the deadline is worth nothing, however long the lease may live: the guard begins its stages.
    if !matches!(s.lock, Lock::Mine(_) | Lock::Making(_))
        && matches!(s.view.guard, Guard::Armed { .. } | Guard::Released)
    {
        draft.act(Action::Disarm);
    }
    draft.stop(mode);
    Some((reason, Wake::Progress))
}

/// Waits for a server that is on its way down, and hurries it past its limit.
fn stopping(s: &Situation<'_>, draft: &mut Draft<'_>, mode: StopMode, since: Tick) -> Choice {
    let state = s.view.postgres.control().map(|control| control.state);
    let nothing_to_lose = match state {
        Some(ControlState::InCrashRecovery) => true,
        // What is waited for (an archiver, a subscriber) goes on after a restart.
        Some(ControlState::ShutDown) => draft.memory.restart.is_some(),
        Some(
            ControlState::StartingUp
            | ControlState::ShutDownInRecovery
            | ControlState::ShuttingDown
            | ControlState::InArchiveRecovery
            | ControlState::InProduction,
        )
        | None => false,
    };
    let most = if nothing_to_lose { draft::VAIN_STOP_LIMIT } else { draft::STOP_LIMIT };
    let limit = s.view.settings.primary_stop_timeout.map_or(most, |limit| limit.min(most));
    match mode {
        StopMode::Fast if s.now().since(since) >= limit => {
            draft.act(Action::Stop { mode: StopMode::Immediate, checkpoint: false });
            (Reason::StopTookTooLong, Wake::Progress)
        }
        StopMode::Fast | StopMode::Immediate => (Reason::Stopping { mode, since }, Wake::Progress),
    }
}
