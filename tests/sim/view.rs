//! What an agent sees of its host.

use std::collections::{BTreeMap, BTreeSet};

use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::Settings;

use crate::postgres::position;
use crate::world::World;

impl World {
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
        let lease = match (agent.keeper.reach(), agent.keeper.lost) {
            (Some((id, deadline)), _) if !deadline.has_passed(now) => {
                let next = agent.keeper.next.filter(|_| !agent.keeper.unacknowledged);
                let next = next.map(|next| next.lease);
                Lease::Held { id, next, deadline: deadline.at(), stop_at: deadline.stop_at() }
            }
            (Some((id, _)), _) | (None, Some(id)) => Lease::Lost { id },
            (None, None) => Lease::None,
        };
        let h = &self.hosts[host];
        let agent = h.agent.as_ref().unwrap();
        View {
            now,
            wall: UnixMs(i64::try_from(self.now).unwrap() + h.wall_ahead),
            me: h.name.clone(),
            tags: h.tags.clone(),
            local: h.local,
            settings,
            dcs,
            lease,
            failsafe: Failsafe { lead: agent.lead, promise: h.promise.clone(), slots: BTreeMap::new() },
            guard: self.guard_seen(host),
            watchdog: h.watchdog,
            postgres: self.postgres_facts(host),
            disk: h.disk,
            peers: agent.peers.clone(),
            job: h.job.clone(),
            preflight: h.preflight.clone(),
            oldest_wal: h.oldest_wal.clone(),
            remote: h.remote.clone(),
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
                keddah::agent::view::Process::Starting {
                    role: *role,
                    since: tick(*since),
                    progressed: tick(*since),
                }
            }
            crate::postgres::Process::Stopping { mode, since, .. } => {
                keddah::agent::view::Process::Stopping { mode: *mode, since: tick(*since) }
            }
            crate::postgres::Process::Running(role) if h.postgres.hung_since.is_some() => {
                let since = tick(h.postgres.hung_since.unwrap());
                keddah::agent::view::Process::Unresponsive { role: *role, since }
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
            braked: h.postgres.braked,
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
                    history: disk.history().clone(),
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
                history: Some(disk.history().clone()),
                received: Some(disk.end()),
                replayed: position(disk.replayed),
                streaming: h.postgres.streaming,
                has_archive: true,
                upstream: h.postgres.upstream.clone(),
                sync_names: disk.sync_names.clone(),
                slots,
            }),
        }
    }
}
