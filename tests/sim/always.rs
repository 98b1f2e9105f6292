//! What must hold, at every moment and at the moments that decide.
//!
//! I1 and I7 are looked at after each event; I2, I3 and I4 when somebody gets the lock; I4 and I5 at each write of the
//! key or promotion; I6 before data is removed.

use keddah::agent::decide::action::{Compared, Identifier};
use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::guard::gate::Arm;

use crate::etcd::Etcd;
use crate::faults::Fault;
use crate::oracle::Acknowledged;
use crate::postgres::Disk;
use crate::world::World;

/// How long an agent that runs may take from one look to the next beyond its `loop_wait`: two questions to etcd, one
/// to the others in failsafe mode.
const LOOK_SLACK: u64 = 10_000;

/// How often a person looks for members that need help.
const HELP_EVERY: u64 = 20_000;

impl World {
    /// After each event.
    pub fn check(&mut self) {
        let mut bound = [false; 8];
        for (host, bound) in bound.iter_mut().enumerate().take(self.hosts.len()) {
            let h = &self.hosts[host];
            *bound = h.live() && h.postgres.writable() && !h.released();
        }
        let count = bound.iter().filter(|bound| **bound).count();
        if count == 0 {
            return;
        }
        let now = self.now;
        self.oracle.holds(now, "I1", count == 1 || self.parted, || {
            "two members are writable at the same time".to_owned()
        });
        for host in (0..self.hosts.len()).filter(|host| bound[*host]) {
            let h = &self.hosts[host];
            let tick = h.tick(now);
            let within = h.arm.deadline().is_some_and(|deadline| tick < deadline);
            let lease = match h.arm {
                Arm::Armed { lease, deadline, .. } if !h.by_promise => {
                    self.earned(LeaseId(lease), h.moment(deadline))
                }
                Arm::Armed { .. } | Arm::Shut { .. } | Arm::Released => true,
            };
            // Whichever of two leases the lock hangs on while the ttl changes.
            let state = self.put_aside.as_deref().unwrap_or(&self.etcd);
            let key = state.leader.as_ref().filter(|key| key.name == h.name && !h.by_promise);
            let hangs = match (key, h.arm) {
                (Some(key), Arm::Armed { deadline, .. }) => self.earned(key.lease, h.moment(deadline)),
                (Some(_), Arm::Shut { .. } | Arm::Released) | (None, _) => true,
            };
            let name = h.name.clone();
            self.oracle.holds(now, "I1", hangs || self.parted, || {
                format!("{name} has a deadline beyond the end of the lease that the lock hangs on")
            });
            self.oracle.holds(now, "I1", within, || format!("{name} is writable without a deadline ahead"));
            self.oracle
                .holds(now, "I1", lease, || format!("{name} has a deadline beyond the end of its lease"));
        }
    }

    /// Tells whether etcd lets a lease live at least until `end`, or that moment has passed.
    fn earned(&self, lease: LeaseId, end: u64) -> bool {
        let lasts = |etcd: &Etcd| etcd.leases.get(&lease).is_some_and(|(_, until)| end <= *until);
        end <= self.now
            || self.now < self.foreign_until
            || lasts(&self.etcd)
            || self.put_aside.as_ref().is_some_and(|etcd| lasts(etcd))
    }

    /// Every agent that runs goes on looking, whatever it was answered.
    pub fn check_agents(&mut self) {
        for host in 0..self.hosts.len() {
            let wait = u64::try_from(self.settings_of(host).loop_wait.as_millis()).unwrap();
            let h = &mut self.hosts[host];
            let runs = h.agent_runs();
            let Some(agent) = &mut h.agent else { continue };
            if !runs {
                // The time that a process is stopped is none of its own.
                agent.looked_at = agent.looked_at.max(self.now.saturating_sub(wait));
                continue;
            }
            let looks = self.now - agent.looked_at <= wait + LOOK_SLACK;
            let (now, name) = (self.now, h.name.clone());
            self.oracle.holds(now, "I7", looks, || format!("the agent of {name} has stopped looking"));
        }
    }

