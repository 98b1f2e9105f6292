//! What is done in etcd. Every write is one transaction with the action's own fence; nothing here adds a condition.

use serde_json::{Map, Value};

use crate::agent::decide::Action;
use crate::agent::decide::action::{Compared, Identifier};
use crate::agent::lease::keeper::{Keeper, KeeperError};
use crate::agent::observe::dcs::DcsRead;
use crate::agent::view::{Fence, LeaseId, MemberFacts, Revision, Status, Verdict};
use crate::cluster::{History, Lsn, MemberName, Role, State, SyncState, SystemId};
use crate::contract::failover::SPENT;
use crate::contract::history::{self, HistoryLine};
use crate::contract::keys::Keys;
use crate::contract::member::Publication;
use crate::contract::status::StatusDocument;
use crate::contract::sync;
use crate::etcd::{Client, Compare, EtcdError, Txn, TxnOutcome, Write};
use crate::sys::clock;

/// What of the member document is not decided on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Particulars {
    pub conn_url: String,
    pub api_url: String,
    pub proxy_url: Option<String>,
    /// As others are shown them.
    pub tags: Map<String, Value>,
    pub pending_restart_reason: Map<String, Value>,
    pub scheduled_restart: Option<Map<String, Value>>,
    /// Our own part.
    pub keddah: Map<String, Value>,
}

/// Writes to etcd on behalf of this member.
#[derive(Debug, Clone)]
pub struct DcsActor {
    pub client: Client,
    pub keys: Keys,
    pub keeper: Keeper,
    pub me: MemberName,
    /// The first dynamic configuration of the cluster.
    pub bootstrap_config: Map<String, Value>,
}

/// What an action may look up, all of it of the same look as the decision.
#[derive(Debug)]
pub struct Ground<'a> {
    pub read: Option<&'a DcsRead>,
    pub particulars: &'a Particulars,
    /// The dynamic configuration last seen.
    pub config: &'a Map<String, Value>,
}

