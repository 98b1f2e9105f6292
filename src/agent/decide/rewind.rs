//! How a stopped member comes back under another leader: stream, rewind, or a new copy.

use crate::agent::view::{Job, JobReport, JobState, Upstream};
use crate::cluster::{MemberName, Timeline};

use super::draft::{Choice, Draft, Wake};
use super::memory::Reinitialize;
use super::situation::{Divergence, Server, Situation, Was};
use super::{Reason, replica};

/// How often pg_rewind is tried against a leader on one timeline before it counts as impossible: a stop of the source
/// or a lost connection fails it as well, and the next attempt then works.
const REWIND_ATTEMPTS: u32 = 3;

/// How often single-user recovery is tried before the data counts as beyond it.
const CRASH_RECOVERY_ATTEMPTS: u32 = 2;

/// Brings back a server that is down.
pub(super) fn come_back(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Choice {
    if let Some(asked) = replica::asked_for_copy(s, leader, draft) {
        return copy_for_person(s, leader, asked, draft);
    }
    let document = s.snapshot().and_then(|snapshot| snapshot.members.get(leader));
    match s.divergence(document) {
        Divergence::None => start(s, leader, draft),
        Divergence::Unknown => match s.server {
            Server::Down { control, .. } if Was::of(control) == Was::Replica => start(s, leader, draft),
            Server::Down { .. }
            | Server::NoData
            | Server::Unfinished
            | Server::Unreadable
            | Server::Starting { .. }
            | Server::Stopping { .. }
            | Server::Primary(_)
            | Server::Replica(_)
            | Server::Unresponsive { .. } => {
                (Reason::WaitingForLeader { leader: leader.clone() }, Wake::Progress)
            }
        },
        Divergence::CrashFirst => {
            if draft.memory.recovery.crash_recoveries_failed >= CRASH_RECOVERY_ATTEMPTS {
                return copy_anew(s, leader, s.view.settings.remove_data_directory_on_rewind_failure, draft);
            }
            draft.start_job(Job::CrashRecovery, Reason::RecoveringFromCrash)
        }
        Divergence::SameTimelineTwice => {
            copy_anew(s, leader, s.view.settings.remove_data_directory_on_diverged_timelines, draft)
        }
        Divergence::Parted { leader_timeline } => reunite(s, leader, leader_timeline, draft),
    }
}

/// A new copy that a person asked for: made once, then the server starts.
fn copy_for_person(
    s: &Situation<'_>,
    leader: &MemberName,
    asked: Reinitialize,
    draft: &mut Draft<'_>,
) -> Choice {
    let copied =
        matches!(&s.view.job, Some(JobReport { job: Job::Clone { .. }, state: JobState::Done { .. }, .. }));
    if asked.began && copied {
        return start(s, leader, draft);
    }
    let from_leader = s.view.requests.reinitialize.as_ref().is_some_and(|request| request.from_leader);
    let Some(source) = replica::source(s, leader, from_leader) else {
        return (Reason::NobodyToClone, Wake::Loop);
    };
    let choice = draft.start_job(Job::Clone { source, replaces: true }, Reason::Reinitializing);
    if choice.0 == Reason::Reinitializing {
        draft.memory.reinitialize = Some(Reinitialize { began: true, ..asked });
    }
    choice
}

fn start(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Choice {
    let upstream: Upstream = replica::upstream(s, leader);
    draft.start_replica(upstream, Reason::StartingAsReplica)
}

/// Brings data that has parted from the leader's back to it.
fn reunite(
    s: &Situation<'_>,
    leader: &MemberName,
    leader_timeline: Timeline,
    draft: &mut Draft<'_>,
) -> Choice {
    let settings = &s.view.settings;
    let rewindable =
        settings.use_pg_rewind && s.view.postgres.control().is_some_and(|control| control.rewindable);
    if !rewindable {
        return copy_anew(s, leader, settings.remove_data_directory_on_diverged_timelines, draft);
    }
    let failed = draft.memory.recovery.rewinds_failed.filter(|(timeline, _)| *timeline == leader_timeline);
    if failed.is_some_and(|(_, times)| times >= REWIND_ATTEMPTS) {
        return copy_anew(s, leader, settings.remove_data_directory_on_rewind_failure, draft);
    }
    let document = s.snapshot().and_then(|snapshot| snapshot.members.get(leader));
    if document.is_none_or(|member| member.facts.checkpoint_pending) {
        return (Reason::WaitingForCheckpoint { leader: leader.clone() }, Wake::Progress);
    }
    draft.start_job(Job::Rewind { source: leader.clone() }, Reason::Rewinding { leader: leader.clone() })
}

/// Copies the data anew where that is allowed and a running primary holds it; the data is left alone otherwise.
fn copy_anew(s: &Situation<'_>, leader: &MemberName, allowed: bool, draft: &mut Draft<'_>) -> Choice {
    if !allowed {
        return (Reason::Diverged { leader: leader.clone() }, Wake::Loop);
    }
    match replica::source(s, leader, true) {
        None => (Reason::NobodyToClone, Wake::Loop),
        Some(source) => {
            let reason = Reason::CloningAfterDivergence { source: source.clone() };
            draft.start_job(Job::Clone { source, replaces: true }, reason)
        }
    }
}
