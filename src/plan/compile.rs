//! Plays to programs: roles, imports and blocks are expanded, keywords are inherited, tags decide what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::executor::wire::StepId;
use crate::expr::{Dict, Value};
use crate::input::Deployment;
use crate::input::playbook::{Block, Common, Condition, Import, ImportKind, Play, Role, RoleUse, Statement};
use crate::plan::handlers::{Handler, Handlers};
use crate::plan::program::{BlockId, BlockParts, Meta, Part, Task, Vars, What};
use crate::plan::tags::Selection;
use crate::source::Span;

mod inherited;
mod task;
#[cfg(test)]
mod tests;

pub use inherited::{Inherited, RoleScope};
use task::become_as;

/// Why a play or an include cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("role `{name}` was not found")]
    NoRole { name: String },
    #[error("role `{role}` has no task file `{file}`")]
    NoTasksFrom { role: String, file: String },
    #[error("the task file {} was not found", path.display())]
    NoTaskFile { path: PathBuf },
    #[error("`meta: {word}` is not known")]
    NoMeta { word: String },
    #[error("includes and imports are nested deeper than {limit}: they include themselves")]
    TooDeep { limit: usize },
}

/// How deep roles and task files may contain each other.
const DEPTH_LIMIT: usize = 60;

/// A play being compiled for one batch; grows while dynamic includes are expanded.
#[derive(Debug)]
pub struct Compiler<'a> {
    deployment: &'a Deployment,
    play: &'a Play,
    selection: &'a Selection,
    next_id: StepId,
    next_block: BlockId,
    pub blocks: BTreeMap<BlockId, BlockParts>,
    pub handlers: Handlers,
    /// Roles whose defaults and vars all later tasks see.
    public: Vec<Arc<RoleScope>>,
    ran: Vec<(PathBuf, RoleUse)>,
}

impl<'a> Compiler<'a> {
    /// Starts the compilation of `play`; its tasks are numbered from `first_id` on.
    pub fn new(
        deployment: &'a Deployment,
        play: &'a Play,
        selection: &'a Selection,
        first_id: StepId,
    ) -> Self {
        Compiler {
            deployment,
            play,
            selection,
            next_id: first_id,
            next_block: 0,
            blocks: BTreeMap::new(),
            handlers: Handlers::default(),
            public: Vec::new(),
            ran: Vec::new(),
        }
    }

    /// Returns the number that the next task will have.
    pub fn next_id(&self) -> StepId {
        self.next_id
    }

    /// Compiles the whole play: facts, pre_tasks, roles, tasks, post_tasks, with a flush of handlers after each part.
    ///
    /// # Errors
    /// A role or task file is missing, or the text includes itself.
    pub fn play(&mut self, gather_facts: bool) -> Result<Vec<Arc<Task>>, CompileError> {
        let top = self.top();
        let mut tasks = Vec::new();
        if gather_facts {
            tasks.extend(self.facts(&top));
        }
        let play = self.play;
        // Handlers of static roles come before those of the play, though they are met later.
        let mut parts = Vec::new();
        parts.push(self.statements(&play.pre_tasks, &top)?);
        let mut roles = Vec::new();
        for role in &play.roles {
            roles.extend(self.role_use(role, &top)?);
        }
        roles.extend(self.statements(&play.tasks, &top)?);
        parts.push(roles);
        parts.push(self.statements(&play.post_tasks, &top)?);
        for handler in &play.handlers {
            self.handlers.add_of_play(self.handler(handler, &top));
        }
        for part in parts {
            if !part.is_empty() {
                tasks.extend(part);
                tasks.push(self.flush(0));
            }
        }
        Ok(tasks)
    }

    /// Compiles what an `include_tasks` brings in for `hosts`; `vars` are its own and those of the loop.
    ///
    /// # Errors
    /// The file was not loaded, or includes itself.
    pub fn include_tasks(
        &mut self,
        task: &Task,
        apply: &Common,
        path: &Path,
        vars: Dict,
        hosts: Arc<BTreeSet<Arc<str>>>,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let mut inner = task.inherited.below_include(apply, vars, hosts);
        self.task_file(path, &mut inner)
    }

    /// Compiles what an `include_role` brings in for `hosts`.
    ///
    /// # Errors
    /// The role or its task file was not loaded, or it includes itself.
    pub fn include_role(
        &mut self,
        task: &Task,
        apply: &Common,
        asked: &RoleAsked,
        vars: Dict,
        hosts: Arc<BTreeSet<Arc<str>>>,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let inner = task.inherited.below_include(apply, Dict::new(), hosts);
        let role = self.find_role(&asked.name)?;
        self.role(role, asked, vars, Dict::new(), &inner, asked.public)
    }

    /// Compiles the body of the handler at `index` for the hosts that were notified.
    ///
    /// # Errors
    /// As for tasks.
    pub fn handler_tasks(
        &mut self,
        index: usize,
        hosts: Arc<BTreeSet<Arc<str>>>,
        path: &[(BlockId, Part)],
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let Some(handler) = self.handlers.get(index).cloned() else { return Ok(Vec::new()) };
        let mut inherited = (*handler.inherited).clone();
        inherited.hosts = Some(hosts);
        inherited.path = path.to_vec();
        self.statement(&handler.body, &inherited)
    }

