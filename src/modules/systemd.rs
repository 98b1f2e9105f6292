//! Keeps units running, stopped, enabled, masked.
//!
//! # What it manages
//! One systemd unit: whether it runs, whether it starts at boot, whether it is masked; and whether systemd has read its
//! file since it changed.
//!
//! # Example
//! ```yaml
//! systemd:
//!   name: keddah-agent
//!   state: started
//!   enabled: true
//! ```
//!
//! # What it observes
//! All properties of the unit, by one `systemctl show`.
//!
//! # What it never does
//! It does not take systemd's word for a start: a unit that is not running afterwards is a failure that says why.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Risk, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::process::Program;
use crate::sys::systemd::{self as units, Unit};

#[derive(Debug)]
pub struct Systemd;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedState {
    #[serde(alias = "running")]
    Started,
    Stopped,
    Restarted,
    Reloaded,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    #[default]
    System,
    User,
    Global,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "service", alias = "unit")]
    name: Option<String>,
    state: Option<WantedState>,
    /// Whether it starts at boot.
    enabled: Option<bool>,
    masked: Option<bool>,
    /// Let systemd read its files again; not counted as a change.
    #[serde(default, alias = "daemon-reload")]
    daemon_reload: bool,
    /// Let systemd itself start anew; not counted as a change.
    #[serde(default, alias = "daemon-reexec")]
    daemon_reexec: bool,
    #[serde(default)]
    scope: Scope,
    /// Do not wait until the start or stop is done.
    #[serde(default)]
    no_block: bool,
    /// Replace links of other units when enabling.
    #[serde(default)]
    force: bool,
    /// Accepted for Ansible's sake: `service` on other init systems.
    #[serde(rename = "use")]
    _use: Option<String>,
    #[serde(rename = "pattern")]
    _pattern: Option<String>,
    /// Seconds between stop and start of a restart; systemd needs none.
    #[serde(rename = "sleep")]
    _sleep: Option<u32>,
    #[serde(rename = "arguments", alias = "args")]
    _arguments: Option<String>,
    #[serde(rename = "runlevel")]
    _runlevel: Option<String>,
}

#[derive(Debug)]
pub struct State {
    unit: Unit,
    is_reloaded: bool,
    is_reexecuted: bool,
    /// Whether the restart or reload that was asked for is done.
    is_done: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    DaemonReexec,
    DaemonReload,
    Mask(bool),
    Enable(bool),
    Start { from: String },
    Stop,
    Restart,
    Reload,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::DaemonReexec => write!(f, "start systemd itself anew"),
            Change::DaemonReload => write!(f, "let systemd read its files again"),
            Change::Mask(true) => write!(f, "mask"),
            Change::Mask(false) => write!(f, "unmask"),
            Change::Enable(true) => write!(f, "enable, so that it starts at boot"),
            Change::Enable(false) => write!(f, "disable, so that it does not start at boot"),
            Change::Start { from } => write!(f, "start (it is {from})"),
            Change::Stop => write!(f, "stop"),
            Change::Restart => write!(f, "restart"),
            Change::Reload => write!(f, "reload"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    status: BTreeMap<String, String>,
}

impl Params {
    fn scope(&self) -> &'static [&'static str] {
        match self.scope {
            Scope::System => &[],
            Scope::User => &["--user"],
            Scope::Global => &["--global"],
        }
    }

    fn full_name(&self) -> Option<String> {
        self.name.as_deref().map(units::full_name)
    }

    fn systemctl(&self, verb: &str) -> Program {
        Program::new("systemctl").args(self.scope().iter().copied()).arg(verb)
    }

