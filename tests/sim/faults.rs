//! What goes wrong, and what people do.

use std::collections::BTreeSet;
use std::time::Duration;

use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::guard::gate::Arm;
use keddah::settings::StandbyCluster;

use crate::host::ROOMY;
use crate::postgres::Process;
use crate::world::{Event, World};

/// The longest time to live that a lease is asked for with, in ms.
const LONGEST_TTL: u64 = 30_000;

/// How many snapshots of etcd are kept for a restore.
const SNAPSHOTS: usize = 4;

#[derive(Debug, Clone)]
pub enum Fault {
    StartAgent {
        host: usize,
    },
    KillAgent {
        host: usize,
    },
    StopAgent {
        host: usize,
    },
    ContinueAgent {
        host: usize,
    },
    CrashHost {
        host: usize,
    },
    BootHost {
        host: usize,
    },
    FreezeHost {
        host: usize,
    },
    ThawHost {
        host: usize,
    },
    KillPostmaster {
        host: usize,
    },
    Cut {
        from: usize,
        to: usize,
    },
    Heal {
        from: usize,
        to: usize,
    },
    StallEtcd {
        ms: u64,
    },
    EtcdLeaderChange,
    Deaf {
        host: usize,
    },
    SlowReplay {
        host: usize,
        on: bool,
    },
    SlowStart {
        host: usize,
        ms: Option<u64>,
    },
    BreakStarts {
        host: usize,
        times: u32,
    },
    /// The volumes fill up, or have room again.
    Disk {
        host: usize,
        disk: Disk,
    },
    Loss {
        once_in: u64,
    },
    DeleteLeaderKey,
    Failover {
        leader: Option<usize>,
        candidate: Option<usize>,
    },
    Config(Change),
    Restart {
        host: usize,
    },
    Reinitialize {
        host: usize,
    },
    Terminate {
        host: usize,
    },
    Tags {
        host: usize,
        nofailover: bool,
    },
    NoSync {
        host: usize,
        on: bool,
    },
    WatchdogBroken {
        host: usize,
        on: bool,
    },
    /// The wall clock is stepped; nothing but schedules reads it.
    WallClock {
        host: usize,
        ms: i64,
    },
    /// The machine stands still and its clocks with it: no program on it can tell.
    BlindPause {
        host: usize,
        ms: u64,
    },
    /// Guard, agent and Postgres die together.
    KillGuard {
        host: usize,
    },
    StartGuard {
        host: usize,
    },
    /// Postgres lives and does nothing.
    Hang {
        host: usize,
        on: bool,
    },
    SlowStop {
        host: usize,
        ms: Option<u64>,
    },
    /// The disk of a replica is lost.
    LoseData {
        host: usize,
    },
    /// Some messages to and from etcd come late and past each other.
    Late {
        ms: u64,
    },
    /// etcd answers at once that it has no leader.
    Refuse {
        ms: u64,
    },
    /// An older state of etcd answers in its place, under the same cluster id or another one.
    RestoreEtcd {
        age: usize,
        same_id: bool,
    },
    /// The true etcd answers again, as it was.
    UnrestoreEtcd,
    DeleteKey(Key),
    /// A value that nobody can read.
    Garble(Key),
    Scheduled {
        candidate: usize,
        after: u64,
    },
}

/// A key that people delete or spoil.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    Initialize,
    Status,
    History,
    Failsafe,
    Failover,
    Config,
    Member(usize),
}

#[derive(Debug, Clone, Copy)]
pub enum Change {
    Pause(bool),
    Sync(SyncMode),
    SyncNodes(usize),
    /// The cluster reads the archive of another one, or is its own again.
    StandbyCluster(bool),
    Ttl(u64),
    LoopWait(u64),
    Failsafe(bool),
    MaximumLag(u64),
    StartTimeout(u64),
    RaceBackoff(u64),
}

