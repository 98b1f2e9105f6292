//! etcd as far as the agent needs it: one store, revisions, leases, transactions that compare.

use std::collections::{BTreeMap, BTreeSet};

use keddah::agent::decide::Action;
use keddah::agent::decide::action::Identifier;
use keddah::agent::view::*;
use keddah::cluster::*;
use keddah::settings::Settings;

/// What a request does when it is carried out.
#[derive(Debug, Clone)]
pub enum Request {
    Read,
    Grant { ttl_ms: u64 },
    KeepAlive { lease: LeaseId },
    Revoke { lease: LeaseId },
    Write { me: MemberName, action: Box<Action> },
}

/// What etcd answers.
#[derive(Debug, Clone)]
pub enum Reply {
    Read(Box<(Snapshot, Settings)>),
    Granted {
        lease: LeaseId,
        ttl_ms: u64,
    },
    /// Zero: no such lease.
    Alive {
        ttl_ms: u64,
    },
    Written(Verdict),
    /// "No leader": it did nothing.
    Refused,
}

#[derive(Debug, Clone)]
pub struct Etcd {
    /// Its id: a restored snapshot may have another one.
    pub cluster: u64,
    pub revision: i64,
    pub leader: Option<LeaderKey>,
    pub members: BTreeMap<MemberName, Member>,
    pub initialize: Option<(Initialize, i64)>,
    pub config: (Settings, i64),
    pub sync: Option<(SyncState, i64)>,
    pub failover: (FailoverRequest, i64),
    pub status: Option<(Status, i64)>,
    pub history: Option<(History, i64)>,
    pub failsafe: Option<(BTreeSet<MemberName>, i64)>,
    /// Lease → (ttl, the moment it ends), in ms.
    pub leases: BTreeMap<LeaseId, (u64, u64)>,
    pub next_lease: i64,
    /// Members that tell of themselves as Patroni does.
    pub patroni: BTreeSet<MemberName>,
    /// Until when requests wait (a stall), or are not taken at all.
    pub stalled_until: u64,
}

impl Etcd {
    pub fn new(settings: Settings) -> Etcd {
        Etcd {
            cluster: 1,
            revision: 1,
            leader: None,
            members: BTreeMap::new(),
            initialize: None,
            config: (settings, 0),
            sync: None,
            failover: (FailoverRequest::default(), 0),
            status: None,
            history: None,
            failsafe: None,
            leases: BTreeMap::new(),
            next_lease: 100,
            patroni: BTreeSet::new(),
            stalled_until: 0,
        }
    }

    fn bump(&mut self) -> i64 {
        self.revision += 1;
        self.revision
    }

    pub fn snapshot(&self) -> Snapshot {
        fn keyed<T: Clone>(pair: &Option<(T, i64)>) -> Option<Keyed<T>> {
            pair.as_ref().map(|(value, rev)| Keyed { value: value.clone(), mod_revision: Revision(*rev) })
        }
        let failover = (!self.failover.0.is_spent()).then_some(self.failover.clone());
        Snapshot {
            revision: Revision(self.revision),
            leader: self.leader.clone(),
            members: self.members.clone(),
            initialize: keyed(&self.initialize),
            config: Revision(self.config.1),
            sync: keyed(&self.sync),
            failover: keyed(&failover),
            failover_revision: Revision(self.failover.1),
            status: keyed(&self.status),
            history: keyed(&self.history),
            failsafe: keyed(&self.failsafe),
        }
    }

    /// Ends the leases whose time has come; returns the members that lost a key, the leader first.
    pub fn expire(&mut self, now: u64) -> Vec<String> {
        if now < self.stalled_until {
            return Vec::new();
        }
        let dead: Vec<LeaseId> =
            self.leases.iter().filter(|(_, (_, end))| *end <= now).map(|(id, _)| *id).collect();
        let mut told = Vec::new();
        for lease in dead {
            self.leases.remove(&lease);
            if self.leader.as_ref().is_some_and(|key| key.lease == lease) {
                told.push(self.leader.as_ref().unwrap().name.to_string());
                self.leader = None;
                self.bump();
            }
            let gone: Vec<_> =
                self.members.iter().filter(|(_, m)| m.lease == lease).map(|(name, _)| name.clone()).collect();
            for name in gone {
                self.members.remove(&name);
                self.bump();
            }
            if matches!(&self.initialize, Some((Initialize::UnderWay { lease: claim }, _)) if *claim == lease)
            {
                self.initialize = None;
                self.bump();
            }
        }
        told
    }

    /// A new etcd leader gives every lease its full time again.
    pub fn extend_all(&mut self, now: u64) {
        for (ttl, end) in self.leases.values_mut() {
            *end = (*end).max(now + *ttl);
        }
    }

