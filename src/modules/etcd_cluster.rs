//! Waits until an etcd cluster has a leader and all its members serve.
//!
//! # What it manages
//! Nothing; it is the gate between a step that changes etcd and the next one that needs it.
//!
//! # Example
//! ```yaml
//! etcd_cluster:
//!   endpoints: ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]
//!   members: 3
//!   timeout: 60
//! ```
//!
//! # What it observes
//! The status that each endpoint gives through the live API: its leader, its version, its alarms.
//!
//! # What it never does
//! It changes nothing.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::etcd::membership::EndpointStatus;
use crate::etcd::{Client, Config, TlsFiles};
use crate::modules::remote;
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Seen, Thing};
use crate::sys::secret::Secret;

#[derive(Debug)]
pub struct EtcdCluster;

/// One question to one endpoint.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const CLIENT_PORT: u16 = 2379;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Client URLs of the members.
    endpoints: Vec<String>,
    /// How many must serve.
    members: usize,
    /// Seconds to wait for that.
    #[serde(default = "minute")]
    timeout: u64,
}

fn minute() -> u64 {
    60
}

#[derive(Debug)]
pub struct State {
    endpoints: Vec<EndpointStatus>,
}

impl State {
    fn serving(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.is_healthy()).count()
    }

    /// What each endpoint that does not serve says.
    fn complaints(&self) -> Vec<String> {
        let complaint = |endpoint: &EndpointStatus| {
            let why = match &endpoint.status {
                Err(error) => error.to_string(),
                Ok(status) if status.leader == 0 => "knows of no leader".to_owned(),
                Ok(status) => status.errors.join(", "),
            };
            format!("{}: {why}", endpoint.endpoint)
        };
        self.endpoints.iter().filter(|endpoint| !endpoint.is_healthy()).map(complaint).collect()
    }
}

/// Builds a client for a module's endpoints.
pub(super) fn client(endpoints: &[String]) -> Client {
    Client::new(Config {
        endpoints: endpoints.to_vec(),
        protocol: "http".to_owned(),
        user: None,
        password: Secret::default(),
        tls: TlsFiles::default(),
        limit: ANSWER_LIMIT,
    })
}

fn look(params: &Params) -> Result<State, Fault> {
    let endpoints = remote::block_on(async { client(&params.endpoints).statuses().await })?;
    Ok(State { endpoints })
}

#[derive(Debug)]
pub struct Change {
    serving: usize,
    wanted: usize,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} etcd members serve", self.serving, self.wanted)
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    serving: usize,
    versions: Vec<String>,
}

impl Module for EtcdCluster {
    const NAME: &'static str = "etcd_cluster";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Wait;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        let state = look(params)?;
        if state.endpoints.iter().all(|endpoint| endpoint.status.is_err()) {
            return Ok(Seen::Blocked(Thing::Port(CLIENT_PORT)));
        }
        Ok(Seen::Now(state))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let serving = found.serving();
        if serving >= params.members { Vec::new() } else { vec![Change { serving, wanted: params.members }] }
    }

    fn patience(params: &Params) -> Duration {
        Duration::from_secs(params.timeout)
    }

    fn apply(
        params: &Params,
        _found: &State,
        _changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let limit = Duration::from_secs(params.timeout);
        let state = remote::until(limit, || look(params), |state| state.serving() >= params.members)?;
        if state.serving() >= params.members {
            return Ok(state);
        }
        let mut fault = Fault::new(
            FaultKind::TimedOut,
            format!(
                "{} of {} etcd members serve after {} s",
                state.serving(),
                params.members,
                params.timeout
            ),
        )
        .hint("look at `journalctl -u etcd` on those that do not");
        fault.lines = state.complaints();
        Err(fault)
    }

    fn output(_params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let state = after.unwrap_or(before);
        let versions =
            state.endpoints.iter().filter_map(|e| e.status.as_ref().ok()).map(|s| s.version.clone());
        Output { serving: state.serving(), versions: versions.collect() }
    }
}
