//! What an agent's loop does in this world: read, make the view, decide, carry out.

use std::collections::{BTreeMap, BTreeSet};

use keddah::agent::decide::action::ExitStatus;
use keddah::agent::decide::{Action, decide};
use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::Settings;

use crate::etcd::{Request, is_etcds};
use crate::host::{Gate, Phase};
use crate::postgres::{Disk, Process, position};
use crate::world::{Event, World};

/// How long an immediate stop may take before the guard kills, in ms.
const KILLED_AFTER: u64 = 10_000;

impl World {
    pub fn decide(&mut self, host: usize, read: Option<(Snapshot, Settings)>) {
        let view = self.view(host, read);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        agent.looked_at = self.now;
        agent.woken = false;
        let decision = decide(&view, &agent.memory);
        let reason = decision.reason.to_string();
        let code = decision.reason.code();
        let changed = agent.last_reason != code;
        agent.last_reason = code.to_owned();
        agent.memory = decision.memory;
        agent.outcomes.clear();
        let look = decision.look_again.0.0.saturating_sub(view.now.0).max(1);
        agent.look_at = self.now + look;
        agent.phase = Phase::Acting { queue: decision.actions.clone(), call: None };
        let process = agent.process;
        self.oracle.reasons.insert(code);
        if changed {
            let name = self.hosts[host].name.to_string();
            self.say(&name, &format!("{code}: {reason}"));
        }
        let pause = self.rng.between(0, 5);
        self.at(pause, Event::Act { host, process });
    }

    /// Carries out the next action, or ends the look.
    pub fn act(&mut self, host: usize) {
        let agent = self.hosts[host].agent.as_mut().unwrap();
        let Phase::Acting { queue, call } = &mut agent.phase else { return };
        if call.is_some() {
            return;
        }
        let Some(action) = queue.first().cloned() else {
            agent.phase = Phase::Idle;
            let rest = agent.look_at.saturating_sub(self.now).max(1);
            let after = if agent.woken { 1 } else { rest };
            self.look_after(host, after);
            return;
        };
        if let Action::TakeLeaderKey { .. } = action
            && self.settings_of(host).failsafe_mode
        {
            let tick = self.hosts[host].tick(self.now);
            let h = &mut self.hosts[host];
            let bound =
                h.promise.as_ref().is_some_and(|p| tick < p.until && p.leader.as_ref() != Some(&h.name));
            let agent = h.agent.as_mut().unwrap();
            agent.taking |= !bound;
            if bound {
                if let Phase::Acting { queue, .. } = &mut agent.phase {
                    queue.remove(0);
                }
                self.acted(host, Deed::TakeLeaderKey, Verdict::Fenced);
                return;
            }
        }
        if is_etcds(action.deed()) {
            let me = self.hosts[host].name.clone();
            let number = self.call(host, Request::Write { me, action: Box::new(action) });
            if let Phase::Acting { call, .. } = &mut self.hosts[host].agent.as_mut().unwrap().phase {
                *call = Some(number);
            }
            return;
        }
        if let Action::AskPeers { .. } = action {
            let silent = (0..self.hosts.len()).any(|i| i != host && !self.hosts[i].agent_runs());
            let after = if silent { 150 } else { self.rng.between(2, 20) };
            let asked = self.hosts[host].tick(self.now);
            let process = self.hosts[host].agent.as_ref().unwrap().process;
            self.at(after, Event::Asked { host, process, asked });
            return;
        }
        if let Action::AskForPromises { members, .. } = &action {
            let mut others = (0..self.hosts.len()).filter(|i| members.contains(&self.hosts[*i].name));
            let silent = others.any(|i| !self.hosts[i].agent_runs() || !self.network.both_ways(host, i));
            let after = if silent { 4_000 } else { self.rng.between(2, 20) };
            let asked = self.hosts[host].tick(self.now);
            let process = self.hosts[host].agent.as_ref().unwrap().process;
            self.at(after, Event::Promised { host, process, asked, members: members.clone() });
            return;
        }
        if let Phase::Acting { queue, .. } = &mut self.hosts[host].agent.as_mut().unwrap().phase {
            queue.remove(0);
        }
        let deed = action.deed();
        let verdict = self.carry_out(host, action);
        if self.hosts[host].agent.is_some() {
            self.acted(host, deed, verdict);
        }
    }

