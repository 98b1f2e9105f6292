//! Writes HAProxy's configuration once HAProxy itself has accepted it, and lets a running one take it.
//!
//! # What it manages
//! The configuration file, and that the running HAProxy has read it.
//!
//! # Example
//! ```yaml
//! haproxy_config:
//!   dest: /etc/haproxy/haproxy.cfg
//!   content: "{{ lookup('template', 'haproxy.cfg.j2') }}"
//!   mode: "0640"
//! ```
//!
//! # What it observes
//! The file's bytes, owner and mode; whether the unit runs.
//!
//! # What it never does
//! It never puts a text in place that `haproxy -c` refuses, and never restarts: a reload keeps connections. When the
//! reload fails, the old text is put back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{ModeSpec, PathFacts};
use crate::modules::text_file::{Desired, TextFile, WriteChange, Writing};
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Risk, Seen, Thing};
use crate::sys::files::Attributes;
use crate::sys::process::Program;
use crate::sys::systemd::{self as units, Unit};

#[derive(Debug)]
pub struct HaproxyConfig;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(default = "dest", alias = "path")]
    dest: String,
    /// The whole configuration.
    content: String,
    mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    /// The program that judges the text.
    #[serde(default = "haproxy")]
    program: String,
    /// The unit that is reloaded if it runs.
    #[serde(default = "haproxy")]
    service: String,
    #[serde(default)]
    backup: bool,
}

fn dest() -> String {
    "/etc/haproxy/haproxy.cfg".to_owned()
}

fn haproxy() -> String {
    "haproxy".to_owned()
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Desired,
    is_running: bool,
    backup: Option<String>,
}

#[derive(Debug)]
pub enum Change {
    Write(WriteChange),
    Reload,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Write(change) => write!(f, "{change}"),
            Change::Reload => write!(f, "reload, which keeps connections"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    dest: String,
    reloaded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_file: Option<String>,
    #[serde(flatten)]
    facts: PathFacts,
}

impl Module for HaproxyConfig {
    const NAME: &'static str = "haproxy_config";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    const OBSERVES_WITH: &'static [&'static str] = &["systemctl show"];
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        if !host.has_program(&params.program) {
            return Ok(Seen::Blocked(Thing::Program(params.program.clone())));
        }
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        TextFile::observe(&params.dest, params.mode.as_ref(), owner, group, host)?.and_then(|file| {
            // A host without systemd has nothing that could be reloaded through it.
            let is_running = match host.look(units::show(&[], &units::full_name(&params.service))) {
                Ok(output) => output.exit.is_success() && Unit::parse(&output.stdout_text()).is_running(),
                Err(_no_systemctl) => false,
            };
            let desired = Desired::new(params.content.clone().into_bytes());
            Ok(Seen::Now(State { file, desired, is_running, backup: None }))
        })
    }

    fn diff(_params: &Params, found: &State) -> Vec<Change> {
        let changes = found.file.diff(Some(&found.desired));
        let is_text = changes.iter().any(|c| !matches!(c, WriteChange::Attribute(_)));
        let mut all: Vec<Change> = changes.into_iter().map(Change::Write).collect();
        if is_text && found.is_running {
            all.push(Change::Reload);
        }
        all
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let judge = format!("{} -c -f %s", params.program);
        let writing = Writing { validate: Some(&judge), backup: params.backup };
        let backup = found.file.write(Some(&found.desired), writing, host)?;
        if changes.iter().any(|c| matches!(c, Change::Reload)) {
            let reload = Program::new("systemctl").args(["reload", "--", &units::full_name(&params.service)]);
            let output = host.run(reload.clone())?;
            if !output.exit.is_success() {
                let fault = Fault::program(&reload, &output, "HAProxy did not take its new configuration");
                return Err(put_back(found, host, fault));
            }
        }
        let file = found.file.again(host)?;
        Ok(State { file, desired: found.desired.clone(), is_running: found.is_running, backup })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, changes: &[Change]) -> Output {
        let state = after.unwrap_or(before);
        Output {
            dest: params.dest.clone(),
            reloaded: after.is_some() && changes.iter().any(|c| matches!(c, Change::Reload)),
            backup_file: state.backup.clone(),
            facts: state.file.facts(),
        }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            Change::Write(_) => Risk::None,
            Change::Reload => Risk::Reload,
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        vec![Thing::Path(params.dest.clone())]
    }

    fn texts(_params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        found.file.texts(Some(&found.desired))
    }
}

/// Puts the old text back, so that neither a restart nor the next run meets a text that was not taken.
fn put_back(found: &State, host: &mut HostMut<'_>, fault: Fault) -> Fault {
    let Some(old) = &found.file.found else {
        return fault.hint("there was no older text to put back");
    };
    let same = Attributes { mode: Some(old.stat.mode), uid: Some(old.stat.uid), gid: Some(old.stat.gid) };
    match host.replace(&found.file.path, &old.bytes, same) {
        Ok(()) => fault.hint("the old text was put back, and the old process goes on"),
        Err(error) => {
            fault.line(format!("and the old text could not be put back: {}", crate::sys::chain(&error)))
        }
    }
}
