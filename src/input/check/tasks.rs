//! Walks plays in the order of running and judges each task with what is known about the way to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::expr::{self, Value};
use crate::input::Deployment;
use crate::input::check::names::Names;
use crate::input::deployment::{FileKind, file_candidates};
use crate::input::playbook::args::short_name;
use crate::input::playbook::{
    Catalog, Common, Condition, Handler, Import, ImportKind, Include, LoopKind, Play, RoleUse, Statement,
    Task,
};
use crate::source::{Diagnostic, Diagnostics, Severity, Span, suggest};

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

/// Handlers that a play has, by name and topic.
#[derive(Debug, Default)]
struct Handlers {
    names: BTreeSet<String>,
    /// Whether a handler's name is a template, or handlers may come with a role that is chosen at run time.
    open: bool,
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
        self.handlers = Handlers::default();
        self.known_handlers(play);
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

    fn known_handlers(&mut self, play: &Play) {
        let mut roles: Vec<PathBuf> = play.roles.iter().filter_map(|role| role.path.clone()).collect();
        for statements in [&play.pre_tasks, &play.tasks, &play.post_tasks] {
            self.roles_of(statements, &mut roles, &mut BTreeSet::new());
        }
        self.add_handlers(&play.handlers);
        let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
        while let Some(path) = roles.pop() {
            let Some(role) = self.deployment.roles.get(&path) else { continue };
            if !seen.insert(path) {
                continue;
            }
            role.handlers.values().for_each(|group| self.add_handlers(&group.handlers));
            roles.extend(role.dependencies.iter().filter_map(|dependency| dependency.path.clone()));
            for file in role.tasks.values().filter_map(|path| self.deployment.task_files.get(path)) {
                self.roles_of(&file.statements, &mut roles, &mut BTreeSet::new());
            }
        }
    }

    fn add_handlers(&mut self, handlers: &[Handler]) {
        for handler in handlers {
            self.handlers.names.extend(handler.listen.iter().map(|topic| topic.value.to_string()));
            let common = match &handler.body {
                Statement::Task(task) => {
                    self.handlers.open |= task.include.is_some();
                    &task.common
                }
                Statement::Import(import) => {
                    self.handlers.open = true;
                    &import.common
                }
                Statement::Block(block) => &block.common,
            };
            if let Some(name) = common.name.as_ref().and_then(Value::as_str) {
                self.handlers.open |= name.contains("{{");
                self.handlers.names.insert(name.to_owned());
            }
        }
    }

    /// Collects the roles that statements bring into a play.
    fn roles_of(
        &mut self,
        statements: &[Statement],
        roles: &mut Vec<PathBuf>,
        files: &mut BTreeSet<PathBuf>,
    ) {
        for statement in statements {
            match statement {
                Statement::Block(block) => {
                    for part in [&block.block, &block.rescue, &block.always] {
                        self.roles_of(part, roles, files);
                    }
                }
                Statement::Import(import) => match &import.what {
                    ImportKind::Role(role) => roles.extend(role.path.clone()),
                    ImportKind::Tasks(tasks) => self.roles_of_file(tasks.path.as_ref(), roles, files),
                },
                Statement::Task(task) => match &task.include {
                    Some(Include::Role(role)) => match &role.path {
                        Some(path) => roles.push(path.clone()),
                        None => self.handlers.open = true,
                    },
                    Some(Include::Tasks(tasks)) => match &tasks.path {
                        Some(path) => self.roles_of_file(Some(path), roles, files),
                        None => self.handlers.open = true,
                    },
                    None => {}
                },
            }
        }
    }

