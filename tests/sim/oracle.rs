//! What was seen in a run, and what of it must never be.

use std::collections::{BTreeMap, BTreeSet};

use keddah::cluster::{MemberName, SystemId};

/// A commit whose client was told that it is done.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub id: u64,
    /// Index of its record.
    pub index: usize,
    pub host: MemberName,
    /// etcd's synchronous set named this host as its leader at that moment.
    pub synchronous: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Oracle {
    pub acknowledged: Vec<Acknowledged>,
    pub violations: Vec<String>,
    pub reasons: BTreeSet<&'static str>,
    pub identifier: Option<SystemId>,
    /// The highest timeline that a promotion whose leader lived to write it into the history has begun.
    pub highest_timeline: u32,
    /// How often each invariant was looked at.
    pub looked_at: BTreeMap<&'static str, u64>,
    /// How often each kind of fault happened.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often the guard refused what an agent held for allowed.
    pub gate_refusals: u64,
    pub handovers: u64,
    pub elections: u64,
    pub promotions: u64,
}

impl Oracle {
    pub fn violate(&mut self, now: u64, what: String) {
        if self.violations.len() < 5 {
            self.violations.push(format!("+{:.3}s {what}", now as f64 / 1000.0));
        }
    }

    /// Counts a look at an invariant; tells it as violated where it does not hold.
    pub fn holds(&mut self, now: u64, invariant: &'static str, held: bool, what: impl FnOnce() -> String) {
        *self.looked_at.entry(invariant).or_default() += 1;
        if !held {
            self.violate(now, format!("{invariant}: {}", what()));
        }
    }
}
