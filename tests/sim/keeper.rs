//! Keepers of leases, and guards with the product's own gate.

use std::time::Duration;

use keddah::agent::lease::deadline::{Deadline, Period};
use keddah::agent::view::*;
use keddah::guard::gate::{Arm, Posture, Verdict as GateVerdict};
use keddah::guard::protocol::{Margins, Refusal, StopMode as GuardStop};
use keddah::settings::Settings;

use crate::etcd::{Reply, Request};
use crate::host::{Host, Next};
use crate::world::{Event, World};

/// The shortest pause between two looks of a guard, so that a stop that takes its time is not asked about each ms.
const GUARD_PAUSE: u64 = 10;

impl World {
    // ── keepers ──

    pub fn keep(&mut self, host: usize) {
        let tick = self.hosts[host].tick(self.now);
        let settings = self.settings_of(host);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        let process = agent.process;
        if let Some((id, deadline)) = agent.keeper.reach()
            && deadline.has_passed(tick)
        {
            self.lose(host, id);
        }
        let keeper = &mut self.hosts[host].agent.as_mut().unwrap().keeper;
        let asked = keeper.lease.map_or(settings.ttl, |_| keeper.asked);
        let asked = keeper.next.map_or(asked, |next| asked.min(next.asked));
        let usual = Period::of(asked, settings.loop_wait, settings.retry_timeout);
        let period = if keeper.armed.is_some() { usual } else { usual.while_following(asked) };
        // Looked at as often as a leader renews: a follower may have become one.
        let due = keeper.lease.map(|(_, deadline)| (deadline.at() - asked + period.every).since(tick));
        let early =
            due.filter(|due| !due.is_zero() && keeper.asked == settings.ttl).map(|due| due.min(usual.every));
        keeper.sent.take_if(|(_, sent)| tick.since(*sent) >= period.give_up_after);
        keeper.next_sent.take_if(|(_, sent, _)| tick.since(*sent) >= period.give_up_after);
        let next = match early {
            Some(pause) => pause,
            None if self.may_renew(host, &settings) => usual.every,
            None => Duration::from_millis(100),
        };
        let agent = self.hosts[host].agent.as_ref().unwrap();
        let left = agent.keeper.reach().map(|(_, deadline)| deadline.at().since(tick));
        let next = next.min(left.unwrap_or(next)).as_millis();
        self.at(u64::try_from(next).unwrap().max(1), Event::Keeper { host, process });
    }

    /// Sends the next keepalive or grant, if it is allowed and none is under way.
    fn may_renew(&mut self, host: usize, settings: &Settings) -> bool {
        let tick = self.hosts[host].tick(self.now);
        let agent = self.hosts[host].agent.as_ref().unwrap();
        if agent.keeper.sent.is_some() {
            return true;
        }
        // The certificate of confidence: a loop that hangs loses its lease.
        let hanging = Duration::from_millis(self.now - agent.looked_at);
        let confident = hanging <= settings.ttl.max(settings.loop_wait * 2);
        let request = match agent.keeper.reach() {
            Some((id, deadline)) => {
                if agent.keeper.unacknowledged && !self.tell_guard(host, id, deadline, tick) {
                    return false;
                }
                if !confident {
                    return false;
                }
                self.ask_for_next(host, settings.ttl);
                Request::KeepAlive { lease: id }
            }
            None => Request::Grant { ttl_ms: u64::try_from(settings.ttl.as_millis()).unwrap() },
        };
        let call = self.call(host, request);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        if agent.keeper.lease.is_none() {
            agent.keeper.asked = settings.ttl;
        }
        agent.keeper.sent = Some((call, tick));
        true
    }

