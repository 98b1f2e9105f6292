//! How a stopped member comes back under another leader: stream, rewind, or a new copy.

use std::time::Duration;

use crate::agent::view::{
    Control, ControlState, Job, JobFailure, JobReport, JobState, Origin, Tick, Upstream,
};
use crate::cluster::{MemberName, Role, Timeline};

use super::draft::{Choice, Draft, Wake};
use super::memory::{Reinitialize, Starts};
use super::situation::{Divergence, Server, Situation, Was};
use super::{Action, Reason, Why, disk, remote, replica};

/// How often pg_rewind is tried against a leader on one timeline before it counts as impossible: a stop of the source
/// or a lost connection fails it as well, and the next attempt then works.
const REWIND_ATTEMPTS: u32 = 3;

/// How many starts that hang are enough to think that the data cannot be started.
const HUNG_STARTS: u32 = 2;

/// How soon to look again whether somebody has given the user of pg_rewind what it needs.
const GRANTS_AGAIN: Duration = Duration::from_secs(30);

/// How often WAL of a timeline that the cluster went on without is removed before the archive counts as bringing it back.
const TIMELINES_LEFT: u32 = 3;

/// How often single-user recovery is tried before the data counts as beyond it.
const CRASH_RECOVERY_ATTEMPTS: u32 = 2;

/// Whose WAL a stopped member comes back to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Home<'a> {
    /// That of the member that leads.
    Leader(&'a MemberName),
    /// That of the cluster which this standby cluster follows. Copies are made of the member that leads this one, unless it
    /// is the one that comes back, or nobody is.
    Remote { leader: Option<&'a MemberName> },
}

impl<'a> Home<'a> {
    /// Returns what a member is judged by while another one leads: the leader of a standby cluster has its WAL from
    /// elsewhere.
    pub(super) fn of(s: &Situation<'_>, leader: &'a MemberName) -> Home<'a> {
        let document = s.snapshot().and_then(|snapshot| snapshot.members.get(leader));
        let primary = document.is_some_and(|member| member.facts.role == Role::Primary);
        match remote::is_known(s) && !primary {
            true => Home::Remote { leader: Some(leader) },
            false => Home::Leader(leader),
        }
    }

    pub(super) fn origin(self) -> Origin {
        match self {
            Home::Leader(name) => Origin::Member(name.clone()),
            Home::Remote { .. } => Origin::Remote,
        }
    }

    /// Returns the timeline of the primary there.
    fn timeline(self, s: &Situation<'_>) -> Option<Timeline> {
        match self {
            Home::Leader(name) => s.running_primary(name)?.facts.timeline,
            Home::Remote { .. } => s.remote().map(|remote| remote.timeline),
        }
    }

    /// Tells whether the primary there has not written the first checkpoint of its timeline.
    fn checkpoint_pending(self, s: &Situation<'_>) -> bool {
        match self {
            Home::Leader(name) => {
                let document = s.snapshot().and_then(|snapshot| snapshot.members.get(name));
                document.is_none_or(|member| member.facts.checkpoint_pending)
            }
            Home::Remote { .. } => s.remote().is_none_or(|remote| remote.checkpoint_pending),
        }
    }

    fn divergence(self, s: &Situation<'_>, draft: &mut Draft<'_>) -> Divergence {
        match self {
            Home::Leader(name) => s.divergence(s.snapshot().and_then(|snapshot| snapshot.members.get(name))),
            Home::Remote { .. } => remote::of_stopped(s, draft),
        }
    }
}

