//! REST documents: what `/cluster` shows and what the clients of the API read.

use serde_json::{Map, Value, json};

use crate::cluster::{FailoverRequest, Lsn, MemberName, SyncState};
use crate::contract::failover::format_time;
use crate::contract::member::MemberDocument;

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
}

impl ClusterView {
    pub fn is_paused(&self) -> bool {
        self.config.get("pause").and_then(crate::contract::document::boolean).unwrap_or(false)
    }

    /// Reads the mode as Patroni words it: `quorum` is told apart.
    fn sync_role(&self) -> Option<&'static str> {
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