    /// Makes the task that runs the notified handlers from `from` on.
    pub fn flush(&mut self, from: usize) -> Arc<Task> {
        let top = Inherited { handler: true, ..Inherited::default() };
        let step = self.bare_step("meta", Value::none(), Arc::from(""));
        Arc::new(self.task(
            step,
            What::Meta(Meta::FlushHandlers { from }),
            &top,
            Vars::default(),
            BTreeSet::new(),
        ))
    }

    fn top(&self) -> Inherited {
        let here = self.play.dir();
        let base = Inherited { here, ..Inherited::default() };
        let mut common = self.play.common.clone();
        // The play's variables have a level of their own, which the run puts in.
        common.vars = Dict::new();
        base.below(&common)
    }

    fn facts(&mut self, top: &Inherited) -> Option<Arc<Task>> {
        let mut tags = top.tags.clone();
        tags.insert(Arc::from("always"));
        if !self.selection.selects(&tags) {
            return None;
        }
        let mut args = Dict::new();
        if let Some(subset) = &self.play.gather_subset {
            args.insert(Arc::from("gather_subset"), subset.clone());
        }
        let mut step = self.bare_step("setup", Value::from(args), self.place(self.play.span));
        step.name = Value::str("Gathering Facts");
        step.become_as = become_as(&top.common);
        step.environment.clone_from(&top.common.environment);
        let vars = top.vars(&self.public, None);
        Some(Arc::new(self.task(step, What::Host, top, vars, tags)))
    }

    fn statements(
        &mut self,
        statements: &[Statement],
        outer: &Inherited,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let mut tasks = Vec::new();
        for statement in statements {
            tasks.extend(self.statement(statement, outer)?);
        }
        Ok(tasks)
    }

    fn statement(
        &mut self,
        statement: &Statement,
        outer: &Inherited,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        match statement {
            Statement::Task(task) => self.written(task, outer),
            Statement::Block(block) => self.block(block, outer),
            Statement::Import(import) => self.import(import, outer),
        }
    }

    fn block(&mut self, block: &Block, outer: &Inherited) -> Result<Vec<Arc<Task>>, CompileError> {
        let inner = outer.below(&block.common);
        if block.rescue.is_empty() && block.always.is_empty() {
            return self.statements(&block.block, &inner);
        }
        let id = self.next_block;
        self.next_block += 1;
        let parts = BlockParts { rescue: !block.rescue.is_empty(), always: !block.always.is_empty() };
        self.blocks.insert(id, parts);
        let mut tasks = Vec::new();
        for (part, statements) in
            [(Part::Body, &block.block), (Part::Rescue, &block.rescue), (Part::Always, &block.always)]
        {
            let mut inner = inner.clone();
            inner.path.push((id, part));
            tasks.extend(self.statements(statements, &inner)?);
        }
        Ok(tasks)
    }

    fn import(&mut self, import: &Import, outer: &Inherited) -> Result<Vec<Arc<Task>>, CompileError> {
        match &import.what {
            ImportKind::Tasks(tasks) => {
                let mut inner = outer.below(&import.common);
                let missing = || CompileError::NoTaskFile { path: PathBuf::from(&*tasks.file.value) };
                let path = tasks.path.as_ref().ok_or_else(missing)?;
                self.task_file(path, &mut inner)
            }
            ImportKind::Role(asked) => {
                let mut common = import.common.clone();
                let vars = std::mem::take(&mut common.vars);
                let inner = outer.below(&common);
                let role = match &asked.path {
                    Some(path) => self.role_at(path, &asked.name.value)?,
                    None => return Err(CompileError::NoRole { name: asked.name.value.to_string() }),
                };
                let asked = RoleAsked {
                    name: asked.name.value.to_string(),
                    tasks_from: asked.tasks_from.clone(),
                    vars_from: asked.vars_from.clone(),
                    defaults_from: asked.defaults_from.clone(),
                    handlers_from: asked.handlers_from.clone(),
                    public: true,
                };
                self.role(role, &asked, Dict::new(), vars, &inner, true)
            }
        }
    }

    fn task_file(&mut self, path: &Path, inner: &mut Inherited) -> Result<Vec<Arc<Task>>, CompileError> {
        let deployment = self.deployment;
        let missing = || CompileError::NoTaskFile { path: path.to_path_buf() };
        let file = deployment.task_files.get(path).ok_or_else(missing)?;
        inner.depth += 1;
        if inner.depth > DEPTH_LIMIT {
            return Err(CompileError::TooDeep { limit: DEPTH_LIMIT });
        }
        inner.here = path.parent().map(Path::to_path_buf).unwrap_or_default();
        self.statements(&file.statements, inner)
    }

