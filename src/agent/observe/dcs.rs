//! Turns an answered read of the cluster's keys into what decisions rest on, and what acting needs beside it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::agent::view::{
    Initialize, Keyed, LeaderKey, LeaseId, Member, MemberFacts, Revision, Room, Snapshot, Status,
};
use crate::cluster::{MemberName, PgVersion, Role, State};
use crate::contract::document::boolean;
use crate::contract::history::HistoryLine;
use crate::contract::keys::{Key, Keys};
use crate::contract::member::MemberDocument;
use crate::contract::rest::ClusterView;
use crate::contract::status::StatusDocument;
use crate::contract::{failover, history, sync};
use crate::etcd::{Kv, Range};

/// One answered read.
#[derive(Debug, Clone, Default)]
pub struct DcsRead {
    pub snapshot: Snapshot,
    /// What REST and tools are shown.
    pub shown: ClusterView,
    pub documents: BTreeMap<MemberName, MemberDocument>,
    /// The dynamic configuration; None: the key is absent or no JSON object.
    pub config: Option<Map<String, Value>>,
    pub history: Vec<HistoryLine>,
    /// The members of the failsafe set with their addresses.
    pub failsafe: Map<String, Value>,
    /// Keys whose value cannot be read, with the reason. Their content counts as absent, their revision as seen.
    pub unreadable: Vec<(String, String)>,
}

/// Reads the keys. Whatever they hold, a snapshot comes out.
pub fn read(keys: &Keys, range: &Range) -> DcsRead {
    let mut read = DcsRead::default();
    read.snapshot.revision = Revision(range.revision);
    for kv in &range.kvs {
        if let Err(why) = read.take(keys, kv) {
            read.unreadable.push((kv.key.clone(), why));
        }
    }
    read.shown = ClusterView::read(keys, range.kvs.iter().map(|kv| (kv.key.as_str(), kv.value.as_str())));
    read
}

