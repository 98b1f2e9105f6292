//! Sets a kernel parameter, in its file and in the running kernel.
//!
//! # What it manages
//! One `name = value` line of a file that the kernel's parameters are read from at boot, and the live value.
//!
//! # Example
//! ```yaml
//! sysctl:
//!   name: vm.overcommit_memory
//!   value: "2"
//!   sysctl_set: true
//! ```
//!
//! # What it observes
//! The file, and the parameter's file below /proc/sys.
//!
//! # What it never does
//! It does not claim success where a container refuses: parameters that belong to the machine below are said to be so.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::ModeSpec;
use crate::modules::lineinfile::Presence;
use crate::modules::text_file::{Desired, TextFile, Writing};
use crate::modules::{Diff, Fault, FaultKind, Host, HostMut, Kind, Module, Seen};
use crate::source::{Diagnostic, Diagnostics};

#[derive(Debug)]
pub struct Sysctl;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "key")]
    name: String,
    #[serde(alias = "val")]
    value: Option<String>,
    #[serde(default)]
    state: Presence,
    #[serde(default = "file")]
    sysctl_file: String,
    /// Set the live value even if the file is right.
    #[serde(default)]
    sysctl_set: bool,
    /// Set the live value when the file changes.
    #[serde(default = "yes")]
    reload: bool,
    /// Go on where the kernel does not know the parameter.
    #[serde(default)]
    ignoreerrors: bool,
}

fn file() -> String {
    "/etc/sysctl.conf".to_owned()
}

fn yes() -> bool {
    true
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Desired,
    live: Option<String>,
}

#[derive(Debug)]
pub enum Change {
    File { path: String, line: String },
    Live { from: Option<String>, to: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::File { path, line } if line.is_empty() => write!(f, "take it out of {path}"),
            Change::File { path, line } => write!(f, "{path}: {line}"),
            Change::Live { from, to } => {
                write!(f, "live value {} → {to}", from.as_deref().unwrap_or("unknown"))
            }
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Params {
    /// Blanks between several numbers are of any kind and count.
    fn wanted(&self) -> String {
        let value = self.value.clone().unwrap_or_default();
        let value = match value.trim() {
            "True" => "1",
            "False" => "0",
            other => other,
        };
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn line(&self) -> String {
        match self.state {
            Presence::Present => format!("{} = {}", self.name, self.wanted()),
            Presence::Absent => String::new(),
        }
    }

    fn kernel_file(&self) -> String {
        // A name may hold an interface with dots of its own, written with slashes then.
        let path = if self.name.contains('/') { self.name.clone() } else { self.name.replace('.', "/") };
        format!("/proc/sys/{path}")
    }

    /// Returns the file's text as it should be; unchanged if the value is already said.
    fn edit(&self, text: &str) -> String {
        let is_own = |line: &str| {
            let line = line.trim_start_matches(['-', ' ', '\t']);
            line.split_once('=').is_some_and(|(key, _)| key.trim() == self.name)
        };
        let value_of = |line: &str| {
            line.split_once('=')
                .map(|(_, v)| v.split_whitespace().collect::<Vec<_>>().join(" "))
                .unwrap_or_default()
        };
        let mut own = text.lines().filter(|l| is_own(l));
        let last = own.next_back();
        if self.state == Presence::Present
            && own.next().is_none()
            && last.is_some_and(|l| value_of(l) == self.wanted())
        {
            return text.to_owned();
        }
        let mut out = String::new();
        let mut is_written = self.state == Presence::Absent;
        for line in text.lines() {
            if !is_own(line) {
                out.push_str(line);
                out.push('\n');
            } else if !is_written {
                out.push_str(&self.line());
                out.push('\n');
                is_written = true;
            }
        }
        if !is_written {
            out.push_str(&self.line());
            out.push('\n');
        }
        if last.is_none() && self.state == Presence::Absent { text.to_owned() } else { out }
    }
}

impl Module for Sysctl {
    const NAME: &'static str = "sysctl";
    const COLLECTION: &'static str = "ansible.posix";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if params.state == Presence::Present && params.value.is_none() {
            found.push(Diagnostic::error("missing-parameter", "sysctl: `value` is missing"));
        }
        if params.name.contains("..") || params.name.is_empty() {
            found.push(Diagnostic::error(
                "parameter-value",
                "sysctl: `name` is no name of a kernel parameter",
            ));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let mode = ModeSpec::Bits(0o644);
        let is_there = host.stat(&params.sysctl_file)?.is_some();
        TextFile::observe(&params.sysctl_file, (!is_there).then_some(&mode), None, None, host)?.and_then(
            |file| {
                let desired = Desired::new(params.edit(&file.text().unwrap_or_default()).into_bytes());
                let live = host.read_if_there(params.kernel_file())?;
                let live = live
                    .map(|b| String::from_utf8_lossy(&b).split_whitespace().collect::<Vec<_>>().join(" "));
                Ok(Seen::Now(State { file, desired, live }))
            },
        )
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        let text = found.file.found.as_ref().map(|f| f.sha256);
        let is_empty = found.desired.size == 0 && text.is_none();
        if text != Some(found.desired.sha256) && !is_empty {
            changes.push(Change::File { path: params.sysctl_file.clone(), line: params.line() });
        }
        let follows = params.sysctl_set || (params.reload && !changes.is_empty());
        let is_unknown = found.live.is_none() && params.ignoreerrors;
        if params.state == Presence::Present
            && follows
            && !is_unknown
            && found.live.as_ref() != Some(&params.wanted())
        {
            changes.push(Change::Live { from: found.live.clone(), to: params.wanted() });
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        // The live value first: what the kernel refuses must not be in the file at the next boot.
        for change in changes {
            let Change::Live { to, .. } = change else { continue };
            if found.live.is_none() {
                return Err(Fault::refused(format!("the kernel knows no parameter `{}`", params.name)).hint(
                    "its module may have to be loaded first; `ignoreerrors: true` writes the file only",
                ));
            }
            if let Err(error) = host.write_kernel_file(params.kernel_file(), to) {
                let kind = error.source.kind();
                let text = crate::sys::chain(&error);
                if matches!(
                    kind,
                    std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied
                ) {
                    let message = format!("`{}` cannot be set on this host: {text}", params.name);
                    let hint = "in a container it belongs to the machine below; set it there";
                    return Err(Fault::new(FaultKind::NotOnThisHost, message).hint(hint));
                }
                return Err(Fault::refused(format!("the kernel refuses {} = {to}: {text}", params.name)));
            }
        }
        if changes.iter().any(|c| matches!(c, Change::File { .. })) {
            found.file.write(Some(&found.desired), Writing::default(), host)?;
        }
        Sysctl::observe(params, host)?.reached()
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        Output { name: params.name.clone(), value: after.unwrap_or(before).live.clone() }
    }

    fn texts(_params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        found.file.texts(Some(&found.desired))
    }
}