    pub fn acted(&mut self, host: usize, deed: Deed, verdict: Verdict) {
        let agent = self.hosts[host].agent.as_mut().unwrap();
        agent.outcomes.push(Outcome { deed, verdict });
        if verdict != Verdict::Done
            && let Phase::Acting { queue, .. } = &mut agent.phase
        {
            for skipped in queue.drain(..) {
                agent.outcomes.push(Outcome { deed: skipped.deed(), verdict: Verdict::Skipped });
            }
        }
        let process = agent.process;
        let pause = self.rng.between(0, 4);
        self.at(pause, Event::Act { host, process });
    }

    fn carry_out(&mut self, host: usize, action: Action) -> Verdict {
        let now = self.now;
        match action {
            Action::Arm { fence } => {
                let tick = self.hosts[host].tick(now);
                let h = &mut self.hosts[host];
                let held = h.agent.as_ref().unwrap().keeper.lease.filter(|(id, _)| *id == fence.lease);
                match held {
                    Some((_, deadline)) if deadline.allows_writing(tick) => {
                        h.gate = Gate::Armed { fence, deadline };
                        self.watch_deadline(host, deadline);
                        Verdict::Done
                    }
                    Some(_) | None => Verdict::Fenced,
                }
            }
            Action::Disarm => {
                let h = &mut self.hosts[host];
                if h.postgres.may_become_writable() {
                    let paused = h.released();
                    h.gate = Gate::Ending { immediate: now + 600, kill: now + 900, paused };
                    for after in [0, 600, 900] {
                        self.at(after, Event::Guard { host });
                    }
                } else {
                    h.gate = Gate::Closed;
                }
                Verdict::Done
            }
            Action::ReleaseGate => {
                self.hosts[host].gate = Gate::Released;
                Verdict::Done
            }
            Action::StartPrimary { fence } => self.start_primary(host, fence),
            Action::StartReplica { upstream, archive: _ } => {
                let takes = self.rng.between(100, 500);
                let postgres = &mut self.hosts[host].postgres;
                let Some(disk) = &mut postgres.disk else { return Verdict::Failed };
                if !matches!(postgres.process, Process::Stopped | Process::Crashed) {
                    return Verdict::Done;
                }
                disk.recovery_signal = true;
                disk.state = ControlState::InArchiveRecovery;
                postgres.upstream = upstream;
                self.starting(host, Started::Replica, takes);
                Verdict::Done
            }
            Action::Promote { fence } => self.promote(host, fence),
            Action::Stop { mode, .. } => {
                self.stop_server(host, mode);
                Verdict::Done
            }
            Action::Follow { upstream } => {
                self.hosts[host].postgres.upstream = upstream;
                self.hosts[host].postgres.streaming = false;
                Verdict::Done
            }
            Action::SetSyncNames { names } => {
                let Some(disk) = &mut self.hosts[host].postgres.disk else { return Verdict::Failed };
                disk.sync_names = names;
                self.release_commits(host);
                Verdict::Done
            }
            Action::FetchSlots { .. } => Verdict::Failed,
            Action::KeepSlots { create, drop, .. } => {
                let Some(disk) = &mut self.hosts[host].postgres.disk else { return Verdict::Failed };
                disk.slots.extend(create.into_keys());
                disk.slots.retain(|slot| !drop.contains(slot));
                Verdict::Done
            }
            Action::StartJob { job } => self.start_job(host, job),
            Action::CancelJob => {
                let h = &mut self.hosts[host];
                let tick = h.tick(now);
                if let Some(report) = &mut h.job
                    && report.state == JobState::Running
                {
                    report.state = JobState::Failed { at: tick };
                    if let Job::Clone { .. } = report.job {
                        h.postgres.disk = None;
                        h.postgres.unfinished = true;
                    }
                    h.job_number += 1;
                }
                Verdict::Done
            }
            Action::SetDataAside => {
                let postgres = &mut self.hosts[host].postgres;
                if !matches!(postgres.process, Process::Stopped | Process::Crashed) {
                    return Verdict::Failed;
                }
                postgres.disk = None;
                postgres.unfinished = false;
                postgres.process = Process::Stopped;
                Verdict::Done
            }
            Action::AnswerRequest { id, done } => {
                let h = &mut self.hosts[host];
                h.answered.insert(id, done);
                let requests = &mut h.agent.as_mut().unwrap().requests;
                requests.restart.take_if(|request| request.id == id);
                requests.reinitialize.take_if(|request| request.id == id);
                Verdict::Done
            }
            Action::Exit { status } => {
                let name = self.hosts[host].name.to_string();
                self.say(&name, if status == ExitStatus::Clean { "ends" } else { "ends with a failure" });
                self.hosts[host].exits += 1;
                self.end_agent(host);
                if self.supervised {
                    self.at(5_000, Event::Fault(crate::faults::Fault::StartAgent { host }));
                }
                Verdict::Done
            }
            Action::Preflight { request } => {
                let h = &mut self.hosts[host];
                let Some(disk) = &h.postgres.disk else { return Verdict::Failed };
                let (at, lsn) = (h.tick(now), disk.end());
                // Some requests find an archive that lags.
                let hazard = Hazard::Archive { files: 3, oldest_s: 60 };
                let hazards = (request.0 % 4 == 0).then_some(hazard).into_iter().collect();
                let state = PreflightState::Ready { at, lsn, hazards };
                h.preflight = Some(Preflight { request, state });
                Verdict::Done
            }
            Action::Checkpoint | Action::ApplyConfiguration | Action::Callback { .. } => Verdict::Done,
            other => panic!("{:?} is etcd's", other.deed()),
        }
    }

