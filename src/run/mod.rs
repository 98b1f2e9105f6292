//! Runs plays on hosts: who goes when, what is sent, what the answers mean. Everything seen becomes an event.
//!
//! Start at [`dispatcher::run`]. One task orders everything; one [`worker`] per host speaks to it.
//!
//! Invariant: what a task means on a host is not known here; steps go out as segments and come back as reports.

pub mod between;
pub mod control;
pub mod dispatcher;
pub mod event;
pub mod files;
pub mod hosts;
pub mod lookups;
pub mod outcome;
pub mod play;
pub mod stretch;
pub mod worker;

pub use dispatcher::{RunError, run};
pub use event::{Event, Recap, Summary};

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::executor::wire::Mode;
use crate::expr::Value;
use crate::plan::tags::Selection;

/// What the command line asks of a run.
#[derive(Debug, Clone)]
pub struct Options {
    pub mode: Mode,
    pub diff: bool,
    pub verbose: bool,
    /// Hosts that may take part; all when `None`.
    pub limit: Option<BTreeSet<Arc<str>>>,
    pub limit_text: Option<String>,
    pub selection: Selection,
    /// How many hosts may be busy at once.
    pub forks: usize,
    /// `--become`: holds for tasks that say nothing else.
    pub become_by_default: Option<Value>,
}
