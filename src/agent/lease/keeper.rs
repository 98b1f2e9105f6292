//! Keeps this member's lease alive, and tells the guard how long it lives.
//!
//! A task of its own, so that nothing the loop waits for costs the lease. It renews while the loop is confident
//! ([`Confidence`]), and while it leads only after the guard has acknowledged the deadline before: no guard, no lease.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::agent::lease::confidence::Confidence;
use crate::agent::lease::deadline::{Deadline, Period};
use crate::agent::lease::gate::Gate;
use crate::agent::view::{Fence, Lease, LeaseId};
use crate::etcd::{Client, EtcdError};
use crate::guard::protocol;
use crate::sys::alarm;
use crate::sys::clock::{self, Tick};

/// Pause before a failed renewal is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Pause before a failed grant is tried again.
const GRANT_RETRY: Duration = Duration::from_millis(500);

/// How long an arm may stay unacknowledged.
const ARM_LIMIT: Duration = Duration::from_millis(1_000);

/// The times that the lease obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub ttl: Duration,
    pub loop_wait: Duration,
    pub retry_timeout: Duration,
}

/// Why a command of the loop was not done.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("there is no living lease")]
    NoLease,
    #[error("the keepalive failed")]
    Etcd(#[source] EtcdError),
    #[error("the guard did not take the deadline")]
    Guard(#[source] crate::guard::client::GuardError),
    #[error("the keeper has ended; please report this")]
    Ended,
}

/// A lease as one program of this process hands it to the next: it counts until its deadline without a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    pub id: LeaseId,
    /// The time to live that was asked for.
    pub asked: Duration,
    /// The time from `sent` to the deadline.
    pub lasts: Duration,
    /// When the last answered keepalive was sent.
    pub sent: Tick,
    /// The leadership that the guard is armed under.
    pub fence: Option<Fence>,
}

/// What a keeper begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// What a process before left in its file: counts once etcd has renewed it.
    Found(Adopted),
    Handed(Handed),
}

enum Command {
    HandOver(oneshot::Sender<Result<Option<Handed>, KeeperError>>),
    Renew(oneshot::Sender<Result<LeaseId, KeeperError>>),
    Arm(Fence, oneshot::Sender<Result<(), KeeperError>>),
    Disarm(oneshot::Sender<Result<(), KeeperError>>),
    Release(oneshot::Sender<Result<(), KeeperError>>),
}

/// The loop's side of the keeper.
#[derive(Debug, Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
    gate: Gate,
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::HandOver(_) => "HandOver",
            Command::Renew(_) => "Renew",
            Command::Arm(..) => "Arm",
            Command::Disarm(_) => "Disarm",
            Command::Release(_) => "Release",
        })
    }
}

#[derive(Debug)]
struct Shared {
    lease: Mutex<Lease>,
    /// When etcd answered the last keepalive or grant; None: the last one failed.
    answered: Mutex<Option<Tick>>,
    times: Mutex<Times>,
    /// The time to live that the last lease was asked for with; None: there was none yet.
    asked: Mutex<Option<Duration>>,
    /// The fence that the guard was last armed under; None: disarmed or released.
    armed: Mutex<Option<Fence>>,
    /// The deadline that the other members' promises make, in failsafe mode.
    promised: Mutex<Option<Deadline>>,
    confidence: Confidence,
    wake: Arc<Notify>,
    nudge: Notify,
}

impl Shared {
    fn set(&self, lease: Lease) {
        let mut slot = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = |lease: &Lease| match lease {
            Lease::None => (0, None),
            Lease::Held { id, .. } => (1, Some(*id)),
            Lease::Lost { id } => (2, Some(*id)),
        };
        let news = kind(&slot) != kind(&lease);
        *slot = lease;
        drop(slot);
        if news {
            self.wake.notify_one();
        }
    }

    fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn promised(&self) -> Option<Deadline> {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_asked(&self, asked: Option<Duration>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    fn set_answered(&self, answered: Option<Tick>) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = answered;
    }

    fn set_armed(&self, fence: Option<Fence>) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = fence;
    }

    fn armed(&self) -> Option<Fence> {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease of an earlier process of this member, to be taken over if it still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    pub lease: LeaseId,
    /// Set where the leader key still bears this lease and create revision.
    pub fence: Option<Fence>,
}

impl Keeper {
    /// Starts the task. `wake` is told when the lease is granted or lost.
    pub fn start(client: Client, gate: Gate, times: Times, before: Before, wake: Arc<Notify>) -> Keeper {
        let (commands, inbox) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            lease: Mutex::new(Lease::None),
            answered: Mutex::default(),
            times: Mutex::new(times),
            asked: Mutex::default(),
            armed: Mutex::new(None),
            promised: Mutex::new(None),
            confidence: Confidence::default(),
            wake,
            nudge: Notify::new(),
        });
        shared.confidence.certify(clock::now());
        let task = Task {
            client,
            gate: gate.clone(),
            shared: shared.clone(),
            inbox,
            held: None,
            unacknowledged: false,
        };
        tokio::spawn(task.run(before));
        Keeper { shared, gate, commands }
    }

    /// Returns the verdict on the lease as of this moment.
    pub fn lease(&self) -> Lease {
        let lease = *self.shared.lease.lock().unwrap_or_else(PoisonError::into_inner);
        match lease {
            // The task may be waiting for etcd just then; the clock is not.
            Lease::Held { id, deadline, .. } if clock::now() >= deadline => Lease::Lost { id },
            lease => lease,
        }
    }

    /// Returns when etcd last answered, if it has answered each keepalive that was due.
    pub fn answered(&self) -> Option<Tick> {
        let times = self.shared.times();
        let period = Period::of(times.ttl, times.loop_wait, times.retry_timeout);
        let answered = *self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.filter(|at| clock::now().since(*at) < period.every + period.hedge_after * 2)
    }

    /// Returns the fence that the guard was last armed under.
    pub fn armed(&self) -> Option<Fence> {
        self.shared.armed()
    }

    /// Gives the guard a deadline that rests on promises in place of the lease: `asked` is when the first of them was
    /// asked for. A lease that ends meanwhile takes nothing from it.
    ///
    /// # Errors
    /// The guard is not armed, or does not take it.
    pub async fn promised(&self, deadline: Deadline, asked: Tick) -> Result<(), KeeperError> {
        let fence = self.shared.armed().ok_or(KeeperError::NoLease)?;
        // The guard may hold a later deadline of the lease; this one is as good and its own.
        self.gate
            .ask(arm_request(deadline, fence.lease, asked), ARM_LIMIT)
            .await
            .map_err(KeeperError::Guard)?;
        *self.shared.promised.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        Ok(())
    }

    /// Tells whether promises let this leader write at this moment.
    pub fn is_promised(&self) -> bool {
        self.shared.promised().is_some_and(|deadline| deadline.allows_writing(clock::now()))
    }

    /// Returns the time to live of the last lease: a changed setting counts from the next one on.
    pub fn ttl(&self) -> Option<Duration> {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues a certificate of confidence.
    pub fn certify(&self) {
        self.shared.confidence.certify(clock::now());
    }

    /// Takes other times. A shorter or longer ttl counts from the next lease on, unless this member does not lead.
    pub fn set_times(&self, times: Times) {
        let mut slot = self.shared.times.lock().unwrap_or_else(PoisonError::into_inner);
        if *slot != times {
            *slot = times;
            drop(slot);
            self.shared.nudge.notify_one();
        }
    }

    /// Renews at once and returns the lease that was renewed.
    ///
    /// # Errors
    /// There is no living lease, or etcd did not answer.
    pub async fn renew(&self) -> Result<LeaseId, KeeperError> {
        self.command(Command::Renew).await
    }

    /// Renews at once and returns the lease for the next program of this process; None where there is none.
    ///
    /// # Errors
    /// etcd did not answer, or the guard did not take the deadline: this is no moment for it.
    pub async fn hand_over(&self) -> Result<Option<Handed>, KeeperError> {
        self.command(Command::HandOver).await
    }

    /// Arms the guard under `fence` with the present deadline, and keeps extending it.
    ///
    /// # Errors
    /// The lease is not that of the fence, or the guard does not take it.
    pub async fn arm(&self, fence: Fence) -> Result<(), KeeperError> {
        self.command(|answer| Command::Arm(fence, answer)).await
    }

    /// Takes the deadline from the guard.
    ///
    /// # Errors
    /// The guard does not answer.
    pub async fn disarm(&self) -> Result<(), KeeperError> {
        self.command(Command::Disarm).await
    }

    /// Opens the gate for a pause.
    ///
    /// # Errors
    /// The guard does not answer.
    pub async fn release(&self) -> Result<(), KeeperError> {
        self.command(Command::Release).await
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, KeeperError>>) -> Command,
    ) -> Result<T, KeeperError> {
        let (answer, done) = oneshot::channel();
        self.commands.send(make(answer)).await.map_err(|_| KeeperError::Ended)?;
        done.await.map_err(|_| KeeperError::Ended)?
    }
}