    /// Somebody has got the lock.
    pub fn leader_changed(&mut self, before: &Etcd, taken: Option<&Compared>) {
        let Some(key) = self.etcd.leader.clone() else {
            let name = before.leader.as_ref().unwrap().name.to_string();
            self.say("-", &format!("{name} released the lock"));
            return;
        };
        if before.leader.as_ref().is_some_and(|was| {
            (&was.name, was.create_revision) == (&key.name, key.create_revision) && taken.is_none()
        }) {
            let ttl = self.etcd.leases.get(&key.lease).map_or(0, |(ttl, _)| ttl / 1_000);
            return self.say("-", &format!("the lock of {} hangs on a lease of {ttl} s", key.name));
        }
        let handed = before.leader.is_some();
        match handed {
            true => self.oracle.handovers += 1,
            false => self.oracle.elections += 1,
        }
        self.say("-", &format!("{} has the lock", key.name));
        let taker = self.hosts.iter().position(|h| h.name == key.name).unwrap();
        let candidate = &before.failover.0.candidate;
        let named = candidate.as_ref() == Some(&key.name);
        let forced = named && before.failover.0.leader.is_none();
        if let Some(compared) = taken {
            self.check_eligible(taker, before, compared, named, forced);
        }
        self.check_commits(taker, before, handed, forced);
    }

    /// I2: the taker has every commit that was acknowledged as synchronous.
    fn check_commits(&mut self, taker: usize, before: &Etcd, handed: bool, forced: bool) {
        let set = before.sync.as_ref().map(|(set, _)| set.clone()).filter(|set| set.leader.is_some());
        let Some(set) = set.filter(|_| !forced && !self.parted) else {
            self.oracle.acknowledged.clear();
            return;
        };
        let disk = self.hosts[taker].postgres.disk.as_ref();
        let has = |c: &Acknowledged| disk.is_some_and(|disk| disk.holds(c.index, c.id));
        let mut lost = self.oracle.acknowledged.iter().filter(|c| c.synchronous && !has(c));
        let first = lost.next().map(|c| format!("#{} of {}", c.id, c.host));
        let count = lost.count() + 1;
        let name = self.hosts[taker].name.clone();
        self.oracle.holds(self.now, "I2", first.is_none(), || {
            format!(
                "{name} got the lock (handed over: {handed}) without {count} acknowledged commits, the first {first:?} (set {set:?})"
            )
        });
    }

    /// I3: who takes the lock by itself is fit by all that the transaction compared, and I4: its data is the cluster's.
    fn check_eligible(
        &mut self,
        taker: usize,
        before: &Etcd,
        compared: &Compared,
        named: bool,
        forced: bool,
    ) {
        let h = &self.hosts[taker];
        let (settings, me) = (&before.config.0, h.name.clone());
        let decided = h.agent.as_ref().map(|agent| (agent.tags.clone(), agent.watchdog, agent.room));
        let (tags, watchdog, room) =
            decided.unwrap_or((Tags::default(), Watchdog::NotRequired, Room::Unknown));
        let set = before.sync.as_ref().map(|(set, _)| set).filter(|set| set.leader.is_some());
        let by_votes = set.is_some_and(|set| settings.synchronous_mode.is_quorum() || set.quorum > 0);
        let end = h.postgres.disk.as_ref().map_or(Lsn(0), Disk::end);
        let optime = before.status.as_ref().and_then(|(status, _)| status.optime).unwrap_or_default();
        let told = before.history.as_ref().map(|(history, _)| history);
        let known = told.and_then(|history| history.last()).map(|entry| entry.timeline.0 + 1);
        let parted =
            told.zip(h.postgres.disk.as_ref()).is_some_and(|(told, d)| d.history().contradicts(told));
        // Whom a person has named on an older timeline may take the lock again, should it have gone before its promotion.
        let led_last = set.is_some_and(|set| set.leader.as_ref() == Some(&me));
        let timeline = h.postgres.disk.as_ref().map_or(0, |disk| disk.timeline().0);
        let serves = h.postgres.writable();
        let failsafe = before.failsafe.as_ref().map(|(set, _)| set).filter(|set| !set.is_empty());
        let refused = [
            (tags.failover_priority() == 0 && !serves, "its tags forbid it"),
            (settings.pause && !serves && !named, "the cluster is paused and its server is no primary"),
            (
                !forced && !by_votes && set.is_some_and(|set| !set.holds(&me)),
                "it is not in the synchronous set",
            ),
            (
                !forced && optime.bytes_ahead_of(end) > settings.maximum_lag_on_failover && !serves,
                "it lacks more than maximum_lag_on_failover",
            ),
            (
                !forced
                    && !led_last
                    && (parted || known > Some(timeline))
                    && settings.standby_cluster.is_none(),
                "its timeline has been left",
            ),
            (
                settings.failsafe_mode && failsafe.is_some_and(|set| !set.contains(&me)) && !serves,
                "the failsafe set does not name it",
            ),
            (watchdog == Watchdog::Unusable && !serves, "its watchdog cannot be used"),
            (room == Room::Full && !serves, "its volume is full"),
        ];
        let why = refused.iter().find(|(refused, _)| *refused).map(|(_, why)| *why);
        let data = h.postgres.disk.as_ref().map(|disk| disk.system_id);
        self.oracle.holds(self.now, "I3", why.is_none(), || {
            format!("{me} took the lock although {}", why.unwrap_or_default())
        });
        // A person has thrown away what was begun since: its numbers may be begun again.
        if forced && self.oracle.highest_timeline > timeline {
            self.oracle.highest_timeline = timeline;
            self.begun_twice = true;
        }
        let of_cluster = data == Some(compared.system_id)
            && !matches!(compared.initialize, Identifier::Is(id) if Some(id) != data);
        self.oracle.holds(self.now, "I4", of_cluster, || {
            format!("{me} took the lock with data of {data:?} for {compared:?}")
        });
    }