impl Fault {
    /// The name that it is counted under.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::StartAgent { .. } => "agent started",
            Fault::KillAgent { .. } => "agent killed",
            Fault::StopAgent { .. } => "agent stopped",
            Fault::ContinueAgent { .. } => "agent continued",
            Fault::CrashHost { .. } => "host dead",
            Fault::BootHost { .. } => "host booted",
            Fault::FreezeHost { .. } => "host frozen, clock jumps",
            Fault::ThawHost { .. } => "host thawed",
            Fault::KillPostmaster { .. } => "postmaster killed",
            Fault::Cut { .. } => "network cut one way",
            Fault::Heal { .. } => "network healed",
            Fault::StallEtcd { .. } => "etcd silent",
            Fault::EtcdLeaderChange => "etcd leader lost",
            Fault::Deaf { .. } => "postmaster deaf",
            Fault::SlowReplay { .. } => "replay slow",
            Fault::SlowStart { .. } => "start or promotion slow",
            Fault::BreakStarts { .. } => "starts fail",
            Fault::Disk { .. } => "volume fills or has room",
            Fault::Loss { .. } => "messages lost",
            Fault::DeleteLeaderKey => "leader key deleted",
            Fault::Failover { leader: None, .. } => "failover asked for",
            Fault::Failover { .. } => "switchover asked for",
            Fault::Scheduled { .. } => "switchover scheduled",
            Fault::Config(_) => "configuration changed",
            Fault::Restart { .. } => "restart asked for",
            Fault::Reinitialize { .. } => "new copy asked for",
            Fault::Terminate { .. } => "agent ended",
            Fault::Tags { .. } | Fault::NoSync { .. } => "tags changed",
            Fault::WatchdogBroken { .. } => "watchdog broken",
            Fault::WallClock { .. } => "wall clock stepped",
            Fault::BlindPause { .. } => "machine paused unseen",
            Fault::KillGuard { .. } => "guard and agent killed",
            Fault::StartGuard { .. } => "guard started",
            Fault::Hang { .. } => "Postgres hangs",
            Fault::SlowStop { .. } => "stop slow",
            Fault::LoseData { .. } => "data lost",
            Fault::Late { .. } => "messages late and reordered",
            Fault::Refuse { .. } => "etcd without leader",
            Fault::RestoreEtcd { .. } => "etcd restored",
            Fault::UnrestoreEtcd => "etcd put back",
            Fault::DeleteKey(_) => "key deleted",
            Fault::Garble(_) => "key garbled",
        }
    }
}