fn arm_request(deadline: Deadline, lease: LeaseId, sent: Tick) -> protocol::Request {
    let millis = |from: Tick| u64::try_from(deadline.at().since(from).as_millis()).unwrap_or(u64::MAX);
    protocol::Request::Arm {
        deadline: deadline.at(),
        margins: protocol::Margins {
            fast_ms: millis(deadline.stop_at()),
            immediate_ms: millis(deadline.immediate_at()),
            kill_ms: millis(deadline.kill_at()),
        },
        lease: lease.0,
        sent,
    }
}

/// The lease as the task knows it.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: LeaseId,
    asked: Duration,
    deadline: Deadline,
    /// When the keepalive that `deadline` rests on was sent.
    sent: Tick,
}

struct Task {
    client: Client,
    gate: Gate,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    held: Option<Held>,
    /// The guard has not taken the last deadline.
    unacknowledged: bool,
}

impl Task {
    async fn run(mut self, before: Before) {
        match before {
            Before::Nothing => {}
            Before::Found(adopted) => self.adopt(adopted).await,
            Before::Handed(handed) => self.go_on(handed),
        }
        loop {
            let now = clock::now();
            let pause = match self.held {
                None => match self.grant().await {
                    Ok(()) => continue,
                    Err(_) => GRANT_RETRY,
                },
                Some(held) if held.deadline.has_passed(now) => {
                    self.lose(held.id);
                    continue;
                }
                Some(held) => {
                    let times = self.shared.times();
                    if held.asked != times.ttl && self.shared.armed().is_none() {
                        self.replace(held).await;
                        continue;
                    }
                    let period = Period::of(held.asked, times.loop_wait, times.retry_timeout);
                    let due = held.sent + period.every;
                    if due <= now {
                        if self.step(held, times, period).await {
                            continue;
                        }
                        RETRY
                    } else {
                        due.since(now).min(held.deadline.at().since(now))
                    }
                }
            };
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = self.shared.nudge.notified() => {}
                () = alarm::until(clock::now() + pause) => {}
            }
        }
    }

    /// Renews once if that is allowed; returns whether it was.
    async fn step(&mut self, held: Held, times: Times, period: Period) -> bool {
        if self.unacknowledged && !self.tell_guard(held).await {
            return false;
        }
        if !self.shared.confidence.holds(clock::now(), times.ttl, times.loop_wait) {
            return false;
        }
        match self.renew(held, period.give_up_after).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(lease = %held.id, error = %crate::sys::chain(&error), "the keepalive failed");
                false
            }
        }
    }

    async fn renew(&mut self, held: Held, limit: Duration) -> Result<LeaseId, EtcdError> {
        let answer = self.client.keep_alive(held.id.0, limit).await;
        let answered = clock::now();
        self.shared.set_answered(answer.is_ok().then_some(answered));
        match answer {
            Ok(renewal) => match held.deadline.renewed(renewal.sent, answered, held.asked, renewal.ttl) {
                Some(deadline) => {
                    let held = Held { deadline, sent: renewal.sent, ..held };
                    self.hold(held);
                    // Under promises the guard may still be armed for a lease that has ended.
                    if self.shared.armed().is_some_and(|fence| fence.lease == held.id) {
                        self.tell_guard(held).await;
                    }
                    Ok(held.id)
                }
                None => {
                    self.lose(held.id);
                    Err(EtcdError::LeaseNotFound(held.id.0))
                }
            },
            Err(EtcdError::LeaseNotFound(id)) => {
                self.lose(held.id);
                Err(EtcdError::LeaseNotFound(id))
            }
            Err(error) => Err(error),
        }
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
        let request = arm_request(held.deadline, held.id, held.sent);
        self.gate.ask(request, ARM_LIMIT).await.map_err(KeeperError::Guard)?;
        self.unacknowledged = false;
        Ok(())
    }

    fn hold(&mut self, held: Held) {
        self.held = Some(held);
        self.shared.set_asked(Some(held.asked));
        self.shared.set(Lease::Held {
            id: held.id,
            deadline: held.deadline.at(),
            stop_at: held.deadline.stop_at(),
        });
    }

    /// The lease is dead for ever. The guard's deadline is at most this lease's, so it acts by itself.
    fn lose(&mut self, id: LeaseId) {
        tracing::warn!(lease = %id, "the lease is lost");
        self.held = None;
        self.unacknowledged = false;
        if self.shared.promised().is_none_or(|deadline| deadline.has_passed(clock::now())) {
            self.shared.set_armed(None);
        }
        self.shared.set(Lease::Lost { id });
    }

    async fn grant(&mut self) -> Result<(), EtcdError> {
        let asked = self.shared.times().ttl;
        let granted = self.client.lease_grant(asked).await?;
        self.shared.set_answered(Some(granted.sent));
        let deadline = Deadline::granted(granted.sent, asked, granted.ttl);
        self.hold(Held { id: LeaseId(granted.lease), asked, deadline, sent: granted.sent });
        Ok(())
    }

    /// Gets a lease of another length; the old one ends, and with it the member key, which is published anew.
    async fn replace(&mut self, held: Held) {
        if self.grant().await.is_ok() {
            let _ = self.client.lease_revoke(held.id.0).await;
        } else {
            // The next period is as good a moment as this one.
            self.held = Some(Held { sent: held.sent, ..held });
            tokio::time::sleep(GRANT_RETRY).await;
        }
    }

    async fn adopt(&mut self, adopted: Adopted) {
        let Adopted { lease, fence } = adopted;
        let asked = self.shared.times().ttl;
        match self.client.keep_alive(lease.0, asked / 4).await {
            Ok(renewal) => {
                let deadline = Deadline::granted(renewal.sent, asked, renewal.ttl);
                let held = Held { id: lease, asked, deadline, sent: renewal.sent };
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
        let times = self.shared.times();
        let period = Period::of(held.asked, times.loop_wait, times.retry_timeout);
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
                    Some(held) if !held.deadline.has_passed(clock::now()) => {
                        let times = self.shared.times();
                        let period = Period::of(held.asked, times.loop_wait, times.retry_timeout);
                        self.renew(held, period.give_up_after).await.map_err(KeeperError::Etcd)
                    }
                    Some(_) | None => Err(KeeperError::NoLease),
                };
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
        let held = self.held.filter(|held| held.id == fence.lease && !held.deadline.has_passed(clock::now()));
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
