//! Keeps this member's lease alive, and tells the guard how long it lives.
//!
//! A task of its own ([`super::task`]), so that nothing the loop waits for costs the lease. It renews while the loop is
//! confident ([`Confidence`]), and while it leads only after the guard has acknowledged the deadline before: no guard, no
//! lease.
//!
//! Where another ttl is asked for, a second lease is kept beside the first until the loop has seen that nothing hangs on
//! the first any more ([`Keeper::settle`]). Meanwhile the one that ends first counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::agent::lease::confidence::Confidence;
use crate::agent::lease::deadline::{Deadline, Period};
use crate::agent::lease::gate::Gate;
use crate::agent::lease::task::Task;
use crate::agent::view::{Fence, Lease, LeaseId};
use crate::etcd::{Client, EtcdError};
use crate::guard::protocol;
use crate::sys::clock::{self, Tick};

/// How long an arm may stay unacknowledged.
pub(super) const ARM_LIMIT: Duration = Duration::from_millis(1_000);

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
    #[error("the lease is being replaced by one of another ttl")]
    Changing,
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

pub(super) enum Command {
    HandOver(oneshot::Sender<Result<Option<Handed>, KeeperError>>),
    Renew(oneshot::Sender<Result<LeaseId, KeeperError>>),
    Settle(LeaseId, oneshot::Sender<Result<(), KeeperError>>),
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
            Command::Settle(..) => "Settle",
            Command::Arm(..) => "Arm",
            Command::Disarm(_) => "Disarm",
            Command::Release(_) => "Release",
        })
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    lease: Mutex<Lease>,
    /// When etcd answered the last keepalive or grant; None: the last one failed.
    answered: Mutex<Option<Tick>>,
    times: Mutex<Times>,
    /// The time to live that the last lease was asked for with, the shorter of two; None: there was none yet.
    asked: Mutex<Option<Duration>>,
    /// The fence that the guard was last armed under; None: disarmed or released.
    armed: Mutex<Option<Fence>>,
    /// The deadline that the other members' promises make, in failsafe mode.
    promised: Mutex<Option<Deadline>>,
    pub(super) confidence: Confidence,
    wake: Arc<Notify>,
    pub(super) nudge: Notify,
}

impl Shared {
    pub(super) fn set(&self, lease: Lease) {
        let mut slot = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = |lease: &Lease| match lease {
            Lease::None => (0, None, None),
            Lease::Held { id, next, .. } => (1, Some(*id), *next),
            Lease::Lost { id } => (2, Some(*id), None),
        };
        let news = kind(&slot) != kind(&lease);
        *slot = lease;
        drop(slot);
        if news {
            self.wake.notify_one();
        }
    }

    pub(super) fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn promised(&self) -> Option<Deadline> {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_asked(&self, asked: Option<Duration>) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    pub(super) fn set_answered(&self, answered: Option<Tick>) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = answered;
    }

    pub(super) fn set_armed(&self, fence: Option<Fence>) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = fence;
    }

    pub(super) fn armed(&self) -> Option<Fence> {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how often a lease of `ttl` is renewed at present.
    pub(super) fn period(&self, ttl: Duration, times: Times) -> Period {
        let period = Period::of(ttl, times.loop_wait, times.retry_timeout);
        if self.armed().is_some() { period } else { period.while_following(ttl) }
    }
}

/// A lease of an earlier process of this member, to be taken over if it still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    pub lease: LeaseId,
    /// Its successor, to which the lock may still be on its way.
    pub next: Option<LeaseId>,
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
        let task = Task::new(client, gate.clone(), shared.clone(), inbox);
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
        let period = self.shared.period(times.ttl, times);
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

    /// Returns the time to live of the last lease, the shorter one where a changed setting has not settled yet.
    pub fn ttl(&self) -> Option<Duration> {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues a certificate of confidence.
    pub fn certify(&self) {
        self.shared.confidence.certify(clock::now());
    }

    /// Takes other times. For another ttl a second lease is granted, which [`Lease::Held`] then names.
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

    /// Makes `lease` the only one: etcd has been read, and nothing of this member's hangs on the one before it. A guard
    /// that is armed under that one gets the new fence.
    ///
    /// # Errors
    /// There is no such lease, or the guard does not take it.
    pub async fn settle(&self, lease: LeaseId) -> Result<(), KeeperError> {
        self.command(|answer| Command::Settle(lease, answer)).await
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

pub(super) fn arm_request(deadline: Deadline, lease: LeaseId, sent: Tick) -> protocol::Request {
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
