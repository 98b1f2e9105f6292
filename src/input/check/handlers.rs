//! Which handlers a play has: its own and those that come with its roles.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::expr::Value;
use crate::input::Deployment;
use crate::input::playbook::{Handler, ImportKind, Include, Play, Statement};

/// Handlers that a play has, by name and topic.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    pub(super) names: BTreeSet<String>,
    /// Whether a handler's name is a template, or handlers may come with a role that is chosen at run time.
    pub(super) open: bool,
}

impl Handlers {
    /// Returns the handlers of a play: its own, and those of all roles that it surely or perhaps uses.
    pub(super) fn of(deployment: &Deployment, play: &Play) -> Handlers {
        let mut known = Handlers::default();
        let mut roles: Vec<PathBuf> = play.roles.iter().filter_map(|role| role.path.clone()).collect();
        for statements in [&play.pre_tasks, &play.tasks, &play.post_tasks] {
            known.roles_of(deployment, statements, &mut roles, &mut BTreeSet::new());
        }
        known.add(&play.handlers);
        let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
        while let Some(path) = roles.pop() {
            let Some(role) = deployment.roles.get(&path) else { continue };
            if !seen.insert(path) {
                continue;
            }
            role.handlers.values().for_each(|group| known.add(&group.handlers));
            roles.extend(role.dependencies.iter().filter_map(|dependency| dependency.path.clone()));
            for file in role.tasks.values().filter_map(|path| deployment.task_files.get(path)) {
                known.roles_of(deployment, &file.statements, &mut roles, &mut BTreeSet::new());
            }
        }
        known
    }

    fn add(&mut self, handlers: &[Handler]) {
        for handler in handlers {
            self.names.extend(handler.listen.iter().map(|topic| topic.value.to_string()));
            let common = match &handler.body {
                Statement::Task(task) => {
                    self.open |= task.include.is_some();
                    &task.common
                }
                Statement::Import(import) => {
                    self.open = true;
                    &import.common
                }
                Statement::Block(block) => &block.common,
            };
            if let Some(name) = common.name.as_ref().and_then(Value::as_str) {
                self.open |= name.contains("{{");
                self.names.insert(name.to_owned());
            }
        }
    }

    /// Collects the roles that statements bring into a play.
    fn roles_of(
        &mut self,
        deployment: &Deployment,
        statements: &[Statement],
        roles: &mut Vec<PathBuf>,
        files: &mut BTreeSet<PathBuf>,
    ) {
        for statement in statements {
            match statement {
                Statement::Block(block) => {
                    for part in [&block.block, &block.rescue, &block.always] {
                        self.roles_of(deployment, part, roles, files);
                    }
                }
                Statement::Import(import) => match &import.what {
                    ImportKind::Role(role) => roles.extend(role.path.clone()),
                    ImportKind::Tasks(tasks) => {
                        self.roles_of_file(deployment, tasks.path.as_ref(), roles, files);
                    }
                },
                Statement::Task(task) => match &task.include {
                    Some(Include::Role(role)) => match &role.path {
                        Some(path) => roles.push(path.clone()),
                        None => self.open = true,
                    },
                    Some(Include::Tasks(tasks)) => match &tasks.path {
                        Some(path) => self.roles_of_file(deployment, Some(path), roles, files),
                        None => self.open = true,
                    },
                    None => {}
                },
            }
        }
    }

    fn roles_of_file(
        &mut self,
        deployment: &Deployment,
        path: Option<&PathBuf>,
        roles: &mut Vec<PathBuf>,
        files: &mut BTreeSet<PathBuf>,
    ) {
        let Some(path) = path.filter(|path| files.insert((*path).clone())) else { return };
        if let Some(file) = deployment.task_files.get(path) {
            self.roles_of(deployment, &file.statements, roles, files);
        }
    }
}
