//! Which fault comes next. Each fault has numbers of its own, so that a run without some of them keeps the others.

use keddah::agent::view::{Disk, Job, JobState, Room};
use keddah::cluster::{Role, SyncMode};

use crate::faults::{Change, Fault, Key};
use crate::host::ROOMY;
use crate::network::ETCD;
use crate::rng::Rng;
use crate::world::World;

/// A fault, and what ends it after how long.
pub type Planned = (Fault, Option<(u64, Fault)>);

impl World {
    /// One of them, at random.
    pub fn random_fault(&self, rng: &mut Rng) -> Planned {
        let drawn = rng.below(self.hosts.len());
        // Half of all faults hit the leader.
        let to_leader = rng.once_in(2);
        let leader = self.leader().and_then(|name| self.hosts.iter().position(|h| h.name == *name));
        let host = leader.filter(|_| to_leader).unwrap_or(drawn);
        let other = (host + 1 + rng.below(self.hosts.len() - 1)) % self.hosts.len();
        let short = rng.between(100, 3_000);
        let long = rng.between(1_000, 45_000);
        let time = if rng.once_in(4) { long } else { short };
        let ends = |fault, end| (fault, Some((time, end)));
        match rng.below(52) {
            0..=2 => ends(Fault::KillAgent { host }, Fault::StartAgent { host }),
            3..=6 => ends(Fault::StopAgent { host }, Fault::ContinueAgent { host }),
            7 | 8 => ends(Fault::CrashHost { host }, Fault::BootHost { host }),
            9..=11 => ends(Fault::FreezeHost { host }, Fault::ThawHost { host }),
            12 => (Fault::KillPostmaster { host }, None),
            13 => {
                let [brake, full] = [rng.once_in(2), rng.once_in(2)];
                let room = if full { Room::Full } else { Room::Scarce };
                let disk = Disk { room, brake, left: None };
                ends(Fault::Disk { host, disk }, Fault::Disk { host, disk: ROOMY })
            }
            14 | 15 => ends(Fault::Cut { from: host, to: ETCD }, Fault::Heal { from: host, to: ETCD }),
            16 | 17 => ends(Fault::Cut { from: ETCD, to: host }, Fault::Heal { from: ETCD, to: host }),
            18 => ends(Fault::Cut { from: host, to: other }, Fault::Heal { from: host, to: other }),
            19 => ends(Fault::Cut { from: other, to: host }, Fault::Heal { from: other, to: host }),
            20 => (Fault::StallEtcd { ms: time }, None),
            21 => (Fault::EtcdLeaderChange, None),
            22 => (Fault::Refuse { ms: time }, None),
            23 => (Fault::Deaf { host }, None),
            24 => ends(Fault::SlowReplay { host, on: true }, Fault::SlowReplay { host, on: false }),
            25 => ends(
                Fault::SlowStart { host, ms: Some(rng.between(1_000, 20_000)) },
                Fault::SlowStart { host, ms: None },
            ),
            26 => ends(
                Fault::SlowStop { host, ms: Some(rng.between(1_000, 90_000)) },
                Fault::SlowStop { host, ms: None },
            ),
            27 => ends(Fault::Hang { host, on: true }, Fault::Hang { host, on: false }),
            28 | 29 => ends(Fault::Loss { once_in: rng.between(3, 20) }, Fault::Loss { once_in: 0 }),
            30 | 31 => ends(Fault::Late { ms: rng.between(100, 20_000) }, Fault::Late { ms: 0 }),
            32 => (Fault::Failover { leader: Some(host), candidate: Some(other) }, None),
            33 => (Fault::Failover { leader: Some(host), candidate: None }, None),
            34 => (Fault::Failover { leader: None, candidate: Some(other) }, None),
            35 => (Fault::Scheduled { candidate: other, after: rng.between(0, 20_000) }, None),
            36 => (Fault::Restart { host }, None),
            37 => (Fault::Terminate { host }, Some((time + 3_000, Fault::StartAgent { host }))),
            38 => (Fault::Reinitialize { host }, None),
            39 => (Fault::BreakStarts { host, times: 3 }, None),
            40 => (Fault::DeleteLeaderKey, None),
            41 => (Fault::DeleteKey(key(rng, host)), None),
            42 => (Fault::Garble(key(rng, host)), None),
            43 | 44 => ends(Fault::KillGuard { host }, Fault::StartGuard { host }),
            45 => {
                ends(Fault::RestoreEtcd { age: rng.below(4), same_id: rng.once_in(2) }, Fault::UnrestoreEtcd)
            }
            46 => tags(rng, host, time),
            47 => {
                let ms = i64::try_from(rng.between(0, 7_200_000)).unwrap() - 3_600_000;
                (Fault::WallClock { host, ms }, None)
            }
            48 => match self.leader().is_some_and(|leader| *leader != self.hosts[other].name) {
                true => (Fault::LoseData { host: other }, None),
                false => (Fault::KillPostmaster { host: other }, None),
            },
            49 => ends(Fault::Config(Change::Pause(true)), Fault::Config(Change::Pause(false))),
            _ => (Fault::Config(change(rng)), None),
        }
    }

