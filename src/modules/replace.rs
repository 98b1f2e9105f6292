//! Replaces all that fits a regular expression in a file.
//!
//! # What it manages
//! Every match of `regexp` in the file, or in the part between `after` and `before`.
//!
//! # Example
//! ```yaml
//! replace:
//!   path: /etc/fstab
//!   regexp: '^(\S+\s+none\s+swap\s+.*)$'
//!   replace: '# \1'
//! ```
//!
//! # What it observes
//! The file's text, owner and mode.
//!
//! # What it never does
//! It makes no file that is not there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{ModeSpec, PathFacts};
use crate::modules::line_edits;
use crate::modules::text_file::{Desired, TextFile, WriteChange, Writing};
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};

#[derive(Debug)]
pub struct Replace;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "dest", alias = "destfile", alias = "name")]
    path: String,
    /// Python's regular expression; `^` and `$` stand at each line.
    regexp: String,
    /// What to put there; `\1` is the first group. Empty removes.
    #[serde(default)]
    replace: String,
    /// Only what comes after this.
    after: Option<String>,
    /// Only what comes before this.
    before: Option<String>,
    mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    validate: Option<String>,
    #[serde(default)]
    backup: bool,
    /// Accepted for Ansible's sake: texts are UTF-8.
    #[serde(rename = "encoding")]
    _encoding: Option<String>,
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Desired,
    count: usize,
    backup: Option<String>,
    is_done: bool,
}

#[derive(Debug, Serialize)]
pub struct Output {
    path: String,
    msg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_file: Option<String>,
    #[serde(flatten)]
    facts: PathFacts,
}

impl Params {
    fn edit(&self, text: &str) -> Result<(String, usize), Fault> {
        let regex = line_edits::regex(&self.regexp, true)?;
        let (mut start, mut end) = (0, text.len());
        let find = |pattern: &str, from: usize| -> Result<Option<(usize, usize)>, Fault> {
            let regex = line_edits::regex(&format!("(?s){pattern}"), false)?;
            let found = regex.find(text.get(from..).unwrap_or_default()).ok().flatten();
            Ok(found.map(|m| (from + m.start(), from + m.end())))
        };
        if let Some(pattern) = &self.after {
            match find(pattern, 0)? {
                Some((_, after)) => start = after,
                None => return Ok((text.to_owned(), 0)),
            }
        }
        if let Some(pattern) = &self.before {
            match find(pattern, start)? {
                Some((before, _)) => end = before,
                None => return Ok((text.to_owned(), 0)),
            }
        }
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        let (middle, count) = line_edits::replace_all(part(start, end), &regex, &self.replace)?;
        Ok((format!("{}{middle}{}", part(0, start), part(end, text.len())), count))
    }
}

impl Module for Replace {
    const NAME: &'static str = "replace";
    const KIND: Kind = Kind::Resource;
    // An expression that fits its own replacement finds something to do each time; that is the task's meaning.
    const LASTING: bool = false;
    type Params = Params;
    type State = State;
    type Change = WriteChange;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if let Err(fault) = line_edits::regex(&params.regexp, true) {
            found.push(Diagnostic::error("parameter-value", format!("replace: {fault}")));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        TextFile::observe(&params.path, params.mode.as_ref(), owner, group, host)?.and_then(|file| {
            let Some(text) = file.text() else { return Ok(Seen::Blocked(Thing::Path(params.path.clone()))) };
            let (edited, count) = params.edit(&text)?;
            let desired = Desired::new(edited.into_bytes());
            Ok(Seen::Now(State { file, desired, count, backup: None, is_done: false }))
        })
    }

    fn diff(_params: &Params, found: &State) -> Vec<WriteChange> {
        found.file.diff((!found.is_done).then_some(&found.desired))
    }

    fn apply(
        params: &Params,
        found: &State,
        _changes: &[WriteChange],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let writing = Writing { validate: params.validate.as_deref(), backup: params.backup };
        let backup = found.file.write(Some(&found.desired), writing, host)?;
        let file = found.file.again(host)?;
        Ok(State { file, desired: found.desired.clone(), count: found.count, backup, is_done: true })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, changes: &[WriteChange]) -> Output {
        let state = after.unwrap_or(before);
        let is_text = changes.iter().any(|c| !matches!(c, WriteChange::Attribute(_)));
        let msg = if is_text { format!("{} replacements made", before.count) } else { String::new() };
        Output {
            path: params.path.clone(),
            msg,
            backup_file: state.backup.clone(),
            facts: state.file.facts(),
        }
    }

    fn texts(_params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        found.file.texts(Some(&found.desired))
    }
}