impl DcsActor {
    /// Carries out `action` if it is one of etcd's; None: it is not.
    pub async fn run(&self, action: &Action, ground: &Ground<'_>) -> Option<Verdict> {
        let txn = match action {
            Action::ClaimInitialize { lease } => self.claim(*lease),
            Action::FinishInitialize { lease, system_id, sync } => {
                self.finish_initialize(*lease, *system_id, sync.as_ref(), ground)
            }
            Action::AbandonInitialize { lease } => {
                self.claimed(*lease).then(Write::Delete { key: self.keys.initialize() })
            }
            Action::TakeLeaderKey { lease, compared, sync, spend_failover } => {
                match self.keeper.renew().await {
                    Ok(renewed) if renewed == *lease => {}
                    Ok(_) | Err(KeeperError::NoLease) => return Some(Verdict::Fenced),
                    Err(_) => return Some(Verdict::Failed),
                }
                self.take(*lease, compared, sync.as_ref(), *spend_failover)
            }
            Action::ReleaseLeaderKey { fence, optime } => {
                let mut txn = self.fenced(*fence);
                if let Some(optime) = optime {
                    txn = txn.then(self.optime(*optime, ground));
                }
                txn.then(Write::Delete { key: self.keys.leader() })
            }
            Action::HandOver { fence, candidate, candidate_lease, optime, sync, keep_failover } => {
                let mut txn = self
                    .fenced(*fence)
                    .when(Compare::Lease {
                        key: self.keys.member(candidate.as_str()),
                        lease: candidate_lease.0,
                    })
                    .then(Write::put_leased(self.keys.leader(), candidate.as_str(), candidate_lease.0))
                    .then(self.optime(*optime, ground));
                if let Some(sync) = sync {
                    txn = txn.then(self.put_sync(sync));
                }
                if !keep_failover {
                    txn = txn.then(Write::put(self.keys.failover(), SPENT));
                }
                txn
            }
            Action::MoveLock { fence, seen, to, facts } => self
                .fenced(*fence)
                .and(self.publish(*to, *seen, facts, ground))
                .then(Write::put_leased(self.keys.leader(), self.me.as_str(), to.0)),
            Action::PublishMember { lease, seen, facts } => self.publish(*lease, *seen, facts, ground),
            Action::WriteStatus { fence, status } => self.write_status(*fence, status),
            Action::WriteHistory { fence, seen, history } => {
                let known = ground.read.map(|read| read.history.as_slice()).unwrap_or_default();
                let text = history::to_text(&self.history(history, known));
                let key = self.keys.history();
                let not_since = Compare::NotSince { key: key.clone(), revision: seen.0 };
                self.fenced(*fence).when(not_since).then(Write::put(key, text))
            }
            Action::WriteFailsafe { fence, members } => {
                let documents = ground.read.map(|read| &read.documents);
                let address = |name: &MemberName| {
                    if *name == self.me {
                        return Some(ground.particulars.api_url.clone());
                    }
                    documents?.get(name)?.api_url().map(str::to_owned)
                };
                let set: Map<String, Value> = members
                    .iter()
                    .filter_map(|name| Some((name.as_str().to_owned(), address(name)?.into())))
                    .collect();
                self.fenced(*fence).then(Write::put(self.keys.failsafe(), Value::Object(set).to_string()))
            }
            Action::WriteInitialize { fence, seen, system_id } => {
                let key = self.keys.initialize();
                self.fenced(*fence)
                    .when(Compare::ModRevision { key: key.clone(), revision: seen.0 })
                    .then(Write::put(key, system_id.to_string()))
            }
            Action::RestoreConfig { fence } => self
                .fenced(*fence)
                .when(Compare::Absent { key: self.keys.config() })
                .then(self.put_config(ground.config)),
            Action::WriteSync { fence, seen, sync } => self
                .fenced(*fence)
                .when(Compare::ModRevision { key: self.keys.sync(), revision: seen.0 })
                .then(self.put_sync(sync)),
            Action::DeleteSync { fence, seen } => self
                .fenced(*fence)
                .when(Compare::ModRevision { key: self.keys.sync(), revision: seen.0 })
                .then(Write::Delete { key: self.keys.sync() }),
            Action::ClearFailover { fence, seen } => self
                .fenced(*fence)
                .when(Compare::ModRevision { key: self.keys.failover(), revision: seen.0 })
                .then(Write::put(self.keys.failover(), SPENT)),
            _ => return None,
        };
        Some(verdict(self.client.txn(&txn).await, action))
    }

    /// Carries out two actions in one transaction where they are what a leader at rest writes as its WAL moves: the status
    /// and its own document. None: they are not, or one of them is fenced; each is for itself then.
    pub async fn both(&self, first: &Action, second: &Action, ground: &Ground<'_>) -> Option<Verdict> {
        let (Action::WriteStatus { fence, status }, Action::PublishMember { lease, seen, facts }) =
            (first, second)
        else {
            return None;
        };
        let txn = self.write_status(*fence, status).and(self.publish(*lease, *seen, facts, ground));
        match verdict(self.client.txn(&txn).await, second) {
            Verdict::Fenced => None,
            verdict => Some(verdict),
        }
    }

    fn write_status(&self, fence: Fence, status: &Status) -> Txn {
        self.fenced(fence).then(self.status(status))
    }

    fn publish(&self, lease: LeaseId, seen: Revision, facts: &MemberFacts, ground: &Ground<'_>) -> Txn {
        let key = self.keys.member(self.me.as_str());
        let text = publication(facts, ground.particulars).to_text();
        let not_since = Compare::NotSince { key: key.clone(), revision: seen.0 };
        Txn::default().when(not_since).then(Write::put_leased(key, text, lease.0))
    }

