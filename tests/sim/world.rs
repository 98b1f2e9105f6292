//! The world: a clock that jumps to the next event, and what happens at each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keddah::agent::decide::Memory;
use keddah::agent::lease::deadline::{Deadline, Period};
use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::Settings;

use crate::etcd::{Etcd, Reply, Request};
use crate::host::{Agent, Gate, Host, Keeper, Phase};
use crate::network::{ETCD, Network};
use crate::oracle::{Acknowledged, Oracle};
use crate::postgres::{Process, Waiting};
use crate::rng::Rng;

/// Something that happens at a moment.
#[derive(Debug, Clone)]
pub enum Event {
    /// An agent looks, if this is still its next look.
    Look {
        host: usize,
        process: u64,
        look: u64,
    },
    /// A request reaches etcd.
    AtEtcd {
        host: usize,
        process: u64,
        call: u64,
        request: Request,
    },
    /// An answer reaches its agent.
    Answer {
        host: usize,
        process: u64,
        call: u64,
        reply: Reply,
    },
    /// Nobody waits longer for an answer.
    GiveUp {
        host: usize,
        process: u64,
        call: u64,
    },
    /// The next action of a decision.
    Act {
        host: usize,
        process: u64,
    },
    /// The peers have been asked.
    Asked {
        host: usize,
        process: u64,
        asked: Tick,
    },
    /// The members have been asked for their promises.
    Promised {
        host: usize,
        process: u64,
        asked: Tick,
        members: BTreeSet<MemberName>,
    },
    Keeper {
        host: usize,
        process: u64,
    },
    /// A guard looks at its clock.
    Guard {
        host: usize,
    },
    /// A server may have got further.
    Server {
        host: usize,
    },
    JobEnds {
        host: usize,
        number: u64,
    },
    /// Replicas pull WAL, clients write.
    Stream,
    Write,
    Expire,
    Fault(crate::faults::Fault),
}

/// How long an agent waits for etcd.
const ANSWER_LIMIT: u64 = 1_000;

pub struct World {
    pub now: u64,
    pub rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub etcd: Etcd,
    pub hosts: Vec<Host>,
    pub network: Network,
    pub oracle: Oracle,
    pub trace: Vec<String>,
    /// Requests and answers are lost once in so many times; zero: never.
    pub loss: u64,
    calls: u64,
    processes: u64,
    records: u64,
    /// Whether clients write.
    pub clients: bool,
    /// Whether an agent that ended is started again after a while.
    pub supervised: bool,
}

impl World {
    /// Makes a world in which agents start `apart` ms after each other.
    pub fn new(seed: u64, names: &[&str], settings: Settings, apart: u64) -> World {
        let mut rng = Rng::new(seed);
        let hosts = names.iter().map(|name| Host::new(name, rng.between(1_000_000, 9_000_000))).collect();
        let mut world = World {
            now: 0,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            etcd: Etcd::new(settings),
            hosts,
            network: Network::default(),
            oracle: Oracle::default(),
            trace: Vec::new(),
            loss: 0,
            calls: 0,
            processes: 0,
            records: 0,
            clients: true,
            supervised: false,
        };
        for host in 0..world.hosts.len() {
            let late = apart * host as u64 + world.rng.between(0, 300);
            world.at(late, Event::Fault(crate::faults::Fault::StartAgent { host }));
        }
        world.at(0, Event::Stream);
        world.at(0, Event::Write);
        world.at(0, Event::Expire);
        world
    }

