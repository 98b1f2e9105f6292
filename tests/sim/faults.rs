//! What goes wrong, and what people do.

use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::StandbyCluster;

use crate::host::Gate;
use crate::network::ETCD;
use crate::postgres::Process;
use crate::world::{Event, World};

#[derive(Debug, Clone)]
pub enum Fault {
    StartAgent { host: usize },
    KillAgent { host: usize },
    StopAgent { host: usize },
    ContinueAgent { host: usize },
    CrashHost { host: usize },
    BootHost { host: usize },
    FreezeHost { host: usize },
    ThawHost { host: usize },
    KillPostmaster { host: usize },
    Cut { from: usize, to: usize },
    Heal { from: usize, to: usize },
    StallEtcd { ms: u64 },
    EtcdLeaderChange,
    Deaf { host: usize },
    SlowReplay { host: usize, on: bool },
    SlowStart { host: usize, ms: Option<u64> },
    BreakStarts { host: usize, times: u32 },
    Loss { once_in: u64 },
    DeleteLeaderKey,
    Failover { leader: Option<usize>, candidate: Option<usize> },
    Config(Change),
    Restart { host: usize },
    Reinitialize { host: usize },
    Terminate { host: usize },
    Tags { host: usize, nofailover: bool },
}

#[derive(Debug, Clone, Copy)]
pub enum Change {
    Pause(bool),
    Sync(SyncMode),
    SyncNodes(usize),
    /// The cluster reads the archive of another one, or is its own again.
    StandbyCluster(bool),
}

