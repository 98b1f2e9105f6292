//! Keeps the dynamic configuration of a Postgres cluster, which lives in etcd.
//!
//! # What it manages
//! The named settings; what is set beside them is left alone.
//!
//! # Example
//! ```yaml
//! cluster_config:
//!   url: http://10.0.0.4:8008
//!   username: keddah
//!   password: "{{ keddah_restapi_password }}"
//!   settings:
//!     ttl: 30
//!     synchronous_mode: true
//!     postgresql: {parameters: {max_connections: 200}}
//! ```
//!
//! # What it observes
//! `/config` of one agent's REST API.
//!
//! # What it never does
//! It restarts nothing: a setting that needs a restart shows as pending in `keddah list`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::modules::remote::{self, Rest};
use crate::modules::{Fault, Host, HostMut, Kind, Module, Risk, Seen};
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;

#[derive(Debug)]
pub struct ClusterConfig;

const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(15);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// An agent's REST API: `http://HOST:PORT`.
    url: String,
    username: Option<String>,
    #[schemars(with = "Option<String>")]
    password: Option<Secret>,
    /// Names and values, nested as in the configuration; null removes a setting.
    #[schemars(with = "Value")]
    settings: Value,
}

/// One setting that differs: its way through the document, and both values.
#[derive(Debug, PartialEq)]
pub struct Change {
    path: String,
    from: Option<Value>,
    to: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{}: {from} → {to}", self.path),
            (None, Some(to)) => write!(f, "{}: {to} (not set)", self.path),
            (Some(from), None) => write!(f, "{}: remove {from}", self.path),
            (None, None) => write!(f, "{}", self.path),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    config: Value,
}

/// Two values of one setting mean the same where Postgres would take them as the same: `100` and `"100"`.
fn same(a: &Value, b: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    a == b || (!a.is_object() && !b.is_object() && text(a) == text(b))
}

fn compare(path: &str, wanted: &Value, found: Option<&Value>, changes: &mut Vec<Change>) {
    match (wanted, found) {
        (Value::Object(wanted), found) if found.is_none_or(Value::is_object) => {
            for (name, value) in wanted {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, value, found.and_then(|found| found.get(name)), changes);
            }
        }
        (Value::Null, None | Some(Value::Null)) => {}
        (Value::Null, Some(found)) => {
            changes.push(Change { path: path.to_owned(), from: Some(found.clone()), to: None });
        }
        (wanted, Some(found)) if same(wanted, found) => {}
        (wanted, found) => {
            changes.push(Change { path: path.to_owned(), from: found.cloned(), to: Some(wanted.clone()) });
        }
    }
}

fn ask(params: &Params) -> Result<Option<Value>, Fault> {
    Rest { url: &params.url, user: None, files: &ClientFiles::default() }.document("/config")
}

impl Module for ClusterConfig {
    const NAME: &'static str = "cluster_config";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = Value;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<Value>, Fault> {
        ask(params).map(remote::seen)
    }

    fn diff(params: &Params, found: &Value) -> Vec<Change> {
        let mut changes = Vec::new();
        compare("", &params.settings, Some(found), &mut changes);
        changes
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        _found: &Value,
        _changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<Value, Fault> {
        let user = params.username.as_deref().zip(params.password.as_ref());
        let reply = Rest { url: &params.url, user, files: &ClientFiles::default() }.send(
            "PATCH",
            "/config",
            &params.settings,
            ANSWER_LIMIT,
        )?;
        if !reply.is_success() {
            let body = reply.body.lines().next().unwrap_or_default();
            return Err(Fault::refused(format!("the agent refused the settings ({}): {body}", reply.status)));
        }
        ask(params)?.ok_or_else(|| Fault::refused(format!("{}/config does not answer any more", params.url)))
    }

    fn output(_params: &Params, before: &Value, after: Option<&Value>, _changes: &[Change]) -> Output {
        Output { config: after.unwrap_or(before).clone() }
    }

    fn risk(_change: &Change) -> Risk {
        Risk::Reload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn changes(wanted: Value, found: Value) -> Vec<String> {
        let params = Params { url: String::new(), username: None, password: None, settings: wanted };
        ClusterConfig::diff(&params, &found).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_named_settings_are_compared_and_null_removes() {
        let found =
            json!({"ttl": 30, "loop_wait": 10, "postgresql": {"parameters": {"max_connections": "100"}}});
        assert!(
            changes(
                json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": 100}}}),
                found.clone()
            )
            .is_empty()
        );
        assert_eq!(
            changes(
                json!({"ttl": 20, "loop_wait": null, "postgresql": {"parameters": {"work_mem": "4MB"}}}),
                found
            ),
            ["ttl: 30 → 20", "loop_wait: remove 10", "postgresql.parameters.work_mem: \"4MB\" (not set)"]
        );
    }
}