    /// I4 and I5 at every change of etcd.
    pub fn check_keys(&mut self, before: &Etcd) {
        if let Some((Initialize::Done(id), _)) = self.etcd.initialize {
            let first = *self.oracle.identifier.get_or_insert(id);
            self.oracle.holds(self.now, "I4", first == id, || {
                format!("the identifier changed from {first} to {id}")
            });
        }
        if self.etcd.history == before.history {
            return;
        }
        let (Some((history, _)), Some(key)) = (&self.etcd.history, &self.etcd.leader) else { return };
        let host = self.hosts.iter().find(|h| h.name == key.name).unwrap();
        // What a process sent that was killed may come late: the history of a timeline before, under the same lock. It is
        // true as far as it goes, and never in the place of a longer one.
        let known = before.history.as_ref().map_or(0, |(history, _)| history.0.len());
        let lines = |history: &History| -> Vec<(Timeline, Lsn)> {
            history.0.iter().map(|entry| (entry.timeline, entry.switch_point)).collect()
        };
        let agrees = host.postgres.disk.as_ref().is_none_or(|disk| {
            let (has, told) = (lines(disk.history()), lines(history));
            has == told || (has.starts_with(&told) && known <= told.len())
        });
        let last = history.last().map_or(0, |entry| entry.timeline.0 + 1);
        self.oracle.highest_timeline = self.oracle.highest_timeline.max(last);
        let name = key.name.clone();
        self.oracle.holds(self.now, "I5", agrees, || {
            format!("{name} wrote a history that its timeline file does not tell")
        });
    }

    /// I5: a promotion begins a timeline that no leader before has told.
    pub fn check_promotion(&mut self, host: usize, timeline: u32) {
        self.oracle.promotions += 1;
        let (name, highest) = (self.hosts[host].name.clone(), self.oracle.highest_timeline);
        self.oracle.holds(self.now, "I5", timeline > highest || self.parted, || {
            format!("{name} is promoted to timeline {timeline}, and {highest} has been told before")
        });
    }

