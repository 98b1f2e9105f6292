//! How servers start, stop and end, and what jobs do to their data.

use keddah::agent::view::*;
use keddah::cluster::*;

use crate::postgres::{Disk, Process};
use crate::world::{Event, World};

/// How long an immediate stop may take before the guard kills, in ms.
const KILLED_AFTER: u64 = 10_000;

impl World {
    pub fn stop_server(&mut self, host: usize, mode: StopMode) {
        let now = self.now;
        let drawn = self.rng.between(30, 600);
        let takes = match mode {
            StopMode::Fast => self.hosts[host].postgres.stop_takes.unwrap_or(drawn),
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
        let full = self.hosts[host].disk.room == Room::Full;
        let postgres = &mut self.hosts[host].postgres;
        match postgres.process.clone() {
            // There is no room for what a recovery writes.
            Process::Starting { role: Started::Primary, until, .. }
                if until <= now
                    && full
                    && postgres.disk.as_ref().is_some_and(|d| d.state == ControlState::InCrashRecovery) =>
            {
                postgres.die(true);
                self.wake(host);
            }
            Process::Running(Started::Replica)
                if full && postgres.promoting_until.is_some_and(|until| until <= now) =>
            {
                postgres.die(true);
                self.wake(host);
            }
            Process::Starting { role, until, .. } if until <= now => {
                if postgres.broken_starts > 0 {
                    postgres.broken_starts -= 1;
                    postgres.die(true);
                    return;
                }
                postgres.process = Process::Running(role);
                let disk = postgres.disk.as_mut().unwrap();
                if role == Started::Primary {
                    disk.replayed = disk.len();
                    let timeline = disk.timeline().0;
                    disk.checkpoint = disk.len();
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
                disk.checkpoint = disk.len();
                disk.append(timeline, id);
                disk.recovery_signal = false;
                disk.state = ControlState::InProduction;
                postgres.process = Process::Running(Started::Primary);
                postgres.checkpoint_pending_until = Some(now + 700);
                postgres.streaming = false;
                self.check_promotion(host, timeline);
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
                            disk.checkpoint = disk.len();
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

    pub fn start_job(&mut self, host: usize, job: Job) -> Verdict {
        let tick = self.hosts[host].tick(self.now);
        let takes = match &job {
            Job::Initdb => self.rng.between(500, 2_000),
            Job::PostBootstrap { .. } | Job::PrePromote { .. } => {
                let drawn = self.rng.between(100, 400);
                self.hosts[host].programs_take.unwrap_or(drawn)
            }
            Job::Clone { .. } | Job::Restore | Job::CloneRemote { .. } => self.rng.between(800, 4_000),
            Job::ArchiveLast { .. } => self.rng.between(20, 200),
            Job::Rewind { .. } => self.rng.between(300, 2_000),
            Job::CrashRecovery => self.rng.between(300, 1_000),
        };
        let h = &mut self.hosts[host];
        let down = matches!(h.postgres.process, Process::Stopped | Process::Crashed);
        if !down && !matches!(job, Job::PostBootstrap { .. } | Job::PrePromote { .. }) {
            return Verdict::Failed;
        }
        if matches!(job, Job::Clone { .. }) && h.postgres.too_small {
            let why = JobFailure::NoRoom { missing_mb: 100 };
            let state = JobState::Failed { at: tick, why };
            h.job = Some(JobReport { job, started: tick, progressed: tick, state });
            return Verdict::Done;
        }
        if let Job::Clone { source, replaces } = &job {
            if h.postgres.disk.is_some() && !replaces {
                return Verdict::Failed;
            }
            let asked = h.agent.as_ref().is_some_and(|agent| agent.requests.reinitialize.is_some());
            self.check_removal(host, &source.clone(), asked);
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
            Job::Initdb if self.hosts[host].programs_fail => false,
            Job::Initdb => {
                let id = self.next_record();
                let mut disk = Disk::new(SystemId(1_000 + host as u64 * 100 + number));
                disk.append(1, id);
                disk.restored = self.hosts[host].local.custom_bootstrap;
                self.hosts[host].postgres.disk = Some(disk);
                true
            }
            Job::PostBootstrap { .. } => {
                let postgres = &mut self.hosts[host].postgres;
                let serves = postgres.runs_as(Started::Primary);
                if let Some(disk) = postgres.disk.as_mut().filter(|_| serves) {
                    disk.restored = false;
                }
                serves
            }
            Job::Clone { source, .. } => self.copy_from(host, source, false),
            Job::Restore => false,
            Job::CloneRemote { .. } => self.copy_from_there(host),
            Job::PrePromote { .. } => !self.hosts[host].programs_fail,
            Job::ArchiveLast { .. } => true,
            Job::Rewind { source: Origin::Remote, .. } => self.copy_from_there(host),
            Job::Rewind { source: Origin::Member(source), .. } => {
                !self.hosts[host].postgres.no_grants && self.copy_from(host, source, true)
            }
            Job::CrashRecovery if self.hosts[host].disk.room == Room::Full => false,
            Job::CrashRecovery => {
                let id = self.next_record();
                let disk = self.hosts[host].postgres.disk.as_mut().unwrap();
                let timeline = disk.timeline().0;
                disk.checkpoint = disk.len();
                disk.append(timeline, id);
                (disk.state, disk.recovery_signal) = (ControlState::ShutDown, false);
                true
            }
        };
        let tick = self.hosts[host].tick(self.now);
        let refused = matches!(report.job, Job::Rewind { .. }) && self.hosts[host].postgres.no_grants;
        let why = if refused { JobFailure::NotGranted } else { JobFailure::Transient };
        let state = if done { JobState::Done { at: tick } } else { JobState::Failed { at: tick, why } };
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
        let disk = s.postgres.disk.clone().unwrap();
        if rewind {
            let mine = self.hosts[host].postgres.disk.as_ref().unwrap();
            if mine.timeline() == disk.timeline() {
                return true; // pg_rewind sees one timeline and does nothing
            }
        }
        self.settle_copy(host, disk);
        true
    }

    /// What was copied starts as a replica.
    pub fn settle_copy(&mut self, host: usize, mut disk: Disk) {
        disk.recovery_signal = true;
        disk.state = ControlState::InArchiveRecovery;
        disk.replayed = disk.len();
        disk.slots.clear();
        let postgres = &mut self.hosts[host].postgres;
        postgres.disk = Some(disk);
        postgres.lacks_wal = false;
        postgres.unfinished = false;
        postgres.process = Process::Stopped;
    }
}
