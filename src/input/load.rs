//! Everything that a run needs from files, with all problems at once.

use std::path::PathBuf;

use indexmap::IndexMap;

use crate::input::deployment::Deployment;
use crate::input::extra_vars;
use crate::input::files::Files;
use crate::input::inventory::build;
use crate::input::playbook::Catalog;
use crate::input::playbook::actions::WithActions;
use crate::input::resolve::Resolver;
use crate::source::Diagnostics;

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
    let deployment = Deployment {
        sources: files.sources,
        inventory,
        plays,
        roles,
        task_files,
        extra_vars,
        keddah: None,
        beside_playbooks,
        roles_path: request.roles_path.clone(),
    };
    (deployment, files.out)
}
