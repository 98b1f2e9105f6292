//! What agents ask etcd and each other: requests and answers on their way, lost, late and twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keddah::agent::decide::Action;
use keddah::agent::lease::deadline::Deadline;
use keddah::agent::view::*;
use keddah::cluster::*;

use crate::etcd::{Reply, Request};
use crate::host::Phase;
use crate::network::ETCD;
use crate::postgres::Process;
use crate::world::{Event, World};

/// How long an agent waits for etcd.
const ANSWER_LIMIT: u64 = 1_000;

impl World {
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
    pub fn believes(&mut self, host: usize, reply: &Reply, (cluster, revision): (u64, i64)) -> bool {
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

    pub fn reach_etcd(&mut self, host: usize, process: u64, call: u64, request: Request) {
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

    pub fn answered(&mut self, host: usize, call: u64, reply: Option<Reply>) {
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

    pub fn asked(&mut self, host: usize, asked: Tick) {
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
    pub fn promised(&mut self, host: usize, asked: Tick, members: &BTreeSet<MemberName>) {
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
