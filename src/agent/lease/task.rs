//! The keeper's own side: when it renews, what it tells the guard, and how one lease takes the place of another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::agent::lease::deadline::{Deadline, Period};
use crate::agent::lease::gate::Gate;
use crate::agent::lease::keeper::{
    ARM_LIMIT, Adopted, Before, Command, Handed, KeeperError, Shared, Times, arm_request,
};
use crate::agent::view::{Fence, Lease, LeaseId};
use crate::etcd::{Client, EtcdError, Renewal};
use crate::guard::protocol;
use crate::sys::alarm::Alarm;
use crate::sys::clock::{self, Tick};

/// Pause before a failed renewal is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Pause before a failed grant is tried again.
const GRANT_RETRY: Duration = Duration::from_millis(500);

/// The lease as the task knows it.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: LeaseId,
    asked: Duration,
    deadline: Deadline,
    /// When the keepalive that `deadline` rests on was sent.
    sent: Tick,
}

impl Held {
    /// Takes the answer to a keepalive that was answered at this moment.
    fn renewed(self, answer: Result<Renewal, EtcdError>, answered: Tick) -> Result<Held, EtcdError> {
        let renewal = answer?;
        let deadline = self.deadline.renewed(renewal.sent, answered, self.asked, renewal.ttl);
        let deadline = deadline.ok_or(EtcdError::LeaseNotFound(self.id.0))?;
        Ok(Held { deadline, sent: renewal.sent, ..self })
    }
}

pub(super) struct Task {
    client: Client,
    gate: Gate,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    held: Option<Held>,
    /// What is to take the place of `held`, because another ttl was asked for. Once there it is never given up alone: the
    /// lock may be on its way to it, by a transaction that nobody has heard of again.
    next: Option<Held>,
    /// When it was last asked for.
    next_asked: Tick,
    /// The guard has not taken the last deadline.
    unacknowledged: bool,
}

impl Task {
    pub(super) fn new(
        client: Client,
        gate: Gate,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Command>,
    ) -> Task {
        Task {
            client,
            gate,
            shared,
            inbox,
            held: None,
            next: None,
            next_asked: Tick(0),
            unacknowledged: false,
        }
    }

