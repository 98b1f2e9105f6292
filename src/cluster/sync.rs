//! Synchronous replication: the mode, the agreed set, and what Postgres is told.

use std::collections::BTreeSet;

use crate::cluster::{MemberName, words};

/// Whether commits wait for standbys that may take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncMode {
    /// Commits wait for nobody.
    Off,
    /// Commits wait for the agreed standbys while there are any.
    On,
    /// As `On`, and with no standby left commits wait for one to come.
    Strict,
    /// Commits wait for some of the standbys, whichever are first; a taker proves by votes that it lacks nothing.
    Quorum,
    /// As `Quorum`, and with no standby left commits wait for one to come.
    QuorumStrict,
}

words!(SyncMode, "a synchronous mode: off, on, strict, quorum, quorum-strict",
    Off => "off",
    On => "on",
    Strict => "strict",
    Quorum => "quorum",
    QuorumStrict => "quorum-strict",
);

impl SyncMode {
    /// Tells whether commits wait for a standby to come when none is left.
    pub fn is_strict(self) -> bool {
        matches!(self, SyncMode::Strict | SyncMode::QuorumStrict)
    }

    /// Tells whether any standbys will do, as long as they are enough.
    pub fn is_quorum(self) -> bool {
        matches!(self, SyncMode::Quorum | SyncMode::QuorumStrict)
    }

    /// Returns what a server of this mode is told while there is no standby to wait for.
    pub fn names_of_nobody(self) -> SyncNames {
        match self {
            SyncMode::Off | SyncMode::On | SyncMode::Quorum => SyncNames::Off,
            SyncMode::Strict => SyncNames::Nobody,
            SyncMode::QuorumStrict => SyncNames::Any { count: 1, names: BTreeSet::new() },
        }
    }
}

/// The agreed synchronous set, as etcd's `sync` key holds it.
///
/// A member may take over without loss if it is the leader or one of the standbys named here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SyncState {
    pub leader: Option<MemberName>,
    pub standbys: BTreeSet<MemberName>,
    /// How many of the standbys may lack a commit, in quorum mode; zero otherwise. A taker needs the votes of one more,
    /// its own among them if it is a standby.
    pub quorum: u32,
}

impl SyncState {
    /// Tells whether this set names `member`. With a quorum of zero it then has every commit that was acknowledged under
    /// this set.
    ///
    /// Names compare without regard to case, as Postgres compares `synchronous_standby_names`.
    pub fn holds(&self, member: &MemberName) -> bool {
        self.leader.as_ref().is_some_and(|leader| same(leader, member)) || self.has_standby(member)
    }

    /// Tells whether this set names `member` as a standby.
    pub fn has_standby(&self, member: &MemberName) -> bool {
        self.standbys.iter().any(|standby| same(standby, member))
    }
}

fn same(one: &MemberName, other: &MemberName) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

/// What `synchronous_standby_names` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SyncNames {
    /// Nothing of ours: empty, or the user's own value.
    Off,
    /// These standbys, all of them.
    All(BTreeSet<MemberName>),
    /// Any so many of these standbys; of none: commits wait until a standby comes.
    Any { count: usize, names: BTreeSet<MemberName> },
    /// The placeholder that nobody answers to: commits wait until a standby comes.
    Nobody,
    /// Something that neither the user's configuration nor this cluster's agents wrote.
    Foreign(String),
}

impl SyncNames {
    /// Tells whether commits wait for a standby that is not there yet.
    pub fn is_nobody(&self) -> bool {
        match self {
            SyncNames::Nobody => true,
            SyncNames::All(names) | SyncNames::Any { names, .. } => names.is_empty(),
            SyncNames::Off | SyncNames::Foreign(_) => false,
        }
    }

    /// Returns the standbys that commits wait for.
    pub fn standbys(&self) -> BTreeSet<MemberName> {
        match self {
            SyncNames::All(names) | SyncNames::Any { names, .. } => names.clone(),
            SyncNames::Off | SyncNames::Nobody | SyncNames::Foreign(_) => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_compares_names_as_postgres_does() {
        let name = |text: &str| text.parse::<MemberName>().unwrap();
        let state =
            SyncState { leader: Some(name("db1")), standbys: BTreeSet::from([name("DB2")]), quorum: 0 };

        assert!(state.holds(&name("db1")));
        assert!(state.holds(&name("db2")));
        assert!(!state.holds(&name("db3")));
        assert!(!SyncState::default().holds(&name("db1")));
    }
}
