//! Writes files and folders of the controller, a text, or files of the host itself to the host.
//!
//! # What it manages
//! Content, owner, group and mode of one file, or of all files of a folder. Content and attributes are one change: the
//! file is replaced in one step.
//!
//! # Example
//! ```yaml
//! copy:
//!   dest: /etc/postgresql-common/createcluster.conf
//!   content: "create_main_cluster = false\n"
//!   mode: "0644"
//! ```
//!
//! # What it observes
//! The destination's bytes, owner and mode; with `remote_src` the source's too.
//!
//! # What it never does
//! It removes nothing that is in the destination folder and not in the source, and writes nothing that `validate` refuses.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::document::python_json;
use crate::modules::attributes::{AttributeChange, ModeSpec, Owned, PathFacts, Wanted};
use crate::modules::text_file::{Desired, TextFile, WriteChange, Writing};
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::files::FileKind;

#[derive(Debug)]
pub struct Copy;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A file or folder of the controller; of the host with `remote_src`. Ending with `/`: what is in the folder.
    src: Option<String>,
    /// The text itself; dictionaries and lists are written as JSON.
    content: Option<serde_json::Value>,
    /// Where to; a folder keeps the file's own name.
    dest: String,
    mode: Option<ModeSpec>,
    /// The mode of folders that are made.
    directory_mode: Option<ModeSpec>,
    owner: Option<String>,
    group: Option<String>,
    /// A command that judges the text before it takes its place; `%s` is its path.
    validate: Option<String>,
    /// Keep the old file beside it, with the time in its name.
    #[serde(default)]
    backup: bool,
    /// Whether a file that is there is replaced.
    #[serde(default = "yes")]
    force: bool,
    /// `src` is on the host.
    #[serde(default)]
    remote_src: bool,
    /// Accepted for Ansible's sake: a link's target is always what is written.
    #[serde(default = "yes", rename = "follow")]
    _follow: bool,
    /// Accepted for Ansible's sake: the controller follows links.
    #[serde(default = "yes", rename = "local_follow")]
    _local_follow: bool,
    /// Accepted for Ansible's sake: vaulted files are decrypted.
    #[serde(default = "yes", rename = "decrypt")]
    _decrypt: bool,
    /// The SHA-1 that the source must have.
    checksum: Option<String>,
}

fn yes() -> bool {
    true
}

/// One file to write.
#[derive(Debug)]
struct Item {
    file: TextFile,
    desired: Desired,
}

/// One folder to make.
#[derive(Debug)]
struct Folder {
    path: String,
    found: Option<Owned>,
    wanted: Wanted,
}

#[derive(Debug)]
pub struct State {
    folders: Vec<Folder>,
    items: Vec<Item>,
    /// Whether a whole folder is copied.
    is_tree: bool,
    backup: Option<String>,
}

