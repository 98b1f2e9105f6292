//! Makes files, folders and links what they should be, or not be there.
//!
//! # What it manages
//! The existence, kind, owner, group and mode of one path; with `recurse`, owner, group and mode of all below a folder.
//!
//! # Example
//! ```yaml
//! file:
//!   path: /etc/keddah
//!   state: directory
//!   mode: "0750"
//! ```
//!
//! # What it observes
//! The path itself by `lstat`, the user and group databases, and with `recurse` everything below the path.
//!
//! # What it never does
//! It changes no content, follows no link unless `follow` says so, and replaces nothing by a link without `force`.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{self, AttributeChange, ModeSpec, Owned, PathFacts, Wanted};
use crate::modules::{Fault, Host, HostMut, Kind, Module, Risk, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::files::{FileKind, Stat};

#[derive(Debug)]
pub struct File;

/// What the path is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedState {
    File,
    Directory,
    Absent,
    Link,
    Hard,
    Touch,
}

/// Whether a time is set by `touch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Time {
    Preserve,
    Now,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The path on the host.
    #[serde(alias = "dest", alias = "name")]
    path: String,
    state: Option<WantedState>,
    /// Where a link points.
    src: Option<String>,
    mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    /// Owner, group and mode for everything below a folder, too.
    #[serde(default)]
    recurse: bool,
    /// Replace a file by a link, or link to what is not there.
    #[serde(default)]
    force: bool,
    /// Whether the attributes are those of a link's target.
    #[serde(default = "yes")]
    follow: bool,
    modification_time: Option<Time>,
    access_time: Option<Time>,
}

fn yes() -> bool {
    true
}

impl Params {
    fn state(&self, found: Option<&Stat>) -> WantedState {
        match (self.state, found.map(|s| s.kind)) {
            (Some(state), _) => state,
            (None, Some(FileKind::Directory)) => WantedState::Directory,
            (None, None) if self.recurse => WantedState::Directory,
            (None, _) => WantedState::File,
        }
    }

    fn touches(&self) -> bool {
        let preserves = |t: Option<Time>| t == Some(Time::Preserve);
        self.state == Some(WantedState::Touch)
            && !(preserves(self.modification_time) && preserves(self.access_time))
    }
}

#[derive(Debug)]
pub struct State {
    stat: Option<Stat>,
    names: Option<(String, String)>,
    wanted: Wanted,
    /// What lies below a folder and has other attributes than asked for.
    below: Vec<(String, Owned, FileKind)>,
    /// For hard links: whether both names are one file.
    is_same_file: bool,
    touched: bool,
}

#[derive(Debug)]
pub enum Change {
    Create(WantedState),
    Remove { is_folder: bool },
    PointTo { from: Option<String>, to: String },
    Replace { from: FileKind, to: String },
    Touch,
    Attribute(AttributeChange),
    Below { count: usize, first: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create(WantedState::Directory) => write!(f, "make the folder"),
            Change::Create(_) => write!(f, "make the file"),
            Change::Remove { is_folder: true } => write!(f, "remove the folder and all that is in it"),
            Change::Remove { is_folder: false } => write!(f, "remove"),
            Change::PointTo { from: None, to } => write!(f, "link to {to}"),
            Change::PointTo { from: Some(from), to } => write!(f, "link to {to} instead of {from}"),
            Change::Replace { from, to } => {
                write!(f, "replace the {} by a link to {to}", attributes::state_word(Some(*from)))
            }
            Change::Touch => write!(f, "set its times to the present"),
            Change::Attribute(change) => write!(f, "{change}"),
            Change::Below { count, first } => {
                write!(f, "owner, group or mode of {count} entries below it, {first} first")
            }
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    path: String,
    dest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(flatten)]
    facts: PathFacts,
}

