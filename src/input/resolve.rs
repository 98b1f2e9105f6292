//! Finds and reads what playbooks name: imported playbooks, roles, task files. Each is read once.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use crate::expr::{Dict, Value};
use crate::input::deployment::{FileKind, file_candidates, role_candidates};
use crate::input::files::{self, Files};
use crate::input::playbook::keywords::Level;
use crate::input::playbook::play::{self, Entry};
use crate::input::playbook::{
    Catalog, Handler, HandlerGroup, ImportKind, Include, Parser, Play, Role, RoleUse, Statement, TaskFile,
};
use crate::source::{Diagnostic, Node, Severity, Span, Spanned, suggest};

/// Where a statement stands, which decides where what it names is looked for.
#[derive(Debug, Clone)]
struct Place {
    playbook_dir: PathBuf,
    role: Option<PathBuf>,
    task_dir: PathBuf,
}

/// Reads playbooks with all that they reach.
pub struct Resolver<'a> {
    pub files: &'a mut Files,
    pub catalog: &'a dyn Catalog,
    pub roles_path: Vec<PathBuf>,
    pub roles: IndexMap<PathBuf, Role>,
    pub task_files: IndexMap<PathBuf, TaskFile>,
    /// Roles that are being read, so that one that depends on itself is not read for ever.
    reading: IndexSet<PathBuf>,
}

