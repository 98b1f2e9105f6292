//! What the operator says about one member.

use crate::cluster::MemberName;

/// The tags of a member that decisions rest on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Tags {
    pub nofailover: bool,
    /// None where it was not set.
    pub failover_priority: Option<i64>,
    pub noloadbalance: bool,
    pub clonefrom: bool,
    pub nosync: bool,
    /// None where it was not set.
    pub sync_priority: Option<i64>,
    pub replicatefrom: Option<MemberName>,
    pub nostream: bool,
}

impl Tags {
    /// Returns the priority in the leader race; zero means that the member never leads by itself.
    ///
    /// `nofailover` beats the priority; a priority of zero or less means the same as `nofailover`.
    pub fn failover_priority(&self) -> i64 {
        if self.nofailover { 0 } else { self.failover_priority.unwrap_or(1).max(0) }
    }

    /// Returns the priority in the choice of synchronous standbys; zero means never.
    pub fn sync_priority(&self) -> i64 {
        if self.nosync { 0 } else { self.sync_priority.unwrap_or(1).max(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nofailover_beats_the_priority() {
        let tags = Tags { nofailover: true, failover_priority: Some(7), ..Tags::default() };
        assert_eq!(tags.failover_priority(), 0);
        assert_eq!(Tags::default().failover_priority(), 1);
        assert_eq!(Tags { failover_priority: Some(-3), ..Tags::default() }.failover_priority(), 0);
    }
}
