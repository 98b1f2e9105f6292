//! A person's wish that another member lead.

use std::fmt;

use crate::cluster::MemberName;

/// A moment of the wall clock, in milliseconds since 1970 (UTC); for schedules, never for deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub i64);

/// What etcd's `failover` key asks for.
///
/// With a leader named it is a switchover, which that leader carries out; without one a failover to the candidate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FailoverRequest {
    pub leader: Option<MemberName>,
    pub candidate: Option<MemberName>,
    /// None means at once.
    pub scheduled_at: Option<UnixMs>,
}

impl FailoverRequest {
    /// Tells whether the key asks for nothing, as `{}` does.
    pub fn is_spent(&self) -> bool {
        self.leader.is_none() && self.candidate.is_none()
    }
}

impl fmt::Display for FailoverRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.leader, &self.candidate) {
            (Some(leader), Some(candidate)) => write!(f, "switchover from {leader} to {candidate}"),
            (Some(leader), None) => write!(f, "switchover from {leader}"),
            (None, Some(candidate)) => write!(f, "failover to {candidate}"),
            (None, None) => f.write_str("nothing"),
        }
    }
}
