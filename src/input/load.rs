//! Everything that a run needs from files, with all problems at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::expr::{Data, Dict, Value};
use crate::input::check;
use crate::input::deployment::Deployment;
use crate::input::desired::members;
use crate::input::desired::topology::{self, Facts};
use crate::input::desired::variable::{self, Parts};
use crate::input::desired::{self, Desired};
use crate::input::extra_vars;
use crate::input::files::Files;
use crate::input::inventory::{Inventory, build, precedence};
use crate::input::playbook::actions::WithActions;
use crate::input::playbook::{Catalog, Play};
use crate::input::resolve::Resolver;
use crate::source::{Diagnostics, FileId, SourceMap, Span};

/// What is asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Files, folders, or lists of hosts with a comma.
    pub inventories: Vec<PathBuf>,
    pub playbooks: Vec<PathBuf>,
    /// Texts of `-e`.
    pub extra_vars: Vec<String>,
    pub roles_path: Vec<PathBuf>,
}

/// Reads inventories, playbooks, roles and the desired state. Never fails: what is wrong is in the diagnostics, and no host
/// may be touched while an error is among them.
pub fn load(request: &Request, catalog: &dyn Catalog) -> (Deployment, Diagnostics) {
    let catalog = WithActions(catalog);
    let mut files = Files::default();
    let extra_vars = extra_vars::read(&mut files, &request.extra_vars);
    let inventory = build::load(&mut files, &request.inventories);
    let dirs: Vec<PathBuf> = request.inventories.iter().filter_map(|s| build::source_dir(s)).collect();
    let desired = desired::load(&mut files, &dirs);
    let mut resolver = Resolver::new(&mut files, &catalog, &request.roles_path);
    let mut plays = Vec::new();
    for playbook in &request.playbooks {
        plays.append(&mut resolver.playbook(playbook, None, &mut Vec::new()));
    }
    let Resolver { roles, task_files, .. } = resolver;
    let mut beside_playbooks = IndexMap::new();
    for play in &plays {
        let dir = play.dir();
        if !beside_playbooks.contains_key(&dir) {
            let known = inventory.adjacent.iter().find(|vars| vars.dir == dir).cloned();
            let found = known.unwrap_or_else(|| build::adjacent(&mut files, &dir, &inventory));
            beside_playbooks.insert(dir, found);
        }
    }
    let vars: IndexMap<Arc<str>, Dict> = inventory
        .hosts
        .keys()
        .map(|host| (Arc::clone(host), precedence::merge(&inventory, None, host)))
        .collect();
    let parts = desired.as_ref().map(|file| parts(&file.desired, &inventory, &vars));
    if let Some((file, parts)) = desired.as_ref().zip(parts.as_ref()) {
        let open_files = open_files(&files.sources, &vars);
        let etcd_faults = |version: &str| catalog.etcd_faults(version);
        let facts = Facts {
            desired: &file.desired,
            parts,
            vars: &vars,
            open_files: &open_files,
            etcd_faults: &etcd_faults,
        };
        files.out.extend(topology::check(&facts));
    }
    let keddah =
        desired.as_ref().zip(parts.as_ref()).map(|(file, parts)| variable::keddah(&file.desired, parts));
    let vars_files = vars_files(&mut files, &plays);
    let deployment = Deployment {
        sources: files.sources,
        inventory,
        desired,
        plays,
        roles,
        task_files,
        extra_vars,
        keddah,
        beside_playbooks,
        vars_files,
        roles_path: request.roles_path.clone(),
    };
    let mut out = files.out;
    out.extend(check::check(&deployment, &catalog));
    let out = check::unique(&out);
    (deployment, out)
}

/// Reads the files of `vars_files` whose names hold no template. A single one must exist; of a list the first that does counts.
fn vars_files(files: &mut Files, plays: &[Play]) -> IndexMap<PathBuf, Dict> {
    let mut loaded = IndexMap::new();
    for play in plays {
        for entry in &play.vars_files {
            for candidate in &entry.candidates {
                let Some(name) = candidate.as_str().filter(|name| !name.contains("{{")) else { continue };
                let path = play.dir().join(name);
                if loaded.contains_key(&path) || entry.first_found && !path.is_file() {
                    continue;
                }
                let vars = files.variables(&path, Some(candidate.marks.origin.unwrap_or(entry.span)));
                loaded.insert(path, vars);
            }
        }
    }
    loaded
}

/// Finds the hosts of each part.
fn parts(desired: &Desired, inventory: &Inventory, vars: &IndexMap<Arc<str>, Dict>) -> Parts {
    let of = |group: &str| members::of_group(inventory, vars, group);
    let postgres = &desired.postgres.value;
    Parts {
        flavour: postgres.flavour.value.facts(postgres.os_family.value, postgres.version.value),
        etcd: of(&desired.etcd.value.group.value),
        postgres: of(&postgres.group.value),
        haproxy: of(&desired.haproxy.value.group.value),
    }
}

/// Finds the files that hold a secret in clear and may be read by all users, each with the place of its first secret.
fn open_files(sources: &SourceMap, vars: &IndexMap<Arc<str>, Dict>) -> Vec<(String, Span)> {
    use std::os::unix::fs::PermissionsExt;
    let mut places = Vec::new();
    for value in vars.values().flat_map(Dict::values) {
        secret_places(value, &mut places);
    }
    let mut first: BTreeMap<FileId, Span> = BTreeMap::new();
    for span in places {
        let known = first.entry(span.file).or_insert(span);
        *known = (*known).min(span);
    }
    let open = first.into_iter().filter_map(|(file, span)| {
        let path = sources.path(file)?;
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        (mode & 0o004 != 0).then(|| (path.display().to_string(), span))
    });
    open.collect()
}

/// Returns the place of every secret text in a value, so that the files they stand in can be looked at.
fn secret_places(value: &Value, places: &mut Vec<Span>) {
    match (&value.data, value.marks.origin) {
        (Data::Str(text), Some(span)) if value.marks.secret && !text.contains("{{") => places.push(span),
        (Data::List(items), _) => items.iter().for_each(|item| secret_places(item, places)),
        (Data::Dict(entries), _) => entries.values().for_each(|item| secret_places(item, places)),
        _ => {}
    }
}
