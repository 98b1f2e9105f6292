//! What a process of this agent leaves for the next one on the same boot: enough to go on with its lease.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::lease::keeper::Adopted;
use crate::agent::view::{Fence, LeaseId, Revision, Snapshot};
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
        files::replace(path, &text, Attributes { mode: Some(0o600), uid: None, gid: None })
    }

    /// Returns the lease to take over, and the fence where the leader key still bears both numbers.
    pub fn adoptable(&self, me: &MemberName, snapshot: &Snapshot) -> Option<Adopted> {
        let lease = LeaseId(self.lease);
        if self.lease == 0 {
            return None;
        }
        let fence = snapshot.leader.as_ref().and_then(|leader| {
            let same = leader.name == *me
                && leader.lease == lease
                && leader.create_revision == Revision(self.create_revision);
            same.then_some(Fence { lease, create_revision: leader.create_revision })
        });
        Some(Adopted { lease, fence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::view::LeaderKey;

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
    fn a_file_of_another_member_is_not_read() {
        let temp = tempfile::tempdir().unwrap();
        let file = path(&temp.path().join("guard-x.sock"));
        let state = State { boot_id: boot_id(), name: "a".into(), scope: "demo".into(), ..State::default() };
        state.save(&file).unwrap();

        assert_eq!(State::load(&file, "demo", "a"), Some(state));
        assert_eq!(State::load(&file, "demo", "b"), None);
    }
}
