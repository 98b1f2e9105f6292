//! Waits until a Postgres cluster is as asked: a leader, so many members, one timeline, little lag.
//!
//! # What it manages
//! Nothing; it is the gate between a step that changes a member and the next one.
//!
//! # Example
//! ```yaml
//! cluster_health:
//!   url: http://10.0.0.4:8008
//!   members: 3
//!   timeout: 300
//! ```
//!
//! # What it observes
//! `/cluster` of one agent's REST API, which knows all members from etcd.
//!
//! # What it never does
//! It changes nothing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::remote::{self, Rest};
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Seen};
use crate::sys::tls::ClientFiles;

#[derive(Debug)]
pub struct ClusterHealth;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// An agent's REST API: `http://HOST:PORT` or `https://HOST:PORT`.
    url: String,
    /// Of an `https` address: the file of the authorities that vouch for it; those of the host if none is named.
    ca_path: Option<PathBuf>,
    /// The certificate to show, and its key where that is another file.
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    #[serde(default = "yes")]
    validate_certs: bool,
    /// How many members must run, the leader included.
    members: usize,
    /// The member that must lead.
    leader: Option<String>,
    /// Most bytes of WAL that a replica may be behind.
    #[serde(default = "megabyte")]
    lag: u64,
    /// Seconds to wait.
    #[serde(default = "five_minutes")]
    timeout: u64,
}

fn yes() -> bool {
    true
}

fn megabyte() -> u64 {
    1024 * 1024
}

fn five_minutes() -> u64 {
    300
}

impl Params {
    fn files(&self) -> ClientFiles {
        let Params { ca_path, client_cert, client_key, validate_certs, .. } = self;
        ClientFiles::for_members(ca_path.as_ref(), client_cert.as_ref(), client_key.as_ref(), !validate_certs)
    }
}

/// A member as `/cluster` shows it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Member {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub role: String,
    #[serde(default)]
    pub state: String,
    pub timeline: Option<u64>,
    /// Bytes, or the word `unknown`.
    pub lag: Option<serde_json::Value>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub api_url: Option<String>,
}

impl Member {
    pub fn leads(&self) -> bool {
        matches!(self.role.as_str(), "leader" | "standby_leader")
    }
}

/// What `/cluster` answers, as far as modules need it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cluster {
    #[serde(default)]
    pub members: Vec<Member>,
    #[serde(default)]
    pub pause: bool,
}

impl Cluster {
    /// Asks an agent; `None` if it does not answer.
    pub(super) fn ask(url: &str, files: &ClientFiles) -> Result<Option<Cluster>, Fault> {
        Rest { url, user: None, files }.document("/cluster")
    }

    pub(super) fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.leads())
    }
}

/// One thing that is not as asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    NoLeader,
    OtherLeader { found: String, wanted: String },
    Members { found: usize, wanted: usize },
    Member { name: String, state: String },
    Timeline { name: String },
    Lag { name: String, lag: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::NoLeader => write!(f, "nobody leads"),
            Change::OtherLeader { found, wanted } => write!(f, "{found} leads, not {wanted}"),
            Change::Members { found, wanted } => write!(f, "{found} of {wanted} members are there"),
            Change::Member { name, state } => write!(f, "{name} is {state}"),
            Change::Timeline { name } => write!(f, "{name} is on another timeline than the leader"),
            Change::Lag { name, lag } => write!(f, "{name} lags by {lag} bytes"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    leader: Option<String>,
    members: Vec<Member>,
}

impl Module for ClusterHealth {
    const NAME: &'static str = "cluster_health";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Wait;
    type Params = Params;
    type State = Cluster;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<Cluster>, Fault> {
        Cluster::ask(&params.url, &params.files()).map(remote::seen)
    }

    fn diff(params: &Params, found: &Cluster) -> Vec<Change> {
        let mut changes = Vec::new();
        if found.members.len() < params.members {
            changes.push(Change::Members { found: found.members.len(), wanted: params.members });
        }
        let leader = found.leader();
        match (leader, &params.leader) {
            (None, _) => changes.push(Change::NoLeader),
            (Some(leader), Some(wanted)) if leader.name != *wanted => {
                changes.push(Change::OtherLeader { found: leader.name.clone(), wanted: wanted.clone() });
            }
            (Some(_), _) => {}
        }
        for member in &found.members {
            let name = || member.name.clone();
            let expected = if member.leads() { "running" } else { "streaming" };
            if member.state != expected {
                changes.push(Change::Member { name: name(), state: member.state.clone() });
            } else if leader.is_some_and(|leader| leader.timeline != member.timeline) {
                changes.push(Change::Timeline { name: name() });
            }
            let lag = member.lag.as_ref().filter(|_| !member.leads());
            if let Some(lag) = lag.filter(|lag| lag.as_u64().is_none_or(|lag| lag > params.lag)) {
                changes.push(Change::Lag { name: name(), lag: lag.to_string() });
            }
        }
        changes
    }

    fn patience(params: &Params) -> Duration {
        Duration::from_secs(params.timeout)
    }

    fn apply(
        params: &Params,
        _found: &Cluster,
        _changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<Cluster, Fault> {
        let limit = Duration::from_secs(params.timeout);
        let healthy = |cluster: &Option<Cluster>| {
            cluster.as_ref().is_some_and(|cluster| ClusterHealth::diff(params, cluster).is_empty())
        };
        let last = remote::until(limit, || Cluster::ask(&params.url, &params.files()), healthy)?;
        let timed_out = |message: String| Fault::new(FaultKind::TimedOut, message);
        let Some(cluster) = last else {
            return Err(timed_out(format!("{} does not answer after {} s", params.url, params.timeout))
                .hint("is the agent running? `journalctl -u keddah-agent` tells"));
        };
        let rest = ClusterHealth::diff(params, &cluster);
        if rest.is_empty() {
            return Ok(cluster);
        }
        let mut fault = timed_out(format!("the cluster is not healthy after {} s", params.timeout))
            .hint("`keddah list` and `keddah explain` show each member's state and reason");
        fault.lines = rest.iter().map(ToString::to_string).collect();
        Err(fault)
    }

    fn output(_params: &Params, before: &Cluster, after: Option<&Cluster>, _changes: &[Change]) -> Output {
        let cluster = after.unwrap_or(before);
        Output {
            leader: cluster.leader().map(|leader| leader.name.clone()),
            members: cluster.members.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        serde_json::from_str(r#"{"url": "", "members": 2}"#).unwrap()
    }

    fn cluster(text: &str) -> Cluster {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_leader_and_a_streaming_replica_on_its_timeline_are_healthy() {
        let healthy = cluster(
            r#"{"members":[{"name":"a","role":"leader","state":"running","timeline":1},
                {"name":"b","role":"sync_standby","state":"streaming","timeline":1,"lag":0}],"scope":"demo"}"#,
        );
        assert_eq!(ClusterHealth::diff(&params(), &healthy), []);
    }

    #[test]
    fn everything_that_is_not_as_asked_is_named() {
        let sick = cluster(
            r#"{"members":[{"name":"b","role":"replica","state":"starting","timeline":2,"lag":"unknown"}]}"#,
        );
        let changes: Vec<String> =
            ClusterHealth::diff(&params(), &sick).iter().map(ToString::to_string).collect();
        assert_eq!(
            changes,
            ["1 of 2 members are there", "nobody leads", "b is starting", "b lags by \"unknown\" bytes"]
        );
    }
}
