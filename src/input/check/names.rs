//! Which variables anything that was loaded can define. One set for the whole deployment: who sees what is the run's matter,
//! and a name that nobody defines is wrong for everybody.

use std::collections::BTreeSet;

use crate::expr::{Dict, Value};
use crate::input::Deployment;
use crate::input::playbook::args::short_name;
use crate::input::playbook::{Common, Handler, ImportKind, Include, RoleUse, Statement, Task};

/// Names that Ansible and the run define.
const MAGIC: [&str; 22] = [
    "environment",
    "group_names",
    "groups",
    "hostvars",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
    "inventory_hostname_short",
    "item",
    "omit",
    "play_hosts",
    "playbook_dir",
    "role_name",
    "role_names",
    "role_path",
    "role_uuid",
    "template_destpath",
    "template_fullpath",
    "template_host",
    "template_path",
    "vars",
    "ansible_facts",
];

/// Names that facts of modules bring in without a prefix.
const MODULE_FACTS: [(&str, &str); 2] = [("package_facts", "packages"), ("service_facts", "services")];

/// The names that something can define.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeSet<String>,
    /// Whether something may define names that cannot be told offline.
    pub open: bool,
}

impl Names {
    /// Collects the names of everything in the deployment.
    pub fn of(deployment: &Deployment) -> Names {
        let mut names = Names::default();
        names.known.extend(MAGIC.map(str::to_owned));
        names.dict(&deployment.extra_vars);
        if deployment.keddah.is_some() {
            names.known.insert("keddah".into());
        }
        let inventory = &deployment.inventory;
        inventory.groups.values().for_each(|group| names.dict(&group.vars));
        inventory.hosts.values().for_each(|host| names.dict(&host.vars));
        for files in inventory.adjacent.iter().chain(deployment.beside_playbooks.values()) {
            files.groups.values().chain(files.hosts.values()).for_each(|vars| names.dict(vars));
        }
        for role in deployment.roles.values() {
            role.defaults.values().chain(role.vars.values()).for_each(|vars| names.dict(vars));
            role.dependencies.iter().for_each(|dependency| names.role_use(dependency));
            role.handlers.values().for_each(|group| names.handlers(&group.handlers));
        }
        for file in deployment.task_files.values() {
            names.statements(&file.statements);
        }
        for play in &deployment.plays {
            names.common(&play.common);
            play.roles.iter().for_each(|role| names.role_use(role));
            for statements in [&play.pre_tasks, &play.tasks, &play.post_tasks] {
                names.statements(statements);
            }
            names.handlers(&play.handlers);
            if !play.vars_files.is_empty() {
                names.vars_files(deployment, play);
            }
        }
        names
    }

    /// Whether something defines the name.
    pub fn has(&self, name: &str) -> bool {
        self.known.contains(name) || name.starts_with("ansible_")
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str)
    }

    fn dict(&mut self, vars: &Dict) {
        self.known.extend(vars.keys().map(|name| name.to_string()));
    }

    fn common(&mut self, common: &Common) {
        self.dict(&common.vars);
    }

    fn role_use(&mut self, role: &RoleUse) {
        self.common(&role.common);
        self.dict(&role.params);
    }

    fn vars_files(&mut self, deployment: &Deployment, play: &crate::input::playbook::Play) {
        for entry in &play.vars_files {
            for candidate in &entry.candidates {
                let loaded = candidate
                    .as_str()
                    .and_then(|name| deployment.vars_files.get(&play.dir().join(name)))
                    .or_else(|| {
                        candidate
                            .as_str()
                            .and_then(|name| deployment.vars_files.get(std::path::Path::new(name)))
                    });
                match loaded {
                    Some(vars) => self.dict(&vars.clone()),
                    None => self.open = true,
                }
            }
        }
    }

    fn handlers(&mut self, handlers: &[Handler]) {
        handlers.iter().for_each(|handler| self.statement(&handler.body));
    }

    fn statements(&mut self, statements: &[Statement]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Block(block) => {
                self.common(&block.common);
                for part in [&block.block, &block.rescue, &block.always] {
                    self.statements(part);
                }
            }
            Statement::Import(import) => {
                self.common(&import.common);
                // A missing import is an error of its own, and hides what it would have defined.
                self.open |= match &import.what {
                    ImportKind::Tasks(tasks) => tasks.path.is_none(),
                    ImportKind::Role(role) => role.path.is_none(),
                };
            }
            Statement::Task(task) => self.task(task),
        }
    }

    fn task(&mut self, task: &Task) {
        self.common(&task.common);
        let control = &task.loop_control;
        let words = [&task.register, &control.loop_var, &control.index_var];
        self.known.extend(words.into_iter().flatten().map(|word| word.value.to_string()));
        match &task.include {
            Some(Include::Tasks(include)) => self.common(&include.apply),
            Some(Include::Role(include)) => self.common(&include.apply),
            None => {}
        }
        let args = task.args.value.as_dict();
        let short = short_name(&task.module.value);
        match short {
            "set_fact" | "add_host" => match args {
                Some(args) => {
                    self.open |= args.keys().any(|name| name.contains("{{"));
                    self.dict(args);
                }
                None => self.open = true,
            },
            "include_vars" => match args.and_then(|args| args.get("name")).and_then(Value::as_str) {
                Some(name) => {
                    self.known.insert(name.to_owned());
                }
                None => self.open = true,
            },
            "setup" => {}
            _ => {
                let facts = MODULE_FACTS.iter().filter(|(module, _)| *module == short);
                self.known.extend(facts.map(|(_, name)| (*name).to_owned()));
            }
        }
    }
}