    fn gate_open(&self, host: usize, fence: Fence) -> bool {
        let tick = self.hosts[host].tick(self.now);
        match self.hosts[host].gate {
            Gate::Armed { fence: armed, deadline } => armed == fence && deadline.allows_writing(tick),
            Gate::Closed | Gate::Released | Gate::Ending { .. } => false,
        }
    }

    fn start_primary(&mut self, host: usize, fence: Fence) -> Verdict {
        if !self.gate_open(host, fence) {
            return Verdict::Fenced;
        }
        let crashed =
            self.hosts[host].postgres.disk.as_ref().is_some_and(|d| d.state != ControlState::ShutDown);
        let takes = if crashed { self.rng.between(300, 2_500) } else { self.rng.between(80, 300) };
        let postgres = &mut self.hosts[host].postgres;
        let Some(disk) = &mut postgres.disk else { return Verdict::Failed };
        if !matches!(postgres.process, Process::Stopped | Process::Crashed) {
            return Verdict::Done;
        }
        disk.recovery_signal = false;
        disk.state = if crashed { ControlState::InCrashRecovery } else { ControlState::StartingUp };
        self.starting(host, Started::Primary, takes);
        Verdict::Done
    }

    fn starting(&mut self, host: usize, role: Started, takes: u64) {
        let now = self.now;
        let postgres = &mut self.hosts[host].postgres;
        let takes = postgres.start_takes.unwrap_or(takes);
        postgres.promoting_until = None;
        postgres.process = Process::Starting { role, since: now, until: now + takes };
        self.at(takes, Event::Server { host });
    }

    fn promote(&mut self, host: usize, fence: Fence) -> Verdict {
        if !self.gate_open(host, fence) {
            return Verdict::Fenced;
        }
        let takes = self.rng.between(30, 600);
        let now = self.now;
        let postgres = &mut self.hosts[host].postgres;
        if !postgres.runs_as(Started::Replica) {
            return Verdict::Failed;
        }
        if postgres.promoting_until.is_none() {
            let takes = postgres.start_takes.unwrap_or(takes);
            postgres.promoting_until = Some(now + takes);
            self.at(takes, Event::Server { host });
        }
        Verdict::Done
    }

