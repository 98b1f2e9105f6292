//! Sets the host's name, in its file and in the running kernel.
//!
//! # What it manages
//! /etc/hostname and the kernel's name of the host.
//!
//! # Example
//! ```yaml
//! hostname:
//!   name: db1
//! ```
//!
//! # What it observes
//! /etc/hostname and /proc/sys/kernel/hostname.
//!
//! # What it never does
//! It touches no /etc/hosts.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen};
use crate::sys::files::Attributes;

const FILE: &str = "/etc/hostname";
const LIVE: &str = "/proc/sys/kernel/hostname";

#[derive(Debug)]
pub struct Hostname;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    name: String,
    /// Accepted for Ansible's sake: file and kernel are what every distribution has.
    #[serde(rename = "use")]
    _use: Option<String>,
}

#[derive(Debug)]
pub struct State {
    file: Option<String>,
    live: Option<String>,
}

#[derive(Debug)]
pub enum Change {
    File { from: Option<String>, to: String },
    Live { from: String, to: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::File { from, to } => write!(f, "{FILE}: {} → {to}", from.as_deref().unwrap_or("nothing")),
            Change::Live { from, to } => write!(f, "name {from} → {to}"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
}

impl Module for Hostname {
    const NAME: &'static str = "hostname";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(_params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let read = |path: &str| -> Result<Option<String>, Fault> {
            Ok(host.read_if_there(path)?.map(|b| String::from_utf8_lossy(&b).trim().to_owned()))
        };
        Ok(Seen::Now(State { file: read(FILE)?, live: read(LIVE)? }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        let name = &params.name;
        if found.file.as_ref() != Some(name) {
            changes.push(Change::File { from: found.file.clone(), to: name.clone() });
        }
        if let Some(from) = found.live.as_ref().filter(|l| *l != name) {
            changes.push(Change::Live { from: from.clone(), to: name.clone() });
        }
        changes
    }

    fn apply(
        params: &Params,
        _found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        for change in changes {
            match change {
                Change::File { to, .. } => {
                    let attributes = Attributes { mode: Some(0o644), ..Attributes::default() };
                    host.replace(FILE, format!("{to}\n").as_bytes(), attributes)?;
                }
                Change::Live { to, .. } => host.write_kernel_file(LIVE, to)?,
            }
        }
        Hostname::observe(params, host)?.reached()
    }

    fn output(params: &Params, _before: &State, _after: Option<&State>, _changes: &[Change]) -> Output {
        Output { name: params.name.clone() }
    }
}
