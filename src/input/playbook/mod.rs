//! Playbooks and roles as a tree whose leaves remember their place. Templates stay templates.
//!
//! Start at [`tree`] for the shapes and at [`keywords`] for what may be written where.

pub mod actions;
pub mod args;
pub mod keywords;
pub mod parse;
pub mod play;
pub mod tree;

pub use parse::{Catalog, Parser};
pub use tree::{
    Block, Common, Condition, Handler, HandlerGroup, Import, ImportKind, ImportRole, ImportTasks, Include,
    IncludeRole, IncludeTasks, LoopControl, LoopKind, LoopOver, Play, Role, RoleUse, Statement, Task,
    TaskFile, VarsFile,
};