    pub fn stop_server(&mut self, host: usize, mode: StopMode) {
        let now = self.now;
        let takes = match mode {
            StopMode::Fast => self.rng.between(30, 600),
            StopMode::Immediate => self.rng.between(5, 50),
        };
        let postgres = &mut self.hosts[host].postgres;
        let was = match postgres.process {
            Process::Stopped | Process::Crashed => return,
            Process::Stopping { mode: present, .. } if present == mode || present == StopMode::Immediate => {
                return;
            }
            Process::Stopping { was, .. } => was,
            Process::Running(role) => Some(role),
            Process::Starting { .. } => None,
        };
        if !postgres.deaf {
            postgres.promoting_until = None;
            postgres.waiting.clear(); // their clients are told that the connection ended
        }
        postgres.process = Process::Stopping { mode, since: now, until: now + takes, was };
        // What does not end is killed by the guard, past the limit of its last stage.
        let takes = if postgres.deaf { KILLED_AFTER } else { takes };
        if !postgres.deaf || mode == StopMode::Immediate {
            self.at(takes, Event::Server { host });
        }
    }

    /// A server on its way may have arrived.
    pub fn server(&mut self, host: usize) {
        let now = self.now;
        if self.hosts[host].frozen {
            self.at(100, Event::Server { host });
            return;
        }
        let id = self.next_record();
        let name = self.hosts[host].name.clone();
        let postgres = &mut self.hosts[host].postgres;
        match postgres.process.clone() {
            Process::Starting { role, until, .. } if until <= now => {
                if postgres.broken_starts > 0 {
                    postgres.broken_starts -= 1;
                    postgres.die(true);
                    return;
                }
                postgres.process = Process::Running(role);
                let disk = postgres.disk.as_mut().unwrap();
                if role == Started::Primary {
                    disk.replayed = disk.wal.len();
                    let timeline = disk.timeline().0;
                    disk.checkpoint = disk.wal.len();
                    disk.append(timeline, id);
                    disk.state = ControlState::InProduction;
                }
                self.guard(host);
                self.wake(host);
            }
            Process::Running(Started::Replica)
                if postgres.promoting_until.is_some_and(|until| until <= now) =>
            {
                postgres.promoting_until = None;
                let disk = postgres.disk.as_mut().unwrap();
                let timeline = disk.timeline().0 + 1;
                disk.checkpoint = disk.wal.len();
                disk.append(timeline, id);
                disk.recovery_signal = false;
                disk.state = ControlState::InProduction;
                postgres.process = Process::Running(Started::Primary);
                postgres.checkpoint_pending_until = Some(now + 700);
                postgres.streaming = false;
                self.oracle.promotions.push((timeline, name.clone()));
                self.say(&name.to_string(), &format!("is primary on timeline {timeline}"));
                self.guard(host);
                self.wake(host);
            }
            Process::Stopping { mode, until, was, .. } if until <= now && !postgres.deaf => {
                if mode == StopMode::Fast {
                    let disk = postgres.disk.as_mut().unwrap();
                    match was {
                        Some(Started::Primary) => {
                            let timeline = disk.timeline().0;
                            disk.checkpoint = disk.wal.len();
                            disk.append(timeline, id);
                            disk.state = ControlState::ShutDown;
                            self.last_stream(host);
                        }
                        Some(Started::Replica) => disk.state = ControlState::ShutDownInRecovery,
                        None => {}
                    }
                }
                self.hosts[host].postgres.die(false);
                self.wake(host);
            }
            Process::Stopping { mode: StopMode::Immediate, since, .. } if now >= since + KILLED_AFTER => {
                postgres.die(false);
                self.wake(host);
            }
            _ => {}
        }
    }

    // ── jobs ──

