//! Asks an agent to restart its Postgres, and waits until it runs again.
//!
//! # What it manages
//! One restart, each time it is run, if the member has the role that is asked for.
//!
//! # Example
//! ```yaml
//! cluster_restart:
//!   url: http://10.0.0.4:8008
//!   username: keddah
//!   password: "{{ keddah_restapi_password }}"
//!   member: db1
//!   role: replica
//! ```
//!
//! # What it observes
//! `/patroni` of that agent's REST API: role, state, and when Postgres was started.
//!
//! # What it never does
//! It stops and starts nothing itself: the agent does, and keeps the lead where it can.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::modules::remote::{self, Rest};
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Risk, Seen};
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;

#[derive(Debug)]
pub struct ClusterRestart;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Replica,
    Any,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The REST API of the agent whose Postgres is restarted.
    url: String,
    username: Option<String>,
    #[schemars(with = "Option<String>")]
    password: Option<Secret>,
    /// The member's name, for messages.
    member: String,
    /// Restart only if it has this role.
    #[serde(default = "any")]
    role: Role,
    /// Restart only if a setting waits for it.
    #[serde(default)]
    pending: bool,
    /// Seconds to wait for Postgres.
    #[serde(default = "two_minutes")]
    timeout: u64,
}

fn any() -> Role {
    Role::Any
}

fn two_minutes() -> u64 {
    120
}

/// What the agent says of its Postgres.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Status {
    #[serde(default)]
    role: String,
    #[serde(default)]
    state: String,
    postmaster_start_time: Option<String>,
    #[serde(default)]
    pending_restart: bool,
}

impl Status {
    fn ask(url: &str) -> Result<Option<Status>, Fault> {
        let Some(reply) = (Rest { url, user: None, files: &ClientFiles::default() }).get("/patroni")? else {
            return Ok(None);
        };
        // A member that does not serve answers with 503 and the same document.
        let document: Value = serde_json::from_str(&reply.body)
            .map_err(|error| Fault::refused(format!("{url}/patroni answers with something else: {error}")))?;
        serde_json::from_value(document)
            .map(Some)
            .map_err(|error| Fault::refused(format!("{url}/patroni answers with something else: {error}")))
    }

    fn leads(&self) -> bool {
        matches!(self.role.as_str(), "primary" | "master" | "standby_leader")
    }
}

#[derive(Debug)]
pub struct Change {
    member: String,
    leads: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "restart Postgres of {} ({})",
            self.member,
            if self.leads { "the primary" } else { "a replica" }
        )
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    role: String,
    state: String,
}

impl Module for ClusterRestart {
    const NAME: &'static str = "cluster_restart";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Action;
    type Params = Params;
    type State = Status;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<Status>, Fault> {
        Status::ask(&params.url).map(remote::seen)
    }

    fn diff(params: &Params, found: &Status) -> Vec<Change> {
        let wanted = match params.role {
            Role::Any => true,
            Role::Primary => found.leads(),
            Role::Replica => !found.leads(),
        };
        if !wanted || (params.pending && !found.pending_restart) {
            return Vec::new();
        }
        vec![Change { member: params.member.clone(), leads: found.leads() }]
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        found: &Status,
        _changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<Status, Fault> {
        let limit = Duration::from_secs(params.timeout);
        let user = params.username.as_deref().zip(params.password.as_ref());
        let mut body = json!({});
        match params.role {
            Role::Any => {}
            Role::Primary => body["role"] = json!("primary"),
            Role::Replica => body["role"] = json!("replica"),
        }
        let reply = Rest { url: &params.url, user, files: &ClientFiles::default() }
            .send("POST", "/restart", &body, limit)?;
        if !reply.is_success() {
            return Err(Fault::refused(format!(
                "{} refused to restart ({}): {}",
                params.member, reply.status, reply.body
            )));
        }
        let again = |status: &Option<Status>| {
            status.as_ref().is_some_and(|status| {
                status.state == "running" && status.postmaster_start_time != found.postmaster_start_time
            })
        };
        match remote::until(limit, || Status::ask(&params.url), again)? {
            status if again(&status) => Ok(status.unwrap_or_default()),
            status => Err(Fault::new(
                FaultKind::TimedOut,
                format!(
                    "Postgres of {} is {} {} s after its restart was asked for",
                    params.member,
                    status.map_or("silent".to_owned(), |status| status.state),
                    params.timeout
                ),
            )),
        }
    }

    fn output(_params: &Params, before: &Status, after: Option<&Status>, _changes: &[Change]) -> Output {
        let status = after.unwrap_or(before);
        Output { role: status.role.clone(), state: status.state.clone() }
    }

    fn risk(change: &Change) -> Risk {
        if change.leads { Risk::Failover } else { Risk::Restart }
    }
}
