//! The syntax tree of playbooks and roles.
//!
//! What Ansible templates is a [`Value`] whose strings are marked as trusted and know their place
//! (`marks.origin`); what must be a plain word is a [`Spanned`] text. Nothing here is evaluated.

use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::expr::{Dict, Value};
use crate::source::{FileId, Span, Spanned};

/// A bare expression of `when`, `until` and their like; YAML's `true` and `false` are the texts `true` and `false`.
/// A list of them means: all of them, in order.
pub type Condition = Spanned<Arc<str>>;

/// The keywords that plays, role uses, blocks and tasks share. `None` or empty: not written at this level.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Common {
    pub name: Option<Value>,
    pub vars: Dict,
    /// One dict, or several that are merged in order.
    pub environment: Vec<Value>,
    pub tags: Vec<Value>,
    pub when: Vec<Condition>,
    pub become_: Option<Value>,
    pub become_user: Option<Value>,
    pub become_method: Option<Value>,
    pub become_flags: Option<Value>,
    pub check_mode: Option<Value>,
    pub diff: Option<Value>,
    pub no_log: Option<Value>,
    pub run_once: Option<Value>,
    pub ignore_errors: Option<Value>,
    pub any_errors_fatal: Option<Value>,
    /// `local` where tasks run on the controller.
    pub connection: Option<Value>,
    pub delegate_to: Option<Value>,
    pub delegate_facts: Option<Value>,
    /// Names or topics of handlers.
    pub notify: Vec<Value>,
    /// Parameters by module name, given to each call of it below this level.
    pub module_defaults: Dict,
}

/// One play of a playbook; plays of imported playbooks stand in the same list.
#[derive(Debug, Clone, PartialEq)]
pub struct Play {
    pub span: Span,
    /// The playbook file; its folder is `playbook_dir`, where `group_vars` and `files` beside it are looked for.
    pub playbook: PathBuf,
    /// The host pattern; may hold templates over extra variables. A list of patterns is joined by `,`.
    pub hosts: Spanned<Arc<str>>,
    pub common: Common,
    pub gather_facts: Option<Value>,
    pub gather_subset: Option<Value>,
    /// Numbers of hosts or `'N%'`; the last one repeats. Empty: all hosts at once.
    pub serial: Vec<Value>,
    pub max_fail_percentage: Option<Value>,
    pub vars_files: Vec<VarsFile>,
    pub pre_tasks: Vec<Statement>,
    pub roles: Vec<RoleUse>,
    pub tasks: Vec<Statement>,
    pub post_tasks: Vec<Statement>,
    pub handlers: Vec<Handler>,
}

impl Play {
    /// Returns the folder of the playbook file (`playbook_dir`).
    pub fn dir(&self) -> PathBuf {
        self.playbook.parent().map(PathBuf::from).unwrap_or_default()
    }

    /// Returns what is shown for the play: its name as written, else its host pattern.
    pub fn title(&self) -> String {
        match self.common.name.as_ref().map(|n| &n.data) {
            Some(crate::expr::Data::Str(name)) => name.to_string(),
            _ => self.hosts.value.to_string(),
        }
    }
}

/// An entry of `vars_files`: one file that must exist, or a list of which the first that exists counts. Templated per host.
#[derive(Debug, Clone, PartialEq)]
pub struct VarsFile {
    pub span: Span,
    pub candidates: Vec<Value>,
    /// Whether it was a list, none of whose files needs to exist.
    pub first_found: bool,
}

/// One entry of a list of tasks.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Task(Box<Task>),
    Block(Box<Block>),
    Import(Box<Import>),
}

/// A module call with all that surrounds it. Includes are tasks too: [`Task::include`] says what they bring in.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub span: Span,
    pub common: Common,
    /// The module's name as written, short or fully qualified.
    pub module: Spanned<Arc<str>>,
    /// The module's parameters: a dict (with those of `args:` merged in), or a text that is one template (`"{{ params }}"`).
    pub args: Spanned<Value>,
    /// Free text before or without `k=v` parameters, for `command`, `shell`, `raw`, `script`, `meta` and the include family.
    pub free_form: Option<Value>,
    pub include: Option<Include>,
    pub loop_: Option<LoopOver>,
    pub loop_control: LoopControl,
    pub register: Option<Spanned<Arc<str>>>,
    pub changed_when: Option<Vec<Condition>>,
    pub failed_when: Option<Vec<Condition>>,
    pub until: Option<Vec<Condition>>,
    pub retries: Option<Value>,
    /// Seconds between tries.
    pub delay: Option<Value>,
    /// Seconds that an asynchronous job may take.
    pub async_: Option<Value>,
    pub poll: Option<Value>,
}

