//! What an agent's loop does in this world: read, make the view, decide, carry out.

use std::collections::BTreeMap;

use keddah::agent::decide::action::ExitStatus;
use keddah::agent::decide::{Action, decide};
use keddah::agent::view::*;
use keddah::cluster::slot::SlotKind;
use keddah::cluster::{Lsn, MemberName};
use keddah::settings::Settings;

use crate::etcd::{Request, is_etcds};
use crate::host::Phase;
use crate::postgres::Process;
use crate::world::{Event, World};

impl World {
    pub fn decide(&mut self, host: usize, read: Option<(Snapshot, Settings)>) {
        self.hosts[host].keep_state();
        let view = self.view(host, read);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        agent.looked_at = self.now;
        agent.woken = false;
        let decision = decide(&view, &agent.memory);
        // What it takes the lock by: the transaction may arrive late, when a person has changed the tags.
        if decision.actions.iter().any(|action| action.deed() == Deed::TakeLeaderKey) {
            agent.tags = view.tags.clone();
            agent.watchdog = view.watchdog;
            agent.room = view.disk.room;
        }
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
            Action::Arm { fence } => self.arm(host, fence),
            Action::Disarm => self.disarm(host),
            Action::SettleLease { lease } => self.settle(host, lease),
            Action::ReleaseGate => self.release_gate(host),
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
                disk.slots.append(&mut postgres.staged);
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
            Action::FetchSlots { source, slots } => self.fetch_slots(host, &source, &slots),
            Action::AskForWal { source } => self.ask_for_wal(host, source),
            Action::AskRemote => self.ask_there(host),
            Action::KeepSlots { create, drop, .. } => {
                let Some(disk) = &mut self.hosts[host].postgres.disk else { return Verdict::Failed };
                disk.slots.extend(create);
                disk.slots.retain(|slot, _| !drop.contains(slot));
                Verdict::Done
            }
            Action::StartJob { job } => self.start_job(host, job),
            Action::CancelJob => {
                let h = &mut self.hosts[host];
                let tick = h.tick(now);
                if let Some(report) = &mut h.job
                    && report.state == JobState::Running
                {
                    report.state = JobState::Failed { at: tick, why: JobFailure::Transient };
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
            Action::SignTimeline { timeline } => {
                let me = self.hosts[host].name.clone();
                if let Some(disk) = &mut self.hosts[host].postgres.disk {
                    disk.sign(timeline, me);
                }
                Verdict::Done
            }
            Action::LeaveTimeline { timeline } => {
                let Some(disk) = &mut self.hosts[host].postgres.disk else { return Verdict::Failed };
                disk.forget(timeline);
                Verdict::Done
            }
            Action::EndBootstrap => {
                let Some(disk) = &mut self.hosts[host].postgres.disk else { return Verdict::Failed };
                disk.bootstrap_unfinished = false;
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
            Action::Brake { on } => {
                self.hosts[host].postgres.braked = on;
                Verdict::Done
            }
            Action::Checkpoint | Action::ApplyConfiguration | Action::Callback { .. } => Verdict::Done,
            other => panic!("{:?} is etcd's", other.deed()),
        }
    }

    fn fetch_slots(
        &mut self,
        host: usize,
        source: &MemberName,
        slots: &BTreeMap<String, SlotKind>,
    ) -> Verdict {
        let serves = self.hosts.iter().position(|h| h.name == *source).filter(|from| {
            let postgres = &self.hosts[*from].postgres;
            let runs =
                postgres.process == Process::Running(Started::Primary) && postgres.hung_since.is_none();
            runs && self.hosts[*from].live() && self.network.both_ways(host, *from)
        });
        let there = serves.and_then(|from| self.hosts[from].postgres.disk.as_ref());
        let found: BTreeMap<String, SlotKind> = there
            .into_iter()
            .flat_map(|disk| &disk.slots)
            .filter(|(name, kind)| slots.get(*name) == Some(*kind))
            .map(|(name, kind)| (name.clone(), kind.clone()))
            .collect();
        if found.is_empty() {
            return Verdict::Failed;
        }
        self.hosts[host].postgres.staged = found;
        Verdict::Done
    }

    fn ask_for_wal(&mut self, host: usize, source: MemberName) -> Verdict {
        let serves = self.hosts.iter().position(|h| h.name == source).filter(|up| {
            let postgres = &self.hosts[*up].postgres;
            let runs = matches!(postgres.process, Process::Running(_)) && postgres.hung_since.is_none();
            runs && self.hosts[*up].live() && self.network.both_ways(host, *up)
        });
        let asked = self.hosts[host].tick(self.now);
        let h = &mut self.hosts[host];
        let (Some(_), Some(disk)) = (serves, &h.postgres.disk) else { return Verdict::Failed };
        let lsn = if h.postgres.lacks_wal { Lsn(disk.end().0 + 1) } else { Lsn(0) };
        h.oldest_wal = Some(OldestWal { member: source, asked, lsn });
        Verdict::Done
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
        if disk.restored {
            self.recover_restored(host, takes);
            return Verdict::Done;
        }
        disk.recovery_signal = false;
        disk.state = if crashed { ControlState::InCrashRecovery } else { ControlState::StartingUp };
        self.starting(host, Started::Primary, takes);
        Verdict::Done
    }

    /// The first start of what the user's program has restored: a recovery that ends by itself.
    fn recover_restored(&mut self, host: usize, takes: u64) {
        self.starting(host, Started::Replica, takes);
        let ends = takes + self.rng.between(500, 1_500);
        let postgres = &mut self.hosts[host].postgres;
        postgres.promoting_until = Some(self.now + ends);
        self.at(ends, Event::Server { host });
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
}