impl Module for File {
    const NAME: &'static str = "file";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if matches!(params.state, Some(WantedState::Link | WantedState::Hard)) && params.src.is_none() {
            found.push(Diagnostic::error(
                "missing-parameter",
                "file: `src` is missing: where should the link point?",
            ));
        }
        if params.recurse && !matches!(params.state, None | Some(WantedState::Directory)) {
            found
                .push(Diagnostic::error("parameter-value", "file: `recurse` is for `state: directory` only"));
        }
        if params.mode == Some(ModeSpec::Preserve) {
            found.push(Diagnostic::error(
                "parameter-value",
                "file: `mode: preserve` is for `copy` and `template` only",
            ));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let wanted =
            Wanted::resolve(params.mode.as_ref(), params.owner.as_deref(), params.group.as_deref(), host)?;
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(missing) => return Ok(Seen::Blocked(missing)),
        };
        let mut stat = host.stat(&params.path)?;
        let is_link = stat.as_ref().is_some_and(|s| s.kind == FileKind::Link);
        let wants_itself = matches!(params.state, Some(WantedState::Link | WantedState::Absent));
        if is_link
            && params.follow
            && !wants_itself
            && let Some(target) = host.stat_followed(&params.path)?
        {
            stat = Some(target);
        }
        let state = params.state(stat.as_ref());
        if stat.is_none() {
            if state == WantedState::File {
                return Ok(Seen::Blocked(Thing::Path(params.path.clone())));
            }
            if !matches!(state, WantedState::Absent | WantedState::Directory)
                && let Some(folder) = Path::new(&params.path).parent()
                && host.stat_followed(folder)?.is_none()
            {
                return Ok(Seen::Blocked(Thing::Path(folder.display().to_string())));
            }
        }
        if let Some(found) = &stat {
            let fits = match state {
                WantedState::Directory => found.kind == FileKind::Directory,
                WantedState::File => found.kind != FileKind::Directory,
                WantedState::Link | WantedState::Hard => found.kind != FileKind::Directory,
                WantedState::Touch | WantedState::Absent => true,
            };
            if !fits {
                let is = attributes::state_word(Some(found.kind));
                return Err(Fault::refused(format!(
                    "{} is a {is}, and another kind of thing is asked for",
                    params.path
                ))
                .hint("remove it first with `state: absent` if it is not needed"));
            }
            if state == WantedState::Link && found.kind != FileKind::Link && !params.force {
                return Err(Fault::refused(format!("{} is a file, and a link is asked for", params.path))
                    .hint("`force: true` replaces it"));
            }
        }
        let src = params.src.as_deref().unwrap_or_default();
        if state == WantedState::Link && !params.force {
            let folder = Path::new(&params.path).parent().unwrap_or(Path::new("/"));
            if host.stat_followed(folder.join(src))?.is_none() {
                return Ok(Seen::Blocked(Thing::Path(src.to_owned())));
            }
        }
        let mut is_same_file = false;
        if state == WantedState::Hard {
            let Some(source) = host.stat(src)? else { return Ok(Seen::Blocked(Thing::Path(src.to_owned()))) };
            is_same_file =
                stat.as_ref().is_some_and(|s| (s.inode, s.device) == (source.inode, source.device));
        }
        let mut below = Vec::new();
        if params.recurse && stat.is_some() {
            walk(host, &params.path, &wanted, &mut below)?;
        }
        let names = stat.as_ref().map(|s| attributes::names_of(host, s.uid, s.gid)).transpose()?;
        Ok(Seen::Now(State { stat, names, wanted, below, is_same_file, touched: false }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let state = params.state(found.stat.as_ref());
        let src = params.src.clone().unwrap_or_default();
        let mut changes = Vec::new();
        match (&found.stat, state) {
            (None, WantedState::Absent) => return changes,
            (Some(stat), WantedState::Absent) => {
                return vec![Change::Remove { is_folder: stat.kind == FileKind::Directory }];
            }
            (None, WantedState::Link | WantedState::Hard) => {
                return vec![Change::PointTo { from: None, to: src }];
            }
            (None, _) => return vec![Change::Create(state)],
            (Some(stat), WantedState::Link) => match &stat.target {
                Some(target) if target.as_os_str() == src.as_str() => {}
                Some(target) => {
                    changes.push(Change::PointTo { from: Some(target.display().to_string()), to: src });
                }
                None => changes.push(Change::Replace { from: stat.kind, to: src }),
            },
            (Some(stat), WantedState::Hard) if !found.is_same_file => {
                changes.push(Change::Replace { from: stat.kind, to: src });
            }
            (Some(_), _) => {}
        }
        if params.touches() && !found.touched {
            changes.push(Change::Touch);
        }
        if let Some(stat) = &found.stat
            && stat.kind != FileKind::Link
        {
            let owned = Owned::from(stat);
            let differ = found.wanted.differences(&owned, stat.kind == FileKind::Directory);
            changes.extend(differ.into_iter().map(Change::Attribute));
        }
        if let Some((first, ..)) = found.below.first() {
            changes.push(Change::Below { count: found.below.len(), first: first.clone() });
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let path = params.path.as_str();
        let src = params.src.as_deref().unwrap_or_default();
        let state = params.state(found.stat.as_ref());
        for change in changes {
            match change {
                Change::Create(WantedState::Directory) => {
                    for made in host.make_folders(path)? {
                        let made = host.outside(&made);
                        if let Some(stat) = host.stat(&made)? {
                            found.wanted.give(&made, &Owned::from(&stat), stat.kind, host)?;
                        }
                    }
                }
                Change::Create(_) | Change::Touch => host.touch(path)?,
                Change::Remove { .. } => host.remove(path)?,
                Change::PointTo { .. } | Change::Replace { .. } if state == WantedState::Hard => {
                    host.hard_link(src, path)?;
                }
                Change::PointTo { .. } | Change::Replace { .. } => host.link(src, path)?,
                Change::Attribute(_) => {}
                Change::Below { .. } => {
                    for (entry, owned, kind) in &found.below {
                        found.wanted.give(entry, owned, *kind, host)?;
                    }
                }
            }
        }
        if state != WantedState::Absent
            && let Some(stat) = host.stat_followed(path)?
        {
            let itself = host.stat(path)?.unwrap_or(stat);
            if itself.kind != FileKind::Link {
                found.wanted.give(path, &Owned::from(&itself), itself.kind, host)?;
            } else if params.follow
                && state != WantedState::Link
                && let Some(target) = host.stat_followed(path)?
            {
                let real =
                    std::fs::canonicalize(host.path(path)).map(|p| host.outside(&p)).unwrap_or_default();
                found.wanted.give(&real, &Owned::from(&target), target.kind, host)?;
            }
        }
        Ok(State { touched: true, ..File::observe(params, host)?.reached()? })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let state = after.unwrap_or(before);
        Output {
            path: params.path.clone(),
            dest: params.path.clone(),
            src: params.src.clone(),
            facts: attributes::path_facts(state.stat.as_ref(), state.names.as_ref()),
        }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            Change::Remove { is_folder: true } => Risk::DataLoss,
            _ => Risk::None,
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        match params.state {
            Some(WantedState::Absent) => Vec::new(),
            _ => vec![Thing::Path(params.path.clone())],
        }
    }
}

/// Collects what lies below a folder and has other attributes than asked for; links are not followed.
fn walk(
    host: &Host,
    folder: &str,
    wanted: &Wanted,
    below: &mut Vec<(String, Owned, FileKind)>,
) -> Result<(), Fault> {
    for name in host.list(folder)? {
        let path = format!("{}/{}", folder.trim_end_matches('/'), name.to_string_lossy());
        let Some(stat) = host.stat(&path)? else { continue };
        let owned = Owned::from(&stat);
        let is_folder = stat.kind == FileKind::Directory;
        let differs = wanted.differences(&owned, is_folder).iter().any(|c| {
            // The mode of a link means nothing.
            stat.kind != FileKind::Link || !matches!(c, AttributeChange::Mode { .. })
        });
        if differs {
            below.push((path.clone(), owned, stat.kind));
        }
        if is_folder {
            walk(host, &path, wanted, below)?;
        }
    }
    Ok(())
}
