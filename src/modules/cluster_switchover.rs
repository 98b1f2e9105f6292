//! Asks the leader to hand over to another member, and waits until that member leads.
//!
//! # What it manages
//! Who leads, once: each time it is run, the leader moves; with a `candidate` that leads already, nothing is done.
//!
//! # Example
//! ```yaml
//! cluster_switchover:
//!   url: http://10.0.0.4:8008
//!   username: keddah
//!   password: "{{ keddah_restapi_password }}"
//!   candidate: db2
//! ```
//!
//! # What it observes
//! `/cluster` of one agent's REST API.
//!
//! # What it never does
//! It promotes and stops nothing itself: the agents do, by their own rules.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::modules::cluster_health::Cluster;
use crate::modules::remote::{self, Rest};
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Risk, Seen};
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;

#[derive(Debug)]
pub struct ClusterSwitchover;

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
    username: Option<String>,
    #[schemars(with = "Option<String>")]
    password: Option<Secret>,
    /// Who is to lead; the healthiest replica if nobody is named.
    candidate: Option<String>,
    /// Seconds to wait for the new leader.
    #[serde(default = "minute")]
    timeout: u64,
}

fn yes() -> bool {
    true
}

fn minute() -> u64 {
    60
}

impl Params {
    fn files(&self) -> ClientFiles {
        let Params { ca_path, client_cert, client_key, validate_certs, .. } = self;
        ClientFiles::for_members(ca_path.as_ref(), client_cert.as_ref(), client_key.as_ref(), !validate_certs)
    }
}

#[derive(Debug)]
pub struct Change {
    from: String,
    to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.as_deref().unwrap_or("its healthiest replica");
        write!(f, "the lead moves from {} to {to}", self.from)
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    old_leader: Option<String>,
    leader: Option<String>,
}

fn leader_of(cluster: &Cluster) -> Option<String> {
    cluster.leader().map(|leader| leader.name.clone())
}

impl Module for ClusterSwitchover {
    const NAME: &'static str = "cluster_switchover";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Action;
    type Params = Params;
    type State = Cluster;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<Cluster>, Fault> {
        Cluster::ask(&params.url, &params.files()).map(remote::seen)
    }

    fn diff(params: &Params, found: &Cluster) -> Vec<Change> {
        let leader = leader_of(found);
        if leader.is_some() && leader == params.candidate {
            return Vec::new();
        }
        vec![Change { from: leader.unwrap_or_else(|| "nobody".to_owned()), to: params.candidate.clone() }]
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        found: &Cluster,
        _changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<Cluster, Fault> {
        let Some(leader) = leader_of(found) else {
            return Err(Fault::refused("nobody leads, so nobody can hand over")
                .hint("`keddah explain` tells why; `keddah failover` names a leader by hand"));
        };
        let (limit, files) = (Duration::from_secs(params.timeout), params.files());
        let user = params.username.as_deref().zip(params.password.as_ref());
        let mut body = json!({ "leader": leader });
        if let Some(candidate) = &params.candidate {
            body["candidate"] = json!(candidate);
        }
        let reply =
            Rest { url: &params.url, user, files: &files }.send("POST", "/switchover", &body, limit)?;
        if !reply.is_success() {
            return Err(Fault::refused(format!(
                "the switchover was refused ({}): {}",
                reply.status, reply.body
            )));
        }
        let moved = |cluster: &Option<Cluster>| {
            cluster.as_ref().and_then(leader_of).is_some_and(|new| {
                new != leader && params.candidate.as_ref().is_none_or(|candidate| *candidate == new)
            })
        };
        match remote::until(limit, || Cluster::ask(&params.url, &files), moved)? {
            found if moved(&found) => Ok(found.unwrap_or_default()),
            _ => Err(Fault::new(
                FaultKind::TimedOut,
                format!(
                    "{leader} was asked to hand over, and still no other member leads after {} s",
                    params.timeout
                ),
            )
            .hint("`keddah explain` shows each member's reason")),
        }
    }

    fn output(_params: &Params, before: &Cluster, after: Option<&Cluster>, _changes: &[Change]) -> Output {
        Output { old_leader: leader_of(before), leader: leader_of(after.unwrap_or(before)) }
    }

    fn risk(_change: &Change) -> Risk {
        Risk::Failover
    }
}
