//! Clients write, replicas pull, commits are acknowledged.

use keddah::agent::view::*;
use keddah::cluster::*;

use crate::oracle::Acknowledged;
use crate::postgres::{Disk, Process, Waiting};
use crate::world::World;

impl World {
    pub fn stream(&mut self) {
        for replica in 0..self.hosts.len() {
            self.pull(replica);
        }
        for host in 0..self.hosts.len() {
            self.release_commits(host);
        }
    }

    /// The last records of a stopping primary go out to whom it streams to, most times.
    pub fn last_stream(&mut self, upstream: usize) {
        for replica in 0..self.hosts.len() {
            if self.streams(replica, upstream) && !self.rng.once_in(6) {
                let theirs = self.hosts[upstream].postgres.disk.clone().unwrap();
                self.hosts[replica].postgres.disk.as_mut().unwrap().receive(&theirs);
            }
        }
    }

    fn pull(&mut self, replica: usize) {
        let r = &self.hosts[replica];
        if !r.live() || !r.postgres.runs_as(Started::Replica) || r.postgres.hung_since.is_some() {
            return;
        }
        let fast = !r.postgres.slow_replay || self.rng.once_in(40);
        let postgres = &mut self.hosts[replica].postgres;
        if fast && let Some(disk) = &mut postgres.disk {
            let step = if postgres.slow_replay { disk.replayed + 1 } else { disk.len() };
            disk.replayed = step.min(disk.len());
        }
        let name = match postgres.upstream.clone() {
            Upstream::Member { name, .. } => name,
            Upstream::Remote { .. } => return self.pull_from_there(replica),
            Upstream::Nobody | Upstream::Other => {
                postgres.streaming = false;
                return;
            }
        };
        let Some(up) = self.hosts.iter().position(|h| h.name == name) else { return };
        let u = &self.hosts[up];
        // WAL senders live to the end of a fast stop.
        let sends = matches!(
            u.postgres.process,
            Process::Running(_) | Process::Stopping { mode: StopMode::Fast, .. }
        );
        let serves =
            sends && u.live() && u.postgres.hung_since.is_none() && self.network.both_ways(replica, up);
        let serves = serves && !self.hosts[replica].postgres.lacks_wal;
        let (Some(theirs), Some(mine), true) =
            (&u.postgres.disk, &self.hosts[replica].postgres.disk, serves && up != replica)
        else {
            self.hosts[replica].postgres.streaming = false;
            return;
        };
        // What Postgres looks at; what counts is whether the bytes are the same.
        if !mine.may_follow(theirs) {
            self.hosts[replica].postgres.streaming = false;
            return;
        }
        if !mine.is_prefix_of(theirs) {
            // Where a number was begun twice, the histories tell it unless both began at the same point.
            let told_apart = mine.history().contradicts(theirs.history());
            if self.parted || told_apart || mine.shares_a_number_with(theirs) {
                self.begun_twice |= !self.parted && !told_apart;
                self.hosts[replica].postgres.streaming = false;
                return;
            }
            let what = format!("{} streams from {name} over WAL that differs", self.hosts[replica].name);
            self.oracle.violate(self.now, what);
            return;
        }
        if mine.len() < theirs.len() {
            if self.hosts[replica].disk.room == Room::Full {
                self.hosts[replica].postgres.streaming = false;
                return;
            }
            let mut mine = self.hosts[replica].postgres.disk.take().unwrap();
            mine.receive(self.hosts[up].postgres.disk.as_ref().unwrap());
            self.hosts[replica].postgres.disk = Some(mine);
        }
        let postgres = &mut self.hosts[replica].postgres;
        let disk = postgres.disk.as_mut().unwrap();
        if !postgres.slow_replay {
            disk.replayed = disk.len();
        }
        postgres.streaming = true;
    }

    pub fn write(&mut self) {
        if !self.clients {
            return;
        }
        self.write_there();
        for host in 0..self.hosts.len() {
            let h = &self.hosts[host];
            if !h.live()
                || !h.postgres.writable()
                || h.postgres.hung_since.is_some()
                || h.postgres.disk.as_ref().is_some_and(|d| d.bootstrap_unfinished)
            {
                continue;
            }
            if h.postgres.braked {
                continue;
            }
            if h.disk.room == Room::Full {
                self.fault(crate::faults::Fault::KillPostmaster { host });
                continue;
            }
            self.records += 1;
            let id = self.records;
            let postgres = &mut self.hosts[host].postgres;
            let disk = postgres.disk.as_mut().unwrap();
            let timeline = disk.timeline().0;
            disk.append(timeline, id);
            let index = disk.len() - 1;
            postgres.waiting.push(Waiting { id, index });
            self.release_commits(host);
        }
    }

    pub fn next_record(&mut self) -> u64 {
        self.records += 1;
        self.records
    }

    /// Tells clients of commits that nobody has to be waited for any more.
    pub fn release_commits(&mut self, host: usize) {
        let Some(disk) = &self.hosts[host].postgres.disk else { return };
        if !self.hosts[host].postgres.writable()
            || !self.hosts[host].live()
            || self.hosts[host].postgres.hung_since.is_some()
        {
            return;
        }
        let count = match &disk.sync_names {
            SyncNames::Any { count, .. } => *count,
            SyncNames::Off | SyncNames::Nobody | SyncNames::Foreign(_) | SyncNames::All(_) => usize::MAX,
        };
        let mut ends: Vec<usize> =
            disk.sync_names.standbys().iter().map(|name| self.flushed_by(host, name)).collect();
        ends.sort_unstable_by(|one, other| other.cmp(one));
        let flushed = match ends.as_slice() {
            [] if disk.sync_names.is_nobody() => 0,
            [] => usize::MAX,
            ends => ends[count.min(ends.len()) - 1],
        };
        let name = self.hosts[host].name.clone();
        let etcd = self.put_aside.as_deref().unwrap_or(&self.etcd);
        let named = etcd.sync.as_ref().is_some_and(|(set, _)| set.leader.as_ref() == Some(&name));
        let released = self.hosts[host].released();
        let postgres = &mut self.hosts[host].postgres;
        let (done, waiting): (Vec<_>, Vec<_>) =
            postgres.waiting.drain(..).partition(|commit| commit.index < flushed);
        postgres.waiting = waiting;
        for commit in done {
            let synchronous = named && !released;
            let (id, index) = (commit.id, commit.index);
            self.oracle.acknowledged.push(Acknowledged { id, index, host: name.clone(), synchronous });
        }
    }

    /// How many records a streaming standby has of this host's WAL.
    fn flushed_by(&self, host: usize, standby: &MemberName) -> usize {
        self.hosts
            .iter()
            .position(|h| h.name == *standby)
            .filter(|index| self.streams(*index, host))
            .and_then(|index| self.hosts[index].postgres.disk.as_ref())
            .map_or(0, Disk::len)
    }

    pub fn streams(&self, replica: usize, upstream: usize) -> bool {
        let (r, u) = (&self.hosts[replica], &self.hosts[upstream]);
        r.postgres.streaming
            && r.live()
            && u.live()
            && r.postgres.runs_as(Started::Replica)
            && matches!(&r.postgres.upstream, Upstream::Member { name, .. } if *name == u.name)
            && self.network.both_ways(replica, upstream)
    }
}