    fn roles_of_file(
        &mut self,
        path: Option<&PathBuf>,
        roles: &mut Vec<PathBuf>,
        files: &mut BTreeSet<PathBuf>,
    ) {
        let Some(path) = path.filter(|path| files.insert((*path).clone())) else { return };
        if let Some(file) = self.deployment.task_files.get(path) {
            self.roles_of(&file.statements, roles, files);
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

    fn module(&mut self, task: &Task, way: &Way) {
        let name = task.module.value.as_ref();
        if !self.catalog.knows(name) {
            let message = format!("there is no module `{name}`");
            let hint = suggest::did_you_mean(short_name(name), self.catalog.names())
                .unwrap_or_else(|| "the step would fail when it is reached".to_owned());
            self.problem(way, Diagnostic::error("unknown-module", message).at(task.module.span).hint(hint));
            self.value(&task.args.value, &Way { sure: false, ..way.clone() });
            return;
        }
        let mut params = task.args.value.clone();
        if let (Some(free), Some(dict)) = (&task.free_form, params.as_dict()) {
            let mut dict = dict.clone();
            dict.insert("_raw_params".into(), free.clone());
            params = Value::from(dict).with_origin(task.args.span);
        }
        for problem in self.catalog.check(name, &params).sorted() {
            let problem = problem.clone().at(problem.span.unwrap_or(task.module.span));
            // A slip of the pen is wrong behind a condition too; a parameter that another module or system has may be right there.
            let is_slip = problem.hint.as_ref().is_some_and(|hint| hint.starts_with("did you mean"));
            if is_slip { self.out.push(problem) } else { self.problem(way, problem) }
        }
        self.value(&params, way);
        self.supplied_file(task, &params, way);
    }

    /// Looks for the file that `template`, `copy` or `script` takes from this machine, and into a template's text.
    fn supplied_file(&mut self, task: &Task, params: &Value, way: &Way) {
        let (kind, parameter) = match short_name(&task.module.value) {
            "template" => (FileKind::Template, "src"),
            "copy" => (FileKind::File, "src"),
            _ => return,
        };
        let is_remote = params.get("remote_src").is_some_and(|v| v.truth() == Some(true));
        let Some((src, name)) = params.get(parameter).and_then(|v| Some((v, v.as_str()?))) else { return };
        if is_remote || name.contains("{{") {
            return;
        }
        let span = src.marks.origin.unwrap_or(task.module.span);
        let role = way.role.as_deref();
        let candidates = file_candidates(kind, name, role, Some(&way.task_dir), &way.playbook_dir);
        let Some(path) = candidates.iter().find(|path| path.exists()) else {
            let folder = role.unwrap_or(&way.playbook_dir).join(kind.folder());
            let names: Vec<String> = crate::input::files::entries(&folder)
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .collect();
            let hint = suggest::did_you_mean(name, names.iter().map(String::as_str))
                .unwrap_or_else(|| format!("it is looked for in {} first", folder.display()));
            let message = format!("there is no file `{name}` for `{}`", task.module.value);
            self.problem(way, Diagnostic::error("missing-file", message).at(span).hint(hint));
            return;
        };
        if kind == FileKind::Template {
            self.template_file(path, span, way);
        }
    }

    fn template_file(&mut self, path: &Path, span: Span, way: &Way) {
        let Ok(text) = std::fs::read_to_string(path) else { return };
        for problem in expr::check_file(&text, Some(span)).sorted() {
            let message = format!("{}: {}", path.display(), problem.message);
            self.problem(way, Diagnostic { message, ..problem.clone() });
        }
        for name in expr::needed_by_file(&text) {
            self.undefined(&name, Some(span), way, &format!(" in {}", path.display()));
        }
    }

    /// Says what is wrong: as an error on a sure way, else as a warning.
    fn problem(&mut self, way: &Way, diagnostic: Diagnostic) {
        let severity =
            if way.sure { diagnostic.severity } else { diagnostic.severity.max(Severity::Warning) };
        self.out.push(Diagnostic { severity, ..diagnostic });
    }

    fn common(&mut self, common: &Common, way: &Way) {
        for condition in common.when.iter().skip(1) {
            self.expression(condition, &Way { sure: false, ..way.clone() });
        }
        self.conditions(common.when.first(), way);
        let values = [
            &common.become_,
            &common.become_user,
            &common.check_mode,
            &common.no_log,
            &common.run_once,
            &common.ignore_errors,
            &common.any_errors_fatal,
        ];
        let lazy = Way { sure: false, ..way.clone() };
        values.into_iter().flatten().for_each(|value| self.value(value, &lazy));
        common.delegate_to.iter().for_each(|value| self.value(value, &lazy));
        common.environment.iter().for_each(|value| self.value(value, &lazy));
        // Variables are evaluated where they are used.
        common.vars.values().for_each(|value| self.syntax(value, &lazy));
    }

    fn conditions(&mut self, first: Option<&Condition>, way: &Way) {
        first.into_iter().for_each(|condition| self.expression(condition, way));
    }

    fn expression(&mut self, condition: &Condition, way: &Way) {
        for problem in expr::check_expression(&condition.value, Some(condition.span)).sorted() {
            self.expression_problem(problem, way);
        }
        for name in expr::needed_by_expression(&condition.value) {
            self.undefined(&name, Some(condition.span), way, "");
        }
    }

    fn expression_problem(&mut self, problem: &Diagnostic, way: &Way) {
        // A text that cannot be read is wrong wherever it stands.
        if problem.code == "template-syntax" {
            self.out.push(problem.clone());
        } else {
            self.problem(way, problem.clone());
        }
    }

    fn syntax(&mut self, value: &Value, way: &Way) {
        for problem in expr::check_value(value).sorted() {
            self.expression_problem(problem, way);
        }
    }

    fn value(&mut self, value: &Value, way: &Way) {
        self.syntax(value, way);
        self.needs(value, way);
    }

    fn needs(&mut self, value: &Value, way: &Way) {
        match &value.data {
            expr::Data::List(items) => items.iter().for_each(|item| self.needs(item, way)),
            expr::Data::Dict(entries) => entries.values().for_each(|item| self.needs(item, way)),
            _ => {
                for name in expr::needed_by_value(value) {
                    self.undefined(&name, value.marks.origin, way, "");
                }
            }
        }
    }

    fn undefined(&mut self, name: &str, span: Option<Span>, way: &Way, place: &str) {
        if self.names.has(name) {
            return;
        }
        let diagnostic =
            Diagnostic::error("undefined-variable", format!("nothing defines the variable `{name}`{place}"));
        let hint = suggest::did_you_mean(name, self.names.iter()).unwrap_or_else(|| {
            "set it in group_vars, in the role's defaults or with -e; or give it a default: `NAME | default(…)`".to_owned()
        });
        let diagnostic = diagnostic.hint(hint);
        let diagnostic = match span {
            Some(span) => diagnostic.at(self.word_place(name, span)),
            None => diagnostic,
        };
        let sure = way.sure && !self.names.open;
        self.problem(&Way { sure, ..way.clone() }, diagnostic);
    }

    /// Narrows a span to the word in it, where the word stands there once.
    fn word_place(&self, word: &str, span: Span) -> Span {
        let Some(text) = self.deployment.sources.text(span.file) else { return span };
        let Some(part) = text.get(span.start as usize..(span.end as usize).min(text.len())) else {
            return span;
        };
        let mut places = part.match_indices(word);
        match (places.next(), places.next()) {
            (Some((at, _)), None) => {
                let start = span.start as usize + at;
                Span::new(span.file, start, start + word.len())
            }
            _ => span,
        }
    }

    fn notify(&mut self, common: &Common, way: &Way) {
        for name in &common.notify {
            let Some(text) = name.as_str() else { continue };
            let plain = text.split_once(" : ").map_or(text, |(_, handler)| handler).trim();
            if plain.contains("{{") || self.handlers.open || self.handlers.names.contains(plain) {
                continue;
            }
            let known: Vec<Arc<str>> = self.handlers.names.iter().map(|n| Arc::from(n.as_str())).collect();
            let hint = suggest::did_you_mean(plain, known.iter().map(AsRef::as_ref)).unwrap_or_else(|| {
                "add it to the role's handlers/main.yml or to the play's `handlers`".to_owned()
            });
            let diagnostic =
                Diagnostic::error("unknown-handler", format!("no handler of this play is named `{plain}`"));
            let diagnostic = match name.marks.origin {
                Some(span) => diagnostic.at(span),
                None => diagnostic,
            };
            self.problem(way, diagnostic.hint(hint));
        }
    }
}