    fn role_use(&mut self, used: &RoleUse, outer: &Inherited) -> Result<Vec<Arc<Task>>, CompileError> {
        let missing = || CompileError::NoRole { name: used.name.value.to_string() };
        let path = used.path.as_ref().ok_or_else(missing)?;
        let role = self.role_at(path, &used.name.value)?;
        let same = |ran: &(PathBuf, RoleUse)| {
            ran.0 == role.path
                && ran.1.params == used.params
                && ran.1.common.vars == used.common.vars
                && texts(&ran.1.common.when) == texts(&used.common.when)
        };
        if !role.allow_duplicates && self.ran.iter().any(same) {
            return Ok(Vec::new());
        }
        self.ran.push((role.path.clone(), used.clone()));
        let mut common = used.common.clone();
        let vars = std::mem::take(&mut common.vars);
        let inner = outer.below(&common);
        let asked = RoleAsked { name: role.name.to_string(), public: true, ..RoleAsked::default() };
        self.role(role, &asked, used.params.clone(), vars, &inner, true)
    }

    /// Compiles a role's dependencies and the role: `params` are level 20, `vars` are those of the text that uses it.
    fn role(
        &mut self,
        role: &'a Role,
        asked: &RoleAsked,
        params: Dict,
        vars: Dict,
        inner: &Inherited,
        public: bool,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let mut inner = inner.clone();
        inner.depth += 1;
        if inner.depth > DEPTH_LIMIT {
            return Err(CompileError::TooDeep { limit: DEPTH_LIMIT });
        }
        let mut tasks = Vec::new();
        for dependency in &role.dependencies {
            tasks.extend(self.role_use(dependency, &inner)?);
        }
        let scope = Arc::new(RoleScope::new(role, asked, params, vars, &inner.roles));
        if public {
            self.public.push(scope.clone());
        }
        inner.roles.push(scope);
        if let Some(group) = role.handlers.get(&*asked.handlers_from) {
            let known = inner.hosts.is_none();
            for handler in &group.handlers {
                let handler = self.handler(handler, &inner);
                if known {
                    self.handlers.add_of_role(handler);
                } else {
                    self.handlers.add_included(handler);
                }
            }
        }
        match role.tasks.get(&*asked.tasks_from) {
            Some(path) => tasks.extend(self.task_file(path, &mut inner)?),
            None if &*asked.tasks_from == "main" => {}
            None => {
                let (role, file) = (role.name.to_string(), asked.tasks_from.to_string());
                return Err(CompileError::NoTasksFrom { role, file });
            }
        }
        Ok(tasks)
    }

    fn role_at(&self, path: &Path, name: &str) -> Result<&'a Role, CompileError> {
        let deployment = self.deployment;
        deployment.roles.get(path).ok_or_else(|| CompileError::NoRole { name: name.to_owned() })
    }

    fn find_role(&self, name: &str) -> Result<&'a Role, CompileError> {
        let deployment = self.deployment;
        let found = deployment.find_role(name, &self.play.dir());
        found.ok_or_else(|| CompileError::NoRole { name: name.to_owned() })
    }

    fn handler(&self, handler: &crate::input::playbook::Handler, outer: &Inherited) -> Handler {
        let name = match &handler.body {
            Statement::Task(task) => task.common.name.clone(),
            Statement::Block(block) => block.common.name.clone(),
            Statement::Import(import) => import.common.name.clone(),
        };
        let name = name.and_then(|name| name.as_str().map(Arc::from)).unwrap_or_else(|| Arc::from(""));
        Handler {
            name,
            role: outer.roles.last().map(|role| role.name.clone()),
            listen: handler.listen.iter().map(|topic| topic.value.clone()).collect(),
            body: handler.body.clone(),
            inherited: Arc::new(outer.of_handler()),
        }
    }

    fn place(&self, span: Span) -> Arc<str> {
        let place = self.deployment.sources.location(span);
        Arc::from(place.map(|at| format!("{}:{}", at.path.display(), at.line)).unwrap_or_default())
    }
}

/// What an `include_role` or `import_role` asks for, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleAsked {
    pub name: String,
    pub tasks_from: Arc<str>,
    pub vars_from: Arc<str>,
    pub defaults_from: Arc<str>,
    pub handlers_from: Arc<str>,
    pub public: bool,
}

impl Default for RoleAsked {
    fn default() -> RoleAsked {
        let main: Arc<str> = Arc::from("main");
        RoleAsked {
            name: String::new(),
            tasks_from: main.clone(),
            vars_from: main.clone(),
            defaults_from: main.clone(),
            handlers_from: main,
            public: false,
        }
    }
}

fn texts(conditions: &[Condition]) -> Vec<&str> {
    conditions.iter().map(|condition| &*condition.value).collect()
}

/// Returns the short name of a module of the collections whose modules are meant by it.
pub fn short_name(name: &str) -> &str {
    const COLLECTIONS: [&str; 8] = [
        "ansible.builtin.",
        "ansible.legacy.",
        "ansible.posix.",
        "ansible.utils.",
        "community.general.",
        "community.postgresql.",
        "community.crypto.",
        "keddah.core.",
    ];
    COLLECTIONS.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}
