//! Takes the cluster out of the agents' hands, or gives it back.
//!
//! # What it manages
//! `pause` of the dynamic configuration: while it is set, nobody fails over.
//!
//! # Example
//! ```yaml
//! cluster_pause:
//!   url: http://10.0.0.11:8008
//!   state: resumed
//! ```
//!
//! # What it observes
//! The dynamic configuration that an agent answers with.
//!
//! # What it never does
//! It stops and starts no server.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::modules::remote::{self, Rest};
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen};
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;

const ANSWER_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct ClusterPause;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedState {
    Paused,
    Resumed,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// An agent's REST API: `http://HOST:PORT`.
    url: String,
    username: Option<String>,
    #[schemars(with = "Option<String>")]
    password: Option<Secret>,
    state: WantedState,
}

#[derive(Debug)]
pub struct State {
    is_paused: bool,
}

#[derive(Debug)]
pub struct Change(WantedState);

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            WantedState::Paused => "pause: nobody fails over until it is resumed",
            WantedState::Resumed => "resume",
        })
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    paused: bool,
}

fn ask(params: &Params) -> Result<Option<State>, Fault> {
    let rest = Rest { url: &params.url, user: None, files: &ClientFiles::default() };
    let is_paused = |config: Value| config.get("pause").and_then(Value::as_bool) == Some(true);
    Ok(rest.document("/config")?.map(|config| State { is_paused: is_paused(config) }))
}

impl Module for ClusterPause {
    const NAME: &'static str = "cluster_pause";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        ask(params).map(remote::seen)
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let is_wanted = params.state == WantedState::Paused;
        if found.is_paused == is_wanted { Vec::new() } else { vec![Change(params.state)] }
    }

    fn apply(
        params: &Params,
        _found: &State,
        _changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let value = match params.state {
            WantedState::Paused => json!({ "pause": true }),
            WantedState::Resumed => json!({ "pause": null }),
        };
        let user = params.username.as_deref().zip(params.password.as_ref());
        let reply = Rest { url: &params.url, user, files: &ClientFiles::default() }.send(
            "PATCH",
            "/config",
            &value,
            ANSWER_LIMIT,
        )?;
        if !reply.is_success() {
            let body = reply.body.lines().next().unwrap_or_default();
            return Err(Fault::refused(format!("the agent refused it ({}): {body}", reply.status)));
        }
        ask(params)?.ok_or_else(|| Fault::refused(format!("{}/config does not answer any more", params.url)))
    }

    fn output(_params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        Output { paused: after.unwrap_or(before).is_paused }
    }
}