/// Brings back a server that is down.
pub(super) fn come_back(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Choice {
    if let Some(asked) = replica::asked_for_copy(s, leader, draft) {
        return copy_for_person(s, leader, asked, draft);
    }
    let home = Home::of(s, leader);
    let begun = s.view.postgres.control().is_some_and(|control| control.half_rewound.is_some());
    if !begun && draft.memory.wal_gone.is_some_and(|at| !copied_since(s, at)) {
        let allowed = s.view.settings.remove_data_directory_on_diverged_timelines;
        return copy_anew(s, home, allowed, draft);
    }
    if !begun
        && draft.memory.starts.hung >= HUNG_STARTS
        && s.view.settings.remove_data_directory_on_diverged_timelines
    {
        let choice = copy_anew(s, home, true, draft);
        if matches!(choice.0, Reason::CloningAfterDivergence { .. }) {
            draft.memory.starts = Starts::default();
        }
        return choice;
    }
    before_start(s, home, draft).unwrap_or_else(|| start(s, leader, draft))
}

/// Does what the data of a server that is down needs before a start in recovery; None: it may be started.
pub(super) fn before_start(s: &Situation<'_>, home: Home<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    let divergence = home.divergence(s, draft);
    if let Some(begun) = s.view.postgres.control().and_then(|control| control.half_rewound) {
        return Some(go_on(s, home, begun, draft));
    }
    let settings = &s.view.settings;
    let choice = match divergence {
        Divergence::None if remote::would_part_again(s, draft) => recover(s, home, draft),
        Divergence::None => return None,
        Divergence::Unknown => match (home, s.server) {
            // Whatever it was, it starts in recovery, and is judged again where it gets no WAL.
            (Home::Remote { .. }, _) => return None,
            (Home::Leader(_), Server::Down { control, .. }) if Was::of(control) == Was::Replica => {
                return None;
            }
            (Home::Leader(_), _) => (Reason::WaitingForLeader { leader: home.origin() }, Wake::Progress),
        },
        Divergence::CrashFirst => recover(s, home, draft),
        Divergence::DeadWal { .. } if draft.memory.recovery.timelines_left >= TIMELINES_LEFT => {
            copy_anew(s, home, settings.remove_data_directory_on_diverged_timelines, draft)
        }
        Divergence::DeadWal { timeline } => {
            draft.memory.recovery.timelines_left += 1;
            draft.act(Action::LeaveTimeline { timeline });
            (Reason::LeavingTimeline { timeline }, Wake::After)
        }
        Divergence::SameTimelineTwice => {
            copy_anew(s, home, settings.remove_data_directory_on_diverged_timelines, draft)
        }
        Divergence::Parted { leader_timeline } => reunite(s, home, leader_timeline, draft),
    };
    Some(choice)
}

/// Tells whether data that has parted so can come back by what the configuration allows.
pub(super) fn is_curable(s: &Situation<'_>, divergence: Divergence, draft: &Draft<'_>) -> bool {
    let settings = &s.view.settings;
    match divergence {
        Divergence::Parted { leader_timeline } if is_rewindable(s) => {
            !has_failed(leader_timeline, draft) || settings.remove_data_directory_on_rewind_failure
        }
        Divergence::Parted { .. } | Divergence::SameTimelineTwice => {
            settings.remove_data_directory_on_diverged_timelines
        }
        Divergence::None | Divergence::Unknown | Divergence::CrashFirst | Divergence::DeadWal { .. } => false,
    }
}

fn is_rewindable(s: &Situation<'_>) -> bool {
    s.view.settings.use_pg_rewind && s.view.postgres.control().is_some_and(|control| control.rewindable)
}

/// Tells whether pg_rewind has failed too often against a primary on this timeline.
fn has_failed(timeline: Timeline, draft: &Draft<'_>) -> bool {
    let failed = draft.memory.recovery.rewinds_failed.filter(|(on, _)| *on == timeline);
    failed.is_some_and(|(_, times)| times >= REWIND_ATTEMPTS)
}

/// Recovers what has not ended in order, alone and without a network.
fn recover(s: &Situation<'_>, home: Home<'_>, draft: &mut Draft<'_>) -> Choice {
    let allowed = s.view.settings.remove_data_directory_on_rewind_failure;
    // Recovery writes WAL of its own. A new copy, where it is allowed, frees what the old one takes.
    if disk::is_full(s) && !allowed {
        return disk::wait(s);
    }
    if disk::is_full(s) || draft.memory.recovery.crash_recoveries_failed >= CRASH_RECOVERY_ATTEMPTS {
        return copy_anew(s, home, allowed, draft);
    }
    draft.start_job(Job::CrashRecovery, Reason::RecoveringFromCrash)
}

/// Tells whether a replica's pg_control would mislead pg_rewind: it does not take one that was killed, and up to Postgres
/// 15 it takes the timeline of the last checkpoint for that of the data.
fn misleads(control: &Control) -> bool {
    Was::of(control) == Was::Replica
        && control.half_rewound.is_none()
        && (control.state == ControlState::InArchiveRecovery || control.reached() > control.timeline)
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
    let failed = s.view.job.as_ref().filter(|report| matches!(report.job, Job::Clone { .. }));
    if let Some(JobState::Failed { why: JobFailure::NoRoom { missing_mb }, .. }) = failed.map(|job| job.state)
        && asked.began
    {
        // What a person has asked for must not cost the data that works.
        draft.memory.reinitialize = None;
        draft.act(Action::AnswerRequest { id: asked.id, done: false });
        return (Reason::NoRoomForCopy { missing_mb }, Wake::After);
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

/// Tells whether the data was copied after a moment.
fn copied_since(s: &Situation<'_>, moment: Tick) -> bool {
    match &s.view.job {
        Some(JobReport { job: Job::Clone { .. }, state: JobState::Done { at }, .. }) => *at >= moment,
        Some(_) | None => false,
    }
}

fn start(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Choice {
    let upstream: Upstream = replica::upstream(s, leader);
    draft.start_replica(upstream, Reason::StartingAsReplica)
}

/// Goes on with a rewind that was interrupted. pg_rewind may be run again from the same timeline; what another one has
/// written since cannot be told from what this one had.
fn go_on(s: &Situation<'_>, home: Home<'_>, begun: Timeline, draft: &mut Draft<'_>) -> Choice {
    match home.timeline(s) {
        None => (Reason::WaitingForLeader { leader: home.origin() }, Wake::Progress),
        Some(timeline) if timeline == begun => reunite(s, home, timeline, draft),
        Some(_) => copy_anew(s, home, s.view.settings.remove_data_directory_on_rewind_failure, draft),
    }
}

/// Brings data that has parted from a primary's back to it.
fn reunite(s: &Situation<'_>, home: Home<'_>, timeline: Timeline, draft: &mut Draft<'_>) -> Choice {
    let settings = &s.view.settings;
    if !is_rewindable(s) {
        return copy_anew(s, home, settings.remove_data_directory_on_diverged_timelines, draft);
    }
    if let Some(since) = not_granted(s, timeline) {
        let reason = Reason::RewindNotGranted { leader: home.origin() };
        if settings.remove_data_directory_on_rewind_failure {
            let (choice, wake) = copy_anew(s, home, true, draft);
            let copies = matches!(choice, Reason::CloningAfterDivergence { .. });
            return (if copies { reason } else { choice }, wake);
        }
        let again = since + GRANTS_AGAIN;
        if s.now() < again {
            return (reason, Wake::At(again, Why::Backoff));
        }
    }
    if has_failed(timeline, draft) {
        return copy_anew(s, home, settings.remove_data_directory_on_rewind_failure, draft);
    }
    if home.checkpoint_pending(s) {
        return (Reason::WaitingForCheckpoint { leader: home.origin() }, Wake::Progress);
    }
    if s.view.postgres.control().is_some_and(misleads) {
        return recover(s, home, draft);
    }
    let job = Job::Rewind { source: home.origin(), timeline };
    draft.start_job(job, Reason::Rewinding { leader: home.origin() })
}

/// Returns when it was seen that the primary on this timeline does not let pg_rewind read what it needs.
fn not_granted(s: &Situation<'_>, on: Timeline) -> Option<Tick> {
    let JobReport { job: Job::Rewind { timeline, .. }, state, .. } = s.view.job.as_ref()? else {
        return None;
    };
    match state {
        JobState::Failed { at, why: JobFailure::NotGranted } if *timeline == on => Some(*at),
        JobState::Failed { .. } | JobState::Done { .. } | JobState::Running => None,
    }
}

/// Copies the data anew where that is allowed and there is a server to copy from; the data is left alone otherwise.
fn copy_anew(s: &Situation<'_>, home: Home<'_>, allowed: bool, draft: &mut Draft<'_>) -> Choice {
    if !allowed {
        return (Reason::Diverged { leader: home.origin() }, Wake::Loop);
    }
    let (job, source) = match home {
        Home::Remote { leader: None } => {
            if let Some(peer) = remote::successor(s, draft) {
                return (Reason::HandingToUnparted { peer }, Wake::Progress);
            }
            (Job::CloneRemote { replaces: true }, Origin::Remote)
        }
        Home::Leader(leader) | Home::Remote { leader: Some(leader) } => {
            let Some(source) = replica::source(s, leader, true) else {
                return (Reason::NobodyToClone, Wake::Loop);
            };
            (Job::Clone { source: source.clone(), replaces: true }, Origin::Member(source))
        }
    };
    draft.start_job(job, Reason::CloningAfterDivergence { source })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, healthy, name};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Data, Deed, Process};
    use crate::cluster::{History, HistoryEntry, Lsn};

    /// `b` is down with a rewind from timeline 2 begun; `a` leads on this one.
    fn interrupted(leader_timeline: u32) -> Fixture {
        healthy("b").leader_timeline(leader_timeline).with(|f| {
            f.view.settings.use_pg_rewind = true;
            f.view.settings.remove_data_directory_on_rewind_failure = true;
            f.view.postgres.process = Process::Stopped;
            let Data::Present(control) = &mut f.view.postgres.data else { panic!("no data") };
            control.half_rewound = Some(Timeline(2));
        })
    }

    fn decision(world: Fixture) -> Decision {
        decide(&world.view(), &Memory::default())
    }

    #[test]
    fn an_interrupted_rewind_is_run_again_from_the_same_timeline_and_copied_over_for_another() {
        let again = decision(interrupted(2));
        let copied = decision(interrupted(3));
        let kept = decision(
            interrupted(3).with(|f| f.view.settings.remove_data_directory_on_rewind_failure = false),
        );

        assert_eq!(again.reason, Reason::Rewinding { leader: name("a").into() });
        assert_eq!(copied.reason, Reason::CloningAfterDivergence { source: name("a").into() });
        assert_eq!(kept.reason, Reason::Diverged { leader: name("a").into() });
    }

    /// `b` is down as a replica of a dead timeline 2, which was left at 900; `a` leads on timeline 3, by way of another
    /// timeline 2 that began at 1000.
    fn of_dead_timeline(change: impl FnOnce(&mut Control)) -> Fixture {
        let left = |timeline, lsn| HistoryEntry {
            timeline: Timeline(timeline),
            switch_point: Lsn(lsn),
            reason: String::new(),
            leader: None,
        };
        let world = healthy("b").leader_timeline(3).history(History(vec![left(1, 1_000), left(2, 2_000)]));
        world.with(|f| {
            f.view.settings.use_pg_rewind = true;
            f.view.postgres.process = Process::Stopped;
            let Data::Present(control) = &mut f.view.postgres.data else { panic!("no data") };
            control.timeline = Timeline(2);
            control.state = ControlState::ShutDownInRecovery;
            control.minimum_recovery = Some((Lsn(1_500), Timeline(2)));
            control.history = Some(History(vec![left(1, 900)]));
            control.rewindable = true;
            change(control);
        })
    }

    #[test]
    fn a_replica_that_pg_rewind_would_judge_wrongly_recovers_first() {
        let rewinds = decision(of_dead_timeline(|_| {}));
        let killed = decision(of_dead_timeline(|control| control.state = ControlState::InArchiveRecovery));
        let old_checkpoint = decision(of_dead_timeline(|control| control.timeline = Timeline(1)));

        assert_eq!(rewinds.reason, Reason::Rewinding { leader: name("a").into() });
        assert_eq!(killed.reason, Reason::RecoveringFromCrash);
        assert_eq!(old_checkpoint.reason, Reason::RecoveringFromCrash);
    }

    #[test]
    fn wal_of_a_dead_timeline_beside_good_data_is_removed_before_a_start() {
        let received = |dead: bool| {
            of_dead_timeline(|control| {
                control.timeline = Timeline(1);
                control.minimum_recovery = Some((Lsn(800), Timeline(1)));
                let began = if dead { 900 } else { 1_000 };
                let mut other = control.history.replace(History::default()).expect("a history");
                other.0[0].switch_point = Lsn(began);
                control.beyond = Some((Timeline(2), other));
            })
        };

        let leaves = decision(received(true));
        let goes_on = decision(received(false));
        let mut memory = leaves.memory.clone();
        memory.recovery.timelines_left = TIMELINES_LEFT;
        let comes_back = decide(&received(true).view(), &memory);

        assert_eq!(leaves.reason, Reason::LeavingTimeline { timeline: Timeline(2) });
        assert!(leaves.actions.contains(&Action::LeaveTimeline { timeline: Timeline(2) }));
        assert_eq!(goes_on.reason, Reason::StartingAsReplica);
        assert_eq!(comes_back.reason, Reason::Diverged { leader: name("a").into() });
    }

    #[test]
    fn half_written_data_is_never_started() {
        let no_leader = decision(interrupted(2).leader_gone());
        let not_running =
            decision(interrupted(2).with(|f| f.member("a").facts.state = crate::cluster::State::Starting));
        let holds_the_lock = decision(interrupted(2).with(|f| {
            let leader = f.snapshot.leader.as_mut().expect("a leader");
            leader.name = name("b");
            leader.lease = crate::agent::view::LeaseId(2);
        }));

        assert_eq!(no_leader.reason, Reason::NobodyToClone);
        assert_eq!(not_running.reason, Reason::WaitingForLeader { leader: name("a").into() });
        assert_eq!(holds_the_lock.reason, Reason::LeadingWithoutData);
        for decision in [no_leader, not_running, holds_the_lock] {
            let starts = [Deed::StartPrimary, Deed::StartReplica];
            assert!(!decision.actions.iter().any(|action| starts.contains(&action.deed())));
        }
    }
}
