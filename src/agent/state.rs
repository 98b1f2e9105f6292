//! What a process of this agent leaves for the next one on the same boot: enough to go on with its lease.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::lease::keeper::Adopted;
use crate::agent::view::{LeaseId, Revision, Snapshot};
use crate::cluster::MemberName;
use crate::sys::children::boot_id;
use crate::sys::files::{self, Attributes, FileError};

/// The file's content. Durable between versions: fields are only added, optional.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// A lease of another boot is counted on another clock.
    pub boot_id: String,
    pub name: String,
    pub scope: String,
    /// 0: none.
    #[serde(default)]
    pub lease: i64,
    /// The lease of another ttl that is to take its place; 0: none.
    #[serde(default)]
    pub next_lease: i64,
    /// Of the leader key under this lease; 0: not leading.
    #[serde(default)]
    pub create_revision: i64,
    /// The etcd cluster that answered; 0: none did.
    #[serde(default)]
    pub cluster_id: u64,
}

/// Returns the path of the file beside the guard's socket, and named like it after the data directory: a second agent
/// of the same name with other data must not take this one's lease for its own.
pub fn path(socket: &Path) -> PathBuf {
    socket.with_extension("agent.json")
}

impl State {
    /// Returns what the process before left, if it was of this boot, cluster and member.
    pub fn load(path: &Path, scope: &str, name: &str) -> Option<State> {
        let bytes = files::read_if_there(path).ok()??;
        let state: State = serde_json::from_slice(&bytes).ok()?;
        (state.boot_id == boot_id() && state.scope == scope && state.name == name).then_some(state)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Its folder may not be written.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        files::replace(path, &text, Attributes::OWNER_ONLY)
    }

    /// Returns the lease to take over, and the fence where the leader key still bears both numbers. While the lock was on
    /// its way from one lease to the next, it is the one that the key bears.
    pub fn adoptable(&self, me: &MemberName, snapshot: &Snapshot) -> Option<Adopted> {
        let known = |id: i64| (id != 0).then_some(LeaseId(id));
        let (first, next) = (known(self.lease)?, known(self.next_lease));
        let mine = snapshot
            .leader
            .as_ref()
            .filter(|leader| leader.name == *me && (leader.lease == first || Some(leader.lease) == next));
        let Some(leader) = mine else { return Some(Adopted { lease: first, next: None, fence: None }) };
        let led = leader.create_revision == Revision(self.create_revision);
        Some(Adopted {
            lease: leader.lease,
            next: next.filter(|next| *next != leader.lease),
            fence: led.then(|| leader.fence()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::view::{Fence, LeaderKey};

    fn snapshot(lease: i64, create_revision: i64) -> Snapshot {
        let leader = LeaderKey {
            name: "a".parse().unwrap(),
            lease: LeaseId(lease),
            create_revision: Revision(create_revision),
            mod_revision: Revision(9),
        };
        Snapshot { leader: Some(leader), ..Snapshot::default() }
    }

    #[test]
    fn leadership_is_taken_over_only_with_both_numbers() {
        let state = State { lease: 5, create_revision: 7, ..State::default() };
        let me = "a".parse().unwrap();

        assert!(state.adoptable(&me, &snapshot(5, 7)).unwrap().fence.is_some());
        assert!(state.adoptable(&me, &snapshot(5, 8)).unwrap().fence.is_none());
        assert!(state.adoptable(&me, &snapshot(6, 7)).unwrap().fence.is_none());
    }

    #[test]
    fn a_lock_that_was_on_its_way_to_another_lease_is_found_under_either() {
        let state = State { lease: 5, next_lease: 6, create_revision: 7, ..State::default() };
        let me = "a".parse().unwrap();
        let found = |lease| state.adoptable(&me, &snapshot(lease, 7)).unwrap();
        let fence = |lease| Some(Fence { lease: LeaseId(lease), create_revision: Revision(7) });

        let (before, after) = (found(5), found(6));
        assert_eq!((before.lease, before.next, before.fence), (LeaseId(5), Some(LeaseId(6)), fence(5)));
        assert_eq!((after.lease, after.next, after.fence), (LeaseId(6), None, fence(6)));
        assert_eq!((found(9).lease, found(9).next, found(9).fence), (LeaseId(5), None, None));
    }

    #[test]
    fn a_file_of_another_member_is_not_read() {
        let temp = tempfile::tempdir().unwrap();
        let file = path(&temp.path().join("guard-x.sock"));
        let state = State { boot_id: boot_id(), name: "a".into(), scope: "demo".into(), ..State::default() };
        state.save(&file).unwrap();

        assert_eq!(State::load(&file, "demo", "a"), Some(state));
        assert_eq!(State::load(&file, "demo", "b"), None);
    }
}
