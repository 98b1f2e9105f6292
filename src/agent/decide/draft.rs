//! A decision in the making: the actions so far, the memory as it will be, and the bookkeeping between looks.

use std::time::Duration;

use crate::agent::view::{
    Deed, Initialize, Job, JobFailure, JobReport, JobState, Keyed, Lease, Process, Room, Running, Started,
    StopMode, Tick, Upstream, Verdict,
};
use crate::cluster::{Lsn, MemberName, Role, State};

use super::memory::{Memory, Recovery, Starts};
use super::situation::{LeaseWord, Lock, Server, Situation};
use super::{Action, Decision, Reason, Why, disk};

/// How long a fast stop may take where the configuration sets no limit.
///
/// A shutdown checkpoint of a busy server takes seconds to a minute; a stop that hangs (an orphaned checkpointer, a
/// standby that never confirms) takes for ever.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The same for a server that has nothing to lose: in crash recovery, where Postgres 15 leaves its checkpointer alone
/// and waits for it for ever, and after the shutdown checkpoint of a restart.
pub(super) const VAIN_STOP_LIMIT: Duration = Duration::from_secs(5);

/// How soon to look again at something that is on its way.
const PROGRESS: Duration = Duration::from_millis(200);

/// How soon to look again at something that has just been set on its way and that clients wait for.
const PROGRESS_AT_FIRST: Duration = Duration::from_millis(15);

/// How soon to look again after an action was given.
const AFTER_ACTION: Duration = Duration::from_millis(10);

/// How soon to look again after an action that failed, so that a refusing world is not asked in a circle.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// How long to wait before a failed job is tried again.
pub(super) const JOB_BACKOFF: Duration = Duration::from_secs(5);

/// How soon to find out again whether a copy fits: for that all files of both sides are looked at.
const ROOM_AGAIN: Duration = Duration::from_secs(30);

/// How long to wait before a start is tried again, times the number of starts so far.
const START_BACKOFF: Duration = Duration::from_secs(1);

/// The longest wait between two starts.
const START_BACKOFF_MOST: Duration = Duration::from_secs(10);

/// A reason, and when to look again.
pub(super) type Choice = (Reason, Wake);

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Within `loop_wait`.
    Loop,
    /// At once: an action was given whose effect decides what is next.
    After,
    /// Soon: something is on its way.
    Progress,
    /// Very soon, and less so the longer it takes: something that clients wait for is on its way since this moment.
    ProgressSince(Tick),
    /// At this moment at the latest.
    At(Tick, Why),
}

