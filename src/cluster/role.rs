//! What a member is to its cluster.

use crate::cluster::words;

/// The role a member shows to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Out of recovery, under the lock.
    Primary,
    /// In recovery.
    Replica,
    /// Holds the lock of a standby cluster.
    StandbyLeader,
    /// Was primary and has stopped being writable.
    Demoted,
    /// Has no data yet.
    Uninitialized,
    /// Was told to leave recovery and has not done so yet.
    Promoted,
}

words!(Role, "a role: primary, replica, standby_leader, demoted, uninitialized, promoted",
    Primary => "primary",
    Replica => "replica",
    StandbyLeader => "standby_leader",
    Demoted => "demoted",
    Uninitialized => "uninitialized",
    Promoted => "promoted",
);