impl World {
    pub fn fault(&mut self, fault: Fault) {
        if !matches!(fault, Fault::StartAgent { .. }) {
            let text = format!("{fault:?}");
            self.say("*", &text);
        }
        *self.oracle.faults.entry(fault.kind()).or_default() += 1;
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
                h.arm = Arm::NEW;
                h.guard_dead = false;
                h.after_pause = false;
                h.kept = None;
                h.pinned = None;
                h.promise = None;
                h.postgres.die(false);
                h.postgres.process = Process::Stopped;
            }
            Fault::BootHost { host } => {
                if !self.hosts[host].up {
                    self.hosts[host].up = true;
                    self.guard(host);
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
            Fault::Disk { host, disk } => self.hosts[host].disk = disk,
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
                let seconds = Duration::from_secs;
                self.etcd.set_config(|settings| match change {
                    Change::Ttl(ttl) => settings.ttl = seconds(ttl),
                    Change::LoopWait(wait) => settings.loop_wait = seconds(wait),
                    Change::Failsafe(on) => settings.failsafe_mode = on,
                    Change::MaximumLag(bytes) => settings.maximum_lag_on_failover = bytes,
                    Change::StartTimeout(limit) => settings.primary_start_timeout = seconds(limit),
                    Change::RaceBackoff(most) => settings.primary_race_backoff = seconds(most),
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
            Fault::NoSync { host, on } => self.hosts[host].tags.nosync = on,
            Fault::WatchdogBroken { host, on } => {
                self.hosts[host].watchdog = if on { Watchdog::Unusable } else { Watchdog::Usable };
            }
            Fault::WallClock { host, ms } => self.hosts[host].wall_ahead += ms,
            Fault::BlindPause { host, ms } => {
                self.hosts[host].frozen = true;
                self.hosts[host].clock_ahead -= ms;
                self.at(ms, Event::Fault(Fault::ThawHost { host }));
            }
            Fault::KillGuard { host } => {
                self.end_agent(host);
                self.kill_guard(host);
            }
            Fault::StartGuard { host } => {
                self.start_guard(host);
                self.start_agent(host);
            }
            Fault::Hang { host, on } => {
                let postgres = &mut self.hosts[host].postgres;
                let runs = matches!(postgres.process, Process::Running(_));
                postgres.hung_since = (on && runs).then_some(now);
            }
            Fault::SlowStop { host, ms } => self.hosts[host].postgres.stop_takes = ms,
            Fault::LoseData { host } => {
                let h = &mut self.hosts[host];
                h.job_number += 1;
                h.job = None;
                let postgres = &mut h.postgres;
                postgres.die(false);
                postgres.disk = None;
                postgres.unfinished = false;
                self.wake(host);
            }
            Fault::Late { ms } => self.late = ms,
            Fault::Refuse { ms } => {
                self.refused_until = now + ms;
                self.etcd.extend_all(now + ms);
                self.etcd.stalled_until = self.etcd.stalled_until.max(now + ms);
            }
            Fault::RestoreEtcd { age, same_id } => self.restore_etcd(age, same_id),
            Fault::UnrestoreEtcd => self.unrestore_etcd(),
            Fault::DeleteKey(key) => self.delete_key(key),
            Fault::Garble(key) => self.garble(key),
            Fault::Scheduled { candidate, after } => {
                let at = UnixMs(i64::try_from(now + after).unwrap());
                let candidate = Some(self.hosts[candidate].name.clone());
                let leader = self.leader().cloned();
                self.etcd.request_failover(FailoverRequest { leader, candidate, scheduled_at: Some(at) });
                self.wake_all();
            }
        }
    }

    /// Keeps what etcd is at this moment.
    pub fn snapshot_etcd(&mut self) {
        if self.put_aside.is_none() {
            self.snapshots.push(self.etcd.clone());
            if self.snapshots.len() > SNAPSHOTS {
                self.snapshots.remove(0);
            }
        }
    }

    fn restore_etcd(&mut self, age: usize, same_id: bool) {
        let Some(mut old) = self.snapshots.get(age % self.snapshots.len().max(1)).cloned() else { return };
        if self.put_aside.is_some() || old.revision == self.etcd.revision {
            return;
        }
        old.cluster = if same_id { self.etcd.cluster } else { self.etcd.cluster + 1 };
        old.extend_all(self.now);
        // Ids of leases are drawn from so many numbers that two histories share none.
        old.next_lease += 1_000_000;
        self.put_aside = Some(Box::new(std::mem::replace(&mut self.etcd, old)));
    }

    /// What the true etcd had is whole; its leases have their full time again.
    pub fn unrestore_etcd(&mut self) {
        if let Some(true_one) = self.put_aside.take() {
            self.foreign_until = self.now + LONGEST_TTL;
            self.etcd = *true_one;
            self.etcd.extend_all(self.now);
            self.snapshots.clear();
        }
    }

    fn delete_key(&mut self, key: Key) {
        let etcd = &mut self.etcd;
        match key {
            Key::Initialize => etcd.initialize = None,
            Key::Status => etcd.status = None,
            Key::History => etcd.history = None,
            Key::Failsafe => etcd.failsafe = None,
            Key::Failover => etcd.failover = (FailoverRequest::default(), 0),
            Key::Config => etcd.config.1 = 0,
            Key::Member(host) => {
                etcd.members.remove(&self.hosts[host].name);
            }
        }
        etcd.revision += 1;
        self.wake_all();
    }

    /// What cannot be read counts as absent, and its revision as seen.
    fn garble(&mut self, key: Key) {
        let revision = self.etcd.revision + 1;
        let etcd = &mut self.etcd;
        match key {
            Key::Initialize => etcd.initialize = Some((Initialize::Invalid, revision)),
            Key::Failsafe => etcd.failsafe = Some((BTreeSet::new(), revision)),
            Key::Failover => etcd.failover = (FailoverRequest::default(), revision),
            Key::Status | Key::History | Key::Config | Key::Member(_) => return self.delete_key(key),
        }
        etcd.revision = revision;
        self.wake_all();
    }

    /// Everything is well again.
    pub fn heal(&mut self) {
        self.say("*", "all faults end");
        self.network.heal_all();
        self.loss = 0;
        self.late = 0;
        self.refused_until = 0;
        self.unrestore_etcd();
        self.etcd.stalled_until = self.now;
        for host in 0..self.hosts.len() {
            let h = &mut self.hosts[host];
            h.agent_stopped = false;
            h.frozen = false;
            h.postgres.slow_replay = false;
            h.postgres.start_takes = None;
            h.postgres.stop_takes = None;
            h.postgres.broken_starts = 0;
            h.postgres.hung_since = None;
            h.tags.nofailover = false;
            h.tags.nosync = false;
            h.watchdog = Watchdog::NotRequired;
            h.disk = ROOMY;
            h.wall_ahead = 0;
            h.up = true;
            self.guard(host);
            self.start_guard(host);
            self.start_agent(host);
        }
        self.fault(Fault::Config(Change::Pause(false)));
        self.fault(Fault::Config(Change::StandbyCluster(false)));
    }
}