    pub(super) async fn run(mut self, before: Before) {
        match before {
            Before::Nothing => {}
            Before::Found(adopted) => self.adopt(adopted).await,
            Before::Handed(handed) => self.go_on(handed),
        }
        let mut alarm = Alarm::default();
        loop {
            let now = clock::now();
            let pause = match self.held {
                None => match self.grant().await {
                    Ok(()) => continue,
                    Err(_) => GRANT_RETRY,
                },
                Some(held) if self.reach(held).has_passed(now) => {
                    self.lose(held.id);
                    continue;
                }
                Some(held) => {
                    let times = self.shared.times();
                    let period = self.period(held, times);
                    let due = held.sent + period.every;
                    let due = if self.is_outdated(held, times) {
                        due.min(self.next_asked + GRANT_RETRY)
                    } else {
                        due
                    };
                    if due <= now {
                        if self.step(held, times, period).await {
                            continue;
                        }
                        RETRY
                    } else {
                        due.since(now).min(self.reach(held).at().since(now))
                    }
                }
            };
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = self.shared.nudge.notified() => {}
                () = alarm.until(clock::now() + pause) => {}
            }
        }
    }

    /// Returns how long the keys of this member surely live: which of both leases they hang on is not known.
    fn reach(&self, held: Held) -> Deadline {
        self.next.map_or(held.deadline, |next| held.deadline.earlier(next.deadline))
    }

    fn ttl(&self, held: Held) -> Duration {
        self.next.map_or(held.asked, |next| held.asked.min(next.asked))
    }

    fn period(&self, held: Held, times: Times) -> Period {
        self.shared.period(self.ttl(held), times)
    }

    /// Tells whether a lease of another length is wanted and not there yet.
    fn is_outdated(&self, held: Held, times: Times) -> bool {
        held.asked != times.ttl && self.next.is_none()
    }

    /// Renews once if that is allowed; returns whether it was.
    async fn step(&mut self, held: Held, times: Times, period: Period) -> bool {
        if self.unacknowledged && !self.tell_guard(held).await {
            return false;
        }
        if !self.shared.confidence.holds(clock::now(), times.ttl, times.loop_wait) {
            return false;
        }
        if let Err(error) = self.renew(held, period.give_up_after).await {
            tracing::warn!(lease = %held.id, error = %crate::sys::chain(&error), "the keepalive failed");
            return false;
        }
        if let Some(held) = self.held
            && self.is_outdated(held, times)
        {
            self.prepare_next(held, times.ttl).await;
        }
        true
    }

    /// Renews the lease, and its successor where there is one: both live, or both count as dead.
    async fn renew(&mut self, held: Held, limit: Duration) -> Result<LeaseId, EtcdError> {
        let (answer, beside) = match self.next {
            None => (self.client.keep_alive(held.id.0, limit).await, None),
            Some(next) => {
                let [first, second] = [held, next].map(|lease| self.client.keep_alive(lease.id.0, limit));
                let (first, second) = tokio::join!(first, second);
                (first, Some((next, second)))
            }
        };
        let answered = clock::now();
        self.shared.set_answered(answer.is_ok().then_some(answered));
        let first = held.renewed(answer, answered);
        let second = beside.map(|(next, answer)| next.renewed(answer, answered));
        let ended = |outcome: &Result<Held, EtcdError>| matches!(outcome, Err(EtcdError::LeaseNotFound(_)));
        if ended(&first) || second.as_ref().is_some_and(ended) {
            self.lose(held.id);
            return Err(EtcdError::LeaseNotFound(held.id.0));
        }
        let (held, next) = match (first, second) {
            (Ok(held), None) => (held, None),
            (Ok(held), Some(Ok(next))) => (held, Some(next)),
            // What one of them has earned counts once the other is answered too. The guard is told nothing: its deadline
            // may rest on promises, which reach further.
            (Err(error), _) | (Ok(_), Some(Err(error))) => return Err(error),
        };
        self.next = next;
        self.hold(held);
        // Under promises the guard may still be armed for a lease that has ended.
        if self.is_armed_under(held.id) {
            self.tell_guard(held).await;
        }
        Ok(held.id)
    }

    fn is_armed_under(&self, lease: LeaseId) -> bool {
        self.shared.armed().is_some_and(|fence| fence.lease == lease)
    }

    /// Gives the guard the present deadline; returns whether it took it.
    async fn tell_guard(&mut self, held: Held) -> bool {
        match self.arm_guard(held).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %crate::sys::chain(&error), "the guard did not take the deadline");
                self.obey_guard(held.id, &error).await;
                false
            }
        }
    }

    async fn arm_guard(&mut self, held: Held) -> Result<(), KeeperError> {
        self.unacknowledged = true;
        let request = arm_request(self.reach(held), held.id, held.sent);
        self.gate.ask(request, ARM_LIMIT).await.map_err(KeeperError::Guard)?;
        self.unacknowledged = false;
        self.show();
        Ok(())
    }

    fn hold(&mut self, held: Held) {
        self.held = Some(held);
        self.show();
    }

    /// Tells the loop what is held. Of a successor it learns once the guard counts with it: then keys may move there.
    fn show(&self) {
        let Some(held) = self.held else { return };
        let reach = self.reach(held);
        self.shared.set_asked(Some(self.ttl(held)));
        self.shared.set(Lease::Held {
            id: held.id,
            next: self.next.filter(|_| !self.unacknowledged).map(|next| next.id),
            deadline: reach.at(),
            stop_at: reach.stop_at(),
        });
    }

    /// The lease is dead for ever, and with it its successor, which ends by itself: the lock may hang on it, and a server
    /// that writes under the lock has until the guard's deadline, which is at most that of both.
    fn lose(&mut self, id: LeaseId) {
        tracing::warn!(lease = %id, "the lease is lost");
        self.held = None;
        self.next = None;
        self.unacknowledged = false;
        if self.shared.promised().is_none_or(|deadline| deadline.has_passed(clock::now())) {
            self.shared.set_armed(None);
        }
        self.shared.set(Lease::Lost { id });
    }

    async fn grant(&mut self) -> Result<(), EtcdError> {
        let held = self.request(self.shared.times().ttl).await?;
        self.hold(held);
        Ok(())
    }

    async fn request(&self, asked: Duration) -> Result<Held, EtcdError> {
        let granted = self.client.lease_grant(asked).await?;
        self.shared.set_answered(Some(granted.sent));
        let deadline = Deadline::granted(granted.sent, asked, granted.ttl);
        Ok(Held { id: LeaseId(granted.lease), asked, deadline, sent: granted.sent })
    }

    /// Gets a lease of another length beside the one there is.
    async fn prepare_next(&mut self, held: Held, ttl: Duration) {
        self.next_asked = clock::now();
        match self.request(ttl).await {
            Ok(next) => {
                tracing::info!(lease = %next.id, "the ttl becomes {} s from {} s", ttl.as_secs(), held.asked.as_secs());
                self.next = Some(next);
                if self.is_armed_under(held.id) {
                    self.tell_guard(held).await;
                } else {
                    self.show();
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::sys::chain(&error), "there is no lease of the changed ttl yet");
            }
        }
    }

    /// Nothing hangs on the lease before its successor any more.
    fn succeed(&mut self) {
        let (Some(former), Some(next)) = (self.held, self.next.take()) else { return };
        tracing::info!(lease = %next.id, former = %former.id, "the ttl is {} s", next.asked.as_secs());
        self.hold(next);
        let client = self.client.clone();
        // Where it is not answered, the lease ends by itself.
        tokio::spawn(async move { client.lease_revoke(former.id.0).await });
    }

    async fn settle(&mut self, lease: LeaseId) -> Result<(), KeeperError> {
        if self.next.is_some_and(|next| next.id == lease) {
            let former = self.held.map(|held| held.id);
            let armed = self.shared.armed().filter(|fence| Some(fence.lease) == former);
            if let Some(fence) = armed {
                return self.arm(Fence { lease, ..fence }).await;
            }
            self.succeed();
        }
        self.held.filter(|held| held.id == lease).map(drop).ok_or(KeeperError::NoLease)
    }

    /// Goes on with what a process before has left, by what etcd makes of it: each lease is as long as it was granted, and
    /// where that is not what is asked for, another one follows.
    async fn adopt(&mut self, adopted: Adopted) {
        let Adopted { lease, next, fence } = adopted;
        let limit = self.shared.times().ttl / 4;
        let keep = async |lease: LeaseId| {
            let renewal = self.client.keep_alive(lease.0, limit).await?;
            let deadline = Deadline::granted(renewal.sent, renewal.ttl, renewal.ttl);
            Ok(Held { id: lease, asked: renewal.ttl, deadline, sent: renewal.sent })
        };
        let kept = match keep(lease).await {
            Err(error) => Err(error),
            Ok(held) => match next {
                None => Ok((held, None)),
                // A transaction that comes late moves no lock to a lease that has ended.
                Some(next) => match keep(next).await {
                    Ok(next) => Ok((held, Some(next))),
                    Err(EtcdError::LeaseNotFound(_)) => Ok((held, None)),
                    Err(error) => Err(error),
                },
            },
        };
        match kept {
            Ok((held, next)) => {
                self.next = next;
                self.hold(held);
                tracing::info!(%lease, leading = fence.is_some(), "the lease of the process before is taken over");
                if fence.is_some() {
                    self.shared.set_armed(fence);
                    self.tell_guard(held).await;
                }
            }
            Err(error) => {
                tracing::info!(%lease, error = %crate::sys::chain(&error), "the lease of the process before is not taken over");
            }
        }
    }

    /// Takes a lease over from the program before: the guard holds the same deadline.
    fn go_on(&mut self, handed: Handed) {
        let Handed { id, asked, lasts, sent, fence } = handed;
        self.hold(Held { id, asked, deadline: Deadline::granted(sent, asked, lasts), sent });
        self.shared.set_armed(fence);
        tracing::info!(lease = %id, leading = fence.is_some(), "the lease is handed over");
    }

    async fn hand_over(&mut self) -> Result<Option<Handed>, KeeperError> {
        let fence = self.shared.armed();
        let Some(held) = self.held.filter(|held| !held.deadline.has_passed(clock::now())) else {
            return if fence.is_some() { Err(KeeperError::NoLease) } else { Ok(None) };
        };
        // Led by promises: the next moments decide.
        if fence.is_some_and(|fence| fence.lease != held.id) {
            return Err(KeeperError::NoLease);
        }
        if self.next.is_some() {
            return Err(KeeperError::Changing);
        }
        let period = self.period(held, self.shared.times());
        self.renew(held, period.give_up_after).await.map_err(KeeperError::Etcd)?;
        let held = self.held.ok_or(KeeperError::NoLease)?;
        if self.unacknowledged {
            self.arm_guard(held).await?;
        }
        let lasts = held.deadline.at().since(held.sent);
        Ok(Some(Handed { id: held.id, asked: held.asked, lasts, sent: held.sent, fence }))
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::HandOver(answer) => {
                let outcome = self.hand_over().await;
                let _ = answer.send(outcome);
            }
            Command::Renew(answer) => {
                let outcome = match self.held {
                    Some(held) if !self.reach(held).has_passed(clock::now()) => {
                        let period = self.period(held, self.shared.times());
                        self.renew(held, period.give_up_after).await.map_err(KeeperError::Etcd)
                    }
                    Some(_) | None => Err(KeeperError::NoLease),
                };
                let _ = answer.send(outcome);
            }
            Command::Settle(lease, answer) => {
                let outcome = self.settle(lease).await;
                let _ = answer.send(outcome);
            }
            Command::Arm(fence, answer) => {
                let outcome = self.arm(fence).await;
                let _ = answer.send(outcome);
            }
            Command::Disarm(answer) => {
                self.shared.set_armed(None);
                self.unacknowledged = false;
                let done = self.gate.ask(protocol::Request::Disarm, ARM_LIMIT).await;
                let _ = answer.send(done.map(|_| ()).map_err(KeeperError::Guard));
            }
            Command::Release(answer) => {
                self.shared.set_armed(None);
                self.unacknowledged = false;
                let done = self.gate.ask(protocol::Request::Release, ARM_LIMIT).await;
                let _ = answer.send(done.map(|_| ()).map_err(KeeperError::Guard));
            }
        }
    }

    async fn arm(&mut self, fence: Fence) -> Result<(), KeeperError> {
        // Under the successor: etcd has been read, and the lock hangs there.
        if self.next.is_some_and(|next| next.id == fence.lease) {
            self.succeed();
        }
        let held =
            self.held.filter(|held| held.id == fence.lease && !self.reach(*held).has_passed(clock::now()));
        let held = held.ok_or(KeeperError::NoLease)?;
        let hold = protocol::Hold { lease: fence.lease.0, create_revision: fence.create_revision.0 };
        self.gate.hold(Some(hold)).await.map_err(KeeperError::Guard)?;
        if let Err(error) = self.arm_guard(held).await {
            self.obey_guard(held.id, &error).await;
            return Err(error);
        }
        self.shared.set_armed(Some(fence));
        Ok(())
    }

    /// A lease that has died by the guard's clock opens the gate never again, though etcd may know it as alive: a
    /// process before this one led under it and then only kept it. Another one is asked for.
    async fn obey_guard(&mut self, lease: LeaseId, error: &KeeperError) {
        if let KeeperError::Guard(error) = error
            && let Some(protocol::Refusal::LeaseDead { .. }) = error.refusal()
        {
            let _ = self.client.lease_revoke(lease.0).await;
            self.lose(lease);
        }
    }
}
