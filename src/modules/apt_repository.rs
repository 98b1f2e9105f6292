//! Keeps a repository of packages among those that apt reads.
//!
//! # What it manages
//! One line of a `.list` file below /etc/apt; the lists of packages are read again when it changes.
//!
//! # Example
//! ```yaml
//! apt_repository:
//!   repo: deb [signed-by=/usr/share/keyrings/pgdg.asc] https://apt.postgresql.org/pub/repos/apt bookworm-pgdg main
//!   filename: pgdg
//! ```
//!
//! # What it observes
//! /etc/apt/sources.list and the `.list` files of /etc/apt/sources.list.d, and whether the key that the line names is there.
//!
//! # What it never does
//! It fetches no key, reads and writes no `.sources` file, and leaves no line behind that apt could not use: when the lists
//! cannot be read, the files are put back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::apt_get;
use crate::modules::lineinfile::Presence;
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::files::Attributes;

#[derive(Debug)]
pub struct AptRepository;

const MAIN_FILE: &str = "/etc/apt/sources.list";
const FOLDER: &str = "/etc/apt/sources.list.d";
const TYPES: [&str; 2] = ["deb", "deb-src"];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The line: `deb [signed-by=KEY] URL SUITE COMPONENTS`.
    repo: String,
    #[serde(default)]
    state: Presence,
    /// The name of the file, without its folder; made of the URL when it is not given.
    filename: Option<String>,
    /// Read the lists of packages again when the line is added or removed.
    #[serde(default = "yes", alias = "update-cache")]
    update_cache: bool,
}

fn yes() -> bool {
    true
}

impl Params {
    fn line(&self) -> String {
        source(&self.repo).unwrap_or_default()
    }

    fn path(&self) -> String {
        let name = match &self.filename {
            Some(name) => name.trim_end_matches(".list").to_owned(),
            None => words(&self.line()).nth(1).map(name_of).unwrap_or_default(),
        };
        format!("{FOLDER}/{name}.list")
    }

    /// Returns the key that the line names, where it is a file.
    fn key(&self) -> Option<String> {
        let line = self.line();
        let options = line.split_once('[')?.1.split_once(']')?.0;
        let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="))?;
        key.starts_with('/').then(|| key.to_owned())
    }
}

/// Returns a line's source with single blanks; `None` for comments and empty lines.
fn source(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().replace('[', " [ ").replace(']', " ] ");
    let words: Vec<&str> = line.split_whitespace().collect();
    let text = words.join(" ").replace("[ ", "[").replace(" ]", "]");
    (!text.is_empty()).then_some(text)
}

/// Returns the words of a source beside its options: type, URL, suite, components.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let (before, after) = match line.split_once('[') {
        Some((before, rest)) => (before, rest.split_once(']').map_or("", |(_, after)| after)),
        None => (line, ""),
    };
    before.split_whitespace().chain(after.split_whitespace())
}

/// Makes a file's name of a URL as Ansible does: without scheme and login, each run of other signs an underscore.
fn name_of(url: &str) -> String {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let parts = place.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_")
}

/// A file that has the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    path: String,
    text: String,
}