    /// Renews the lease that is to take the place of the one in force, or asks for one where another ttl is wanted.
    fn ask_for_next(&mut self, host: usize, ttl: Duration) {
        let tick = self.hosts[host].tick(self.now);
        let keeper = &self.hosts[host].agent.as_ref().unwrap().keeper;
        if keeper.next_sent.is_some() {
            return;
        }
        let (request, asked) = match keeper.next {
            Some(next) => (Request::KeepAlive { lease: next.lease }, next.asked),
            None if keeper.asked == ttl => return,
            None => (Request::Grant { ttl_ms: u64::try_from(ttl.as_millis()).unwrap() }, ttl),
        };
        let call = self.call(host, request);
        self.hosts[host].agent.as_mut().unwrap().keeper.next_sent = Some((call, tick, asked));
    }

    pub fn next_kept(&mut self, host: usize, reply: Option<Reply>) {
        let tick = self.hosts[host].tick(self.now);
        let keeper = &mut self.hosts[host].agent.as_mut().unwrap().keeper;
        let Some((_, sent, asked)) = keeper.next_sent.take() else { return };
        let (Some((held, _)), Some(reply)) = (keeper.lease, reply) else { return };
        let renewed = match (reply, keeper.next) {
            (Reply::Granted { lease, ttl_ms }, None) => {
                let deadline = Deadline::granted(sent, asked, Duration::from_millis(ttl_ms));
                (!deadline.has_passed(tick)).then_some(Next { lease, deadline, asked })
            }
            (Reply::Alive { ttl_ms }, Some(next)) => {
                match next.deadline.renewed(sent, tick, asked, Duration::from_millis(ttl_ms)) {
                    Some(deadline) => Some(Next { deadline, ..next }),
                    // The lock may hang on it: both count as dead.
                    None => return self.lose(host, held),
                }
            }
            _ => None,
        };
        let Some(renewed) = renewed else { return };
        keeper.next = Some(renewed);
        self.extend_guard(host, sent);
        self.wake(host);
    }

    /// Gives the guard what an answered keepalive has earned. Under promises it may still be armed for a lease that has
    /// ended.
    fn extend_guard(&mut self, host: usize, sent: Tick) {
        let keeper = &self.hosts[host].agent.as_ref().unwrap().keeper;
        if let Some((lease, deadline)) = keeper.reach()
            && keeper.armed.is_some_and(|fence| fence.lease == lease)
        {
            self.tell_guard(host, lease, deadline, sent);
        }
    }

    /// Nothing hangs on the lease before this one any more.
    pub fn settle(&mut self, host: usize, lease: LeaseId) -> Verdict {
        let keeper = &self.hosts[host].agent.as_ref().unwrap().keeper;
        let (held, next) = (keeper.lease.map(|(id, _)| id), keeper.next.map(|next| next.lease));
        if next == Some(lease) {
            if let Some(fence) = keeper.armed.filter(|fence| Some(fence.lease) == held) {
                return self.arm(host, Fence { lease, ..fence });
            }
            self.succeed(host);
            return Verdict::Done;
        }
        if held == Some(lease) { Verdict::Done } else { Verdict::Failed }
    }

    fn succeed(&mut self, host: usize) {
        let former = self.hosts[host].agent.as_mut().unwrap().keeper.succeed();
        self.hosts[host].keep_state();
        if let Some(lease) = former {
            self.call(host, Request::Revoke { lease });
        }
    }

    pub fn kept(&mut self, host: usize, reply: Option<Reply>) {
        let tick = self.hosts[host].tick(self.now);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        let Some((_, sent)) = agent.keeper.sent.take() else { return };
        let asked = agent.keeper.asked;
        match reply {
            Some(Reply::Granted { lease, ttl_ms }) => {
                let deadline = Deadline::granted(sent, asked, Duration::from_millis(ttl_ms));
                if !deadline.has_passed(tick) {
                    agent.keeper.lease = Some((lease, deadline));
                    agent.keeper.lost = None;
                }
            }
            Some(Reply::Alive { ttl_ms }) => {
                let Some((lease, deadline)) = agent.keeper.lease else { return };
                match deadline.renewed(sent, tick, asked, Duration::from_millis(ttl_ms)) {
                    Some(renewed) => {
                        agent.keeper.lease = Some((lease, renewed));
                        self.extend_guard(host, sent);
                    }
                    None => self.lose(host, lease),
                }
            }
            Some(Reply::Read(_) | Reply::Written(_)) => panic!("a keeper reads and writes nothing"),
            Some(Reply::Refused) | None => {}
        }
    }

