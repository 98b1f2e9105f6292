//! Asks a web server and judges the answer.
//!
//! # What it manages
//! Nothing; GET and HEAD only tell, other methods do what the server makes of them.
//!
//! # Example
//! ```yaml
//! uri:
//!   url: http://127.0.0.1:8008/primary
//!   status_code: [200, 503]
//! ```
//!
//! # What it observes
//! The answer to GET and HEAD.
//!
//! # What it never does
//! It sends no POST, PUT, PATCH or DELETE in plan and check, and follows no redirect.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::modules::remote;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::http::{self, Reply, Request};
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;

#[derive(Debug)]
pub struct Uri;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyFormat {
    #[default]
    Raw,
    Json,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// `http://…` or `https://…`.
    url: String,
    #[serde(default = "get")]
    method: String,
    body: Option<Json>,
    #[serde(default)]
    body_format: BodyFormat,
    /// The answers that are no failure.
    #[serde(default = "ok")]
    status_code: Vec<u16>,
    #[serde(default)]
    return_content: bool,
    /// Seconds for the whole answer.
    #[serde(default = "timeout")]
    timeout: u64,
    #[serde(alias = "user")]
    url_username: Option<String>,
    #[serde(alias = "password")]
    #[schemars(with = "Option<String>")]
    url_password: Option<Secret>,
    /// Accepted for Ansible's sake: the name and password are sent with the first request.
    #[serde(rename = "force_basic_auth")]
    _force_basic_auth: Option<bool>,
    /// Of an `https` address: the file of the authorities that vouch for it; those of the host if none is named.
    ca_path: Option<PathBuf>,
    /// The certificate to show, and its key where that is another file.
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    #[serde(default = "yes")]
    validate_certs: bool,
}

fn yes() -> bool {
    true
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> Vec<u16> {
    vec![200]
}

fn timeout() -> u64 {
    30
}

#[derive(Debug)]
pub struct State {
    reply: Option<Reply>,
}

#[derive(Debug)]
pub struct Send(String);

impl fmt::Display for Send {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    url: String,
    status: u16,
    msg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    redirected: bool,
}

impl Params {
    fn only_tells(&self) -> bool {
        matches!(self.method.to_ascii_uppercase().as_str(), "GET" | "HEAD" | "OPTIONS")
    }

    fn files(&self) -> ClientFiles {
        let Params { ca_path, client_cert, client_key, validate_certs, .. } = self;
        ClientFiles::for_members(ca_path.as_ref(), client_cert.as_ref(), client_key.as_ref(), !validate_certs)
    }

    fn send(&self) -> Result<Reply, Fault> {
        let body = self.body.as_ref().map(|body| match (body, self.body_format) {
            (Json::String(text), _) => text.clone(),
            (document, BodyFormat::Json | BodyFormat::Raw) => document.to_string(),
        });
        let method = self.method.to_ascii_uppercase();
        let user = self.url_username.as_deref().zip(self.url_password.as_ref());
        let limit = Duration::from_secs(self.timeout);
        let tls = remote::client(&self.url, &self.files())?;
        let request = Request { method: &method, url: &self.url, body, user, tls: tls.as_ref(), limit };
        let reply = remote::block_on(http::send(&request))?.map_err(|error| {
            let mut fault = Fault::refused(crate::sys::chain(&error));
            fault.output.insert("status".into(), (-1_i64).into());
            fault.output.insert("url".into(), self.url.clone().into());
            fault
        })?;
        if self.status_code.contains(&reply.status) {
            return Ok(reply);
        }
        let expected = self.status_code.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut fault = Fault::refused(format!("{} answered {} and not {expected}", self.url, reply.status));
        fault.lines = reply.body.lines().take(5).map(str::to_owned).collect();
        if let Ok(json) = serde_json::to_value(self.output(&reply))
            && let Some(dict) = crate::expr::Value::from_json(&json).as_dict()
        {
            *fault.output = dict.clone();
        }
        Err(fault)
    }

    fn output(&self, reply: &Reply) -> Output {
        Output {
            url: self.url.clone(),
            status: reply.status,
            msg: format!("HTTP status {}", reply.status),
            json: serde_json::from_str(&reply.body).ok(),
            content: self.return_content.then(|| reply.body.clone()),
            redirected: false,
        }
    }
}

impl Module for Uri {
    const NAME: &'static str = "uri";
    const KIND: Kind = Kind::Action;
    type Params = Params;
    type State = State;
    type Change = Send;
    type Output = Option<Output>;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if !["http://", "https://"].iter().any(|scheme| params.url.starts_with(scheme)) {
            let what = "uri: only `http://` and `https://` addresses are supported";
            found.push(Diagnostic::error("parameter-value", what));
        }
        found
    }

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        let reply = if params.only_tells() { Some(params.send()?) } else { None };
        Ok(Seen::Now(State { reply }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Send> {
        if found.reply.is_some() {
            return Vec::new();
        }
        vec![Send(format!("{} {}", params.method.to_ascii_uppercase(), params.url))]
    }

    fn apply(
        params: &Params,
        _found: &State,
        _changes: &[Send],
        _host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        Ok(State { reply: Some(params.send()?) })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Send]) -> Option<Output> {
        after.unwrap_or(before).reply.as_ref().map(|reply| params.output(reply))
    }

    fn opaque(params: &Params) -> Option<String> {
        let why = "what a server makes of a request that changes it cannot be foreseen";
        (!params.only_tells()).then(|| why.to_owned())
    }

    fn changed(_params: &Params, _before: &State, _after: &State) -> bool {
        // Ansible counts a request as no change; `changed_when` says otherwise.
        false
    }
}