    fn start_job(&mut self, host: usize, job: Job) -> Verdict {
        let tick = self.hosts[host].tick(self.now);
        let takes = match &job {
            Job::Initdb => self.rng.between(500, 2_000),
            Job::PostBootstrap { .. } | Job::PrePromote { .. } => self.rng.between(100, 400),
            Job::Clone { .. } | Job::Restore | Job::CloneRemote => self.rng.between(800, 4_000),
            Job::ArchiveLast { .. } => self.rng.between(20, 200),
            Job::Rewind { .. } => self.rng.between(300, 2_000),
            Job::CrashRecovery => self.rng.between(300, 1_000),
        };
        let h = &mut self.hosts[host];
        let down = matches!(h.postgres.process, Process::Stopped | Process::Crashed);
        if !down && !matches!(job, Job::PostBootstrap { .. } | Job::PrePromote { .. }) {
            return Verdict::Failed;
        }
        if let Job::Clone { replaces, .. } = &job {
            if h.postgres.disk.is_some() && !replaces {
                return Verdict::Failed;
            }
            let others =
                self.hosts.iter().enumerate().any(|(i, other)| i != host && other.postgres.disk.is_some());
            if !others {
                let name = self.hosts[host].name.clone();
                self.oracle.violate(self.now, format!("I6: {name} destroys the only data there is"));
            }
            let h = &mut self.hosts[host];
            h.postgres.disk = None;
            h.postgres.unfinished = true;
        }
        let h = &mut self.hosts[host];
        h.job_number += 1;
        let number = h.job_number;
        h.job = Some(JobReport { job, started: tick, progressed: tick, state: JobState::Running });
        self.at(takes, Event::JobEnds { host, number });
        Verdict::Done
    }

    pub fn job_ends(&mut self, host: usize, number: u64) {
        if self.hosts[host].frozen || self.hosts[host].agent_stopped {
            self.at(200, Event::JobEnds { host, number });
            return;
        }
        if self.hosts[host].job_number != number {
            return;
        }
        let Some(report) = self.hosts[host].job.clone() else { return };
        let done = match &report.job {
            Job::Initdb => {
                let id = self.next_record();
                let mut disk = Disk {
                    system_id: SystemId(1_000 + host as u64 * 100 + number),
                    wal: Vec::new(),
                    replayed: 0,
                    state: ControlState::ShutDown,
                    recovery_signal: false,
                    bootstrap_unfinished: true,
                    checkpoint: 0,
                    slots: BTreeSet::new(),
                    sync_names: SyncNames::Off,
                };
                disk.append(1, id);
                self.hosts[host].postgres.disk = Some(disk);
                true
            }
            Job::PostBootstrap { .. } => {
                let postgres = &mut self.hosts[host].postgres;
                let ok = postgres.runs_as(Started::Primary);
                if ok {
                    postgres.disk.as_mut().unwrap().bootstrap_unfinished = false;
                }
                ok
            }
            Job::Clone { source, .. } => self.copy_from(host, source, false),
            Job::Restore | Job::CloneRemote => false,
            Job::PrePromote { .. } | Job::ArchiveLast { .. } => true,
            Job::Rewind { source } => self.copy_from(host, source, true),
            Job::CrashRecovery => {
                let id = self.next_record();
                let disk = self.hosts[host].postgres.disk.as_mut().unwrap();
                let timeline = disk.timeline().0;
                disk.checkpoint = disk.wal.len();
                disk.append(timeline, id);
                disk.state = ControlState::ShutDown;
                true
            }
        };
        let tick = self.hosts[host].tick(self.now);
        let state = if done { JobState::Done { at: tick } } else { JobState::Failed { at: tick } };
        if let Some(report) = &mut self.hosts[host].job {
            report.state = state;
        }
        self.wake(host);
    }

    fn copy_from(&mut self, host: usize, source: &MemberName, rewind: bool) -> bool {
        let Some(from) = self.hosts.iter().position(|h| h.name == *source) else { return false };
        let s = &self.hosts[from];
        let serves = match s.postgres.process {
            Process::Running(Started::Primary) => true,
            Process::Running(Started::Replica) => !rewind,
            _ => false,
        };
        let flaky = self.rng.once_in(12);
        let s = &self.hosts[from];
        if !serves || !s.live() || !self.network.both_ways(host, from) || flaky {
            return false;
        }
        let mut disk = s.postgres.disk.clone().unwrap();
        if rewind {
            let mine = self.hosts[host].postgres.disk.as_ref().unwrap();
            if mine.timeline() == disk.timeline() {
                return true; // pg_rewind sees one timeline and does nothing
            }
        }
        disk.recovery_signal = true;
        disk.state = ControlState::InArchiveRecovery;
        disk.replayed = disk.wal.len();
        disk.slots.clear();
        let postgres = &mut self.hosts[host].postgres;
        postgres.disk = Some(disk);
        postgres.unfinished = false;
        postgres.process = Process::Stopped;
        true
    }