    /// The lease is dead for ever; the guard's deadline is at most this lease's, so it acts by itself.
    fn lose(&mut self, host: usize, lease: LeaseId) {
        let tick = self.hosts[host].tick(self.now);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        agent.keeper.lease = None;
        agent.keeper.next = None;
        agent.keeper.lost = Some(lease);
        (agent.keeper.sent, agent.keeper.next_sent) = (None, None);
        agent.keeper.unacknowledged = false;
        if agent.lead.is_none_or(|lead| tick >= lead.deadline) {
            agent.keeper.armed = None;
        }
        self.wake(host);
    }

    /// Arms the guard under `fence`, as a decision asks.
    pub fn arm(&mut self, host: usize, fence: Fence) -> Verdict {
        let tick = self.hosts[host].tick(self.now);
        let keeper = &self.hosts[host].agent.as_ref().unwrap().keeper;
        if keeper.next.is_some_and(|next| next.lease == fence.lease) {
            self.succeed(host);
        }
        let keeper = &self.hosts[host].agent.as_ref().unwrap().keeper;
        let held = keeper.reach().filter(|(id, deadline)| *id == fence.lease && !deadline.has_passed(tick));
        let Some((lease, deadline)) = held else { return Verdict::Failed };
        if !self.tell_guard(host, lease, deadline, tick) {
            return Verdict::Failed;
        }
        self.hosts[host].agent.as_mut().unwrap().keeper.armed = Some(fence);
        self.hosts[host].keep_state();
        Verdict::Done
    }

    /// Gives the guard the present deadline of a lease; returns whether it took it.
    fn tell_guard(&mut self, host: usize, lease: LeaseId, deadline: Deadline, sent: Tick) -> bool {
        self.hosts[host].agent.as_mut().unwrap().keeper.unacknowledged = true;
        let answer = self.promise_guard(host, lease, deadline, sent);
        match answer {
            Ok(()) => {
                let h = &mut self.hosts[host];
                h.by_promise = false;
                h.agent.as_mut().unwrap().keeper.unacknowledged = false;
                h.keep_state();
                true
            }
            // A lease that has died by the guard's clock opens the gate never again: another one is asked for.
            Err(Some(Refusal::LeaseDead { .. })) => {
                self.call(host, Request::Revoke { lease });
                self.lose(host, lease);
                false
            }
            Err(_) => false,
        }
    }

    /// Arms the guard; `Err(None)` where there is none.
    pub fn promise_guard(
        &mut self,
        host: usize,
        lease: LeaseId,
        deadline: Deadline,
        sent: Tick,
    ) -> Result<(), Option<Refusal>> {
        let h = &mut self.hosts[host];
        if h.guard_dead {
            return Err(None);
        }
        let millis = |from: Tick| u64::try_from(deadline.at().since(from).as_millis()).unwrap();
        let margins = Margins {
            fast_ms: millis(deadline.stop_at()),
            immediate_ms: millis(deadline.immediate_at()),
            kill_ms: millis(deadline.kill_at()),
        };
        let tick = h.tick(self.now);
        h.arm = h.arm.armed(deadline.at(), margins, lease.0, sent, tick).map_err(Some)?;
        h.after_pause = false;
        self.guard(host);
        Ok(())
    }

    pub fn disarm(&mut self, host: usize) -> Verdict {
        let h = &mut self.hosts[host];
        h.agent.as_mut().unwrap().keeper.armed = None;
        h.agent.as_mut().unwrap().keeper.unacknowledged = false;
        h.keep_state();
        if h.guard_dead {
            return Verdict::Unknown;
        }
        h.after_pause |= h.arm == Arm::Released;
        h.arm = h.arm.disarmed(h.tick(self.now));
        self.guard(host);
        Verdict::Done
    }