    /// Whether a fault would do something, and is one that the product says something about.
    pub fn applies(&self, fault: &Fault) -> bool {
        let forgets = matches!(
            fault,
            Fault::KillAgent { .. }
                | Fault::CrashHost { .. }
                | Fault::KillGuard { .. }
                | Fault::Terminate { .. }
        );
        if forgets && self.put_aside.is_some() {
            return false;
        }
        match fault {
            Fault::KillAgent { host }
            | Fault::StopAgent { host }
            | Fault::Terminate { host }
            | Fault::Restart { host } => self.hosts[*host].agent_runs(),
            Fault::CrashHost { host } => self.hosts[*host].up,
            Fault::FreezeHost { host } | Fault::KillGuard { host } => {
                self.hosts[*host].live() && !self.hosts[*host].guard_dead
            }
            Fault::KillPostmaster { host } | Fault::Hang { host, .. } | Fault::Deaf { host } => {
                self.hosts[*host].live() && !self.hosts[*host].postgres.is_down()
            }
            // Before its document says that it writes, a leader without an agent to tell is taken for a replica.
            Fault::DeleteLeaderKey => self.leader().is_some_and(|name| {
                let member = self.etcd.members.get(name);
                member.is_some_and(|member| matches!(member.facts.role, Role::Primary | Role::Promoted))
            }),
            // Whoever has seen nothing newer takes an older state for the truth: that is beyond what is promised.
            Fault::RestoreEtcd { .. } => {
                let all_run = self.hosts.iter().all(|h| h.up && h.agent.is_some() && !h.guard_dead);
                self.put_aside.is_none() && !self.snapshots.is_empty() && all_run
            }
            // Nobody can bring back what nobody has: the data that is left must be the leader's.
            Fault::LoseData { host } | Fault::Reinitialize { host } => {
                self.hosts[*host].postgres.disk.is_some() && self.whole_but(*host)
            }
            _ => true,
        }
    }

    /// Whether the leader's data is safe, and the member is none of the synchronous set.
    fn whole_but(&self, host: usize) -> bool {
        let name = &self.hosts[host].name;
        let leads = |h: &crate::host::Host| self.leader() == Some(&h.name) && h.postgres.writable();
        let copying = self.hosts.iter().any(|h| {
            matches!(&h.job, Some(report) if report.state == JobState::Running && matches!(report.job, Job::Clone { .. }))
        });
        let bound = self.etcd.sync.as_ref().is_some_and(|(set, _)| set.leader.is_some() && set.holds(name));
        !bound
            && !copying
            && self.put_aside.is_none()
            && self.hosts.iter().any(|h| leads(h) && h.name != *name)
    }
}

fn key(rng: &mut Rng, host: usize) -> Key {
    [Key::Initialize, Key::Status, Key::History, Key::Failsafe, Key::Failover, Key::Config, Key::Member(host)]
        [rng.below(7)]
}

fn tags(rng: &mut Rng, host: usize, time: u64) -> Planned {
    match rng.below(3) {
        0 => (Fault::Tags { host, nofailover: true }, Some((time, Fault::Tags { host, nofailover: false }))),
        1 => (Fault::NoSync { host, on: true }, Some((time, Fault::NoSync { host, on: false }))),
        _ => (
            Fault::WatchdogBroken { host, on: true },
            Some((time, Fault::WatchdogBroken { host, on: false })),
        ),
    }
}

/// Another ttl, which leases of another length follow.
pub fn ttl(rng: &mut Rng) -> Change {
    Change::Ttl([5, 6, 10, 20, 30][rng.below(5)])
}

fn change(rng: &mut Rng) -> Change {
    let modes = [SyncMode::Off, SyncMode::On, SyncMode::Strict, SyncMode::Quorum, SyncMode::QuorumStrict];
    match rng.below(10) {
        0..=3 => Change::Sync(modes[rng.below(5)]),
        4 => Change::SyncNodes(1 + rng.below(2)),
        5 if rng.once_in(3) => Change::LoopWait(1 + rng.below(2) as u64),
        5 => ttl(rng),
        6 => Change::Failsafe(rng.once_in(2)),
        7 => Change::MaximumLag([0, 1_000, 1_048_576][rng.below(3)]),
        8 if rng.once_in(2) => Change::RaceBackoff([0, 0, 5][rng.below(3)]),
        8 => Change::StartTimeout([0, 10, 300][rng.below(3)]),
        _ => ttl(rng),
    }
}
