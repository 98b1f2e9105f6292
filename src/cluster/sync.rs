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
}

words!(SyncMode, "a synchronous mode: off, on, strict",
    Off => "off",
    On => "on",
    Strict => "strict",
);

/// The agreed synchronous set, as etcd's `sync` key holds it.
///
/// A member may take over without loss if it is the leader or one of the standbys named here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SyncState {
    pub leader: Option<MemberName>,
    pub standbys: BTreeSet<MemberName>,
    /// Votes needed in quorum mode; zero otherwise.
    pub quorum: u32,
}

impl SyncState {
    /// Tells whether `member` has every commit that was acknowledged under this set.
    ///
    /// Names compare without regard to case, as Postgres compares `synchronous_standby_names`.
    pub fn holds(&self, member: &MemberName) -> bool {
        let same = |other: &MemberName| other.as_str().eq_ignore_ascii_case(member.as_str());
        self.leader.as_ref().is_some_and(same) || self.standbys.iter().any(same)
    }
}

/// What `synchronous_standby_names` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SyncNames {
    /// Nothing of ours: empty, or the user's own value.
    Off,
    /// These standbys, all of them.
    All(BTreeSet<MemberName>),
    /// The placeholder that nobody answers to: commits wait until a standby comes.
    Nobody,
    /// Something that neither the user's configuration nor this cluster's agents wrote.
    Foreign(String),
}

impl SyncNames {
    /// Returns the standbys that commits wait for.
    pub fn standbys(&self) -> BTreeSet<MemberName> {
        match self {
            SyncNames::All(names) => names.clone(),
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
