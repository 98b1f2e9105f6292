//! What must always hold, whatever happens, and what was seen.

use std::collections::BTreeSet;

use keddah::cluster::{MemberName, SystemId};

/// A commit whose client was told that it is done.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub id: u64,
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
    /// Timelines that were begun, with who began them and how many records it had.
    pub promotions: Vec<(u32, MemberName)>,
    /// Since when nobody accepts writes, and the longest time so far.
    pub unwritable_since: Option<u64>,
    pub longest_gap: u64,
    pub handovers: u32,
    pub elections: u32,
}

impl Oracle {
    pub fn violate(&mut self, now: u64, what: String) {
        if self.violations.len() < 5 {
            self.violations.push(format!("+{:.3}s {what}", now as f64 / 1000.0));
        }
    }

    pub fn note_writable(&mut self, now: u64, writable: bool) {
        match (writable, self.unwritable_since) {
            (false, None) => self.unwritable_since = Some(now),
            (true, Some(since)) => {
                self.longest_gap = self.longest_gap.max(now - since);
                self.unwritable_since = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
}