    fn look(&self, host: &Host) -> Result<Unit, Fault> {
        let Some(name) = self.full_name() else { return Ok(Unit::default()) };
        let program = units::show(self.scope(), &name);
        let output = host.look(program.clone())?;
        if output.exit.is_success() {
            return Ok(Unit::parse(&output.stdout_text()));
        }
        let words = output.last_words(3);
        if words.contains("not been booted with systemd") || words.contains("Failed to connect to bus") {
            let message = format!("systemd does not run on this host, so `{name}` cannot be looked at");
            return Err(Fault::new(FaultKind::NotOnThisHost, message).line(words));
        }
        Err(Fault::program(&program, &output, &format!("systemd did not tell about `{name}`")))
    }
}

impl Module for Systemd {
    const NAME: &'static str = "systemd";
    const ALIASES: &'static [&'static str] = &["systemd_service", "service"];
    const KIND: Kind = Kind::Resource;
    const OBSERVES_WITH: &'static [&'static str] = &["systemctl show"];
    // Restarted, reloaded and daemon_reload are done and leave nothing that could be seen.
    const LASTING: bool = false;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        let asks = params.state.is_some() || params.enabled.is_some() || params.masked.is_some();
        if asks && params.name.is_none() {
            found.push(Diagnostic::error("missing-parameter", "systemd: `name` is missing: which unit?"));
        }
        if !asks && !params.daemon_reload && !params.daemon_reexec {
            let what = "systemd: nothing is asked for: `state`, `enabled`, `masked` or `daemon_reload`";
            found.push(Diagnostic::error("missing-parameter", what));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let unit = params.look(host)?;
        if let Some(name) = params.full_name()
            && !unit.is_known()
            && params.masked != Some(true)
        {
            return Ok(Seen::Blocked(Thing::Unit(name)));
        }
        Ok(Seen::Now(State { unit, is_reloaded: false, is_reexecuted: false, is_done: false }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let unit = &found.unit;
        let mut changes = Vec::new();
        if params.daemon_reexec && !found.is_reexecuted {
            changes.push(Change::DaemonReexec);
        }
        let is_stale = params.name.is_none() || unit.get("NeedDaemonReload") == "yes";
        if params.daemon_reload && is_stale && !found.is_reloaded {
            changes.push(Change::DaemonReload);
        }
        if let Some(masked) = params.masked.filter(|m| *m != unit.is_masked()) {
            changes.push(Change::Mask(masked));
        }
        if let Some(enabled) = params.enabled
            && unit.is_enabled().is_some_and(|is| is != enabled)
        {
            changes.push(Change::Enable(enabled));
        }
        let start = || Change::Start { from: unit.get("ActiveState").to_owned() };
        match params.state {
            Some(WantedState::Started) if !unit.is_running() => changes.push(start()),
            Some(WantedState::Stopped) if !unit.is_stopped() => changes.push(Change::Stop),
            Some(WantedState::Restarted) if !found.is_done => changes.push(Change::Restart),
            Some(WantedState::Reloaded) if !found.is_done && unit.is_running() => {
                changes.push(Change::Reload);
            }
            Some(WantedState::Reloaded | WantedState::Restarted) if !unit.is_running() => {
                changes.push(start());
            }
            _ => {}
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let name = params.full_name().unwrap_or_default();
        let mut is_reloaded = found.is_reloaded;
        for change in changes {
            let (verb, tried) = match change {
                Change::DaemonReexec => {
                    host.must(params.systemctl("daemon-reexec"), "systemd did not start anew")?;
                    continue;
                }
                Change::DaemonReload => {
                    host.must(params.systemctl("daemon-reload"), "systemd did not read its files")?;
                    is_reloaded = true;
                    continue;
                }
                Change::Mask(true) => ("mask", "masking"),
                Change::Mask(false) => ("unmask", "unmasking"),
                Change::Enable(true) => ("enable", "enabling"),
                Change::Enable(false) => ("disable", "disabling"),
                Change::Start { .. } => ("start", "starting"),
                Change::Stop => ("stop", "stopping"),
                Change::Restart => ("restart", "restarting"),
                Change::Reload => ("reload", "reloading"),
            };
            if !is_reloaded && found.unit.get("NeedDaemonReload") == "yes" {
                // systemd itself would only warn, and start the old text.
                host.must(params.systemctl("daemon-reload"), "systemd did not read its files")?;
                is_reloaded = true;
            }
            if matches!(change, Change::Start { .. } | Change::Restart)
                && found.unit.get("ActiveState") == "failed"
            {
                // Failures of the past count against the limit of starts; this one is asked for by a person.
                let _best_effort = host.run(params.systemctl("reset-failed").args(["--", &name]))?;
            }
            let mut program = params.systemctl(verb);
            if params.no_block && matches!(verb, "start" | "stop" | "restart" | "reload") {
                program = program.arg("--no-block");
            }
            if params.force && matches!(verb, "enable" | "disable" | "mask") {
                program = program.arg("--force");
            }
            let output = host.run(program.clone().args(["--", &name]))?;
            if !output.exit.is_success() {
                let mut fault = Fault::program(&program, &output, &format!("{tried} {name} failed"));
                fault.lines.extend(journal(&name, host));
                return Err(fault.hint(format!("`journalctl -u {name}` tells more")));
            }
        }
        let unit = params.look(host)?;
        let must_run = matches!(
            params.state,
            Some(WantedState::Started | WantedState::Restarted | WantedState::Reloaded)
        );
        if must_run && !params.no_block && !unit.is_running() && unit.get("Type") != "oneshot" {
            return Err(not_running(&name, &unit, host));
        }
        let is_oneshot = unit.get("Type") == "oneshot" && unit.get("RemainAfterExit") != "yes";
        let mut reached = State { unit, is_reloaded: true, is_reexecuted: true, is_done: true };
        if must_run && (params.no_block || is_oneshot) && !reached.unit.is_running() {
            // Started and ended, or on its way without being waited for: what was asked for is done.
            reached.unit.properties.insert("ActiveState".to_owned(), "active".to_owned());
        }
        Ok(reached)
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let unit = &after.unwrap_or(before).unit;
        let state = params.state.map(|state| match state {
            WantedState::Stopped => "stopped",
            WantedState::Started | WantedState::Restarted | WantedState::Reloaded => "started",
        });
        Output { name: params.name.clone(), state, enabled: params.enabled, status: unit.properties.clone() }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            Change::Restart | Change::Stop => Risk::Restart,
            Change::Reload => Risk::Reload,
            _ => Risk::None,
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        match params.state {
            None | Some(WantedState::Stopped) => Vec::new(),
            Some(_) => params.full_name().map(Thing::Unit).into_iter().collect(),
        }
    }

    fn counts(change: &Change) -> bool {
        !matches!(change, Change::DaemonReload | Change::DaemonReexec)
    }
}

/// Says why a unit is not running after it was started.
fn not_running(name: &str, unit: &Unit, host: &mut HostMut<'_>) -> Fault {
    let (active, sub, result) = (unit.get("ActiveState"), unit.get("SubState"), unit.get("Result"));
    if unit.get("ConditionResult") == "no" {
        return Fault::refused(format!(
            "systemd did not start {name}: one of the conditions in its unit does not hold"
        ))
        .hint(format!("`systemctl status {name}` names the condition"));
    }
    let mut fault = Fault::refused(format!(
        "{name} was started and does not run: it is {active} ({sub}), result {result}"
    ));
    fault.lines = journal(name, host);
    fault.hint(format!("`journalctl -u {name}` tells more"))
}

/// Returns the unit's last words; none where there is no journal to read.
fn journal(name: &str, host: &mut HostMut<'_>) -> Vec<String> {
    let program =
        Program::new("journalctl").args(["--no-pager", "--quiet", "-n", "10", "-o", "cat", "-u", name]);
    match host.run(program) {
        Ok(output) if output.exit.is_success() => output.stdout_text().lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
