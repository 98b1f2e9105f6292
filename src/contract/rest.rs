//! REST documents: what `/cluster` shows and what the clients of the API read.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cluster::{FailoverRequest, Lsn, MemberName, Role, State, SyncState};
use crate::contract::explain::Account;
use crate::contract::failover::{self, format_time};
use crate::contract::history::{self, HistoryLine};
use crate::contract::keys::{Key, Keys};
use crate::contract::member::MemberDocument;
use crate::contract::status::StatusDocument;
use crate::contract::sync;

/// What the cluster document is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    pub leader: Option<String>,
    /// By name.
    pub members: Vec<(String, MemberDocument)>,
    pub optime: Option<Lsn>,
    pub sync: Option<SyncState>,
    pub failover: Option<FailoverRequest>,
    /// The dynamic configuration.
    pub config: Map<String, Value>,
    /// None: the key does not exist; empty: bootstrap is under way.
    pub initialize: Option<String>,
    pub history: Vec<HistoryLine>,
    /// Why each member did what it did, newest last.
    pub reasons: BTreeMap<String, Account>,
}

impl ClusterView {
    /// Reads the keys of a cluster. A value that cannot be read counts as absent.
    pub fn read<'a>(keys: &Keys, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> ClusterView {
        let mut view = ClusterView::default();
        for (key, value) in pairs {
            match keys.read(key) {
                Key::Leader => view.leader = Some(value.to_owned()),
                Key::Member(name) => {
                    view.members
                        .extend(MemberDocument::parse(value).ok().map(|member| (name.to_owned(), member)));
                }
                Key::Config => {
                    if let Ok(Value::Object(map)) = serde_json::from_str(value) {
                        view.config = map;
                    }
                }
                Key::Initialize => view.initialize = Some(value.to_owned()),
                Key::Status => {
                    view.optime = StatusDocument::parse(value).ok().and_then(|status| status.optime());
                }
                Key::History => view.history = history::parse(value).unwrap_or_default(),
                Key::Failover => {
                    view.failover = failover::parse(value).ok().filter(|request| !request.is_spent());
                }
                Key::Sync => view.sync = sync::parse(value).ok(),
                Key::Reasons(name) => {
                    view.reasons.insert(name.to_owned(), Account::parse(value));
                }
                Key::Failsafe | Key::Other => {}
            }
        }
        view
    }

    pub fn member_named(&self, name: &str) -> Option<&MemberDocument> {
        self.members.iter().find(|(other, _)| other == name).map(|(_, member)| member)
    }

    /// Tells whether a member says that it leads with a running server: a primary, or that of a standby cluster.
    pub fn runs_as_leader(&self, name: &str) -> bool {
        self.member_named(name).is_some_and(|member| {
            matches!(member.role(), Some(Role::Primary | Role::StandbyLeader))
                && member.state() == Some(State::Running)
        })
    }

    pub fn is_synchronous(&self) -> bool {
        self.sync_role().is_some()
    }

    /// Tells whether any member may take over that has enough votes of the synchronous set.
    pub fn is_quorum(&self) -> bool {
        self.sync_role() == Some("quorum_standby")
    }

    /// Tells whether the agreed synchronous set names the member, or its leader.
    pub fn is_in_sync(&self, name: &str) -> bool {
        let name: Result<MemberName, _> = name.parse();
        name.is_ok_and(|name| self.sync.as_ref().is_some_and(|sync| sync.holds(&name)))
    }

    pub fn is_paused(&self) -> bool {
        self.config.get("pause").and_then(crate::contract::document::boolean).unwrap_or(false)
    }

    /// Reads the mode as Patroni words it: `quorum` is told apart. A standby cluster has none, whatever is written.
    fn sync_role(&self) -> Option<&'static str> {
        if self.is_standby_cluster() {
            return None;
        }
        match self.config.get("synchronous_mode") {
            Some(Value::String(word)) if word.eq_ignore_ascii_case("quorum") => Some("quorum_standby"),
            Some(value) if crate::contract::document::boolean(value) == Some(true) => Some("sync_standby"),
            _ => None,
        }
    }

    fn is_standby_cluster(&self) -> bool {
        self.config.get("standby_cluster").and_then(Value::as_object).is_some_and(|section| {
            ["host", "port", "restore_command"]
                .iter()
                .any(|key| section.get(*key).is_some_and(|v| !v.is_null()))
        })
    }

    /// Returns the role of a member as lists show it.
    pub fn role(&self, name: &str) -> &'static str {
        if self.leader.as_deref() == Some(name) {
            return if self.is_standby_cluster() { "standby_leader" } else { "leader" };
        }
        let listed = |sync: &SyncState| {
            let same = |other: &MemberName| other.as_str().eq_ignore_ascii_case(name);
            sync.standbys.iter().any(same) || sync.leader.as_ref().is_some_and(same)
        };
        match self.sync_role() {
            Some(role) if self.sync.as_ref().is_some_and(listed) => role,
            _ => "replica",
        }
    }

    /// Returns the document of `/cluster`, `scope` left out.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut members: Vec<&(String, MemberDocument)> = self.members.iter().collect();
        members.sort_by(|a, b| a.0.cmp(&b.0));
        let mut cluster = Map::new();
        let members = members.into_iter().map(|(name, member)| Value::Object(self.member(name, member)));
        cluster.insert("members".to_owned(), members.collect());
        if self.is_paused() {
            cluster.insert("pause".to_owned(), true.into());
        }
        if let Some(FailoverRequest { leader, candidate, scheduled_at: Some(at) }) = &self.failover {
            let mut scheduled = Map::new();
            scheduled.insert("at".to_owned(), format_time(*at).into());
            if let Some(leader) = leader {
                scheduled.insert("from".to_owned(), leader.as_str().into());
            }
            if let Some(candidate) = candidate {
                scheduled.insert("to".to_owned(), candidate.as_str().into());
            }
            cluster.insert("scheduled_switchover".to_owned(), scheduled.into());
        }
        cluster
    }

    fn member(&self, name: &str, member: &MemberDocument) -> Map<String, Value> {
        let role = self.role(name);
        let document = member.document();
        let state = document
            .text("replication_state")
            .filter(|text| role != "leader" && !text.is_empty())
            .or_else(|| document.text("state"))
            .unwrap_or_default();
        let mut shown = Map::new();
        shown.insert("name".to_owned(), name.into());
        shown.insert("role".to_owned(), role.into());
        shown.insert("state".to_owned(), state.into());
        shown.insert("api_url".to_owned(), document.text("api_url").map_or(Value::Null, Value::from));
        if let Some((host, port)) = member.host_port() {
            shown.insert("host".to_owned(), host.into());
            shown.insert("port".to_owned(), port.into());
        }
        for key in ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"] {
            if let Some(value) = document.0.get(key) {
                shown.insert(key.to_owned(), value.clone());
            }
        }
        if self.leader.as_deref() != Some(name) {
            let optime = self.optime.unwrap_or_default();
            for (prefix, lsn) in [
                ("receive_", member.receive_lsn()),
                ("replay_", member.replay_lsn()),
                ("", member.xlog_location()),
            ] {
                let lsn = lsn.filter(|lsn| lsn.0 > 0);
                let lag = lsn.map_or(json!("unknown"), |lsn| optime.bytes_ahead_of(lsn).into());
                let lsn = lsn.map_or(json!("unknown"), |lsn| lsn.to_string().into());
                shown.insert(format!("{prefix}lag"), lag);
                shown.insert(format!("{prefix}lsn"), lsn);
            }
        }
        shown
    }
}

/// Reads what etcd holds of the cluster `demo`: names below its keys, and values.
#[cfg(test)]
pub(crate) fn view_of_demo(pairs: &[(&str, &str)]) -> ClusterView {
    let pairs: Vec<(String, &str)> =
        pairs.iter().map(|(key, value)| (format!("/service/demo/{key}"), *value)).collect();
    ClusterView::read(&Keys::new("service", "demo"), pairs.iter().map(|(key, value)| (key.as_str(), *value)))
}