    pub fn set_config(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.config.0);
        self.config.1 = self.bump();
    }

    pub fn request_failover(&mut self, request: FailoverRequest) {
        let revision = self.bump();
        self.failover = (request, revision);
    }

    pub fn carry_out(&mut self, now: u64, request: Request) -> Reply {
        match request {
            Request::Read => Reply::Read(Box::new((self.snapshot(), self.config.0.clone()))),
            Request::Grant { ttl_ms } => {
                self.next_lease += 1;
                let lease = LeaseId(self.next_lease);
                self.leases.insert(lease, (ttl_ms, now + ttl_ms));
                Reply::Granted { lease, ttl_ms }
            }
            Request::KeepAlive { lease } => match self.leases.get_mut(&lease) {
                Some((ttl, end)) => {
                    *end = now + *ttl;
                    Reply::Alive { ttl_ms: *ttl }
                }
                None => Reply::Alive { ttl_ms: 0 },
            },
            Request::Revoke { lease } => {
                if let Some((_, end)) = self.leases.get_mut(&lease) {
                    *end = 0;
                    self.expire(now);
                }
                Reply::Alive { ttl_ms: 0 }
            }
            Request::Write { me, action } => {
                Reply::Written(if self.write(&me, *action) { Verdict::Done } else { Verdict::Fenced })
            }
        }
    }

    fn last_status(&self) -> Status {
        self.status.as_ref().map(|(status, _)| status.clone()).unwrap_or_default()
    }

    fn holds(&self, fence: Fence) -> bool {
        self.leader.as_ref().is_some_and(|key| key.fence() == fence)
    }

    fn rev<T>(pair: &Option<(T, i64)>) -> Revision {
        Revision(pair.as_ref().map_or(0, |(_, rev)| *rev))
    }

    /// One transaction: true if all comparisons held and the puts were made.
    fn write(&mut self, me: &MemberName, action: Action) -> bool {
        let claimed = |etcd: &Etcd, lease: LeaseId| matches!(&etcd.initialize, Some((Initialize::UnderWay { lease: claim }, _)) if *claim == lease);
        match action {
            Action::ClaimInitialize { lease } => {
                let nothing = self.initialize.is_none()
                    && self.leader.is_none()
                    && self.status.is_none()
                    && self.history.is_none()
                    && self.sync.is_none()
                    && self.failsafe.is_none();
                let ok = nothing && self.leases.contains_key(&lease);
                if ok {
                    let rev = self.bump();
                    self.initialize = Some((Initialize::UnderWay { lease }, rev));
                }
                ok
            }
            Action::FinishInitialize { lease, system_id, sync } => {
                let ok = claimed(self, lease) && self.leader.is_none() && self.leases.contains_key(&lease);
                if ok {
                    let rev = self.bump();
                    self.initialize = Some((Initialize::Done(system_id), rev));
                    self.put_leader(me, lease, rev);
                    if self.config.1 == 0 {
                        self.config.1 = rev;
                    }
                    if let Some(sync) = sync {
                        self.sync = Some((sync, rev));
                    }
                }
                ok
            }
            Action::AbandonInitialize { lease } => {
                let ok = claimed(self, lease);
                if ok {
                    self.initialize = None;
                    self.bump();
                }
                ok
            }
            Action::TakeLeaderKey { lease, compared, sync, spend_failover } => {
                let identifier = match (compared.initialize, &self.initialize) {
                    (Identifier::Is(id), Some((Initialize::Done(present), _))) => id == *present,
                    (Identifier::Is(_), _) => false,
                    (Identifier::Missing { seen }, _) => seen == Self::rev(&self.initialize),
                };
                let ok = self.leader.is_none()
                    && self.leases.contains_key(&lease)
                    && identifier
                    && compared.sync == Self::rev(&self.sync)
                    && compared.config == Revision(self.config.1)
                    && compared.failover == Revision(self.failover.1)
                    && compared.failsafe == Self::rev(&self.failsafe)
                    && compared.history == Self::rev(&self.history);
                if ok {
                    let rev = self.bump();
                    self.put_leader(me, lease, rev);
                    if let Some(sync) = sync {
                        self.sync = Some((sync, rev));
                    }
                    if spend_failover {
                        self.failover = (FailoverRequest::default(), rev);
                    }
                    if let Identifier::Missing { .. } = compared.initialize {
                        self.initialize = Some((Initialize::Done(compared.system_id), rev));
                    }
                }
                ok
            }
            Action::ReleaseLeaderKey { fence, optime } => {
                let ok = self.holds(fence);
                if ok {
                    let rev = self.bump();
                    if optime.is_some() {
                        self.status = Some((Status { optime, ..self.last_status() }, rev));
                    }
                    self.leader = None;
                }
                ok
            }
            Action::HandOver { fence, candidate, candidate_lease, optime, sync, keep_failover } => {
                let ok = self.holds(fence)
                    && self.members.get(&candidate).is_some_and(|m| m.lease == candidate_lease)
                    && self.leases.contains_key(&candidate_lease);
                if ok {
                    let rev = self.bump();
                    let created = self.leader.as_ref().unwrap().create_revision;
                    self.put_leader(&candidate, candidate_lease, rev);
                    self.leader.as_mut().unwrap().create_revision = created;
                    self.status = Some((Status { optime: Some(optime), ..self.last_status() }, rev));
                    if let Some(sync) = sync {
                        self.sync = Some((sync, rev));
                    }
                    if !keep_failover {
                        self.failover = (FailoverRequest::default(), rev);
                    }
                }
                ok
            }
            Action::MoveLock { fence, seen, to, facts } => {
                let ok = self.holds(fence) && self.may_publish(me, to, seen);
                if ok {
                    let rev = self.bump();
                    self.put_member(me, to, rev, facts);
                    self.put_leader(me, to, rev);
                    self.leader.as_mut().unwrap().create_revision = fence.create_revision;
                }
                ok
            }
            Action::PublishMember { lease, seen, facts } => {
                let ok = self.may_publish(me, lease, seen);
                if ok {
                    let rev = self.bump();
                    self.put_member(me, lease, rev, facts);
                }
                ok
            }
            Action::WriteStatus { fence, status } => {
                self.fenced(fence, |etcd, rev| etcd.status = Some((status, rev)))
            }
            Action::WriteHistory { fence, seen, history } => {
                let mut told = history;
                if let Some(last) = told.0.last_mut() {
                    last.leader.get_or_insert_with(|| me.clone());
                }
                Self::rev(&self.history) <= seen
                    && self.fenced(fence, |etcd, rev| etcd.history = Some((told, rev)))
            }
            Action::WriteFailsafe { fence, members } => {
                self.fenced(fence, |etcd, rev| etcd.failsafe = Some((members, rev)))
            }
            Action::WriteInitialize { fence, seen, system_id } => {
                seen == Self::rev(&self.initialize)
                    && self
                        .fenced(fence, |etcd, rev| etcd.initialize = Some((Initialize::Done(system_id), rev)))
            }
            Action::RestoreConfig { fence } => {
                self.config.1 == 0 && self.fenced(fence, |etcd, rev| etcd.config.1 = rev)
            }
            Action::WriteSync { fence, seen, sync } => {
                seen == Self::rev(&self.sync) && self.fenced(fence, |etcd, rev| etcd.sync = Some((sync, rev)))
            }
            Action::DeleteSync { fence, seen } => {
                seen == Self::rev(&self.sync) && self.fenced(fence, |etcd, _| etcd.sync = None)
            }
            Action::ClearFailover { fence, seen } => {
                seen == Revision(self.failover.1)
                    && self.fenced(fence, |etcd, rev| etcd.failover = (FailoverRequest::default(), rev))
            }
            other => panic!("{:?} is not etcd's", other.deed()),
        }
    }

    fn fenced(&mut self, fence: Fence, put: impl FnOnce(&mut Etcd, i64)) -> bool {
        let ok = self.holds(fence);
        if ok {
            let rev = self.bump();
            put(self, rev);
        }
        ok
    }

    fn may_publish(&self, me: &MemberName, lease: LeaseId, seen: Revision) -> bool {
        let present = self.members.get(me).map_or(Revision(0), |member| member.mod_revision);
        self.leases.contains_key(&lease) && present <= seen
    }

    fn put_member(&mut self, me: &MemberName, lease: LeaseId, rev: i64, facts: MemberFacts) {
        let keddah = !self.patroni.contains(me);
        let system_id = facts.system_id.filter(|_| keddah);
        let facts = MemberFacts { system_id, ..facts };
        self.members.insert(me.clone(), Member { lease, mod_revision: Revision(rev), keddah, facts });
    }

    fn put_leader(&mut self, name: &MemberName, lease: LeaseId, rev: i64) {
        self.leader = Some(LeaderKey {
            name: name.clone(),
            lease,
            create_revision: Revision(rev),
            mod_revision: Revision(rev),
        });
    }
}

/// Tells whether an action is a transaction of etcd's.
pub fn is_etcds(deed: Deed) -> bool {
    use Deed::*;
    matches!(
        deed,
        ClaimInitialize
            | FinishInitialize
            | AbandonInitialize
            | TakeLeaderKey
            | ReleaseLeaderKey
            | HandOver
            | MoveLock
            | PublishMember
            | WriteStatus
            | WriteHistory
            | WriteFailsafe
            | WriteInitialize
            | RestoreConfig
            | WriteSync
            | DeleteSync
            | ClearFailover
    )
}
