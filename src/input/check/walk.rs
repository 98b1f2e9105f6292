//! Walks plays in the order of running, with what is known about the way to each task when it is judged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::expr::{self, Value};
use crate::input::Deployment;
use crate::input::check::handlers::Handlers;
use crate::input::check::names::Names;
use crate::input::playbook::{
    Catalog, Common, Handler, Import, ImportKind, Include, LoopKind, Play, RoleUse, Statement, Task,
};
use crate::source::{Diagnostic, Diagnostics, Severity, Span};

mod judge;

/// The way to a statement.
#[derive(Debug, Clone)]
struct Way {
    playbook_dir: PathBuf,
    role: Option<PathBuf>,
    task_dir: PathBuf,
    /// Whether the statement is reached whatever happens.
    sure: bool,
    /// Files that are being walked, outermost first.
    within: Vec<PathBuf>,
}

impl Way {
    fn in_file(&self, path: &Path) -> Way {
        let mut inner = self.clone();
        inner.task_dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        inner.within.push(path.to_path_buf());
        inner
    }

    fn in_role(&self, role: &Path) -> Way {
        Way { role: Some(role.to_path_buf()), task_dir: role.join("tasks"), ..self.clone() }
    }

    fn under(&self, common: &Common) -> Way {
        let never = common.tags.iter().any(|tag| tag.as_str() == Some("never"));
        Way { sure: self.sure && common.when.is_empty() && !never, ..self.clone() }
    }
}

pub(super) struct Walk<'a> {
    deployment: &'a Deployment,
    catalog: &'a dyn Catalog,
    names: &'a Names,
    handlers: Handlers,
    walked: BTreeSet<PathBuf>,
    pub(super) out: Diagnostics,
}