/// What a task repeats over.
#[derive(Debug, Clone, PartialEq)]
pub struct LoopOver {
    pub span: Span,
    pub kind: LoopKind,
    pub over: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoopKind {
    /// `loop:`, whose value must be a list.
    Loop,
    /// `with_NAME:`, whose items are those that the lookup `NAME` gives; `items` flattens one level.
    With(Arc<str>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoopControl {
    /// The item's variable; `item` when not given.
    pub loop_var: Option<Spanned<Arc<str>>>,
    pub index_var: Option<Spanned<Arc<str>>>,
    pub label: Option<Value>,
    /// Seconds between items.
    pub pause: Option<Value>,
    pub extended: Option<Value>,
    pub break_when: Vec<Condition>,
}

/// Statements with shared keywords, a way out of failures, and an end that always runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    pub span: Span,
    pub common: Common,
    pub block: Vec<Statement>,
    pub rescue: Vec<Statement>,
    pub always: Vec<Statement>,
}

/// A static import: its content takes part in everything that is checked before a host is touched.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    pub span: Span,
    /// `when`, tags, vars and the rest, copied to each inner task.
    pub common: Common,
    pub what: ImportKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ImportKind {
    Tasks(ImportTasks),
    Role(ImportRole),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ImportTasks {
    pub file: Spanned<Arc<str>>,
    /// The file found, a key of `Deployment::task_files`; `None` when it is missing, which is an error of the load.
    pub path: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ImportRole {
    pub name: Spanned<Arc<str>>,
    /// The role's folder, a key of `Deployment::roles`; `None` when it is missing, which is an error of the load.
    pub path: Option<PathBuf>,
    /// File stems; `main` when not written.
    pub tasks_from: Arc<str>,
    pub vars_from: Arc<str>,
    pub defaults_from: Arc<str>,
    pub handlers_from: Arc<str>,
}

/// What an including task brings in when it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Include {
    Tasks(Box<IncludeTasks>),
    Role(Box<IncludeRole>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct IncludeTasks {
    /// May hold templates.
    pub file: Value,
    /// The file found when the name is plain text; a key of `Deployment::task_files`.
    pub path: Option<PathBuf>,
    /// Keywords for each inner task (`apply:`).
    pub apply: Common,
}

#[derive(Debug, Clone, PartialEq)]
pub struct IncludeRole {
    /// May hold templates, as may the `…_from` names.
    pub name: Value,
    /// The role's folder when the name is plain text; a key of `Deployment::roles`.
    pub path: Option<PathBuf>,
    pub tasks_from: Option<Value>,
    pub vars_from: Option<Value>,
    pub defaults_from: Option<Value>,
    pub handlers_from: Option<Value>,
    /// Whether the role's defaults and vars are seen by later tasks of the play.
    pub public: Option<Value>,
    pub apply: Common,
}

/// A handler entry: one that is notified by name or topic. Its body is a task, or an import or include of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Handler {
    pub listen: Vec<Spanned<Arc<str>>>,
    pub body: Statement,
}

/// A file of handlers, in the order of definition, which is the order of running.
#[derive(Debug, Clone, PartialEq)]
pub struct HandlerGroup {
    pub path: PathBuf,
    pub handlers: Vec<Handler>,
}

/// A file with a list of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFile {
    pub path: PathBuf,
    pub file: FileId,
    pub statements: Vec<Statement>,
}

/// A role, read once however often it is used.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    pub name: Arc<str>,
    /// The role's folder (`role_path`).
    pub path: PathBuf,
    /// By file stem: `main` (a file, or all files of a folder `main/`), and what `defaults_from` may name.
    pub defaults: IndexMap<Arc<str>, Dict>,
    pub vars: IndexMap<Arc<str>, Dict>,
    /// Task files by their name below `tasks/` without extension; each path is a key of `Deployment::task_files`.
    pub tasks: IndexMap<Arc<str>, PathBuf>,
    pub handlers: IndexMap<Arc<str>, HandlerGroup>,
    /// Roles that run before this one, from `meta/main.yml`.
    pub dependencies: Vec<RoleUse>,
    pub allow_duplicates: bool,
}

/// One mention of a role in `roles:` or in another role's dependencies.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleUse {
    pub span: Span,
    pub name: Spanned<Arc<str>>,
    /// The role's folder, a key of `Deployment::roles`; `None` when it is missing, which is an error of the load.
    pub path: Option<PathBuf>,
    pub common: Common,
    /// Keys that are no keywords: role parameters, which beat nearly everything inside the role.
    pub params: Dict,
}