#[derive(Debug)]
pub enum Change {
    MakeFolder(String),
    FolderAttribute(String, AttributeChange),
    /// The path is left out where there is only one.
    Write(Option<String>, WriteChange),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::MakeFolder(path) => write!(f, "make the folder {path}"),
            Change::FolderAttribute(path, change) => write!(f, "{path}: {change}"),
            Change::Write(None, change) => write!(f, "{change}"),
            Change::Write(Some(path), change) => write!(f, "{path}: {change}"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    dest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_file: Option<String>,
    #[serde(flatten)]
    facts: PathFacts,
}

/// One file of the source, wherever it is.
struct Source {
    /// Relative to the destination folder; empty: the destination itself.
    name: String,
    desired: Desired,
    mode: u32,
}

struct Sources {
    files: Vec<Source>,
    folders: Vec<String>,
    is_tree: bool,
    /// The name that a file keeps in a folder.
    own_name: String,
}

impl Params {
    fn text(&self) -> Option<String> {
        match &self.content {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(serde_json::Value::Bool(true)) => Some("True".to_owned()),
            Some(serde_json::Value::Bool(false)) => Some("False".to_owned()),
            Some(serde_json::Value::Number(number)) => Some(number.to_string()),
            Some(document) => Some(python_json(document)),
        }
    }
}

fn base_name(path: &str) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn join(folder: &str, name: &str) -> String {
    if name.is_empty() || name == "." {
        return folder.trim_end_matches('/').to_owned();
    }
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// Collects what is to be written. `Err`: the source on the host is not there.
fn sources(params: &Params, host: &Host) -> Result<Result<Sources, Thing>, Fault> {
    if let Some(text) = params.text() {
        let desired = Desired::new(text.into_bytes());
        let files = vec![Source { name: String::new(), desired, mode: 0o644 }];
        return Ok(Ok(Sources { files, folders: Vec::new(), is_tree: false, own_name: String::new() }));
    }
    let src = params.src.clone().unwrap_or_default();
    let own_name = base_name(&src);
    if params.remote_src {
        let Some(stat) = host.stat_followed(&src)? else { return Ok(Err(Thing::Path(src))) };
        let mut found = Sources {
            files: Vec::new(),
            folders: Vec::new(),
            is_tree: stat.kind == FileKind::Directory,
            own_name,
        };
        if found.is_tree {
            collect(host, &src, "", &mut found)?;
        } else {
            let desired = Desired::new(host.read(&src)?);
            found.files.push(Source { name: String::new(), desired, mode: stat.mode });
        }
        return Ok(Ok(found));
    }
    let is_tree = src.ends_with('/') || !host.supplied_folders().is_empty() || host.supplied().len() != 1;
    let files = host.supplied().iter().map(|file| Source {
        name: if is_tree { file.name.clone() } else { String::new() },
        desired: Desired { sha256: file.sha256, size: file.size, bytes: file.bytes.clone() },
        mode: file.mode,
    });
    let found =
        Sources { files: files.collect(), folders: host.supplied_folders().to_vec(), is_tree, own_name };
    if found.files.is_empty() && found.folders.is_empty() {
        return Err(Fault::params(format!("copy: `{src}` holds nothing that could be copied")));
    }
    Ok(Ok(found))
}

fn collect(host: &Host, folder: &str, prefix: &str, found: &mut Sources) -> Result<(), Fault> {
    for name in host.list(folder)? {
        let name = name.to_string_lossy();
        let (path, relative) =
            (join(folder, &name), if prefix.is_empty() { name.to_string() } else { join(prefix, &name) });
        let Some(stat) = host.stat_followed(&path)? else { continue };
        if stat.kind == FileKind::Directory {
            found.folders.push(relative.clone());
            collect(host, &path, &relative, found)?;
        } else if stat.kind == FileKind::File {
            found.files.push(Source {
                name: relative,
                desired: Desired::new(host.read(&path)?),
                mode: stat.mode,
            });
        }
    }
    Ok(())
}

impl Module for Copy {
    const NAME: &'static str = "copy";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        match (&params.src, params.text()) {
            (None, None) => {
                found.push(Diagnostic::error("missing-parameter", "copy: `src` (or `content`) is required"));
            }
            (Some(_), Some(_)) => {
                found.push(Diagnostic::error(
                    "parameter-value",
                    "copy: `src` and `content` exclude each other",
                ));
            }
            _ => {}
        }
        if params.content.is_some() && params.dest.ends_with('/') {
            found.push(Diagnostic::error(
                "parameter-value",
                "copy: `content` needs a file as `dest`, not a folder",
            ));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let sources = match sources(params, host)? {
            Ok(sources) => sources,
            Err(missing) => return Ok(Seen::Blocked(missing)),
        };
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        let mut state =
            State { folders: Vec::new(), items: Vec::new(), is_tree: sources.is_tree, backup: None };
        let mut base = params.dest.clone();
        let is_folder = host.stat_followed(&params.dest)?.is_some_and(|s| s.kind == FileKind::Directory);
        let src = params.src.as_deref().unwrap_or_default();
        if sources.is_tree {
            if !src.ends_with('/') {
                base = join(&base, &sources.own_name);
            }
            let mut all = vec![base.clone()];
            all.extend(
                sources.folders.iter().filter(|f| !matches!(f.as_str(), "." | "")).map(|f| join(&base, f)),
            );
            for path in all {
                let wanted = match Wanted::resolve(params.directory_mode.as_ref(), owner, group, host)? {
                    Ok(wanted) => wanted,
                    Err(missing) => return Ok(Seen::Blocked(missing)),
                };
                let found = host.stat_followed(&path)?.map(|s| Owned::from(&s));
                state.folders.push(Folder { path, found, wanted });
            }
        } else if is_folder || params.dest.ends_with('/') {
            if params.content.is_some() {
                return Err(Fault::refused(format!(
                    "{} is a folder, and `content` needs a file",
                    params.dest
                )));
            }
            if !is_folder {
                let wanted = match Wanted::resolve(params.directory_mode.as_ref(), owner, group, host)? {
                    Ok(wanted) => wanted,
                    Err(missing) => return Ok(Seen::Blocked(missing)),
                };
                state.folders.push(Folder { path: join(&base, ""), found: None, wanted });
            }
            base = join(&base, &sources.own_name);
        }
        for source in sources.files {
            let path = if source.name.is_empty() { base.clone() } else { join(&base, &source.name) };
            let preserved = ModeSpec::Bits(source.mode);
            let mode = match &params.mode {
                Some(ModeSpec::Preserve) => Some(&preserved),
                other => other.as_ref(),
            };
            let file = match TextFile::observe(&path, mode, owner, group, host)? {
                Seen::Now(file) => file,
                Seen::Blocked(Thing::Path(folder)) if state.folders.iter().any(|f| f.path == folder) => {
                    // Its folder is made by this very step.
                    match Wanted::resolve(mode, owner, group, host)? {
                        Ok(wanted) => TextFile { path, found: None, wanted },
                        Err(missing) => return Ok(Seen::Blocked(missing)),
                    }
                }
                Seen::Blocked(thing) => return Ok(Seen::Blocked(thing)),
                Seen::Unknowable(why) => return Ok(Seen::Unknowable(why)),
            };
            state.items.push(Item { file, desired: source.desired });
        }
        if let (Some(expected), [only]) = (&params.checksum, state.items.as_slice())
            && let Some(bytes) = &only.desired.bytes
            && !super::text_file::sha1_of(bytes).eq_ignore_ascii_case(expected)
        {
            return Err(Fault::refused("the source's checksum is not the one that the task names"));
        }
        Ok(Seen::Now(state))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        for folder in &found.folders {
            match &folder.found {
                None => changes.push(Change::MakeFolder(folder.path.clone())),
                Some(owned) => {
                    let differ = folder.wanted.differences(owned, true);
                    changes
                        .extend(differ.into_iter().map(|c| Change::FolderAttribute(folder.path.clone(), c)));
                }
            }
        }
        for item in &found.items {
            let path = found.is_tree.then(|| item.file.path.clone());
            let keeps = !params.force && item.file.found.is_some();
            let desired = (!keeps).then_some(&item.desired);
            changes.extend(item.file.diff(desired).into_iter().map(|c| Change::Write(path.clone(), c)));
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        _changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        // All bytes are asked for before the first is written.
        for item in &found.items {
            let same =
                item.file.found.as_ref().is_some_and(|f| f.sha256 == item.desired.sha256 || !params.force);
            if item.desired.bytes.is_none() && !same {
                item.file.write(Some(&item.desired), Writing::default(), host)?;
            }
        }
        let mut reached =
            State { folders: Vec::new(), items: Vec::new(), is_tree: found.is_tree, backup: None };
        for folder in &found.folders {
            host.make_folders(&folder.path)?;
            if let Some(stat) = host.stat_followed(&folder.path)? {
                folder.wanted.give(&folder.path, &Owned::from(&stat), FileKind::Directory, host)?;
            }
            let owned = host.stat_followed(&folder.path)?.map(|s| Owned::from(&s));
            reached.folders.push(Folder {
                path: folder.path.clone(),
                found: owned,
                wanted: folder.wanted.clone(),
            });
        }
        let writing = Writing { validate: params.validate.as_deref(), backup: params.backup };
        for item in &found.items {
            let keeps = !params.force && item.file.found.is_some();
            let backup = item.file.write((!keeps).then_some(&item.desired), writing, host)?;
            reached.backup = reached.backup.or(backup);
            reached.items.push(Item { file: item.file.again(host)?, desired: item.desired.clone() });
        }
        Ok(reached)
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let state = after.unwrap_or(before);
        let single = state.items.first().filter(|_| !state.is_tree);
        let planned = single.and_then(|i| i.desired.bytes.as_ref()).map(|b| super::text_file::sha1_of(b));
        let facts = match single {
            Some(item) => item.file.facts(),
            None => PathFacts { state: "directory", ..PathFacts::default() },
        };
        Output {
            dest: single.map_or_else(|| params.dest.clone(), |i| i.file.path.clone()),
            src: params.src.clone(),
            checksum: planned.or_else(|| single.and_then(|i| i.file.checksum())),
            backup_file: state.backup.clone(),
            facts,
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        vec![Thing::Path(params.dest.clone())]
    }

    fn texts(params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        let keeps = |i: &Item| !params.force && i.file.found.is_some();
        let mut all = found.items.iter().filter(|i| !keeps(i)).filter_map(|i| i.file.texts(Some(&i.desired)));
        let first = all.next()?;
        // Of a folder, one text with a heading for each file.
        Some(all.fold(first, |mut sum, next| {
            sum.before.push_str(&format!("--- {}\n{}", next.header, next.before));
            sum.after.push_str(&format!("--- {}\n{}", next.header, next.after));
            sum
        }))
    }
}