impl DcsRead {
    fn take(&mut self, keys: &Keys, kv: &Kv) -> Result<(), String> {
        let mod_revision = Revision(kv.mod_revision);
        let snapshot = &mut self.snapshot;
        match keys.read(&kv.key) {
            Key::Leader => {
                snapshot.leader = Some(LeaderKey {
                    name: kv.value.parse().map_err(text)?,
                    lease: LeaseId(kv.lease),
                    create_revision: Revision(kv.create_revision),
                    mod_revision,
                });
            }
            Key::Member(name) => {
                let name: MemberName = name.parse().map_err(text)?;
                let document = MemberDocument::parse(&kv.value).map_err(text)?;
                let member = Member {
                    lease: LeaseId(kv.lease),
                    mod_revision,
                    keddah: document.keddah().is_some(),
                    facts: facts(&document),
                };
                snapshot.members.insert(name.clone(), member);
                self.documents.insert(name, document);
            }
            Key::Initialize => {
                let value = match kv.value.trim() {
                    "" => Initialize::UnderWay { lease: LeaseId(kv.lease) },
                    text => text.parse().map_or(Initialize::Invalid, Initialize::Done),
                };
                snapshot.initialize = Some(Keyed { value, mod_revision });
            }
            Key::Config => {
                snapshot.config = mod_revision;
                let value: Value = serde_json::from_str(&kv.value).map_err(text)?;
                match value {
                    Value::Object(map) => self.config = Some(map),
                    _ => return Err("it is no JSON object".to_owned()),
                }
            }
            Key::Sync => {
                let value = sync::parse(&kv.value);
                snapshot.sync = Some(Keyed { value: value.clone().unwrap_or_default(), mod_revision });
                value.map_err(text)?;
            }
            Key::Failover => {
                snapshot.failover_revision = mod_revision;
                let value = failover::parse(&kv.value).map_err(text)?;
                snapshot.failover = (!value.is_spent()).then_some(Keyed { value, mod_revision });
            }
            Key::Status => {
                let document = StatusDocument::parse(&kv.value);
                let read = document.as_ref().ok();
                let value = Status {
                    optime: read.and_then(StatusDocument::optime),
                    slots: read.map(StatusDocument::slots).unwrap_or_default(),
                    retain_slots: read.map(StatusDocument::retain_slots).unwrap_or_default(),
                    timeline: read.and_then(StatusDocument::timeline),
                };
                snapshot.status = Some(Keyed { value, mod_revision });
                document.map_err(text)?;
            }
            Key::History => {
                let lines = history::parse(&kv.value);
                self.history = lines.as_ref().cloned().unwrap_or_default();
                let value = history::to_history(&self.history);
                snapshot.history = Some(Keyed { value, mod_revision });
                lines.map_err(text)?;
            }
            Key::Failsafe => {
                let value = serde_json::from_str::<Map<String, Value>>(&kv.value);
                self.failsafe = value.as_ref().ok().cloned().unwrap_or_default();
                let members = self.failsafe.keys().filter_map(|name| name.parse().ok()).collect();
                snapshot.failsafe = Some(Keyed { value: members, mod_revision });
                value.map_err(text)?;
            }
            Key::Reasons(_) | Key::Other => {}
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Returns what a member's document says. What it does not say is unknown, or the careful side where there is none.
pub fn facts(document: &MemberDocument) -> MemberFacts {
    let keddah = document.keddah();
    let ours = |key: &str| keddah.and_then(|map| map.get(key));
    MemberFacts {
        state: document.state().unwrap_or(State::Unknown),
        role: document.role().unwrap_or(Role::Uninitialized),
        version: ours("server_version")
            .and_then(Value::as_u64)
            .and_then(|v| u32::try_from(v).ok())
            .map(PgVersion),
        lsn: document.xlog_location(),
        received: document.receive_lsn(),
        replayed: document.replay_lsn(),
        timeline: document.timeline(),
        replication: document.replication_state(),
        tags: document.tags(),
        pause: document.pause(),
        pending_restart: document.pending_restart(),
        checkpoint_pending: document.awaits_checkpoint(),
        restart_at: document
            .document()
            .object("scheduled_restart")
            .and_then(|restart| failover::parse_time(restart.get("schedule")?.as_str()?)),
        gate_released: ours("gate").and_then(Value::as_str) == Some("released"),
        system_id: ours("system_identifier").and_then(Value::as_str).and_then(|text| text.parse().ok()),
        room: room(document.keddah()),
    }
}

/// Returns the word on a member's volumes in our part of a document; unknown where there is no such part.
pub fn room(keddah: Option<&Map<String, Value>>) -> Room {
    keddah.and_then(|map| map.get("room")?.as_str()).map(Room::of_word).unwrap_or_default()
}

/// Tells whether a peer's `/patroni` document, or a member's, says that its watchdog failed.
pub fn watchdog_usable(document: &Map<String, Value>) -> bool {
    document.get("watchdog_failed").and_then(boolean) != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str) -> Kv {
        Kv {
            key: key.to_owned(),
            value: value.to_owned(),
            create_revision: 5,
            mod_revision: 7,
            version: 1,
            lease: 42,
        }
    }

    fn read_all(pairs: &[(&str, &str)]) -> DcsRead {
        let kvs = pairs.iter().map(|(key, value)| kv(&format!("/service/demo/{key}"), value)).collect();
        read(&Keys::new("service", "demo"), &Range { kvs, revision: 9 })
    }

    #[test]
    fn garbage_in_one_key_leaves_the_others_readable() {
        let read = read_all(&[("leader", "a"), ("config", "{"), ("members/a", "[]"), ("initialize", "")]);

        assert_eq!(read.unreadable.len(), 2);
        assert_eq!(read.snapshot.leader.as_ref().map(|leader| leader.lease), Some(LeaseId(42)));
        assert_eq!(read.snapshot.config, Revision(7));
        assert_eq!(
            read.snapshot.initialize.map(|key| key.value),
            Some(Initialize::UnderWay { lease: LeaseId(42) })
        );
    }

    #[test]
    fn a_spent_failover_key_is_no_request_but_has_a_revision() {
        let read = read_all(&[("failover", "{}")]);

        assert_eq!(read.snapshot.failover, None);
        assert_eq!(read.snapshot.failover_revision, Revision(7));
    }
}