/// A decision in the making.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    situation: Situation<'a>,
    pub(super) actions: Vec<Action>,
    pub(super) memory: Memory,
    soon: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(situation: Situation<'a>, memory: Memory) -> Draft<'a> {
        let mut draft = Draft { situation, actions: Vec::new(), memory, soon: false };
        draft.note_lock();
        draft.note_server();
        draft.note_job();
        draft
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// An action was given whose effect is to be told to the others, whatever the look goes on with.
    pub(super) fn look_soon(&mut self) {
        self.soon = true;
    }

    /// Stops a server that runs; one that is stopping already in the same or a harder way is left to it.
    pub(super) fn stop(&mut self, mode: StopMode) {
        match (&self.situation.view.postgres.process, mode) {
            (Process::Stopped | Process::Crashed, _)
            | (Process::Stopping { .. }, StopMode::Fast)
            | (Process::Stopping { mode: StopMode::Immediate, .. }, StopMode::Immediate) => {}
            (
                Process::Starting { .. }
                | Process::Running(_)
                | Process::Unresponsive { .. }
                | Process::Stopping { .. },
                _,
            ) => self.act(Action::Stop { mode, checkpoint: false }),
        }
    }

    /// Starts the server in recovery, or says until when not.
    pub(super) fn start_replica(&mut self, upstream: Upstream, reason: Reason) -> Choice {
        self.start_in_recovery(upstream, true, reason)
    }

    /// The same for a server that is to be promoted and has ended in the middle of that before: without the archive,
    /// a file of which may be half written, and which has nothing that must be waited for.
    pub(super) fn start_without_archive(&mut self, reason: Reason) -> Choice {
        self.start_in_recovery(Upstream::Nobody, false, reason)
    }

    fn start_in_recovery(&mut self, upstream: Upstream, archive: bool, reason: Reason) -> Choice {
        if let Some(until) = self.start_backoff() {
            return (Reason::ReplicaStartFailed, Wake::At(until, Why::Backoff));
        }
        self.count_start();
        self.act(Action::StartReplica { upstream, archive });
        (reason, Wake::After)
    }

    /// Returns the moment before which the server is not started again.
    pub(super) fn start_backoff(&self) -> Option<Tick> {
        let Starts { tried, last, .. } = self.memory.starts;
        let until = last? + (START_BACKOFF * tried).min(START_BACKOFF_MOST);
        (self.situation.now() < until).then_some(until)
    }

    pub(super) fn count_start(&mut self) {
        let starts = &mut self.memory.starts;
        (starts.tried, starts.last) = (starts.tried.saturating_add(1), Some(self.situation.now()));
    }

    /// Begins a job, or says until when not because the last one of its kind failed.
    pub(super) fn start_job(&mut self, job: Job, reason: Reason) -> Choice {
        if let Some(JobReport { job: last, state: JobState::Failed { at, why }, .. }) =
            &self.situation.view.job
            && last.name() == job.name()
        {
            let (until, reason) = match *why {
                JobFailure::NoRoom { missing_mb } => (*at + ROOM_AGAIN, Reason::NoRoomForCopy { missing_mb }),
                JobFailure::Transient | JobFailure::NotGranted => {
                    let until = *at + JOB_BACKOFF;
                    (until, Reason::JobBackoff { until })
                }
            };
            if self.situation.now() < until {
                return (reason, Wake::At(until, Why::Backoff));
            }
        }
        self.act(Action::StartJob { job });
        (reason, Wake::After)
    }

    /// Tells whether an action of this kind was given last time and ended so.
    pub(super) fn last(&self, deed: Deed, verdicts: &[Verdict]) -> bool {
        self.situation.view.outcomes.iter().any(|o| o.deed == deed && verdicts.contains(&o.verdict))
    }

    pub(super) fn finish(self, reason: Reason, wake: Wake) -> Decision {
        let now = self.situation.now();
        let failed = self
            .situation
            .view
            .outcomes
            .iter()
            .any(|o| matches!(o.verdict, Verdict::Failed | Verdict::Unknown | Verdict::Fenced));
        let loop_end = (now + self.situation.view.settings.loop_wait, Why::LoopWait);
        let mut next = match wake {
            Wake::Loop => loop_end,
            Wake::After if failed => (now + AFTER_FAILURE, Why::AfterAction),
            Wake::After => (now + AFTER_ACTION, Why::AfterAction),
            Wake::Progress => (now + PROGRESS, Why::Progress),
            Wake::ProgressSince(since) => {
                let wait = (now.since(since) / 4).clamp(PROGRESS_AT_FIRST, PROGRESS);
                (now + wait, Why::Progress)
            }
            Wake::At(at, why) => (at, why),
        };
        if self.soon {
            next = next.min((now + AFTER_ACTION, Why::AfterAction));
        }
        if let Some(look) = disk::next_look(&self.situation) {
            next = next.min((look, Why::Limit));
        }
        // A margin that has begun is answered in each look; the guard keeps it in between.
        if let LeaseWord::Safe { stop_at, .. } = self.situation.lease
            && (self.situation.server.may_write() || self.memory.promoting_since.is_some())
        {
            next = next.min((stop_at, Why::LeaseMargin));
        }
        Decision { actions: self.actions, reason, look_again: next.min(loop_end), memory: self.memory }
    }

    fn note_lock(&mut self) {
        let now = self.situation.now();
        match self.situation.lock {
            Lock::Mine(_) | Lock::Making(_) => {
                self.memory.leaderless_since = None;
                self.memory.race_position = None;
            }
            Lock::Other(_) | Lock::OldMine(_) => {
                self.memory.leaderless_since = None;
                self.memory.race_position = None;
                self.forget_leading();
            }
            Lock::Free => {
                self.memory.leaderless_since.get_or_insert(now);
                self.forget_leading();
            }
            // The hand-over may have been carried out, so what was begun under the lock is kept until etcd answers.
            Lock::Unknown => {}
        }
        if let Some(Keyed { value: Initialize::Done(id), .. }) =
            self.situation.snapshot().and_then(|snapshot| snapshot.initialize.as_ref())
        {
            self.memory.identifier = Some(*id);
        }
        if let Some(snapshot) = self.situation.snapshot()
            && let Some(key) = &snapshot.leader
            && let Some(member) = snapshot.members.get(&key.name)
            && member.facts.role == Role::Primary
            && member.facts.state == State::Running
        {
            // A person may have made a member of an older timeline lead: this one counts, and not the highest.
            self.memory.leader_timeline = member.facts.timeline.or(self.memory.leader_timeline);
        }
        if let (Lock::Mine(_), Server::Primary(facts)) = (self.situation.lock, self.situation.server) {
            self.memory.leader_timeline = Some(facts.timeline);
        }
    }

    /// Forgets what only the holder of the lock goes on with. A promotion is remembered until its server is down: it
    /// may still come out of recovery.
    fn forget_leading(&mut self) {
        if self.memory.handover.take().is_some_and(|handover| handover.undone.is_none()) {
            self.memory.stepped_down = true;
        }
        self.memory.giving_up = None;
        self.memory.status_written = None;
        self.memory.sync_change = None;
    }

    fn note_server(&mut self) {
        if self.situation.view.requests.restart.is_none() {
            self.memory.restart = None;
        }
        if self.situation.view.requests.reinitialize.is_none() {
            self.memory.reinitialize = None;
        }
        match &self.situation.view.postgres.process {
            Process::Running(running) => {
                self.memory.starts = Starts::default();
                self.memory.stepped_down = false;
                if let Running::Primary(_) = running {
                    self.memory.adrift = None;
                    self.memory.promotion_crashed = false;
                    self.memory.promoting_since = None;
                    self.memory.adopting = false;
                    let roles_failed = self.memory.recovery.roles_failed;
                    self.memory.recovery = Recovery { roles_failed, ..Recovery::default() };
                }
            }
            Process::Stopped | Process::Crashed => {
                let crashed = self.situation.view.postgres.process == Process::Crashed;
                self.memory.promotion_crashed |= crashed && self.memory.promoting_since.is_some();
                self.memory.promoting_since = None;
                if let Some(restart) = &mut self.memory.restart {
                    restart.stopped = true;
                }
            }
            Process::Starting { .. } => self.memory.promoting_since = None,
            Process::Stopping { .. } | Process::Unresponsive { .. } => {}
        }
        if self.last(Deed::Promote, &[Verdict::Fenced, Verdict::Failed, Verdict::Skipped]) {
            self.memory.promoting_since = None;
        }
        // A start that was refused was none.
        if self.last(Deed::StartPrimary, &[Verdict::Fenced, Verdict::Skipped])
            || self.last(Deed::StartReplica, &[Verdict::Fenced, Verdict::Skipped])
        {
            self.memory.starts.tried = self.memory.starts.tried.saturating_sub(1);
        }
    }

    fn note_job(&mut self) {
        let Some(JobReport { job, state: JobState::Failed { at, why }, .. }) = &self.situation.view.job
        else {
            return;
        };
        if self.memory.recovery.counted == Some(*at) {
            return;
        }
        self.memory.recovery.counted = Some(*at);
        match job {
            // Trying again does not help, and nothing was tried.
            Job::Rewind { .. } if *why == JobFailure::NotGranted => {}
            Job::Rewind { timeline, .. } => {
                let before = self.memory.recovery.rewinds_failed.filter(|(at, _)| at == timeline);
                self.memory.recovery.rewinds_failed =
                    Some((*timeline, before.map_or(0, |(_, times)| times).saturating_add(1)));
            }
            Job::CrashRecovery => {
                self.memory.recovery.crash_recoveries_failed =
                    self.memory.recovery.crash_recoveries_failed.saturating_add(1);
            }
            Job::PostBootstrap { .. } => {
                self.memory.recovery.roles_failed = self.memory.recovery.roles_failed.saturating_add(1);
            }
            Job::PrePromote { .. } => self.memory.pre_promote_failed = Some(*at),
            Job::Initdb
            | Job::Clone { .. }
            | Job::CloneRemote { .. }
            | Job::Restore
            | Job::ArchiveLast { .. } => {}
        }
    }
}

/// Returns the other members that could lead in this member's place, as far as etcd tells: running replicas with room
/// whose tags allow it, in the synchronous set where there is one, and within the allowed lag behind `lsn`.
pub(super) fn successors<'a>(s: &Situation<'a>, lsn: Option<Lsn>) -> Vec<&'a MemberName> {
    let Some(snapshot) = s.snapshot() else { return Vec::new() };
    let set = snapshot.sync.as_ref().map(|keyed| &keyed.value).filter(|set| set.leader.is_some());
    snapshot
        .members
        .iter()
        .filter(|(name, member)| {
            let within = match (lsn, member.facts.lsn) {
                (Some(mine), Some(theirs)) => {
                    mine.bytes_ahead_of(theirs) <= s.view.settings.maximum_lag_on_failover
                }
                (None, Some(_)) => true,
                (_, None) => false,
            };
            **name != s.view.me
                && member.facts.role == Role::Replica
                && member.facts.state == State::Running
                && member.facts.tags.failover_priority() > 0
                && member.facts.room != Room::Full
                && set.is_none_or(|set| set.holds(name))
                && within
        })
        .map(|(name, _)| name)
        .collect()
}