impl World {
    pub fn fault(&mut self, fault: Fault) {
        if !matches!(fault, Fault::StartAgent { .. }) {
            let text = format!("{fault:?}");
            self.say("*", &text);
        }
        let now = self.now;
        match fault {
            Fault::StartAgent { host } => self.start_agent(host),
            Fault::KillAgent { host } => self.end_agent(host),
            Fault::StopAgent { host } => self.hosts[host].agent_stopped = true,
            Fault::ContinueAgent { host } => self.hosts[host].agent_stopped = false,
            Fault::CrashHost { host } => {
                self.end_agent(host);
                let h = &mut self.hosts[host];
                h.up = false;
                h.frozen = false;
                h.gate = Gate::Closed;
                h.promise = None;
                h.postgres.die(false);
                h.postgres.process = Process::Stopped;
            }
            Fault::BootHost { host } => {
                if !self.hosts[host].up {
                    self.hosts[host].up = true;
                    let after = self.rng.between(50, 1_000);
                    self.at(after, Event::Fault(Fault::StartAgent { host }));
                }
            }
            Fault::FreezeHost { host } => self.hosts[host].frozen = true,
            Fault::ThawHost { host } => {
                self.hosts[host].frozen = false;
                self.guard(host);
            }
            Fault::KillPostmaster { host } => {
                let h = &mut self.hosts[host];
                if h.live() && !matches!(h.postgres.process, Process::Stopped) {
                    h.postgres.die(true);
                    self.wake(host);
                }
            }
            Fault::Cut { from, to } => self.network.cut(from, to),
            Fault::Heal { from, to } => self.network.heal(from, to),
            Fault::StallEtcd { ms } => {
                // Leases live on through it and have their full time again when a leader is there.
                self.etcd.stalled_until = self.etcd.stalled_until.max(now + ms);
                let end = self.etcd.stalled_until;
                self.etcd.extend_all(end);
            }
            Fault::EtcdLeaderChange => {
                self.etcd.stalled_until = self.etcd.stalled_until.max(now + 1_500);
                let end = self.etcd.stalled_until;
                self.etcd.extend_all(end);
            }
            Fault::Deaf { host } => {
                let postgres = &mut self.hosts[host].postgres;
                postgres.deaf = matches!(postgres.process, Process::Running(_));
            }
            Fault::SlowReplay { host, on } => self.hosts[host].postgres.slow_replay = on,
            Fault::SlowStart { host, ms } => self.hosts[host].postgres.start_takes = ms,
            Fault::BreakStarts { host, times } => self.hosts[host].postgres.broken_starts = times,
            Fault::Loss { once_in } => self.loss = once_in,
            Fault::DeleteLeaderKey => {
                if self.etcd.leader.take().is_some() {
                    self.etcd.revision += 1;
                    self.wake_all();
                }
            }
            Fault::Failover { leader, candidate } => {
                let name = |index: Option<usize>| index.map(|i| self.hosts[i].name.clone());
                let request =
                    FailoverRequest { leader: name(leader), candidate: name(candidate), scheduled_at: None };
                self.etcd.request_failover(request);
                self.wake_all();
            }
            Fault::Config(change) => {
                self.etcd.set_config(|settings| match change {
                    Change::Pause(on) => settings.pause = on,
                    Change::Sync(mode) => settings.synchronous_mode = mode,
                    Change::SyncNodes(count) => settings.synchronous_node_count = count,
                    Change::StandbyCluster(on) => {
                        settings.standby_cluster = on.then_some(StandbyCluster { place: None, slot: None });
                    }
                });
                self.wake_all();
            }
            Fault::Restart { host } => {
                let id = RequestId(now);
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.requests.restart =
                        Some(RestartRequest { id, only_role: None, only_if_pending: false });
                    self.wake(host);
                }
            }
            Fault::Reinitialize { host } => {
                let id = RequestId(now + 1);
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.requests.reinitialize = Some(ReinitializeRequest { id, from_leader: false });
                    self.wake(host);
                }
            }
            Fault::Terminate { host } => {
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.requests.stop = true;
                    self.wake(host);
                }
            }
            Fault::Tags { host, nofailover } => self.hosts[host].tags.nofailover = nofailover,
        }
    }

    /// One of them, at random, and what ends it.
    pub fn random_fault(&mut self) -> (Fault, Option<(u64, Fault)>) {
        let host = self.rng.below(self.hosts.len());
        // Half of all faults hit the leader.
        let leader = self.leader().and_then(|name| self.hosts.iter().position(|h| h.name == *name));
        let host = match leader {
            Some(leader) if self.rng.once_in(2) => leader,
            _ => host,
        };
        let other = (host + 1 + self.rng.below(self.hosts.len() - 1)) % self.hosts.len();
        let short = self.rng.between(200, 4_000);
        let long = self.rng.between(1_000, 45_000);
        let time = if self.rng.once_in(2) { short } else { long };
        let cut = |from, to| (Fault::Cut { from, to }, Some((time, Fault::Heal { from, to })));
        match self.rng.below(27) {
            0 | 1 => (Fault::KillAgent { host }, Some((time, Fault::StartAgent { host }))),
            2 | 3 => (Fault::StopAgent { host }, Some((time, Fault::ContinueAgent { host }))),
            4 | 5 => (Fault::CrashHost { host }, Some((time, Fault::BootHost { host }))),
            6 => (Fault::FreezeHost { host }, Some((time, Fault::ThawHost { host }))),
            7 | 8 => (Fault::KillPostmaster { host }, None),
            9 => cut(host, ETCD),
            10 => cut(ETCD, host),
            11 => cut(host, other),
            12 => cut(other, host),
            13 => (Fault::StallEtcd { ms: time }, None),
            14 => (Fault::EtcdLeaderChange, None),
            15 => (Fault::Deaf { host }, None),
            16 => (Fault::SlowReplay { host, on: true }, Some((time, Fault::SlowReplay { host, on: false }))),
            17 => (
                Fault::SlowStart { host, ms: Some(self.rng.between(1_000, 20_000)) },
                Some((time, Fault::SlowStart { host, ms: None })),
            ),
            18 => {
                (Fault::Loss { once_in: self.rng.between(3, 20) }, Some((time, Fault::Loss { once_in: 0 })))
            }
            19 => (Fault::Failover { leader: Some(host), candidate: Some(other) }, None),
            20 => (Fault::Failover { leader: Some(host), candidate: None }, None),
            21 => (Fault::Restart { host }, None),
            22 => (Fault::Terminate { host }, Some((time + 3_000, Fault::StartAgent { host }))),
            23 => (Fault::Reinitialize { host }, None),
            24 => (Fault::BreakStarts { host, times: 3 }, None),
            25 => (Fault::DeleteLeaderKey, None),
            _ => match self.rng.below(8) {
                0 | 1 => {
                    (Fault::Config(Change::Pause(true)), Some((time, Fault::Config(Change::Pause(false)))))
                }
                2 => (Fault::Config(Change::Sync(SyncMode::Off)), None),
                3 => (Fault::Config(Change::Sync(SyncMode::On)), None),
                4 => (Fault::Config(Change::Sync(SyncMode::Strict)), None),
                5 => (Fault::Config(Change::Sync(SyncMode::Quorum)), None),
                6 => (Fault::Config(Change::SyncNodes(1 + self.rng.below(2))), None),
                _ => (Fault::Failover { leader: None, candidate: Some(other) }, None),
            },
        }
    }

    /// Everything is well again.
    pub fn heal(&mut self) {
        self.say("*", "all faults end");
        self.network.heal_all();
        self.loss = 0;
        self.etcd.stalled_until = self.now;
        for host in 0..self.hosts.len() {
            self.hosts[host].agent_stopped = false;
            self.hosts[host].frozen = false;
            self.guard(host);
            let h = &mut self.hosts[host];
            h.postgres.slow_replay = false;
            h.postgres.start_takes = None;
            h.postgres.broken_starts = 0;
            h.tags.nofailover = false;
            if !h.up {
                self.hosts[host].up = true;
            }
            self.start_agent(host);
        }
        self.fault(Fault::Config(Change::Pause(false)));
    }
}