impl<'a> Walk<'a> {
    pub(super) fn new(deployment: &'a Deployment, catalog: &'a dyn Catalog, names: &'a Names) -> Walk<'a> {
        Walk {
            deployment,
            catalog,
            names,
            handlers: Handlers::default(),
            walked: BTreeSet::new(),
            out: Diagnostics::default(),
        }
    }

    /// Walks a play; `sure` says whether it surely has hosts.
    pub(super) fn play(&mut self, play: &Play, sure: bool) {
        let dir = play.dir();
        let way = Way {
            playbook_dir: dir.clone(),
            role: None,
            task_dir: dir,
            sure,
            within: vec![play.playbook.clone()],
        };
        self.handlers = Handlers::of(self.deployment, play);
        self.common(&play.common, &way);
        for value in [&play.gather_facts, &play.max_fail_percentage].into_iter().flatten() {
            self.value(value, &way);
        }
        for role in &play.roles {
            self.role_use(role, &way);
        }
        for statements in [&play.pre_tasks, &play.tasks, &play.post_tasks] {
            self.statements(statements, &way.under(&play.common));
        }
        let never_sure = Way { sure: false, ..way };
        self.handler_list(&play.handlers, &never_sure);
    }

    /// Checks the task files that no play reaches statically: what is wrong there is met only if they are included.
    pub(super) fn rest(&mut self) {
        let deployment = self.deployment;
        self.handlers.open = true;
        for (path, file) in &deployment.task_files {
            if self.walked.contains(path) {
                continue;
            }
            let role = deployment.roles.values().find(|role| path.starts_with(&role.path));
            let way = Way {
                playbook_dir: deployment.plays.first().map(Play::dir).unwrap_or_default(),
                role: role.map(|role| role.path.clone()),
                task_dir: PathBuf::new(),
                sure: false,
                within: Vec::new(),
            };
            let before = std::mem::take(&mut self.out);
            self.walked.insert(path.clone());
            self.statements(&file.statements, &way.in_file(path));
            let found = std::mem::replace(&mut self.out, before);
            // A role that lends single task files has a main file which wants to be given what it is not run for.
            let unused_main = role.is_some_and(|role| role.tasks.get("main") == Some(path));
            for problem in found.sorted() {
                if unused_main && problem.code == "undefined-variable" {
                    continue;
                }
                let severity = problem.severity.max(Severity::Warning);
                self.out.push(Diagnostic { severity, ..problem.clone() });
            }
        }
    }

    fn role_use(&mut self, role: &RoleUse, way: &Way) {
        self.common(&role.common, way);
        role.params.values().for_each(|value| self.value(value, way));
        if let Some(path) = &role.path {
            self.role(path, "main", &way.under(&role.common));
        }
    }

    fn role(&mut self, path: &Path, tasks_from: &str, way: &Way) {
        let deployment = self.deployment;
        let Some(role) = deployment.roles.get(path) else { return };
        let inner = way.in_role(path);
        let key = path.join(format!("\u{0}{tasks_from}"));
        if way.within.contains(&key) {
            return;
        }
        let mut inner = inner;
        inner.within.push(key);
        for dependency in &role.dependencies {
            self.role_use(dependency, &inner);
        }
        if let Some(file) = role.tasks.get(tasks_from) {
            self.file(file, &inner, None);
        }
        let never_sure = Way { sure: false, task_dir: path.join("handlers"), ..inner };
        for group in role.handlers.values() {
            self.handler_list(&group.handlers, &never_sure);
        }
    }

    fn file(&mut self, path: &Path, way: &Way, asked_at: Option<Span>) {
        if way.within.iter().any(|outer| outer == path) {
            if let Some(span) = asked_at {
                let message = format!("`{}` imports itself", path.display());
                let hint = "take this import out, or use `include_tasks` with a condition that ends it";
                self.out.push(Diagnostic::error("import-cycle", message).at(span).hint(hint));
            }
            return;
        }
        self.walked.insert(path.to_path_buf());
        let deployment = self.deployment;
        if let Some(file) = deployment.task_files.get(path) {
            self.statements(&file.statements, &way.in_file(path));
        }
    }

    fn handler_list(&mut self, handlers: &[Handler], way: &Way) {
        handlers.iter().for_each(|handler| self.statement(&handler.body, way));
    }

    fn statements(&mut self, statements: &[Statement], way: &Way) {
        statements.iter().for_each(|statement| self.statement(statement, way));
    }

    fn statement(&mut self, statement: &Statement, way: &Way) {
        match statement {
            Statement::Task(task) => self.task(task, way),
            Statement::Import(import) => self.import(import, way),
            Statement::Block(block) => {
                self.common(&block.common, way);
                let inner = way.under(&block.common);
                self.statements(&block.block, &inner);
                self.statements(&block.rescue, &Way { sure: false, ..inner.clone() });
                self.statements(&block.always, &inner);
            }
        }
    }

    fn import(&mut self, import: &Import, way: &Way) {
        self.common(&import.common, way);
        let inner = way.under(&import.common);
        match &import.what {
            ImportKind::Tasks(tasks) => {
                if let Some(path) = &tasks.path {
                    self.file(path, &inner, Some(tasks.file.span));
                }
            }
            ImportKind::Role(role) => {
                if let Some(path) = &role.path {
                    self.role(path, &role.tasks_from, &inner);
                }
            }
        }
    }

    fn task(&mut self, task: &Task, way: &Way) {
        self.common(&task.common, way);
        let inner = self.looped(task, &way.under(&task.common));
        self.module(task, &inner);
        let values = [&task.retries, &task.delay, &task.async_, &task.poll, &task.loop_control.pause];
        values.into_iter().flatten().for_each(|value| self.value(value, &inner));
        let conditions = [&task.changed_when, &task.failed_when, &task.until];
        let never_sure = Way { sure: false, ..inner.clone() };
        for condition in conditions.into_iter().flatten().flatten() {
            self.expression(condition, &never_sure);
        }
        self.notify(&task.common, &inner);
        match &task.include {
            Some(Include::Tasks(include)) => {
                self.common(&include.apply, &inner);
                if let Some(path) = &include.path {
                    self.file(path, &inner.under(&include.apply), None);
                }
            }
            Some(Include::Role(include)) => {
                self.common(&include.apply, &inner);
                let from = include.tasks_from.as_ref().map_or(Some("main"), Value::as_str);
                if let (Some(path), Some(from)) = (&include.path, from) {
                    self.role(path, from.trim_end_matches(".yml"), &inner.under(&include.apply));
                }
            }
            None => {}
        }
    }

    /// Judges the loop, and returns the way to what is done for each item: sure only if there surely is one.
    fn looped(&mut self, task: &Task, way: &Way) -> Way {
        let Some(over) = &task.loop_ else { return way.clone() };
        self.value(&over.over, way);
        if let LoopKind::With(lookup) = &over.kind
            && !expr::is_lookup(lookup)
        {
            let diagnostic = Diagnostic::error(
                "unknown-lookup",
                format!("there is no lookup `{lookup}` for `with_{lookup}`"),
            );
            self.out.push(diagnostic.at(over.span).hint("`loop:` with a template takes any list"));
        }
        let has_items = over.over.as_list().is_some_and(|items| !items.is_empty());
        Way { sure: way.sure && has_items, ..way.clone() }
    }
}