    /// I6: before data is removed.
    pub fn check_removal(&mut self, host: usize, source: &MemberName, asked: bool) {
        let Some(mine) = &self.hosts[host].postgres.disk else { return };
        let settings = self.settings_of(host);
        let others = self.hosts.iter().enumerate().filter(|(index, _)| *index != host);
        let held = others
            .clone()
            .any(|(_, h)| h.postgres.disk.as_ref().is_some_and(|disk| disk.system_id == mine.system_id));
        let allowed = asked
            || settings.remove_data_directory_on_rewind_failure
            || settings.remove_data_directory_on_diverged_timelines;
        let name = self.hosts[host].name.clone();
        self.oracle.holds(self.now, "I6", held, || format!("{name} destroys the only data there is"));
        self.oracle.holds(self.now, "I6", allowed, || {
            format!("{name} removes its data for a copy of {source}, which nobody allows")
        });
    }

    /// One writable leader, everybody else streams from it, and nobody's WAL differs.
    pub fn whole(&self) -> bool {
        let Some(key) = &self.etcd.leader else { return false };
        let leader = self.hosts.iter().position(|h| h.name == key.name).unwrap();
        let l = &self.hosts[leader];
        let Some(theirs) = &l.postgres.disk else { return false };
        l.live()
            && l.postgres.runs_as(Started::Primary)
            && !theirs.bootstrap_unfinished
            && matches!(l.arm, Arm::Armed { .. })
            && (0..self.hosts.len()).filter(|i| *i != leader).all(|i| {
                self.streams(i, leader)
                    && self.hosts[i].postgres.disk.as_ref().is_some_and(|disk| disk.is_prefix_of(theirs))
            })
    }

    /// Runs until the cluster is whole, with a person's help for members that may not come back by themselves.
    pub fn becomes_whole(&mut self, within: u64) -> bool {
        let end = self.now + within;
        while self.now < end {
            if self.run_until(end.min(self.now + HELP_EVERY), World::whole) {
                (self.parted, self.begun_twice) = (false, false);
                return true;
            }
            (0..self.hosts.len()).for_each(|host| self.help(host));
            if (self.parted || self.begun_twice) && self.leader_serves() {
                self.copy_the_parted_anew();
            } else if self.parted {
                let ends = self.hosts.iter().enumerate();
                let ends = ends.map(|(i, h)| (h.postgres.disk.as_ref().map(|d| (d.timeline(), d.end())), i));
                let candidate = ends.max().map(|(_, index)| index);
                self.fault(Fault::Failover { leader: None, candidate });
            }
        }
        false
    }

    fn leader_serves(&self) -> bool {
        self.leader().is_some_and(|name| self.hosts.iter().any(|h| h.name == *name && h.postgres.writable()))
    }

    /// Whoever has followed another leader on the same timeline gets the data of the leader that there is.
    fn copy_the_parted_anew(&mut self) {
        let leader = self.hosts.iter().position(|h| Some(&h.name) == self.leader()).unwrap();
        let theirs = self.hosts[leader].postgres.disk.clone().unwrap();
        for host in (0..self.hosts.len()).filter(|host| *host != leader) {
            let same = self.hosts[host].postgres.disk.as_ref().is_some_and(|disk| disk.is_prefix_of(&theirs));
            if !same {
                self.fault(Fault::Reinitialize { host });
            }
        }
    }

    /// What a person does who reads a member's reason: allows a new copy, writes the identifier back, accepts the etcd
    /// that is there.
    fn help(&mut self, host: usize) {
        let Some(agent) = &self.hosts[host].agent else { return };
        let silent = agent.silent_since.is_some_and(|since| {
            u128::from(HELP_EVERY) < self.hosts[host].tick(self.now).since(since).as_millis()
        });
        match agent.last_reason.as_str() {
            "Diverged" => self.fault(Fault::Reinitialize { host }),
            "NoIdentifier" => self.restore_identifier(),
            _ if silent => {
                self.fault(Fault::KillAgent { host });
                self.hosts[host].pinned = None;
                self.fault(Fault::StartAgent { host });
            }
            _ => {}
        }
    }

    /// A person writes the identifier back.
    pub fn restore_identifier(&mut self) {
        let identifier = self.oracle.identifier.map(Initialize::Done);
        self.etcd.revision += 1;
        self.etcd.initialize = identifier.map(|id| (id, self.etcd.revision));
    }

    pub fn leader(&self) -> Option<&MemberName> {
        self.etcd.leader.as_ref().map(|key| &key.name)
    }
}
