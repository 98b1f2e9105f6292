//! What etcd holds of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::cluster::{
    FailoverRequest, History, Lsn, MemberName, PgVersion, ReplicationState, Role, State, SyncState, SystemId,
    Tags, Timeline, UnixMs,
};

use super::Room;

/// A revision of etcd's store. As a modification revision, zero stands for an absent key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

/// An etcd lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What proves in a transaction that the leader key is still ours: both must compare equal.
///
/// A hand-over puts the key anew without deleting it, so the create revision alone proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub lease: LeaseId,
    pub create_revision: Revision,
}

/// What etcd holds under the cluster's prefix, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Snapshot {
    /// The revision of the store that all of it was read at.
    pub revision: Revision,
    pub leader: Option<LeaderKey>,
    pub members: BTreeMap<MemberName, Member>,
    pub initialize: Option<Keyed<Initialize>>,
    /// The modification revision of the `config` key; its content is in [`View::settings`]. Zero: absent.
    pub config: Revision,
    pub sync: Option<Keyed<SyncState>>,
    /// None also where the key holds `{}`.
    pub failover: Option<Keyed<FailoverRequest>>,
    /// The modification revision of the `failover` key whatever it holds. Zero: absent.
    pub failover_revision: Revision,
    pub status: Option<Keyed<Status>>,
    pub history: Option<Keyed<History>>,
    /// The members without whose word nobody leads while etcd is silent.
    pub failsafe: Option<Keyed<BTreeSet<MemberName>>>,
}

/// A value with the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Keyed<T> {
    pub value: T,
    pub mod_revision: Revision,
}

/// The `leader` key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaderKey {
    pub name: MemberName,
    /// The lease it is bound to; zero for none.
    pub lease: LeaseId,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

impl LeaderKey {
    /// Returns the fence of whoever owns the key's lease.
    pub fn fence(&self) -> Fence {
        Fence { lease: self.lease, create_revision: self.create_revision }
    }
}

/// The `initialize` key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Initialize {
    /// Empty: a member is making the cluster, under this lease (zero where the claim is bound to none).
    UnderWay { lease: LeaseId },
    /// The cluster's system identifier.
    Done(SystemId),
    /// Text that is no system identifier.
    Invalid,
}

/// A member's document, and the lease it is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub lease: LeaseId,
    pub mod_revision: Revision,
    /// Whether Keddah wrote it; Patroni's members hand over by deleting the leader key.
    pub keddah: bool,
    pub facts: MemberFacts,
}

/// What a member says about itself. The addresses are not decided on, so they are not here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemberFacts {
    pub state: State,
    pub role: Role,
    pub version: Option<PgVersion>,
    /// Flushed on a primary; the larger of received and replayed on a replica.
    pub lsn: Option<Lsn>,
    pub received: Option<Lsn>,
    pub replayed: Option<Lsn>,
    pub timeline: Option<Timeline>,
    pub replication: Option<ReplicationState>,
    pub tags: Tags,
    pub pause: bool,
    pub pending_restart: bool,
    /// A promoted server has not written its first checkpoint, so nobody may rewind from it.
    pub checkpoint_pending: bool,
    /// When its server is to be restarted.
    pub restart_at: Option<UnixMs>,
    /// The gate is released (pause): this primary writes without a deadline.
    pub gate_released: bool,
    /// The identifier of its data; None where it has none, or does not tell.
    pub system_id: Option<SystemId>,
    /// How much room its volumes have.
    pub room: Room,
}

/// The `status` key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Status {
    /// Where the leader's WAL ended when it wrote this.
    pub optime: Option<Lsn>,
    pub slots: BTreeMap<String, Lsn>,
    /// Slots of members that are kept although the members may be away.
    pub retain_slots: BTreeSet<String>,
    /// The timeline of the primary that wrote this, so that it is known without `history` too.
    pub timeline: Option<Timeline>,
}
