//! Makes sure of one line of a file, or that no such line is there.
//!
//! # What it manages
//! One line, found by `regexp`, `search_string` or its whole text.
//!
//! # Example
//! ```yaml
//! lineinfile:
//!   path: /etc/default/haproxy
//!   regexp: ^EXTRAOPTS=
//!   line: EXTRAOPTS="-de"
//! ```
//!
//! # What it observes
//! The file's text, owner and mode.
//!
//! # What it never does
//! It touches no other line, a missing newline at the end apart.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{ModeSpec, PathFacts};
use crate::modules::line_edits::{self, Place};
use crate::modules::text_file::{Desired, TextFile, WriteChange, Writing};
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};

#[derive(Debug)]
pub struct LineInFile;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    #[default]
    Present,
    Absent,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "dest", alias = "destfile", alias = "name")]
    path: String,
    #[serde(default)]
    state: Presence,
    #[serde(alias = "value")]
    line: Option<String>,
    /// Which line is meant, as a regular expression.
    #[serde(alias = "regex")]
    regexp: Option<String>,
    /// Which line is meant, as a part of it.
    search_string: Option<String>,
    /// Fill `\1` of `line` from the match.
    #[serde(default)]
    backrefs: bool,
    /// A regular expression, or `EOF`.
    insertafter: Option<String>,
    /// A regular expression, or `BOF`.
    insertbefore: Option<String>,
    #[serde(default)]
    firstmatch: bool,
    /// Make the file if it is not there.
    #[serde(default)]
    create: bool,
    mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    validate: Option<String>,
    #[serde(default)]
    backup: bool,
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Option<Desired>,
    removed: usize,
    backup: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Output {
    path: String,
    msg: String,
    backup: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<usize>,
    #[serde(flatten)]
    facts: PathFacts,
}

/// Reads `insertafter` and `insertbefore`.
pub(super) fn place(after: Option<&str>, before: Option<&str>) -> Result<Place, Fault> {
    Ok(match (after, before) {
        (_, Some("BOF")) => Place::Begin,
        (_, Some(pattern)) => Place::Before(line_edits::regex(pattern, false)?),
        (None | Some("EOF"), None) => Place::End,
        (Some(pattern), None) => Place::After(line_edits::regex(pattern, false)?),
    })
}

impl Params {
    fn edit(&self, text: &str) -> Result<(String, usize), Fault> {
        let regex = self.regexp.as_deref().map(|p| line_edits::regex(p, false)).transpose()?;
        let line = self.line.as_deref().unwrap_or_default();
        let by_regex =
            |candidate: &str| regex.as_ref().is_some_and(|r| r.is_match(candidate).unwrap_or(false));
        let by_part = |candidate: &str| self.search_string.as_deref().is_some_and(|s| candidate.contains(s));
        let by_text = |candidate: &str| candidate == line;
        if self.state == Presence::Absent {
            return Ok(match (&regex, &self.search_string) {
                (Some(_), _) => line_edits::remove_lines(text, &by_regex),
                (None, Some(_)) => line_edits::remove_lines(text, &by_part),
                (None, None) => line_edits::remove_lines(text, &by_text),
            });
        }
        let finder: Option<&dyn Fn(&str) -> bool> = match (&regex, &self.search_string) {
            (Some(_), _) => Some(&by_regex),
            (None, Some(_)) => Some(&by_part),
            (None, None) => None,
        };
        let place = place(self.insertafter.as_deref(), self.insertbefore.as_deref())?;
        let back = regex.as_ref().filter(|_| self.backrefs);
        Ok((line_edits::ensure_line(text, line, finder, back, &place, self.firstmatch), 0))
    }
}

impl Module for LineInFile {
    const NAME: &'static str = "lineinfile";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = WriteChange;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if params.state == Presence::Present && params.line.is_none() {
            found.push(Diagnostic::error("missing-parameter", "lineinfile: `line` is missing"));
        }
        if params.state == Presence::Absent
            && params.line.is_none()
            && params.regexp.is_none()
            && params.search_string.is_none()
        {
            let what =
                "lineinfile: which line? `regexp`, `search_string` or `line` is needed with `state: absent`";
            found.push(Diagnostic::error("missing-parameter", what));
        }
        if params.backrefs && params.regexp.is_none() {
            found.push(Diagnostic::error("missing-parameter", "lineinfile: `backrefs` needs `regexp`"));
        }
        for pattern in [&params.regexp].into_iter().flatten() {
            if let Err(fault) = line_edits::regex(pattern, false) {
                found.push(Diagnostic::error("parameter-value", format!("lineinfile: {fault}")));
            }
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        TextFile::observe(&params.path, params.mode.as_ref(), owner, group, host)?.and_then(|file| {
            if file.found.is_none() {
                if params.state == Presence::Absent {
                    return Ok(Seen::Now(State { file, desired: None, removed: 0, backup: None }));
                }
                if !params.create {
                    return Ok(Seen::Blocked(Thing::Path(params.path.clone())));
                }
            }
            let (text, removed) = params.edit(&file.text().unwrap_or_default())?;
            let desired = Some(Desired::new(text.into_bytes()));
            Ok(Seen::Now(State { file, desired, removed, backup: None }))
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
        let (text, _) = params.edit(&file.text().unwrap_or_default())?;
        Ok(State { file, desired: Some(Desired::new(text.into_bytes())), removed: found.removed, backup })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, changes: &[WriteChange]) -> Output {
        let state = after.unwrap_or(before);
        let is_text = changes.iter().any(|c| !matches!(c, WriteChange::Attribute(_)));
        let msg = match (params.state, is_text, before.removed) {
            (Presence::Absent, true, count) => format!("{count} line(s) removed"),
            (Presence::Present, true, _) => "line added or replaced".to_owned(),
            (_, false, _) => String::new(),
        };
        Output {
            path: params.path.clone(),
            msg,
            backup: state.backup.clone().unwrap_or_default(),
            found: (params.state == Presence::Absent).then_some(before.removed),
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
