//! Makes sure of a block of lines between two marker lines of a file.
//!
//! # What it manages
//! The lines between the markers, and the markers.
//!
//! # Example
//! ```yaml
//! blockinfile:
//!   path: /etc/hosts
//!   block: |
//!     10.0.0.11 db1
//!     10.0.0.12 db2
//! ```
//!
//! # What it observes
//! The file's text, owner and mode.
//!
//! # What it never does
//! It touches no line outside its markers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{ModeSpec, PathFacts};
use crate::modules::line_edits;
use crate::modules::lineinfile::{Presence, place};
use crate::modules::text_file::{Desired, TextFile, WriteChange, Writing};
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};

#[derive(Debug)]
pub struct BlockInFile;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "dest", alias = "destfile", alias = "name")]
    path: String,
    #[serde(default)]
    state: Presence,
    #[serde(default, alias = "content")]
    block: String,
    /// The marker lines; `{mark}` is BEGIN or END.
    #[serde(default = "marker")]
    marker: String,
    #[serde(default = "begin")]
    marker_begin: String,
    #[serde(default = "end")]
    marker_end: String,
    insertafter: Option<String>,
    insertbefore: Option<String>,
    #[serde(default)]
    create: bool,
    mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    validate: Option<String>,
    #[serde(default)]
    backup: bool,
}

fn marker() -> String {
    "# {mark} ANSIBLE MANAGED BLOCK".to_owned()
}

fn begin() -> String {
    "BEGIN".to_owned()
}

fn end() -> String {
    "END".to_owned()
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Option<Desired>,
    backup: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Output {
    path: String,
    msg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_file: Option<String>,
    #[serde(flatten)]
    facts: PathFacts,
}

impl Params {
    fn edit(&self, text: &str) -> Result<String, Fault> {
        let place = place(self.insertafter.as_deref(), self.insertbefore.as_deref())?;
        let (first, last) = (
            self.marker.replace("{mark}", &self.marker_begin),
            self.marker.replace("{mark}", &self.marker_end),
        );
        let block = (self.state == Presence::Present).then_some(self.block.as_str());
        Ok(line_edits::ensure_block(text, block, &first, &last, &place))
    }
}

impl Module for BlockInFile {
    const NAME: &'static str = "blockinfile";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = WriteChange;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if !params.marker.contains("{mark}") {
            let what = "blockinfile: `marker` needs `{mark}`, or begin and end of the block look alike";
            found.push(Diagnostic::error("parameter-value", what));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        TextFile::observe(&params.path, params.mode.as_ref(), owner, group, host)?.and_then(|file| {
            if file.found.is_none() {
                if params.state == Presence::Absent {
                    return Ok(Seen::Now(State { file, desired: None, backup: None }));
                }
                if !params.create {
                    return Ok(Seen::Blocked(Thing::Path(params.path.clone())));
                }
            }
            let text = params.edit(&file.text().unwrap_or_default())?;
            Ok(Seen::Now(State { file, desired: Some(Desired::new(text.into_bytes())), backup: None }))
        })
    }

    fn diff(_params: &Params, found: &State) -> Vec<WriteChange> {
        found.file.diff(found.desired.as_ref())
    }

    fn apply(
        params: &Params,
        found: &State,
        _changes: &[WriteChange],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let writing = Writing { validate: params.validate.as_deref(), backup: params.backup };
        let backup = found.file.write(found.desired.as_ref(), writing, host)?;
        let file = found.file.again(host)?;
        let text = params.edit(&file.text().unwrap_or_default())?;
        Ok(State { file, desired: Some(Desired::new(text.into_bytes())), backup })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, changes: &[WriteChange]) -> Output {
        let state = after.unwrap_or(before);
        let msg = match (changes.is_empty(), params.state) {
            (true, _) => "",
            (false, Presence::Present) => "Block inserted",
            (false, Presence::Absent) => "Block removed",
        };
        Output {
            path: params.path.clone(),
            msg,
            backup_file: state.backup.clone(),
            facts: state.file.facts(),
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        if params.create { vec![Thing::Path(params.path.clone())] } else { Vec::new() }
    }

    fn texts(_params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        found.file.texts(found.desired.as_ref())
    }
}
