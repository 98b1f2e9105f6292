//! What a play compiles to: tasks in the order in which they run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::executor::wire::{Step, StepId};
use crate::expr::{Dict, Value};
use crate::input::playbook::{IncludeRole, IncludeTasks};
use crate::plan::compile::Inherited;

/// Variables that are set at one place and shared by many tasks.
pub type Layer = Arc<Dict>;

/// The variables that the text gives a task, in groups between which those of the host stand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vars {
    /// Role defaults, below the inventory.
    pub defaults: Vec<Layer>,
    /// Role, block and task variables; those of the play and of its `vars_files` come before them.
    pub under: Vec<Layer>,
    /// Role parameters, variables of includes and the role's magic names.
    pub over: Vec<Layer>,
}

/// Where relative files of a task are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Search {
    /// The roles around the task, the innermost last.
    pub roles: Vec<PathBuf>,
    /// The folder of the file in which the task is written.
    pub here: PathBuf,
    pub playbook: PathBuf,
}

/// One task of the program.
#[derive(Debug, Clone)]
pub struct Task {
    pub id: StepId,
    /// As it goes to the host; its scope and order are set when a segment is made.
    pub step: Step,
    pub what: What,
    pub role: Option<Arc<str>>,
    pub vars: Vars,
    pub search: Search,
    pub tags: BTreeSet<Arc<str>>,
    /// The hosts for which it was included or notified; all of the batch when `None`.
    pub hosts: Option<Arc<BTreeSet<Arc<str>>>>,
    /// The blocks around it, the outermost first.
    pub path: Vec<(BlockId, Part)>,
    pub delegate_to: Option<Value>,
    pub delegate_facts: Option<Value>,
    pub run_once: Option<Value>,
    pub any_errors_fatal: Option<Value>,
    pub connection: Option<Value>,
    /// The task's own variables, which an include hands to what it brings in.
    pub own: Option<Layer>,
    /// What an include hands down to the tasks that it brings in.
    pub inherited: Arc<Inherited>,
}

/// Who does it.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A host, as a step of a segment.
    Host,
    IncludeTasks(Box<IncludeTasks>),
    IncludeRole(Box<IncludeRole>),
    IncludeVars,
    AddHost,
    GroupBy,
    Pause,
    Meta(Meta),
}

/// `meta:` actions that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// Runs the notified handlers whose place in the list is not before the number.
    FlushHandlers {
        from: usize,
    },
    EndPlay,
    EndHost,
    EndBatch,
    ClearFacts,
    ResetConnection,
    Noop,
}

pub type BlockId = u32;

/// Which part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Body,
    Rescue,
    Always,
}

/// A block's way out of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockParts {
    pub rescue: bool,
    pub always: bool,
}

impl Task {
    /// Says whether the task is meant for `host` at all.
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(host))
    }

    /// Says whether the task ends a segment: somebody else than the host alone has a part in it.
    pub fn is_barrier(&self) -> bool {
        !self.is_host_step() && !matches!(self.what, What::Meta(Meta::FlushHandlers { .. }))
    }

    /// Says whether the task may travel in a segment of its host.
    pub fn is_host_step(&self) -> bool {
        self.what == What::Host
            && self.delegate_to.is_none()
            && self.run_once.is_none()
            && self.connection.is_none()
    }

    /// Returns the name as written, or the module's for want of one.
    pub fn title(&self) -> String {
        let name = match &self.step.name.data {
            crate::expr::Data::Str(text) if !text.is_empty() => text.to_string(),
            _ => self.step.module.to_string(),
        };
        match &self.role {
            Some(role) => format!("{role} : {name}"),
            None => name,
        }
    }
}