impl<'a> Resolver<'a> {
    pub fn new(files: &'a mut Files, catalog: &'a dyn Catalog, roles_path: &[PathBuf]) -> Resolver<'a> {
        Resolver {
            files,
            catalog,
            roles_path: roles_path.to_vec(),
            roles: IndexMap::new(),
            task_files: IndexMap::new(),
            reading: IndexSet::new(),
        }
    }

    /// Reads a playbook and those it imports, in order.
    pub fn playbook(&mut self, path: &Path, asked_at: Option<Span>, within: &mut Vec<PathBuf>) -> Vec<Play> {
        if within.iter().any(|outer| outer == path) {
            let message = format!("the playbook `{}` imports itself", path.display());
            let diagnostic = Diagnostic::error("import-cycle", message).hint("take this import out");
            self.files.out.push(match asked_at {
                Some(span) => diagnostic.at(span),
                None => diagnostic,
            });
            return Vec::new();
        }
        let Some(document) = self.files.yaml(path, asked_at) else { return Vec::new() };
        let entries = play::entries(&mut self.parser(), path, &document);
        let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        within.push(path.to_path_buf());
        let mut plays = Vec::new();
        for entry in entries {
            match entry {
                Entry::Play(mut play) => {
                    self.play(&mut play, &dir);
                    plays.push(*play);
                }
                Entry::Import(import) => {
                    let file = dir.join(import.file.value.as_ref());
                    let mut inner = self.playbook(&file, Some(import.file.span), within);
                    inner.iter_mut().for_each(|play| import.apply(play));
                    plays.append(&mut inner);
                }
            }
        }
        within.pop();
        plays
    }

    fn parser(&mut self) -> Parser<'_> {
        Parser { catalog: self.catalog, out: &mut self.files.out }
    }

    fn play(&mut self, play: &mut Play, dir: &Path) {
        let place = Place { playbook_dir: dir.to_path_buf(), role: None, task_dir: dir.to_path_buf() };
        for role in &mut play.roles {
            self.role_use(role, &place);
        }
        for statements in [&mut play.pre_tasks, &mut play.tasks, &mut play.post_tasks] {
            self.statements(statements, &place);
        }
        self.handlers(&mut play.handlers, &place);
    }

    fn handlers(&mut self, handlers: &mut [Handler], place: &Place) {
        for handler in handlers {
            self.statement(&mut handler.body, place, true);
        }
    }

    fn statements(&mut self, statements: &mut [Statement], place: &Place) {
        for statement in statements {
            self.statement(statement, place, false);
        }
    }

    fn statement(&mut self, statement: &mut Statement, place: &Place, handler: bool) {
        match statement {
            Statement::Block(block) => {
                for part in [&mut block.block, &mut block.rescue, &mut block.always] {
                    self.statements(part, place);
                }
            }
            Statement::Import(import) => match &mut import.what {
                ImportKind::Tasks(tasks) => {
                    tasks.path = self.task_file(&tasks.file, place, Severity::Error, handler);
                }
                ImportKind::Role(role) => {
                    role.path = self.role(&role.name, place, Severity::Error);
                    self.role_file(role.path.as_deref(), &role.tasks_from, role.name.span);
                }
            },
            Statement::Task(task) => {
                // A missing file is met only if the task is reached.
                let severity = if task.common.when.is_empty() && task.loop_.is_none() {
                    Severity::Error
                } else {
                    Severity::Warning
                };
                match &mut task.include {
                    Some(Include::Tasks(tasks)) => match plain(&tasks.file, task.span) {
                        Some(file) => tasks.path = self.task_file(&file, place, severity, handler),
                        None => self.task_files_beside(place, handler),
                    },
                    Some(Include::Role(role)) => match plain(&role.name, task.span) {
                        Some(name) => role.path = self.role(&name, place, severity),
                        None => self.all_roles(place),
                    },
                    None => {}
                }
            }
        }
    }

    fn problem(&mut self, severity: Severity, code: &'static str, span: Span, message: String, hint: String) {
        let diagnostic = match severity {
            Severity::Error => Diagnostic::error(code, message),
            Severity::Warning | Severity::Advice => Diagnostic::warning(code, message),
        };
        self.files.out.push(diagnostic.at(span).hint(hint));
    }

    fn task_file(
        &mut self,
        name: &Spanned<Arc<str>>,
        place: &Place,
        severity: Severity,
        handler: bool,
    ) -> Option<PathBuf> {
        let mut candidates = vec![place.task_dir.join(name.value.as_ref())];
        if handler && let Some(role) = &place.role {
            candidates.push(role.join("handlers").join(name.value.as_ref()));
        }
        candidates.extend(file_candidates(
            FileKind::Tasks,
            &name.value,
            place.role.as_deref(),
            Some(&place.task_dir),
            &place.playbook_dir,
        ));
        let Some(path) = candidates.into_iter().map(|path| plain_path(&path)).find(|path| path.is_file())
        else {
            let here = files::below(&place.task_dir);
            let names: Vec<String> = here
                .iter()
                .filter_map(|p| Some(p.strip_prefix(&place.task_dir).ok()?.display().to_string()))
                .collect();
            let hint =
                suggest::did_you_mean(&name.value, names.iter().map(String::as_str)).unwrap_or_else(|| {
                    format!("it is looked for in {} and in the playbook's folder", place.task_dir.display())
                });
            self.problem(
                severity,
                "missing-file",
                name.span,
                format!("there is no task file `{}`", name.value),
                hint,
            );
            return None;
        };
        self.load_task_file(&path, place, Some(name.span), handler);
        Some(path)
    }

    fn load_task_file(&mut self, path: &Path, place: &Place, asked_at: Option<Span>, handler: bool) {
        if self.task_files.contains_key(path) {
            return;
        }
        let Some((file, text)) = self.files.text(path, asked_at) else { return };
        let (documents, problems) = crate::source::yaml::read(file, &text);
        self.files.out.extend(problems);
        let level = if handler { Level::Handler } else { Level::Task };
        let statements =
            documents.first().map(|document| self.parser().statements(document, level)).unwrap_or_default();
        // Entered before what it includes is read, so that a file that includes itself is read once.
        let entry = TaskFile { path: path.to_path_buf(), file, statements: Vec::new() };
        self.task_files.insert(path.to_path_buf(), entry);
        let task_dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut statements = statements;
        let inner = Place { task_dir, ..place.clone() };
        for statement in &mut statements {
            self.statement(statement, &inner, handler);
        }
        if let Some(entry) = self.task_files.get_mut(path) {
            entry.statements = statements;
        }
    }

    /// Reads all task files that a templated include may mean: those of the role are read with it, a playbook's are beside it.
    fn task_files_beside(&mut self, place: &Place, handler: bool) {
        if place.role.is_none() {
            for path in files::below(&place.playbook_dir.join("tasks")) {
                self.load_task_file(&path, place, None, handler);
            }
        }
    }

    fn role_use(&mut self, role: &mut RoleUse, place: &Place) {
        role.path = self.role(&role.name, place, Severity::Error);
    }

    fn candidates(&self, name: &str, place: &Place) -> Vec<PathBuf> {
        let mut candidates = role_candidates(name, &place.playbook_dir, &self.roles_path);
        if let Some(beside) = place.role.as_deref().and_then(Path::parent) {
            candidates.push(beside.join(name));
        }
        candidates
    }

    /// Finds and reads a role, once.
    fn role(&mut self, name: &Spanned<Arc<str>>, place: &Place, severity: Severity) -> Option<PathBuf> {
        let candidates = self.candidates(&name.value, place);
        let Some(path) = candidates.iter().find(|path| path.is_dir()).cloned() else {
            let folders: Vec<&Path> = candidates.iter().filter_map(|c| c.parent()).collect();
            let near: Vec<String> = folders
                .iter()
                .flat_map(|folder| files::entries(folder))
                .filter(|path| path.is_dir())
                .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .collect();
            let hint =
                suggest::did_you_mean(&name.value, near.iter().map(String::as_str)).unwrap_or_else(|| {
                    let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
                    format!("looked for in {}", looked.join(", "))
                });
            self.problem(
                severity,
                "missing-role",
                name.span,
                format!("there is no role `{}`", name.value),
                hint,
            );
            return None;
        };
        self.load_role(&path, place, name.span);
        Some(path)
    }

    fn all_roles(&mut self, place: &Place) {
        let folders: IndexSet<PathBuf> = self
            .candidates("x", place)
            .iter()
            .filter_map(|c| c.parent().map(Path::to_path_buf))
            .filter(|folder| {
                folder.file_name().is_some_and(|name| name == "roles") || self.roles_path.contains(folder)
            })
            .collect();
        for folder in folders {
            for path in files::entries(&folder).into_iter().filter(|path| path.join("tasks").is_dir()) {
                let nowhere = Span::new(crate::source::FileId(u32::MAX), 0, 0);
                self.load_role(&path, place, nowhere);
            }
        }
    }

    fn load_role(&mut self, path: &Path, place: &Place, asked_at: Span) {
        if self.roles.contains_key(path) || !self.reading.insert(path.to_path_buf()) {
            return;
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let known = ["tasks", "handlers", "defaults", "vars", "meta", "templates", "files", "library"];
        if !known.iter().any(|folder| path.join(folder).is_dir()) {
            let message =
                format!("the folder `{}` is no role: it has none of {}", path.display(), known.join(", "));
            self.problem(
                Severity::Error,
                "role",
                asked_at,
                message,
                "a role has at least `tasks/main.yml`".into(),
            );
        }
        let place = Place { role: Some(path.to_path_buf()), task_dir: path.join("tasks"), ..place.clone() };
        let mut role = Role {
            name: name.into(),
            path: path.to_path_buf(),
            defaults: self.stems(&path.join("defaults")),
            vars: self.stems(&path.join("vars")),
            tasks: IndexMap::new(),
            handlers: IndexMap::new(),
            dependencies: Vec::new(),
            allow_duplicates: false,
        };
        self.meta(&mut role, &place);
        for file in files::below(&path.join("tasks")) {
            if file.extension().is_some_and(|e| files::YAML_EXTENSIONS.iter().any(|known| e == *known)) {
                let below = file.strip_prefix(path.join("tasks")).unwrap_or(&file).with_extension("");
                role.tasks.insert(below.to_string_lossy().into_owned().into(), file.clone());
            }
        }
        // The role must be there before its tasks are read: they may import each other and the role itself.
        let task_paths: Vec<PathBuf> = role.tasks.values().cloned().collect();
        self.roles.insert(path.to_path_buf(), role);
        self.reading.shift_remove(path);
        for file in task_paths {
            self.load_task_file(&file, &place, None, false);
        }
        let groups = self.handler_groups(path, &place);
        if let Some(role) = self.roles.get_mut(path) {
            role.handlers = groups;
        }
    }

    fn handler_groups(&mut self, role: &Path, place: &Place) -> IndexMap<Arc<str>, HandlerGroup> {
        let mut groups = IndexMap::new();
        let dir = role.join("handlers");
        for path in files::below(&dir) {
            let Some(document) = self.files.yaml(&path, None) else { continue };
            let mut handlers = self.parser().handlers(&document);
            let inner = Place { task_dir: dir.clone(), ..place.clone() };
            self.handlers(&mut handlers, &inner);
            let stem: Arc<str> = path
                .strip_prefix(&dir)
                .unwrap_or(&path)
                .with_extension("")
                .to_string_lossy()
                .into_owned()
                .into();
            groups.insert(stem, HandlerGroup { path, handlers });
        }
        groups
    }

    /// Reads `main.yml`, the folder `main/`, and other files of `defaults/` or `vars/`, by stem.
    fn stems(&mut self, dir: &Path) -> IndexMap<Arc<str>, Dict> {
        let mut found: IndexMap<Arc<str>, Dict> = IndexMap::new();
        for path in files::entries(dir) {
            let stem = if path.is_dir() { path.clone() } else { path.with_extension("") };
            let Some(name) = stem.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
            let inside = if path.is_dir() { files::below(&path) } else { vec![path] };
            for file in inside {
                let vars = self.files.variables(&file, None);
                found.entry(name.as_str().into()).or_default().extend(vars);
            }
        }
        found
    }

    fn meta(&mut self, role: &mut Role, place: &Place) {
        let Some(path) = files::with_extension(&role.path.join("meta").join("main")) else { return };
        let Some(document) = self.files.yaml(&path, None) else { return };
        role.allow_duplicates = document.get("allow_duplicates").and_then(Node::as_bool).unwrap_or(false);
        let Some(dependencies) = document.get("dependencies").filter(|n| !n.is_null()) else { return };
        let Some(items) = dependencies.as_list() else {
            let message = format!("`dependencies` must be a list, and this is {}", dependencies.kind());
            self.problem(
                Severity::Error,
                "not-a-list",
                dependencies.span,
                message,
                "begin each role with `- `".into(),
            );
            return;
        };
        for item in items {
            let Some(mut dependency) = self.parser().role_use(item) else { continue };
            let candidates = self.candidates(&dependency.name.value, place);
            if let Some(ring) = candidates.iter().find(|c| self.reading.contains(*c)) {
                let message =
                    format!("the role `{}` depends on itself, by way of `{}`", ring.display(), role.name);
                let hint = "take this dependency out".to_owned();
                self.problem(Severity::Error, "role-cycle", dependency.span, message, hint);
                continue;
            }
            self.role_use(&mut dependency, place);
            role.dependencies.push(dependency);
        }
    }

    fn role_file(&mut self, role: Option<&Path>, tasks_from: &str, span: Span) {
        let Some(role) = role.and_then(|path| self.roles.get(path)) else { return };
        if tasks_from != "main" && !role.tasks.contains_key(tasks_from) {
            let message = format!("the role `{}` has no task file `{tasks_from}`", role.name);
            let names: Vec<Arc<str>> = role.tasks.keys().cloned().collect();
            let hint = suggest::did_you_mean(tasks_from, names.iter().map(AsRef::as_ref))
                .unwrap_or_else(|| format!("it has: {}", names.join(", ")));
            self.problem(Severity::Error, "missing-file", span, message, hint);
        }
    }
}

/// Takes `.` and `x/..` out of a path, so that one file has one name.
fn plain_path(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        let may_go_up = matches!(plain.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::CurDir => {}
            Component::ParentDir if may_go_up => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Returns a name that holds no template.
fn plain(value: &Value, fallback: Span) -> Option<Spanned<Arc<str>>> {
    let text = value.as_str().filter(|text| !text.contains("{{"))?;
    Some(Spanned::new(text.into(), value.marks.origin.unwrap_or(fallback)))
}
