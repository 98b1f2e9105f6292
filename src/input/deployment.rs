//! All that was loaded, and the questions the compiler asks about it.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::expr::{Dict, Value};
use crate::input::desired::DesiredFile;
use crate::input::inventory::pattern::{self, Matched, PatternError};
use crate::input::inventory::{Host, Inventory, VarFiles, precedence};
use crate::input::playbook::{Play, Role, TaskFile};
use crate::source::SourceMap;

/// Inventories, playbooks, roles and the desired state of one run.
#[derive(Debug, Default)]
pub struct Deployment {
    pub sources: SourceMap,
    pub inventory: Inventory,
    /// In the order of running; plays of imported playbooks included.
    pub plays: Vec<Play>,
    /// By folder: every role that is named in plain text, and all roles of the search path where one is named by a template.
    pub roles: IndexMap<PathBuf, Role>,
    /// By path: the task files of all loaded roles, and every file that an import or include names in plain text.
    pub task_files: IndexMap<PathBuf, TaskFile>,
    /// `-e`: beats every other variable.
    pub extra_vars: Dict,
    /// The `cluster.yml` beside the inventory.
    pub desired: Option<DesiredFile>,
    /// What `cluster.yml` says, completed and with computed members, as roles see it; `None` without that file.
    pub keddah: Option<Value>,
    /// `group_vars/` and `host_vars/` in the folders of playbooks.
    pub beside_playbooks: IndexMap<PathBuf, VarFiles>,
    /// The files that `vars_files` names in plain text, by path; each play sees its own.
    pub vars_files: IndexMap<PathBuf, Dict>,
    /// Folders in which roles are looked for after those of the playbook itself.
    pub roles_path: Vec<PathBuf>,
}

/// The kinds of files that roles and playbooks keep in a folder of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Template,
    File,
    Vars,
    Tasks,
}

impl FileKind {
    /// Returns the folder's name in a role.
    pub fn folder(self) -> &'static str {
        match self {
            FileKind::Template => "templates",
            FileKind::File => "files",
            FileKind::Vars => "vars",
            FileKind::Tasks => "tasks",
        }
    }
}

impl Deployment {
    /// Finds the hosts of a pattern in the whole inventory.
    ///
    /// # Errors
    /// The pattern is malformed.
    pub fn hosts_of(&self, pattern: &str) -> Result<Matched, PatternError> {
        pattern::hosts(&self.inventory, pattern)
    }

    /// Merges the host's variables from inventory, `group_vars` and `host_vars` (levels 3 to 10), with `keddah` above them.
    ///
    /// Above it come facts, play, role and task variables, and last [`Deployment::extra_vars`]. A host that the inventory does
    /// not know, as the implicit `localhost`, has a local connection and no other variables.
    pub fn vars_of(&self, host: &str, play: Option<&Play>) -> Dict {
        let beside = play.and_then(|play| self.beside_playbooks.get(&play.dir()));
        let mut vars = precedence::merge(&self.inventory, beside, host);
        if !self.inventory.hosts.contains_key(host) && Host::LOCAL_NAMES.contains(&host) {
            vars.insert("ansible_connection".into(), Value::from("local"));
        }
        if let Some(keddah) = &self.keddah {
            vars.insert("keddah".into(), keddah.clone());
        }
        vars
    }

    /// Returns the magic variables that do not change during a run: the host's names and groups, all groups, folders.
    pub fn magic_of(&self, host: &str, play: Option<&Play>) -> Dict {
        let mut magic = Dict::new();
        let mut put = |name: &str, value: Value| magic.insert(name.into(), value);
        put("inventory_hostname", Value::from(host));
        put("inventory_hostname_short", Value::from(host.split('.').next().unwrap_or(host)));
        put("group_names", self.inventory.group_names(host).into_iter().collect());
        put("groups", self.groups());
        if let Some(found) = self.inventory.hosts.get(host) {
            put("inventory_file", path(&found.file));
            put("inventory_dir", path(found.file.parent().unwrap_or(Path::new(""))));
        }
        if let Some(play) = play {
            put("playbook_dir", path(&play.dir()));
        }
        magic
    }

    /// Returns `groups`: each group's hosts, children's included. Not narrowed by any limit.
    pub fn groups(&self) -> Value {
        let groups = self.inventory.groups.keys();
        let groups: Dict =
            groups.map(|g| (g.clone(), self.inventory.hosts_of_group(g).into_iter().collect())).collect();
        Value::from(groups)
    }

    /// Finds a role by name or path: `roles/` beside the playbook, `roles/` beside its folder, the configured
    /// path, the playbook's own folder, and else among the roles that were loaded from elsewhere.
    pub fn find_role(&self, name: &str, playbook_dir: &Path) -> Option<&Role> {
        let by_name = || self.roles.values().find(|role| role.name.as_ref() == name);
        role_candidates(name, playbook_dir, &self.roles_path)
            .iter()
            .find_map(|folder| self.roles.get(folder))
            .or_else(by_name)
    }
}

/// Lists, in the order of searching, where a file named relatively may be: the role's folder of that kind and its root, the
/// folder of the task file, and the playbook's. The first that exists is meant.
pub fn file_candidates(
    kind: FileKind,
    name: &str,
    role: Option<&Path>,
    task_dir: Option<&Path>,
    playbook_dir: &Path,
) -> Vec<PathBuf> {
    if Path::new(name).is_absolute() {
        return vec![PathBuf::from(name)];
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    for base in role.into_iter().chain(task_dir).chain([playbook_dir]) {
        for folder in [base.join(kind.folder()), base.to_path_buf()] {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders.into_iter().map(|folder| folder.join(name)).collect()
}

/// Lists, in the order of searching, which folders a role of that name may have.
pub fn role_candidates(name: &str, playbook_dir: &Path, roles_path: &[PathBuf]) -> Vec<PathBuf> {
    if Path::new(name).is_absolute() {
        return vec![PathBuf::from(name)];
    }
    let beside = [playbook_dir.join("roles"), sibling(playbook_dir, "roles")];
    let folders = beside.into_iter().chain(roles_path.iter().cloned()).chain([playbook_dir.to_path_buf()]);
    folders.map(|folder| folder.join(name)).collect()
}

/// Returns `../NAME` of a folder without `..` where the folder's own name is known.
fn sibling(dir: &Path, name: &str) -> PathBuf {
    match (dir.file_name(), dir.parent()) {
        (Some(_), Some(parent)) => parent.join(name),
        _ => dir.join("..").join(name),
    }
}

fn path(path: &Path) -> Value {
    Value::from(path.to_string_lossy().into_owned())
}
