//! Agents: how they start and end, when they look and what wakes them.

use keddah::agent::decide::Memory;
use keddah::agent::view::*;
use keddah::cluster::Tags;

use crate::etcd::Request;
use crate::host::{Agent, Keeper, Kept, Phase};
use crate::network::ETCD;
use crate::world::{Event, World};

impl World {
    pub fn start_agent(&mut self, host: usize) {
        if !self.hosts[host].up || self.hosts[host].agent.is_some() {
            return;
        }
        self.processes += 1;
        let process = self.processes;
        let mut keeper = Keeper::default();
        // Adoption: the lease that the guard is armed with is this member's own, from the process before.
        let ttl = self.etcd.config.0.ttl;
        if let Some(Kept { lease, fence: armed, deadline, asked, next }) = self.hosts[host].kept {
            let (lease, unacknowledged) = (Some((lease, deadline)), armed.is_some());
            let found = Keeper { lease, armed, asked, next, unacknowledged, ..keeper.clone() };
            let tick = self.hosts[host].tick(self.now);
            if found.reach().is_some_and(|(_, deadline)| !deadline.has_passed(tick)) {
                keeper = found;
            }
        }
        let h = &mut self.hosts[host];
        h.agent_stopped = false;
        h.agent = Some(Agent {
            process,
            memory: Memory::default(),
            phase: Phase::Idle,
            look: 0,
            look_at: 0,
            woken: false,
            outcomes: Vec::new(),
            last_read: None,
            silent_since: None,
            peers: Peers::default(),
            keeper,
            requests: Requests::default(),
            lead: None,
            taking: false,
            last_reason: String::new(),
            looked_at: self.now,
            seen_revision: 0,
            older: false,
            tags: Tags::default(),
            watchdog: Watchdog::NotRequired,
            room: Room::Unknown,
        });
        // The jobs of an agent end with it.
        h.job = None;
        h.preflight = None;
        let h = &mut self.hosts[host];
        let free = h.tick(self.now) + ttl;
        h.promise.get_or_insert(Promise { leader: None, until: free });
        self.at(0, Event::Keeper { host, process });
        self.look_after(host, 20);
    }

    pub fn end_agent(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.agent = None;
        h.agent_stopped = false;
        if let Some(JobReport { job: Job::Clone { .. }, state: JobState::Running, .. }) = h.job {
            h.postgres.disk = None;
            h.postgres.unfinished = true;
        }
        h.job_number += 1;
        h.job = None;
    }

    pub fn look_after(&mut self, host: usize, ms: u64) {
        let at = self.now + ms;
        let Some(agent) = &mut self.hosts[host].agent else { return };
        agent.look += 1;
        agent.look_at = at;
        let (process, look) = (agent.process, agent.look);
        self.at(ms, Event::Look { host, process, look });
    }

    /// A watch event: it only makes the next look earlier.
    pub fn wake(&mut self, host: usize) {
        let soon = self.rng.between(2, 20);
        let Some(agent) = &mut self.hosts[host].agent else { return };
        match agent.phase {
            Phase::Idle if agent.look_at > self.now + soon => self.look_after(host, soon),
            Phase::Idle => {}
            Phase::Reading { .. } | Phase::Acting { .. } => agent.woken = true,
        }
    }

    /// Tells the agents that etcd's watch reaches; any subset may get it.
    pub fn wake_all(&mut self) {
        for host in 0..self.hosts.len() {
            let lost = self.rng.once_in(8) || self.now < self.etcd.stalled_until;
            if !lost && self.network.passes(ETCD, host) {
                self.wake(host);
            }
        }
    }

    pub fn look(&mut self, host: usize) {
        let call = self.call(host, Request::Read);
        self.hosts[host].agent.as_mut().unwrap().phase = Phase::Reading { call };
    }
}
