//! The world: a clock that jumps to the next event, and what happens at each.

use std::collections::{BTreeMap, BTreeSet};

use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::Settings;

use crate::etcd::{Etcd, Reply, Request};
use crate::host::{Host, Phase};
use crate::network::Network;
use crate::oracle::Oracle;
use crate::postgres::Disk;
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
    /// How many calls to etcd, and processes of agents, there have been.
    pub calls: u64,
    pub processes: u64,
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
}