#[derive(Debug, PartialEq, Eq)]
pub struct State {
    holders: Vec<Holder>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Add { path: String, line: String },
    Remove { path: String, line: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add { path, line } => write!(f, "{path}: add `{line}`"),
            Change::Remove { path, line } => write!(f, "{path}: remove `{line}`"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    repo: String,
    sources_added: Vec<String>,
    sources_removed: Vec<String>,
}

fn look(params: &Params, host: &Host) -> Result<State, Fault> {
    let line = params.line();
    let mut paths = vec![MAIN_FILE.to_owned()];
    for name in host.list(FOLDER)? {
        let name = name.to_string_lossy();
        if name.ends_with(".list") {
            paths.push(format!("{FOLDER}/{name}"));
        }
    }
    let mut holders = Vec::new();
    for path in paths {
        let Some(bytes) = host.read_if_there(&path)? else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.lines().filter_map(source).any(|found| found == line) {
            holders.push(Holder { path, text });
        }
    }
    Ok(State { holders })
}

/// Writes what a change asks for.
fn make(change: &Change, host: &mut HostMut<'_>) -> Result<(), Fault> {
    match change {
        Change::Add { path, line } => {
            let old = host.read_if_there(path)?;
            let mode = old.is_none().then_some(0o644);
            let mut text = String::from_utf8_lossy(&old.unwrap_or_default()).into_owned();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&format!("{line}\n"));
            host.replace(path, text.as_bytes(), Attributes { mode, ..Attributes::default() })?;
        }
        Change::Remove { path, line } => {
            let old = host.read(path)?;
            let old = String::from_utf8_lossy(&old);
            let kept = old.lines().filter(|found| source(found).as_ref() != Some(line));
            let text: String = kept.map(|line| format!("{line}\n")).collect();
            if text.trim().is_empty() && path != MAIN_FILE {
                host.remove(path)?;
            } else {
                host.replace(path, text.as_bytes(), Attributes::default())?;
            }
        }
    }
    Ok(())
}

impl Module for AptRepository {
    const NAME: &'static str = "apt_repository";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut out = Diagnostics::default();
        let line = params.line();
        let mut words = words(&line);
        let is_source = words.next().is_some_and(|word| TYPES.contains(&word)) && words.count() >= 2;
        if !is_source {
            let message = format!("apt_repository: `{}` is no line of a sources.list", params.repo);
            let hint = "write `deb [signed-by=KEY] URL SUITE COMPONENTS`";
            out.push(Diagnostic::error("parameter-value", message).hint(hint));
        }
        if params.filename.as_ref().is_some_and(|name| name.contains('/') || name.is_empty()) {
            let message = "apt_repository: `filename` is a name without a folder";
            out.push(Diagnostic::error("parameter-value", message));
        }
        out
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        if !host.packages()?.has_dpkg() {
            let what = "this host has no dpkg: only the Debian family has repositories of apt";
            return Err(Fault::new(FaultKind::NotOnThisHost, what));
        }
        if host.stat_followed(FOLDER)?.is_none() {
            return Ok(Seen::Blocked(Thing::Path(FOLDER.to_owned())));
        }
        let state = look(params, host)?;
        // Without its key apt refuses the repository.
        let key = params.key().filter(|_| params.state == Presence::Present && state.holders.is_empty());
        if let Some(key) = key
            && host.stat_followed(&key)?.is_none()
        {
            return Ok(Seen::Blocked(Thing::Path(key)));
        }
        Ok(Seen::Now(state))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let line = params.line();
        match params.state {
            Presence::Present if found.holders.is_empty() => vec![Change::Add { path: params.path(), line }],
            Presence::Present => Vec::new(),
            Presence::Absent => {
                let remove =
                    |holder: &Holder| Change::Remove { path: holder.path.clone(), line: line.clone() };
                found.holders.iter().map(remove).collect()
            }
        }
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let own = params.path();
        let before = host.read_if_there(&own)?;
        for change in changes {
            make(change, host)?;
        }
        if params.update_cache
            && let Err(fault) = apt_get::read_lists(host)
        {
            for Holder { path, text } in &found.holders {
                host.replace(path, text.as_bytes(), Attributes::default())?;
            }
            match (params.state, before) {
                (Presence::Present, Some(bytes)) => host.replace(&own, &bytes, Attributes::default())?,
                (Presence::Present, None) => host.remove(&own)?,
                (Presence::Absent, _) => {}
            }
            return Err(match fault.hint {
                None => fault.hint(
                    "the files of repositories are as they were; is the URL right, and the key its own?",
                ),
                Some(_) => fault,
            });
        }
        look(params, host)
    }

    fn output(params: &Params, _before: &State, _after: Option<&State>, changes: &[Change]) -> Output {
        let mut output =
            Output { repo: params.repo.clone(), sources_added: Vec::new(), sources_removed: Vec::new() };
        for change in changes {
            match change {
                Change::Add { path, .. } => output.sources_added.push(path.clone()),
                Change::Remove { path, .. } => output.sources_removed.push(path.clone()),
            }
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_comments_make_no_other_source() {
        let line = "deb [ arch=amd64  signed-by=/k.asc ]  http://x/y  suite  main # ours";
        assert_eq!(source(line).unwrap(), "deb [arch=amd64 signed-by=/k.asc] http://x/y suite main");
        assert_eq!(source("  # deb http://x y z"), None);
    }

    #[test]
    fn a_file_is_named_after_the_url_without_scheme_and_login() {
        assert_eq!(
            name_of("https://me:pw@apt.postgresql.org/pub/repos/apt/"),
            "apt_postgresql_org_pub_repos_apt"
        );
    }
}