    fn claim(&self, lease: LeaseId) -> Txn {
        let keys = &self.keys;
        let others = [keys.leader(), keys.status(), keys.history(), keys.sync(), keys.failsafe()];
        let nothing = others.into_iter().chain([keys.initialize()]);
        let txn = nothing.fold(Txn::default(), |txn, key| txn.when(Compare::Absent { key }));
        txn.then(Write::put_leased(keys.initialize(), "", lease.0))
    }

    fn claimed(&self, lease: LeaseId) -> Txn {
        let key = self.keys.initialize();
        Txn::default()
            .when(Compare::Value { key: key.clone(), value: String::new() })
            .when(Compare::Lease { key, lease: lease.0 })
    }

    fn finish_initialize(
        &self,
        lease: LeaseId,
        system_id: SystemId,
        sync: Option<&SyncState>,
        ground: &Ground<'_>,
    ) -> Txn {
        let mut txn = self
            .claimed(lease)
            .when(Compare::Absent { key: self.keys.leader() })
            .then(Write::put(self.keys.initialize(), system_id.to_string()))
            .then(Write::put_leased(self.keys.leader(), self.me.as_str(), lease.0));
        if ground.read.is_none_or(|read| read.snapshot.config.0 == 0) {
            txn = txn
                .when(Compare::Absent { key: self.keys.config() })
                .then(self.put_config(&self.bootstrap_config));
        }
        if let Some(sync) = sync {
            txn = txn.then(self.put_sync(sync));
        }
        txn
    }

    fn take(&self, lease: LeaseId, compared: &Compared, sync: Option<&SyncState>, spend: bool) -> Txn {
        let Compared { initialize, system_id, sync: sync_seen, config, failover, failsafe, history } =
            compared;
        let mut txn = Txn::default().when(Compare::Absent { key: self.keys.leader() });
        let same = |key: String, revision: i64| Compare::ModRevision { key, revision };
        txn = txn
            .when(same(self.keys.sync(), sync_seen.0))
            .when(same(self.keys.config(), config.0))
            .when(same(self.keys.failover(), failover.0))
            .when(same(self.keys.failsafe(), failsafe.0))
            .when(same(self.keys.history(), history.0));
        let key = self.keys.initialize();
        txn = match initialize {
            Identifier::Is(id) => txn.when(Compare::Value { key, value: id.to_string() }),
            Identifier::Missing { seen } => {
                txn.when(same(key.clone(), seen.0)).then(Write::put(key, system_id.to_string()))
            }
        };
        txn = txn.then(Write::put_leased(self.keys.leader(), self.me.as_str(), lease.0));
        if let Some(sync) = sync {
            txn = txn.then(self.put_sync(sync));
        }
        if spend {
            txn = txn.then(Write::put(self.keys.failover(), SPENT));
        }
        txn
    }

    /// Begins a transaction that happens only while the leader key is ours.
    fn fenced(&self, fence: Fence) -> Txn {
        let Fence { lease, create_revision } = fence;
        Txn::default()
            .when(Compare::Lease { key: self.keys.leader(), lease: lease.0 })
            .when(Compare::CreateRevision { key: self.keys.leader(), revision: create_revision.0 })
    }

    fn status(&self, status: &Status) -> Write {
        let mut document = StatusDocument::default();
        if let Some(optime) = status.optime {
            document = document.with_optime(optime);
        }
        Write::put(
            self.keys.status(),
            document
                .with_slots(&status.slots)
                .with_retain_slots(&status.retain_slots)
                .with_timeline(status.timeline)
                .to_text(),
        )
    }

    /// Writes a position and leaves the slots as they were.
    fn optime(&self, optime: Lsn, ground: &Ground<'_>) -> Write {
        let known = ground.read.and_then(|read| read.snapshot.status.as_ref());
        let known = known.map(|status| status.value.clone()).unwrap_or_default();
        self.status(&Status { optime: Some(optime), ..known })
    }