    pub fn at(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    pub fn say(&mut self, who: &str, what: &str) {
        let seconds = self.now as f64 / 1000.0;
        self.trace.push(format!("{:>9} {who:<2} {what}", format!("+{seconds:.1}s")));
    }

    /// Runs until a moment, or until the condition holds; true if it does.
    pub fn run_until(&mut self, end: u64, condition: impl Fn(&World) -> bool) -> bool {
        while let Some(((at, _), _)) = self.queue.first_key_value() {
            if *at > end {
                break;
            }
            let ((at, _), event) = self.queue.pop_first().unwrap();
            self.now = at;
            self.happen(event);
            self.check();
            if condition(self) {
                return true;
            }
        }
        self.now = self.now.max(end);
        condition(self)
    }

    pub fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms, |_| false);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look { host, process, look } => {
                let current = self.hosts[host].agent.as_ref().is_some_and(|a| {
                    a.process == process && a.look == look && matches!(a.phase, Phase::Idle)
                });
                if current {
                    self.when_runs(host, Event::Look { host, process, look }, |world| world.look(host));
                }
            }
            Event::AtEtcd { host, process, call, request } => self.reach_etcd(host, process, call, request),
            Event::Answer { host, process, call, reply } => {
                let event = Event::Answer { host, process, call, reply: reply.clone() };
                self.when_process(host, process, event, |world| world.answered(host, call, Some(reply)));
            }
            Event::GiveUp { host, process, call } => {
                let event = Event::GiveUp { host, process, call };
                self.when_process(host, process, event, |world| world.answered(host, call, None));
            }
            Event::Act { host, process } => {
                self.when_process(host, process, Event::Act { host, process }, |world| world.act(host));
            }
            Event::Asked { host, process, asked } => {
                let event = Event::Asked { host, process, asked };
                self.when_process(host, process, event, |world| world.asked(host, asked));
            }
            Event::Promised { host, process, asked, members } => {
                let event = Event::Promised { host, process, asked, members: members.clone() };
                self.when_process(host, process, event, |world| world.promised(host, asked, &members));
            }
            Event::Keeper { host, process } => {
                self.when_process(host, process, Event::Keeper { host, process }, |world| world.keep(host));
            }
            Event::Guard { host } => self.guard(host),
            Event::Server { host } => self.server(host),
            Event::JobEnds { host, number } => self.job_ends(host, number),
            Event::Stream => {
                self.stream();
                self.at(40, Event::Stream);
            }
            Event::Write => {
                self.write();
                let next = self.rng.between(80, 250);
                self.at(next, Event::Write);
            }
            Event::Expire => {
                let told = self.etcd.expire(self.now);
                for name in told {
                    self.say("-", &format!("lease of {name} expired"));
                    self.wake_all();
                }
                self.at(50, Event::Expire);
            }
            Event::Fault(fault) => self.fault(fault),
        }
    }

    /// Does something in an agent, or puts it off until the agent goes on.
    fn when_runs(&mut self, host: usize, event: Event, work: impl FnOnce(&mut World)) {
        let h = &self.hosts[host];
        if h.agent.is_none() || !h.up {
            return;
        }
        if h.agent_runs() {
            work(self);
        } else {
            self.at(50, event);
        }
    }

    fn when_process(&mut self, host: usize, process: u64, event: Event, work: impl FnOnce(&mut World)) {
        if self.hosts[host].agent.as_ref().is_some_and(|agent| agent.process == process) {
            self.when_runs(host, event, work);
        }
    }

    // ── agents ──

    pub fn start_agent(&mut self, host: usize) {
        if !self.hosts[host].up || self.hosts[host].agent.is_some() {
            return;
        }
        self.processes += 1;
        let process = self.processes;
        let mut keeper = Keeper::default();
        // Adoption: the lease that the guard is armed with is this member's own, from the process before.
        if let Gate::Armed { fence, deadline } = self.hosts[host].gate
            && !deadline.has_passed(self.hosts[host].tick(self.now))
        {
            keeper.lease = Some((fence.lease, deadline));
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
        });
        // The jobs of an agent end with it.
        h.job = None;
        h.preflight = None;
        let ttl = self.etcd.config.0.ttl;
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

    fn look(&mut self, host: usize) {
        let call = self.call(host, Request::Read);
        self.hosts[host].agent.as_mut().unwrap().phase = Phase::Reading { call };
    }

    /// Sends a request to etcd; its answer, or giving it up, comes as an event.
    pub fn call(&mut self, host: usize, request: Request) -> u64 {
        self.calls += 1;
        let call = self.calls;
        let process = self.hosts[host].agent.as_ref().unwrap().process;
        let lost = self.loss > 0 && self.rng.once_in(self.loss);
        if self.network.passes(host, ETCD) && !lost {
            let slow = self.rng.once_in(200);
            let after = if slow { self.rng.between(300, 1_800) } else { self.rng.between(1, 8) };
            self.at(after, Event::AtEtcd { host, process, call, request });
        }
        self.at(ANSWER_LIMIT, Event::GiveUp { host, process, call });
        call
    }

    fn reach_etcd(&mut self, host: usize, process: u64, call: u64, request: Request) {
        if self.now < self.etcd.stalled_until {
            // Taken up late, or never.
            if self.rng.once_in(2) {
                let rest = self.etcd.stalled_until - self.now + self.rng.between(1, 50);
                self.at(rest, Event::AtEtcd { host, process, call, request });
            }
            return;
        }
        let before = self.etcd.clone();
        let written = match &request {
            Request::Write { action, .. } => Some(action.deed()),
            Request::Read | Request::Grant { .. } | Request::KeepAlive { .. } => None,
        };
        let reply = self.etcd.carry_out(self.now, request);
        if before.leader != self.etcd.leader {
            self.leader_changed(&before);
        }
        if before.sync != self.etcd.sync {
            self.tell_sync();
        }
        if let Some((Initialize::Done(id), _)) = self.etcd.initialize {
            let first = *self.oracle.identifier.get_or_insert(id);
            if first != id {
                self.oracle.violate(self.now, format!("I4: the identifier changed from {first} to {id}"));
            }
        }
        if written.is_some_and(|deed| !matches!(deed, Deed::WriteStatus | Deed::PublishMember))
            && before.revision != self.etcd.revision
        {
            self.wake_all();
        }
        let lost = self.loss > 0 && self.rng.once_in(self.loss);
        if self.network.passes(ETCD, host) && !lost {
            let after = self.rng.between(1, 8);
            self.at(after, Event::Answer { host, process, call, reply });
        }
    }

    fn tell_sync(&mut self) {
        let told = match &self.etcd.sync {
            None => "the synchronous set is gone".to_owned(),
            Some((set, _)) => {
                let leader = set.leader.as_ref().map_or("nobody", MemberName::as_str);
                let standbys: Vec<&str> = set.standbys.iter().map(MemberName::as_str).collect();
                format!("synchronous: {leader} with [{}], quorum {}", standbys.join(","), set.quorum)
            }
        };
        self.say("-", &told);
    }

    /// I2 and I4 at the moment that somebody gets the lock.
    fn leader_changed(&mut self, before: &Etcd) {
        let Some(key) = self.etcd.leader.clone() else {
            let name = before.leader.as_ref().unwrap().name.to_string();
            self.say("-", &format!("{name} released the lock"));
            return;
        };
        let handed = before.leader.is_some();
        if handed {
            self.oracle.handovers += 1;
        } else {
            self.oracle.elections += 1;
        }
        self.say("-", &format!("{} has the lock", key.name));
        let taker = self.hosts.iter().position(|h| h.name == key.name).unwrap();
        let set = before.sync.as_ref().map(|(set, _)| set.clone()).filter(|set| set.leader.is_some());
        let forced =
            before.failover.0.leader.is_none() && before.failover.0.candidate.as_ref() == Some(&key.name);
        if set.is_none() || forced {
            self.oracle.acknowledged.clear();
            return;
        }
        let has: BTreeSet<u64> = self.hosts[taker]
            .postgres
            .disk
            .iter()
            .flat_map(|disk| &disk.wal)
            .map(|record| record.id)
            .collect();
        let lost: Vec<Acknowledged> = self
            .oracle
            .acknowledged
            .iter()
            .filter(|c| c.synchronous && !has.contains(&c.id))
            .cloned()
            .collect();
        if let Some(first) = lost.first() {
            let what = format!(
                "I2: {} took the lock (handed over: {handed}) without {} acknowledged commits, the first #{} of {} (set {:?})",
                key.name,
                lost.len(),
                first.id,
                first.host,
                set.unwrap()
            );
            self.oracle.violate(self.now, what);
        }
    }

    fn answered(&mut self, host: usize, call: u64, reply: Option<Reply>) {
        let agent = self.hosts[host].agent.as_mut().unwrap();
        if agent.keeper.sent.is_some_and(|(sent, _)| sent == call) {
            self.kept(host, reply);
            return;
        }
        match &mut agent.phase {
            Phase::Reading { call: waiting } if *waiting == call => {
                let read = match reply {
                    Some(Reply::Read(read)) => Some(*read),
                    Some(_) => panic!("a read is answered by a read"),
                    None => None,
                };
                self.decide(host, read);
            }
            Phase::Acting { queue, call: waiting } if *waiting == Some(call) => {
                let action = queue.remove(0);
                *waiting = None;
                let verdict = match reply {
                    Some(Reply::Written(verdict)) => verdict,
                    Some(_) => panic!("a write is answered by a write"),
                    None => Verdict::Unknown,
                };
                self.acted(host, action.deed(), verdict);
            }
            Phase::Idle | Phase::Reading { .. } | Phase::Acting { .. } => {}
        }
    }

    fn asked(&mut self, host: usize, asked: Tick) {
        let mut answers = BTreeMap::new();
        for peer in 0..self.hosts.len() {
            if peer == host {
                continue;
            }
            let h = &self.hosts[peer];
            let answer = match (&h.postgres.disk, &h.postgres.process, &h.agent) {
                (Some(disk), Process::Running(role), Some(agent))
                    if h.agent_runs() && self.network.both_ways(host, peer) =>
                {
                    let silent = agent.silent_since.is_some_and(|since| {
                        h.tick(self.now).since(since)
                            > agent.last_read.as_ref().map_or(Duration::ZERO, |r| r.1.loop_wait)
                    });
                    Answer::Reached(PeerFacts {
                        primary: *role == Started::Primary,
                        timeline: Some(disk.timeline()),
                        lsn: disk.end(),
                        tags: h.tags.clone(),
                        watchdog_usable: h.watchdog != Watchdog::Unusable,
                        system_id: Some(disk.system_id),
                        etcd_silent: silent,
                    })
                }
                _ => Answer::Unreachable,
            };
            answers.insert(h.name.clone(), answer);
        }
        let agent = self.hosts[host].agent.as_mut().unwrap();
        agent.peers = Peers { asked: Some(asked), answers };
        if let Phase::Acting { queue, .. } = &mut agent.phase {
            queue.remove(0);
        }
        self.acted(host, Deed::AskPeers, Verdict::Done);
    }

    /// Everybody reached promises, unless it leads or may just be taking the lock; all must, for the round to count.
    fn promised(&mut self, host: usize, asked: Tick, members: &BTreeSet<MemberName>) {
        let leader = self.hosts[host].name.clone();
        let mut all = true;
        let ttl = self.settings_of(host).ttl;
        for peer in 0..self.hosts.len() {
            if !members.contains(&self.hosts[peer].name) {
                continue;
            }
            let reached = self.hosts[peer].agent_runs() && self.network.both_ways(host, peer);
            let h = &self.hosts[peer];
            let leads = h.postgres.may_become_writable()
                || h.agent.as_ref().is_some_and(|agent| agent.taking)
                || h.agent.as_ref().and_then(|agent| agent.last_read.as_ref()).is_some_and(
                    |(snapshot, _)| snapshot.leader.as_ref().is_some_and(|key| key.name == h.name),
                );
            if !reached || leads {
                all = false;
                continue;
            }
            let until = h.tick(self.now) + ttl;
            self.hosts[peer].promise = Some(Promise { leader: Some(leader.clone()), until });
        }
        let deadline = Deadline::granted(asked, ttl, ttl);
        let tick = self.hosts[host].tick(self.now);
        let h = &mut self.hosts[host];
        let mut verdict = Verdict::Failed;
        if let Gate::Armed { fence, deadline: before } = h.gate
            && all
            && before.allows_writing(tick)
        {
            h.gate = Gate::Armed { fence, deadline };
            h.agent.as_mut().unwrap().lead =
                Some(Promised { asked, deadline: deadline.at(), stop_at: deadline.stop_at() });
            self.watch_deadline(host, deadline);
            verdict = Verdict::Done;
        }
        if let Phase::Acting { queue, .. } = &mut self.hosts[host].agent.as_mut().unwrap().phase {
            queue.remove(0);
        }
        self.acted(host, Deed::AskForPromises, verdict);
    }

    // ── keepers ──

    fn keep(&mut self, host: usize) {
        let tick = self.hosts[host].tick(self.now);
        let (ttl, period) = {
            let settings = self.settings_of(host);
            (settings.ttl, Period::of(settings.ttl, settings.loop_wait, settings.retry_timeout))
        };
        let now = self.now;
        let h = &mut self.hosts[host];
        let agent = h.agent.as_mut().unwrap();
        let process = agent.process;
        if let Some((id, deadline)) = agent.keeper.lease
            && deadline.has_passed(tick)
        {
            agent.keeper.lease = None;
            agent.keeper.lost = Some(id);
            agent.keeper.sent = None;
        }
        if agent.keeper.sent.is_some_and(|(_, sent)| tick.since(sent) >= period.give_up_after) {
            agent.keeper.sent = None;
        }
        // The certificate of confidence: a loop that hangs loses its lease.
        let settings =
            agent.last_read.as_ref().map_or_else(|| self.etcd.config.0.clone(), |read| read.1.clone());
        let confident =
            Duration::from_millis(now - agent.looked_at) < settings.ttl.max(settings.loop_wait * 2);
        let mut next = period.every.min(Duration::from_secs(1));
        if confident && agent.keeper.sent.is_none() {
            let request = match agent.keeper.lease {
                Some((lease, _)) => Request::KeepAlive { lease },
                None => Request::Grant { ttl_ms: u64::try_from(ttl.as_millis()).unwrap() },
            };
            let call = self.call(host, request);
            self.hosts[host].agent.as_mut().unwrap().keeper.sent = Some((call, tick));
            next = period.every;
        }
        if let Some(agent) = &self.hosts[host].agent
            && let Some((_, deadline)) = agent.keeper.lease
        {
            let left = Duration::from_millis(deadline.at().0.saturating_sub(tick.0).max(1));
            next = next.min(left);
        }
        let next = u64::try_from(next.as_millis()).unwrap();
        self.at(next, Event::Keeper { host, process });
    }

    fn kept(&mut self, host: usize, reply: Option<Reply>) {
        let tick = self.hosts[host].tick(self.now);
        let ttl = self.settings_of(host).ttl;
        let h = &mut self.hosts[host];
        let agent = h.agent.as_mut().unwrap();
        let Some((_, sent)) = agent.keeper.sent.take() else { return };
        match reply {
            Some(Reply::Granted { lease, ttl_ms }) => {
                let deadline = Deadline::granted(sent, ttl, Duration::from_millis(ttl_ms));
                if !deadline.has_passed(tick) {
                    agent.keeper.lease = Some((lease, deadline));
                    agent.keeper.lost = None;
                }
            }
            Some(Reply::Alive { ttl_ms }) => {
                let Some((lease, deadline)) = agent.keeper.lease else { return };
                match deadline.renewed(sent, tick, ttl, Duration::from_millis(ttl_ms)) {
                    Some(renewed) => {
                        agent.keeper.lease = Some((lease, renewed));
                        if let Gate::Armed { fence, .. } = h.gate
                            && fence.lease == lease
                        {
                            h.gate = Gate::Armed { fence, deadline: renewed };
                            self.watch_deadline(host, renewed);
                        }
                    }
                    None => {
                        agent.keeper.lease = None;
                        agent.keeper.lost = Some(lease);
                        self.wake(host);
                    }
                }
            }
            Some(Reply::Read(_) | Reply::Written(_)) => panic!("a keeper reads and writes nothing"),
            None => {}
        }
    }

    pub fn settings_of(&self, host: usize) -> Settings {
        let read = self.hosts[host].agent.as_ref().and_then(|agent| agent.last_read.as_ref());
        read.map_or_else(|| self.etcd.config.0.clone(), |read| read.1.clone())
    }

    // ── guards ──

    /// Sets the guard's timers for the stages of a deadline.
    pub fn watch_deadline(&mut self, host: usize, deadline: Deadline) {
        for tick in [deadline.stop_at(), deadline.immediate_at(), deadline.kill_at()] {
            let after = self.hosts[host].moment(tick).saturating_sub(self.now);
            self.at(after, Event::Guard { host });
        }
    }

    /// The gate's rule: no armed deadline in the future and not released, no writable server.
    pub fn guard(&mut self, host: usize) {
        if !self.hosts[host].live() {
            return;
        }
        let tick = self.hosts[host].tick(self.now);
        let h = &mut self.hosts[host];
        let (immediate, kill) = match h.gate {
            Gate::Released => return,
            Gate::Closed => (true, true),
            Gate::Ending { immediate, kill, .. } => (self.now >= immediate, self.now >= kill),
            Gate::Armed { deadline, .. } if deadline.allows_writing(tick) => return,
            Gate::Armed { deadline, .. } => (tick >= deadline.immediate_at(), tick >= deadline.kill_at()),
        };
        if !h.postgres.may_become_writable() {
            if let Gate::Ending { .. } = h.gate {
                h.gate = Gate::Closed;
            }
            return;
        }
        if kill {
            h.postgres.die(false);
        } else {
            self.stop_server(host, if immediate { StopMode::Immediate } else { StopMode::Fast });
        }
    }

    // ── clients ──

    fn write(&mut self) {
        if !self.clients {
            return;
        }
        for host in 0..self.hosts.len() {
            let h = &self.hosts[host];
            if !h.live()
                || !h.postgres.writable()
                || h.postgres.disk.as_ref().is_some_and(|d| d.bootstrap_unfinished)
            {
                continue;
            }
            self.records += 1;
            let id = self.records;
            let postgres = &mut self.hosts[host].postgres;
            let disk = postgres.disk.as_mut().unwrap();
            let timeline = disk.timeline().0;
            disk.append(timeline, id);
            let index = disk.wal.len() - 1;
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
        if !self.hosts[host].postgres.writable() || !self.hosts[host].live() {
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
        let named = self.etcd.sync.as_ref().is_some_and(|(set, _)| set.leader.as_ref() == Some(&name));
        let released = self.hosts[host].released();
        let postgres = &mut self.hosts[host].postgres;
        let (done, waiting): (Vec<_>, Vec<_>) =
            postgres.waiting.drain(..).partition(|commit| commit.index < flushed);
        postgres.waiting = waiting;
        for commit in done {
            let synchronous = named && !released;
            self.oracle.acknowledged.push(Acknowledged { id: commit.id, host: name.clone(), synchronous });
        }
    }

    /// How many records a streaming standby has of this host's WAL.
    fn flushed_by(&self, host: usize, standby: &MemberName) -> usize {
        self.hosts
            .iter()
            .position(|h| h.name == *standby)
            .filter(|index| self.streams(*index, host))
            .and_then(|index| self.hosts[index].postgres.disk.as_ref())
            .map_or(0, |disk| disk.wal.len())
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

    // ── what always holds ──

    fn check(&mut self) {
        let writable: Vec<usize> = (0..self.hosts.len())
            .filter(|i| self.hosts[*i].live() && self.hosts[*i].postgres.writable())
            .collect();
        self.oracle.note_writable(self.now, !writable.is_empty());
        let bound: Vec<usize> = writable.iter().copied().filter(|i| !self.hosts[*i].released()).collect();
        if bound.len() > 1 {
            let names: Vec<String> = bound.iter().map(|i| self.hosts[*i].name.to_string()).collect();
            self.oracle
                .violate(self.now, format!("I1: {} are writable at the same time", names.join(" and ")));
        }
        for host in bound {
            let tick = self.hosts[host].tick(self.now);
            let within = match self.hosts[host].gate {
                Gate::Armed { deadline, .. } => !deadline.has_passed(tick),
                // The guard acts within that millisecond.
                Gate::Ending { kill, .. } => self.now <= kill,
                Gate::Closed | Gate::Released => false,
            };
            if !within {
                let name = self.hosts[host].name.clone();
                self.oracle.violate(self.now, format!("I1: {name} is writable without a deadline ahead"));
            }
        }
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
            && matches!(l.gate, Gate::Armed { .. })
            && (0..self.hosts.len()).filter(|i| *i != leader).all(|i| {
                self.streams(i, leader)
                    && self.hosts[i].postgres.disk.as_ref().is_some_and(|disk| disk.is_prefix_of(theirs))
            })
    }

    pub fn leader(&self) -> Option<&MemberName> {
        self.etcd.leader.as_ref().map(|key| &key.name)
    }
}
