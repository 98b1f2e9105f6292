//! The world: a clock that jumps to the next event, and what happens at each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keddah::agent::decide::{Action, Memory};
use keddah::agent::lease::deadline::Deadline;
use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::Settings;

use crate::etcd::{Etcd, Reply, Request};
use crate::host::{Agent, Host, Keeper, Kept, Phase};
use crate::network::{ETCD, Network};
use crate::oracle::Oracle;
use crate::postgres::{Disk, Process};
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
        /// The etcd cluster that answered, and at which revision.
        from: (u64, i64),
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
    /// A fault of this round ends, unless all of them have ended.
    Ends(u32, crate::faults::Fault),
}

/// How long an agent waits for etcd.
const ANSWER_LIMIT: u64 = 1_000;

pub struct World {
    pub now: u64,
    pub rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub etcd: Etcd,
    /// The etcd in whose place a restored snapshot answers.
    pub put_aside: Option<Box<Etcd>>,
    /// What etcd was a while ago, the oldest first.
    pub snapshots: Vec<Etcd>,
    /// Until when leases may live that only a restored etcd knew.
    pub foreign_until: u64,
    /// Somebody led in a restored etcd, so what is true is a person's to say.
    pub parted: bool,
    /// A leader died or was cut off before anybody was told of its timeline, and another one began the same number:
    /// whoever followed the first is a person's to copy anew (docs/safety.md).
    pub begun_twice: bool,
    pub hosts: Vec<Host>,
    /// What the primary has of the cluster that this one follows; None: there is none to ask.
    pub other: Option<Disk>,
    pub network: Network,
    pub oracle: Oracle,
    pub trace: Vec<String>,
    /// Requests and answers are lost once in so many times; zero: never.
    pub loss: u64,
    /// Some requests and answers come so late at most, past others; zero: none.
    pub late: u64,
    /// Until when etcd has no leader, and says so at once.
    pub refused_until: u64,
    calls: u64,
    processes: u64,
    pub records: u64,
    /// Whether clients write.
    pub clients: bool,
    /// Whether an agent that ended is started again after a while.
    pub supervised: bool,
    /// Faults of earlier rounds have ended.
    pub round: u32,
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
            put_aside: None,
            snapshots: Vec::new(),
            foreign_until: 0,
            parted: false,
            begun_twice: false,
            hosts,
            other: None,
            network: Network::default(),
            oracle: Oracle::default(),
            trace: Vec::new(),
            loss: 0,
            late: 0,
            refused_until: 0,
            calls: 0,
            processes: 0,
            records: 0,
            clients: true,
            supervised: false,
            round: 0,
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
            Event::Answer { host, process, call, reply, from } => {
                let event = Event::Answer { host, process, call, reply: reply.clone(), from };
                self.when_process(host, process, event, |world| {
                    let believed = world.believes(host, &reply, from);
                    world.answered(host, call, believed.then_some(reply));
                });
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
            Event::Guard { host } => self.guard_rings(host),
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
                self.check_agents();
                self.at(50, Event::Expire);
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Ends(round, fault) if round == self.round => self.fault(fault),
            Event::Ends(..) => {}
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
            let after = after + self.lateness();
            // What is not answered at once goes to another endpoint too, if it may be done twice.
            let twice = !matches!(request, Request::Write { .. }) && (after > 300 || self.rng.once_in(50));
            if twice {
                let second = after + self.rng.between(1, 600);
                let request = request.clone();
                self.at(second, Event::AtEtcd { host, process, call, request });
            }
            self.at(after, Event::AtEtcd { host, process, call, request });
        }
        self.at(ANSWER_LIMIT, Event::GiveUp { host, process, call });
        call
    }

    /// How much later than others something arrives.
    fn lateness(&mut self) -> u64 {
        if self.late > 0 && self.rng.once_in(3) { self.rng.between(1, self.late) } else { 0 }
    }

    /// Tells whether an answer counts: it is of the etcd that is known, and no older than what was seen. The answers
    /// about leases prove nothing about how new the endpoint's state is, so there the last other answer tells.
    fn believes(&mut self, host: usize, reply: &Reply, (cluster, revision): (u64, i64)) -> bool {
        let h = &mut self.hosts[host];
        if *h.pinned.get_or_insert(cluster) != cluster {
            return false;
        }
        let agent = h.agent.as_mut().unwrap();
        match reply {
            Reply::Read(_) | Reply::Written(_) => {
                let newer = revision >= agent.seen_revision;
                agent.older = !newer;
                agent.seen_revision = agent.seen_revision.max(revision);
                self.parted |= newer && self.put_aside.is_some();
                newer
            }
            Reply::Granted { .. } | Reply::Alive { .. } => !agent.older,
            Reply::Refused => true,
        }
    }

    fn reach_etcd(&mut self, host: usize, process: u64, call: u64, request: Request) {
        if self.now < self.refused_until {
            let from = (self.etcd.cluster, self.etcd.revision);
            self.at(2, Event::Answer { host, process, call, reply: Reply::Refused, from });
            return;
        }
        if self.now < self.etcd.stalled_until {
            // Taken up late, or never.
            if self.rng.once_in(2) {
                let rest = self.etcd.stalled_until - self.now + self.rng.between(1, 50);
                self.at(rest, Event::AtEtcd { host, process, call, request });
            }
            return;
        }
        let reply = match request {
            Request::Write { me, action } => self.write_etcd(me, action),
            Request::Read | Request::Grant { .. } | Request::KeepAlive { .. } | Request::Revoke { .. } => {
                self.etcd.carry_out(self.now, request)
            }
        };
        let lost = self.loss > 0 && self.rng.once_in(self.loss);
        if self.network.passes(ETCD, host) && !lost {
            let after = self.rng.between(1, 8) + self.lateness();
            let from = (self.etcd.cluster, self.etcd.revision);
            self.at(after, Event::Answer { host, process, call, reply, from });
        }
    }

    /// Carries out a transaction and looks at what it did.
    fn write_etcd(&mut self, me: MemberName, action: Box<Action>) -> Reply {
        let before = self.etcd.clone();
        let quiet = matches!(action.deed(), Deed::WriteStatus | Deed::PublishMember);
        let taken = match &*action {
            Action::TakeLeaderKey { compared, .. } => Some(*compared),
            _ => None,
        };
        let reply = self.etcd.carry_out(self.now, Request::Write { me, action });
        if before.revision != self.etcd.revision {
            if before.leader != self.etcd.leader {
                self.leader_changed(&before, taken.as_ref());
            }
            if before.sync != self.etcd.sync {
                self.tell_sync();
            }
            self.check_keys(&before);
            if !quiet {
                self.wake_all();
            }
        }
        reply
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

    fn answered(&mut self, host: usize, call: u64, reply: Option<Reply>) {
        let agent = self.hosts[host].agent.as_mut().unwrap();
        if agent.keeper.sent.is_some_and(|(sent, _)| sent == call) {
            self.kept(host, reply);
            return;
        }
        if agent.keeper.next_sent.is_some_and(|(sent, ..)| sent == call) {
            self.next_kept(host, reply);
            return;
        }
        match &mut agent.phase {
            Phase::Reading { call: waiting } if *waiting == call => {
                let read = match reply {
                    Some(Reply::Read(read)) => Some(*read),
                    Some(Reply::Refused) | None => None,
                    Some(_) => panic!("a read is answered by a read"),
                };
                self.decide(host, read);
            }
            Phase::Acting { queue, call: waiting } if *waiting == Some(call) => {
                let action = queue.remove(0);
                *waiting = None;
                let verdict = match reply {
                    Some(Reply::Written(verdict)) => verdict,
                    Some(Reply::Refused) => Verdict::Failed,
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
                    if h.agent_runs()
                        && h.postgres.hung_since.is_none()
                        && self.network.both_ways(host, peer) =>
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
                        etcd_silent: silent && !self.etcd.patroni.contains(&h.name),
                        room: h.disk.room,
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
        let fence = self.hosts[host].agent.as_ref().unwrap().keeper.armed;
        let mut verdict = Verdict::Failed;
        if let Some(fence) = fence
            && all
            && self.promise_guard(host, fence.lease, deadline, asked).is_ok()
        {
            let h = &mut self.hosts[host];
            h.by_promise = true;
            h.agent.as_mut().unwrap().lead =
                Some(Promised { asked, deadline: deadline.at(), stop_at: deadline.stop_at() });
            verdict = Verdict::Done;
        }
        if let Phase::Acting { queue, .. } = &mut self.hosts[host].agent.as_mut().unwrap().phase {
            queue.remove(0);
        }
        self.acted(host, Deed::AskForPromises, verdict);
    }
}