    fn put_sync(&self, sync: &SyncState) -> Write {
        Write::put(self.keys.sync(), sync::to_text(sync))
    }

    fn put_config(&self, config: &Map<String, Value>) -> Write {
        Write::put(self.keys.config(), Value::Object(config.clone()).to_string())
    }

    /// Joins the timeline file's lines with what etcd knows of their time and leader; the last line gets this moment
    /// and this member if it is not known yet.
    fn history(&self, history: &History, known: &[HistoryLine]) -> Vec<HistoryLine> {
        let History(entries) = history;
        let newest = entries.last().map(|entry| entry.timeline);
        entries
            .iter()
            .map(|entry| {
                let same = known.iter().find(|line| {
                    let led = line.leader.as_deref().zip(entry.leader.as_ref());
                    line.entry.timeline == entry.timeline
                        && line.entry.switch_point == entry.switch_point
                        && led.is_none_or(|(told, here)| told == here.as_str())
                });
                match same {
                    Some(line) => line.clone(),
                    None if newest == Some(entry.timeline) => HistoryLine {
                        entry: entry.clone(),
                        time: Some(iso_now()),
                        leader: Some(entry.leader.as_ref().unwrap_or(&self.me).to_string()),
                    },
                    None => HistoryLine { entry: entry.clone(), time: None, leader: None },
                }
            })
            .collect()
    }
}

/// Returns the present moment as Python's `isoformat` writes it, in UTC.
pub fn iso_now() -> String {
    let zoned = clock::wall().to_zoned(jiff::tz::TimeZone::UTC);
    zoned.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}

fn verdict(outcome: Result<TxnOutcome, EtcdError>, action: &Action) -> Verdict {
    match outcome {
        Ok(TxnOutcome::Applied { .. }) => Verdict::Done,
        Ok(TxnOutcome::Fenced { .. }) => {
            tracing::info!(action = ?action.deed(), "etcd has changed in between; nothing is written");
            Verdict::Fenced
        }
        Err(error) => {
            tracing::warn!(action = ?action.deed(), error = %crate::sys::chain(&error), "etcd did not take it");
            if error.is_answer() { Verdict::Failed } else { Verdict::Unknown }
        }
    }
}

/// Returns the document that others see.
fn publication(facts: &MemberFacts, particulars: &Particulars) -> Publication {
    let MemberFacts {
        state,
        role,
        version,
        lsn,
        received,
        replayed,
        timeline,
        replication,
        tags: _,
        pause,
        pending_restart,
        checkpoint_pending,
        restart_at: _,
        gate_released,
        system_id,
        room,
    } = facts;
    let mut keddah = particulars.keddah.clone();
    keddah.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    if let Some(version) = version {
        keddah.insert("server_version".to_owned(), version.0.into());
    }
    if let Some(system_id) = system_id {
        keddah.insert("system_identifier".to_owned(), system_id.to_string().into());
    }
    keddah.insert("room".to_owned(), room.word().into());
    if *gate_released {
        keddah.insert("gate".to_owned(), "released".into());
    }
    let mut pending_restart_reason = particulars.pending_restart_reason.clone();
    if !pending_restart {
        pending_restart_reason.clear();
    }
    let serves = *state == State::Running && *role != Role::Uninitialized;
    Publication {
        conn_url: particulars.conn_url.clone(),
        api_url: particulars.api_url.clone(),
        state: *state,
        role: *role,
        proxy_url: particulars.proxy_url.clone(),
        tags: particulars.tags.clone(),
        pending_restart_reason,
        xlog_location: *lsn,
        receive_lsn: received.filter(|_| serves),
        replay_lsn: replayed.filter(|_| serves),
        replication_state: *replication,
        timeline: *timeline,
        pause: *pause,
        awaits_checkpoint: *checkpoint_pending,
        scheduled_restart: particulars.scheduled_restart.clone().map(Value::Object),
        keddah,
    }
}
