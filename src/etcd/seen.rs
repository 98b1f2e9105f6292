//! What has been seen of etcd, and what of its answers is believed: none that is older or of another cluster.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::error::EtcdError;

/// What has been seen. 0: nothing yet.
#[derive(Debug, Default)]
pub(super) struct Seen {
    cluster_id: AtomicU64,
    revision: AtomicI64,
    term: AtomicU64,
    /// The revision of the older state that answered last, until a newer one answers.
    older: AtomicI64,
}

/// What had been seen when a request went out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    revision: i64,
    term: u64,
}

impl Seen {
    pub(super) fn now(&self) -> Before {
        Before { revision: self.revision.load(Ordering::Relaxed), term: self.term.load(Ordering::Relaxed) }
    }

    pub(super) fn pin(&self, cluster_id: u64) {
        self.cluster_id.store(cluster_id, Ordering::Relaxed);
    }

    pub(super) fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Relaxed)
    }

    /// Checks an answer of `endpoint` against what was seen before it was asked for, and remembers it. The first answer
    /// pins the cluster.
    ///
    /// # Errors
    /// It is of another cluster, or of an older state.
    pub(super) fn accept(
        &self,
        header: Option<Header>,
        before: Before,
        endpoint: impl Fn() -> String,
    ) -> Result<(), EtcdError> {
        let Some(Header { cluster_id, revision, term }) = header else {
            return Ok(());
        };
        let pinned = self
            .cluster_id
            .compare_exchange(0, cluster_id, Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(|pinned| pinned, |_| cluster_id);
        if pinned != cluster_id {
            return Err(EtcdError::OtherCluster {
                endpoint: endpoint(),
                expected: pinned,
                found: cluster_id,
            });
        }
        let older = |found| EtcdError::OlderState { endpoint: endpoint(), found, seen: before.revision };
        if revision == 0 {
            // A restored snapshot knows leases too, and goes on renewing those that were there when it was made. Who
            // leads by one of them must not go on when the rest of what etcd says is not believed.
            return match self.older.load(Ordering::Relaxed) {
                0 => Ok(()),
                found => Err(older(found)),
            };
        }
        if revision < before.revision || term < before.term {
            self.older.store(revision, Ordering::Relaxed);
            return Err(older(revision));
        }
        self.older.store(0, Ordering::Relaxed);
        self.revision.fetch_max(revision, Ordering::Relaxed);
        self.term.fetch_max(term, Ordering::Relaxed);
        Ok(())
    }
}

/// What the header of an answer says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    cluster_id: u64,
    /// 0 where the answer proves nothing about how new the endpoint's state is.
    pub(super) revision: i64,
    term: u64,
}

impl Header {
    /// Reads the header of an answer that went through the log: a linearizable read or a write.
    pub(super) fn of(header: Option<&etcd_client::ResponseHeader>) -> Option<Header> {
        header.map(|header| Header {
            cluster_id: header.cluster_id(),
            revision: header.revision(),
            term: header.raft_term(),
        })
    }

    /// Reads the header of an answer whose revision is the endpoint's own, which may lag: leases and membership.
    pub(super) fn identity(header: Option<&etcd_client::ResponseHeader>) -> Option<Header> {
        header.map(|header| Header { cluster_id: header.cluster_id(), revision: 0, term: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_of_an_older_state_are_not_believed_until_a_newer_one_answers() {
        let seen = Seen::default();
        let answer = |revision: i64, term: u64| {
            seen.accept(Some(Header { cluster_id: 1, revision, term }), seen.now(), String::new)
        };
        let lease = || answer(0, 0);

        assert!(answer(100, 3).is_ok() && lease().is_ok());
        assert!(matches!(answer(40, 3), Err(EtcdError::OlderState { found: 40, seen: 100, .. })));
        assert!(matches!(lease(), Err(EtcdError::OlderState { found: 40, seen: 100, .. })));
        assert!(answer(100, 3).is_ok() && lease().is_ok());
    }
}
