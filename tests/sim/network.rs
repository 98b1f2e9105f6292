//! Who can send to whom. Hosts are numbers; etcd is [`ETCD`].

use std::collections::BTreeSet;

/// etcd's place in the network.
pub const ETCD: usize = 99;

#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Directions in which nothing arrives.
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self, from: usize, to: usize) {
        self.cut.remove(&(from, to));
    }

    pub fn heal_all(&mut self) {
        self.cut.clear();
    }

    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn both_ways(&self, one: usize, other: usize) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }
}