/// Returns the lease to publish and to take locks under, if it surely lives.
pub(super) fn living_lease(s: &Situation<'_>) -> Option<crate::agent::view::LeaseId> {
    match s.view.lease {
        Lease::Held { id, stop_at, .. } if s.now() < stop_at => Some(id),
        Lease::Held { .. } | Lease::None | Lease::Lost { .. } => None,
    }
}

/// Tells as what a server counts that is being started or does not answer.
pub(super) fn started(server: Server<'_>) -> Option<Started> {
    match server {
        Server::Starting { role, .. } | Server::Unresponsive { role, .. } => Some(role),
        Server::Primary(_) => Some(Started::Primary),
        Server::Replica(_) => Some(Started::Replica),
        Server::NoData
        | Server::Unfinished
        | Server::Unreadable
        | Server::Down { .. }
        | Server::Stopping { .. } => None,
    }
}

impl Draft<'_> {
    /// Tells whether a job that failed last is within its wait.
    pub(super) fn start_would_wait(&self) -> bool {
        match &self.situation.view.job {
            Some(JobReport { state: JobState::Failed { at, .. }, .. }) => {
                self.situation.now() < *at + JOB_BACKOFF
            }
            Some(JobReport { state: JobState::Running | JobState::Done { .. }, .. }) | None => false,
        }
    }
}