    // ── streaming ──

    pub fn stream(&mut self) {
        for replica in 0..self.hosts.len() {
            self.pull(replica);
        }
        for host in 0..self.hosts.len() {
            self.release_commits(host);
        }
    }

    /// The last records of a stopping primary go out to whom it streams to, most times.
    fn last_stream(&mut self, upstream: usize) {
        for replica in 0..self.hosts.len() {
            if self.streams(replica, upstream) && !self.rng.once_in(6) {
                let theirs = self.hosts[upstream].postgres.disk.as_ref().unwrap().wal.clone();
                let mine = self.hosts[replica].postgres.disk.as_mut().unwrap();
                if mine.wal.len() < theirs.len() {
                    mine.wal = theirs;
                }
            }
        }
    }

    fn pull(&mut self, replica: usize) {
        let r = &self.hosts[replica];
        if !r.live() || !r.postgres.runs_as(Started::Replica) {
            return;
        }
        let fast = !r.postgres.slow_replay || self.rng.once_in(40);
        let postgres = &mut self.hosts[replica].postgres;
        if fast && let Some(disk) = &mut postgres.disk {
            let step = if postgres.slow_replay { disk.replayed + 1 } else { disk.wal.len() };
            disk.replayed = step.min(disk.wal.len());
        }
        let Upstream::Member { name, .. } = postgres.upstream.clone() else {
            postgres.streaming = false;
            return;
        };
        let Some(up) = self.hosts.iter().position(|h| h.name == name) else { return };
        let u = &self.hosts[up];
        // WAL senders live to the end of a fast stop.
        let sends = matches!(
            u.postgres.process,
            Process::Running(_) | Process::Stopping { mode: StopMode::Fast, .. }
        );
        let serves = sends && u.live() && self.network.both_ways(replica, up);
        let (Some(theirs), Some(mine), true) =
            (&u.postgres.disk, &self.hosts[replica].postgres.disk, serves && up != replica)
        else {
            self.hosts[replica].postgres.streaming = false;
            return;
        };
        // What Postgres looks at: timelines and positions. What counts: whether the bytes are the same.
        let switch = theirs.history().switch_point(mine.timeline());
        let accepted = mine.wal.len() <= theirs.wal.len()
            && (mine.timeline() == theirs.timeline() || switch.is_some_and(|switch| mine.end() <= switch));
        if !accepted {
            self.hosts[replica].postgres.streaming = false;
            return;
        }
        if !mine.is_prefix_of(theirs) {
            let what = format!("{} streams from {name} over WAL that differs", self.hosts[replica].name);
            self.oracle.violate(self.now, what);
            return;
        }
        let news: Vec<_> = theirs.wal[mine.wal.len()..].to_vec();
        let postgres = &mut self.hosts[replica].postgres;
        let slow = postgres.slow_replay;
        let disk = postgres.disk.as_mut().unwrap();
        disk.wal.extend(news);
        if !slow {
            disk.replayed = disk.wal.len();
        }
        postgres.streaming = true;
    }

    // ── the view ──

