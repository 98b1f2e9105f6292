//! Writes a rendered template to the host. The text arrives rendered; what is written and how is as in `copy`.
//!
//! # What it manages
//! Content, owner, group and mode of one file.
//!
//! # Example
//! ```yaml
//! template:
//!   src: agent.yml.j2
//!   dest: /etc/keddah/agent.yml
//!   mode: "0640"
//! ```
//!
//! # What it observes
//! The destination's bytes, owner and mode.
//!
//! # What it never does
//! It writes nothing that `validate` refuses, and nothing at all when the text is already there.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{ModeSpec, PathFacts};
use crate::modules::text_file::{self, Desired, TextFile, WriteChange, Writing};
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::sys::files::FileKind;

#[derive(Debug)]
pub struct Template;

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum Newline {
    #[default]
    #[serde(rename = "\n", alias = "\\n")]
    Lf,
    #[serde(rename = "\r\n", alias = "\\r\\n")]
    CrLf,
    #[serde(rename = "\r", alias = "\\r")]
    Cr,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The template on the controller.
    src: String,
    dest: String,
    mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    /// A command that judges the text before it takes its place; `%s` is its path.
    validate: Option<String>,
    #[serde(default)]
    backup: bool,
    /// Whether a file that is there is replaced.
    #[serde(default = "yes")]
    force: bool,
    #[serde(default)]
    newline_sequence: Newline,
    /// Accepted for Ansible's sake: a link's target is always what is written.
    #[serde(default = "yes", rename = "follow")]
    _follow: bool,
    /// How the template is read; used where it is rendered.
    #[serde(rename = "trim_blocks")]
    _trim_blocks: Option<bool>,
    #[serde(rename = "lstrip_blocks")]
    _lstrip_blocks: Option<bool>,
    #[serde(rename = "block_start_string")]
    _block_start: Option<String>,
    #[serde(rename = "block_end_string")]
    _block_end: Option<String>,
    #[serde(rename = "variable_start_string")]
    _variable_start: Option<String>,
    #[serde(rename = "variable_end_string")]
    _variable_end: Option<String>,
    #[serde(rename = "comment_start_string")]
    _comment_start: Option<String>,
    #[serde(rename = "comment_end_string")]
    _comment_end: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Desired,
    backup: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Output {
    dest: String,
    src: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_file: Option<String>,
    #[serde(flatten)]
    facts: PathFacts,
}

impl State {
    fn wants<'a>(&'a self, params: &Params) -> Option<&'a Desired> {
        (params.force || self.file.found.is_none()).then_some(&self.desired)
    }
}

impl Module for Template {
    const NAME: &'static str = "template";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = WriteChange;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let [supplied] = host.supplied() else {
            return Err(Fault::params(format!(
                "template: the rendered text of `{}` did not come along",
                params.src
            )));
        };
        let Some(bytes) = &supplied.bytes else {
            return Err(Fault::new(
                crate::modules::FaultKind::NeedsContent(supplied.sha256),
                "the rendered text is needed",
            ));
        };
        let desired = match params.newline_sequence {
            Newline::Lf => Desired::new(bytes.clone()),
            Newline::CrLf => Desired::new(String::from_utf8_lossy(bytes).replace('\n', "\r\n").into_bytes()),
            Newline::Cr => Desired::new(String::from_utf8_lossy(bytes).replace('\n', "\r").into_bytes()),
        };
        let is_folder = host.stat_followed(&params.dest)?.is_some_and(|s| s.kind == FileKind::Directory);
        let path = if is_folder || params.dest.ends_with('/') {
            let name = Path::new(&params.src).file_name().unwrap_or_default().to_string_lossy();
            format!("{}/{name}", params.dest.trim_end_matches('/'))
        } else {
            params.dest.clone()
        };
        let preserved = ModeSpec::Bits(supplied.mode);
        let mode = match &params.mode {
            Some(ModeSpec::Preserve) => Some(&preserved),
            other => other.as_ref(),
        };
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        TextFile::observe(&path, mode, owner, group, host)?
            .and_then(|file| Ok(Seen::Now(State { file, desired, backup: None })))
    }

    fn diff(params: &Params, found: &State) -> Vec<WriteChange> {
        found.file.diff(found.wants(params))
    }

    fn apply(
        params: &Params,
        found: &State,
        _changes: &[WriteChange],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let writing = Writing { validate: params.validate.as_deref(), backup: params.backup };
        let backup = found.file.write(found.wants(params), writing, host)?;
        Ok(State { file: found.file.again(host)?, desired: found.desired.clone(), backup })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[WriteChange]) -> Output {
        let state = after.unwrap_or(before);
        let bytes = state.desired.bytes.as_ref();
        Output {
            dest: state.file.path.clone(),
            src: params.src.clone(),
            checksum: bytes.map(|b| text_file::sha1_of(b)),
            backup_file: state.backup.clone(),
            facts: state.file.facts(),
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        vec![Thing::Path(params.dest.clone())]
    }

    fn texts(params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        found.file.texts(found.wants(params))
    }
}
