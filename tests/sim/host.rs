//! One member's host: agent with its keeper, guard, Postgres.

use std::collections::BTreeMap;
use std::time::Duration;

use keddah::agent::decide::{Action, Memory};
use keddah::agent::lease::deadline::Deadline;
use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::guard::gate::{Arm, Posture};
use keddah::settings::Settings;

use crate::postgres::Postgres;

/// What an agent is doing.
#[derive(Debug, Clone)]
pub enum Phase {
    Idle,
    Reading {
        call: u64,
    },
    /// Carrying out actions; `call` is the request to etcd that is waited for.
    Acting {
        queue: Vec<Action>,
        call: Option<u64>,
    },
}

#[derive(Debug, Clone)]
pub struct Agent {
    /// Tells this process from those before it.
    pub process: u64,
    pub memory: Memory,
    pub phase: Phase,
    /// Tells the next look from those that were superseded.
    pub look: u64,
    pub look_at: u64,
    /// Woken while busy: look again at once.
    pub woken: bool,
    pub outcomes: Vec<Outcome>,
    pub last_read: Option<(Snapshot, Settings)>,
    /// The host's tick since which etcd has not answered.
    pub silent_since: Option<Tick>,
    pub peers: Peers,
    pub keeper: Keeper,
    pub requests: Requests,
    pub lead: Option<Promised>,
    /// A transaction that takes the lock may be under way, or its outcome has not been read back.
    pub taking: bool,
    pub last_reason: String,
    pub looked_at: u64,
    /// The revision that this process has seen answered: an older state is no answer.
    pub seen_revision: i64,
    /// An older state has answered last: its leases are not believed either.
    pub older: bool,
    /// What of the host the last decision rested on.
    pub tags: Tags,
    pub watchdog: Watchdog,
    pub room: Room,
}

#[derive(Debug, Clone, Default)]
pub struct Keeper {
    pub lease: Option<(LeaseId, Deadline)>,
    pub lost: Option<LeaseId>,
    /// The request under way: its number and when it was sent.
    pub sent: Option<(u64, Tick)>,
    /// The time to live that the lease was asked for with.
    pub asked: Duration,
    /// What is to take its place because another ttl is asked for.
    pub next: Option<Next>,
    /// The request about it that is under way: its number, when it was sent, and the ttl.
    pub next_sent: Option<(u64, Tick, Duration)>,
    /// The fence that the guard was last armed under.
    pub armed: Option<Fence>,
    /// The guard has not taken the last deadline: nothing is renewed until it has.
    pub unacknowledged: bool,
}

/// A lease beside the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub lease: LeaseId,
    pub deadline: Deadline,
    pub asked: Duration,
}

impl Keeper {
    /// The lease, and how long keys surely live that hang on it or on the next one.
    pub fn reach(&self) -> Option<(LeaseId, Deadline)> {
        let (lease, deadline) = self.lease?;
        Some((lease, self.next.map_or(deadline, |next| deadline.earlier(next.deadline))))
    }

    /// Nothing hangs on the lease before the next one any more. Returns that lease.
    pub fn succeed(&mut self) -> Option<LeaseId> {
        let next = self.next.take()?;
        let former = self.lease.replace((next.lease, next.deadline));
        self.asked = next.asked;
        (self.sent, self.next_sent) = (None, None);
        former.map(|(lease, _)| lease)
    }
}

/// What the file beside the guard's socket keeps for a process after this one.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    pub lease: LeaseId,
    /// What the guard is armed under, if that rests on this lease.
    pub fence: Option<Fence>,
    pub deadline: Deadline,
    pub asked: Duration,
    pub next: Option<Next>,
}

/// Volumes with room.
pub const ROOMY: Disk = Disk { room: Room::Ample, brake: false, left: None };

#[derive(Debug, Clone)]
pub struct Host {
    pub name: MemberName,
    pub up: bool,
    /// Frozen as a whole: nothing on it happens.
    pub frozen: bool,
    pub agent: Option<Agent>,
    /// The agent is stopped by a signal and goes on from where it was.
    pub agent_stopped: bool,
    /// The product's own gate.
    pub arm: Arm,
    /// No guard answers; Postgres, whose parent it was, is dead.
    pub guard_dead: bool,
    /// When the guard looks next at the latest.
    pub guard_at: u64,
    pub kept: Option<Kept>,
    /// The deadline in force rests on promises, not on the lease.
    pub by_promise: bool,
    /// After a pause the server was writing without a lease, as the pause allows, and is on its way down.
    pub after_pause: bool,
    /// The etcd cluster whose answers count in this boot.
    pub pinned: Option<u64>,
    pub postgres: Postgres,
    /// What its configuration file says.
    pub local: Local,
    /// The user's programs end badly.
    pub programs_fail: bool,
    /// How long the user's programs take, in ms.
    pub programs_take: Option<u64>,
    pub job: Option<JobReport>,
    pub preflight: Option<Preflight>,
    pub oldest_wal: Option<OldestWal>,
    pub remote: Option<Remote>,
    pub job_number: u64,
    /// The host's clock beside the true one, in ms.
    pub clock_ahead: u64,
    /// The wall clock beside the true one, in ms.
    pub wall_ahead: i64,
    pub tags: Tags,
    pub watchdog: Watchdog,
    /// How much room its volumes have.
    pub disk: Disk,
    pub answered: BTreeMap<RequestId, bool>,
    pub exits: u32,
    /// On disk; None: no process has ever written one in this boot.
    pub promise: Option<Promise>,
}

impl Host {
    pub fn new(name: &str, clock_ahead: u64) -> Host {
        Host {
            name: name.parse().unwrap(),
            up: true,
            frozen: false,
            agent: None,
            agent_stopped: false,
            arm: Arm::NEW,
            guard_dead: false,
            guard_at: 0,
            kept: None,
            by_promise: false,
            after_pause: false,
            pinned: None,
            postgres: Postgres::new(),
            local: Local::default(),
            programs_fail: false,
            programs_take: None,
            job: None,
            preflight: None,
            oldest_wal: None,
            remote: None,
            job_number: 0,
            clock_ahead,
            wall_ahead: 0,
            tags: Tags::default(),
            watchdog: Watchdog::NotRequired,
            disk: ROOMY,
            answered: BTreeMap::new(),
            exits: 0,
            promise: None,
        }
    }

    pub fn tick(&self, now: u64) -> Tick {
        Tick(now + self.clock_ahead)
    }

    /// The true moment of one of this host's ticks.
    pub fn moment(&self, tick: Tick) -> u64 {
        tick.0.saturating_sub(self.clock_ahead)
    }

    pub fn live(&self) -> bool {
        self.up && !self.frozen
    }

    /// Writes down the agent's lease, and what it leads under.
    pub fn keep_state(&mut self) {
        let Some(Agent { keeper, .. }) = &self.agent else { return };
        let Keeper { lease, asked, next, armed, .. } = *keeper;
        self.kept = lease.map(|(lease, deadline)| {
            let fence = armed.filter(|fence| fence.lease == lease);
            Kept { lease, fence, deadline, asked, next }
        });
    }

    pub fn agent_runs(&self) -> bool {
        self.live() && !self.agent_stopped && self.agent.is_some()
    }

    pub fn released(&self) -> bool {
        self.arm == Arm::Released || self.after_pause
    }

    /// What the guard sees in the data directory.
    pub fn posture(&self) -> Posture {
        match (self.postgres.is_down(), self.postgres.may_become_writable()) {
            (true, _) => Posture::Nobody,
            (false, true) => Posture::Writable,
            (false, false) => Posture::ReadOnly,
        }
    }
}
