//! What the last look left for the REST API to answer from: one value, swapped as a whole.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::agent::disk::Readings;
use crate::agent::lease::gate::Gate;
use crate::agent::lease::keeper::Keeper;
use crate::agent::observe::dcs::DcsRead;
use crate::agent::view::{Guard, LeaderKey, Lease, Running, Seen, View};
use crate::cluster::{MemberName, Role, State, Tags};
use crate::sys::clock::{self, Tick};

/// What of Postgres is shown and not decided on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PostgresExtras {
    /// As Patroni writes it: `2026-01-31 12:00:00.123456+00:00`.
    pub postmaster_start_time: Option<String>,
    pub replayed_timestamp: Option<String>,
    pub replay_paused: bool,
    /// Where the WAL receiver knows the upstream's WAL to end.
    pub latest_end_lsn: u64,
    /// One object per WAL sender.
    pub replication: Vec<Value>,
    /// The slot that keeps the most WAL, and how many bytes of it.
    pub kept_by_slot: Option<(String, u64)>,
}

/// Everything that an answer may be made of.
#[derive(Debug, Clone)]
pub struct Shown {
    pub view: View,
    pub read: Arc<DcsRead>,
    pub extras: PostgresExtras,
    pub volumes: Readings,
    pub state: State,
    pub role: Role,
    /// Tags as others are shown them.
    pub tags: Map<String, Value>,
    /// Why the last decision is what it is: its code and its sentence.
    pub reason: (String, String),
    pub pending_restart_reason: Map<String, Value>,
    /// Why the last upgrade that was asked for was refused.
    pub upgrade_refused: Option<String>,
    pub scheduled_restart: Option<Map<String, Value>>,
    /// Seconds since 1970 of the last answer of etcd.
    pub dcs_last_seen: i64,
    pub looked_at: Tick,
}

impl Shown {
    pub fn tags_read(&self) -> &Tags {
        &self.view.tags
    }

    /// Tells whether etcd answered in the last look.
    pub fn dcs_is_known(&self) -> bool {
        matches!(self.view.dcs, Seen::Now(_))
    }

    /// Tells whether etcd has been silent for longer than a look's distance.
    pub fn is_etcd_silent(&self) -> bool {
        match &self.view.dcs {
            Seen::Now(_) => false,
            Seen::Stale { since, .. } => clock::now().since(*since) > self.view.settings.loop_wait,
            Seen::Never => true,
        }
    }

    /// Returns who held the key when etcd last answered.
    pub fn leader(&self) -> Option<&MemberName> {
        Some(&self.view.dcs.last()?.leader.as_ref()?.name)
    }

    pub fn is_unlocked(&self) -> bool {
        self.view.dcs.now().is_none_or(|snapshot| snapshot.leader.is_none())
    }

    pub fn running(&self) -> Option<&Running> {
        self.view.postgres.running()
    }
}

/// The API's window on the agent: the last look, and what is known to the moment.
#[derive(Debug, Clone)]
pub struct Window {
    pub shown: watch::Receiver<Option<std::sync::Arc<Shown>>>,
    pub keeper: Keeper,
    pub gate: Gate,
}

impl Window {
    pub fn look(&self) -> Option<std::sync::Arc<Shown>> {
        self.shown.borrow().clone()
    }

    /// Tells whether this member holds the lock at this very moment: the key was ours, the lease lives, and the guard
    /// has begun no stop.
    pub fn holds_lock(&self, shown: &Shown) -> bool {
        if shown.leader() != Some(&shown.view.me) {
            return false;
        }
        let Some(status) = self.gate.last() else {
            return false;
        };
        if status.server.is_some_and(|server| server.stopping) || status.stage.is_some() {
            return false;
        }
        if self.keeper.is_promised() {
            return true;
        }
        match self.keeper.lease() {
            Lease::Held { id, next, stop_at, .. } => {
                let key = shown.view.dcs.last().and_then(|snapshot| snapshot.leader.as_ref());
                let same = |key: &LeaderKey| key.lease == id || Some(key.lease) == next;
                key.is_some_and(same) && clock::now() < stop_at
            }
            // In a pause the gate is open without a deadline.
            Lease::None | Lease::Lost { .. } => shown.view.guard == Guard::Released,
        }
    }

    /// Tells whether this member is a primary that takes writes at this very moment.
    pub fn is_primary(&self, shown: &Shown) -> bool {
        matches!(shown.running(), Some(Running::Primary(_))) && self.holds_lock(shown)
    }
}