    pub fn view(&mut self, host: usize, read: Option<(Snapshot, Settings)>) -> View {
        let now = self.hosts[host].tick(self.now);
        let default = self.etcd.config.0.clone();
        let agent = self.hosts[host].agent.as_mut().unwrap();
        let dcs = match read {
            Some((snapshot, settings)) => {
                agent.last_read = Some((snapshot.clone(), settings));
                agent.silent_since = None;
                agent.taking = false;
                Seen::Now(snapshot)
            }
            None => {
                let since = *agent.silent_since.get_or_insert(now);
                match &agent.last_read {
                    Some((value, _)) => Seen::Stale { value: value.clone(), since },
                    None => Seen::Never,
                }
            }
        };
        let settings = agent.last_read.as_ref().map_or(default, |read| read.1.clone());
        let lease = match (agent.keeper.lease, agent.keeper.lost) {
            (Some((id, deadline)), _) if !deadline.has_passed(now) => {
                Lease::Held { id, deadline: deadline.at(), stop_at: deadline.stop_at() }
            }
            (Some((id, _)), _) | (None, Some(id)) => Lease::Lost { id },
            (None, None) => Lease::None,
        };
        let h = &self.hosts[host];
        let agent = h.agent.as_ref().unwrap();
        let guard = match h.gate {
            Gate::Closed => Guard::Closed,
            Gate::Released => Guard::Released,
            Gate::Armed { fence, deadline } if deadline.allows_writing(now) => {
                Guard::Armed { fence, until: deadline.at() }
            }
            Gate::Armed { .. } | Gate::Ending { .. } => Guard::Fencing,
        };
        View {
            now,
            wall: UnixMs(i64::try_from(self.now).unwrap()),
            me: h.name.clone(),
            tags: h.tags.clone(),
            local: Local::default(),
            settings,
            dcs,
            lease,
            failsafe: Failsafe { lead: agent.lead, promise: h.promise.clone(), slots: BTreeMap::new() },
            guard,
            watchdog: h.watchdog,
            postgres: self.postgres_facts(host),
            peers: agent.peers.clone(),
            job: h.job.clone(),
            preflight: h.preflight.clone(),
            outcomes: agent.outcomes.clone(),
            requests: agent.requests.clone(),
        }
    }

    fn postgres_facts(&self, host: usize) -> Postgres {
        let h = &self.hosts[host];
        let tick = |at: u64| h.tick(at);
        let process = match &h.postgres.process {
            crate::postgres::Process::Stopped => keddah::agent::view::Process::Stopped,
            crate::postgres::Process::Crashed => keddah::agent::view::Process::Crashed,
            crate::postgres::Process::Starting { role, since, .. } => {
                keddah::agent::view::Process::Starting { role: *role, since: tick(*since) }
            }
            crate::postgres::Process::Stopping { mode, since, .. } => {
                keddah::agent::view::Process::Stopping { mode: *mode, since: tick(*since) }
            }
            crate::postgres::Process::Running(role) => {
                keddah::agent::view::Process::Running(self.running(host, *role))
            }
        };
        Postgres {
            data: h.postgres.data(),
            process,
            configuration: Configuration::InStep,
            pending_restart: false,
            version: Some(PgVersion(170_002)),
        }
    }

    fn running(&self, host: usize, role: Started) -> Running {
        let h = &self.hosts[host];
        let disk = h.postgres.disk.as_ref().unwrap();
        let from_here: Vec<usize> = (0..self.hosts.len()).filter(|i| self.streams(*i, host)).collect();
        let active: BTreeSet<String> = from_here.iter().map(|i| self.hosts[*i].name.slot_name()).collect();
        let slots = h.postgres.slots(&active);
        match role {
            Started::Primary => {
                let mut standbys = BTreeMap::new();
                for index in from_here {
                    let name = self.hosts[index].name.clone();
                    let end = self.hosts[index].postgres.disk.as_ref().unwrap();
                    let sync = disk.sync_names.standbys().contains(&name);
                    let (flushed, replayed) = (end.end(), position(end.replayed));
                    standbys
                        .insert(name, Standby { streaming: true, sync, written: flushed, flushed, replayed });
                }
                Running::Primary(PrimaryFacts {
                    timeline: disk.timeline(),
                    lsn: disk.end(),
                    history: disk.history(),
                    sync_names: disk.sync_names.clone(),
                    commit_level: CommitLevel::Flush,
                    standbys,
                    slots,
                    checkpoint_pending: h
                        .postgres
                        .checkpoint_pending_until
                        .is_some_and(|until| until > self.now),
                })
            }
            Started::Replica => Running::Replica(ReplicaFacts {
                timeline: disk.timeline(),
                received: Some(disk.end()),
                replayed: position(disk.replayed),
                streaming: h.postgres.streaming,
                upstream: h.postgres.upstream.clone(),
                sync_names: disk.sync_names.clone(),
                slots,
            }),
        }
    }
}
