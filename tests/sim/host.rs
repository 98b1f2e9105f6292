//! One member's host: agent with its keeper, guard, Postgres.

use std::collections::BTreeMap;

use keddah::agent::decide::{Action, Memory};
use keddah::agent::lease::deadline::Deadline;
use keddah::agent::view::*;
use keddah::cluster::*;
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
}

#[derive(Debug, Clone, Default)]
pub struct Keeper {
    pub lease: Option<(LeaseId, Deadline)>,
    pub lost: Option<LeaseId>,
    /// The request under way: its number and when it was sent.
    pub sent: Option<(u64, Tick)>,
}

/// The guard's state, as the product's gate has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Closed,
    Armed {
        fence: Fence,
        deadline: Deadline,
    },
    Released,
    /// The deadline was taken back beside a server that may write: the stages go on from that moment. After a pause
    /// the server was writing without a deadline, as the pause allows, until this moment.
    Ending {
        immediate: u64,
        kill: u64,
        paused: bool,
    },
}

#[derive(Debug, Clone)]
pub struct Host {
    pub name: MemberName,
    pub up: bool,
    /// Frozen as a whole: nothing on it happens.
    pub frozen: bool,
    pub agent: Option<Agent>,
    /// The agent is stopped by a signal and goes on from where it was.
    pub agent_stopped: bool,
    pub gate: Gate,
    pub postgres: Postgres,
    pub job: Option<JobReport>,
    pub preflight: Option<Preflight>,
    pub job_number: u64,
    /// The host's clock beside the true one, in ms.
    pub clock_ahead: u64,
    pub tags: Tags,
    pub watchdog: Watchdog,
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
            gate: Gate::Closed,
            postgres: Postgres::new(),
            job: None,
            preflight: None,
            job_number: 0,
            clock_ahead,
            tags: Tags::default(),
            watchdog: Watchdog::NotRequired,
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

    pub fn agent_runs(&self) -> bool {
        self.live() && !self.agent_stopped && self.agent.is_some()
    }

    pub fn released(&self) -> bool {
        matches!(self.gate, Gate::Released | Gate::Ending { paused: true, .. })
    }
}