    pub fn release_gate(&mut self, host: usize) -> Verdict {
        let h = &mut self.hosts[host];
        h.agent.as_mut().unwrap().keeper.armed = None;
        h.keep_state();
        if h.guard_dead {
            return Verdict::Unknown;
        }
        h.arm = Arm::Released;
        Verdict::Done
    }

    /// Tells whether agent and guard let a server become writable at this moment.
    pub fn gate_open(&mut self, host: usize, fence: Fence) -> bool {
        let h = &self.hosts[host];
        let armed = h.agent.as_ref().and_then(|agent| agent.keeper.armed) == Some(fence);
        let admitted = !h.guard_dead && h.arm.admits(h.tick(self.now)).is_ok();
        if armed && !admitted {
            self.oracle.gate_refusals += 1;
        }
        armed && admitted
    }

    pub fn settings_of(&self, host: usize) -> Settings {
        let read = self.hosts[host].agent.as_ref().and_then(|agent| agent.last_read.as_ref());
        read.map_or_else(|| self.etcd.config.0.clone(), |read| read.1.clone())
    }

    /// How the gate looks to the agent.
    pub fn guard_seen(&self, host: usize) -> Guard {
        let h = &self.hosts[host];
        if h.guard_dead {
            return Guard::Absent;
        }
        let fencing = h.arm.verdict(h.posture(), h.tick(self.now)) != GateVerdict::Rest;
        match h.arm {
            Arm::Released => Guard::Released,
            Arm::Shut { .. } if fencing => Guard::Fencing,
            Arm::Shut { .. } => Guard::Closed,
            Arm::Armed { deadline, lease, .. } => {
                match h.agent.as_ref().and_then(|agent| agent.keeper.armed) {
                    Some(fence) if fence.lease.0 == lease => Guard::Armed { fence, until: deadline },
                    Some(_) | None => Guard::Closed,
                }
            }
        }
    }

    // ── guards ──

    /// The guard looks: whatever its gate does not allow is stopped, in stages.
    pub fn guard(&mut self, host: usize) {
        if !self.hosts[host].live() || self.hosts[host].guard_dead {
            return;
        }
        let h = &self.hosts[host];
        let (tick, posture) = (h.tick(self.now), h.posture());
        match h.arm.verdict(posture, tick) {
            GateVerdict::Rest => {}
            GateVerdict::Stop(GuardStop::Fast) => self.stop_server(host, StopMode::Fast),
            GateVerdict::Stop(GuardStop::Immediate) => self.stop_server(host, StopMode::Immediate),
            GateVerdict::Stop(GuardStop::Kill) => {
                self.hosts[host].postgres.die(false);
                self.wake(host);
            }
        }
        let h: &mut Host = &mut self.hosts[host];
        if h.posture() != Posture::Writable {
            h.after_pause = false;
        }
        let next = h.arm.next_look(h.posture(), tick).since(tick).as_millis();
        let next = self.now + u64::try_from(next).unwrap().max(GUARD_PAUSE);
        if h.guard_at <= self.now || next < h.guard_at {
            h.guard_at = next;
            self.at(next - self.now, Event::Guard { host });
        }
    }

    /// The timer of a guard rings.
    pub fn guard_rings(&mut self, host: usize) {
        if self.now >= self.hosts[host].guard_at {
            self.guard(host);
        }
    }

    /// Guard and agent end together, and Postgres with them.
    pub fn kill_guard(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.guard_dead = true;
        h.arm = Arm::NEW;
        h.after_pause = false;
        if !h.postgres.is_down() {
            h.postgres.die(true);
        }
        self.wake(host);
    }

    pub fn start_guard(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if h.guard_dead {
            h.guard_dead = false;
            self.guard(host);
        }
    }
}
