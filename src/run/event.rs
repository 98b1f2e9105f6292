//! What happens in a run, for whoever tells about it. Nothing secret is in it.

use std::sync::Arc;

pub use crate::executor::wire::{Answered, Details, FaultText, ItemReport, Mode, Status, StepReport};
pub use crate::modules::{ChangeLine, Diff, Risk};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    PlayStarted {
        name: String,
        hosts: Vec<Arc<str>>,
    },
    /// A host began a step that may take a while.
    StepStarted {
        host: Arc<str>,
        name: String,
    },
    /// A host is done with a step.
    StepDone(Box<StepDone>),
    Unreachable {
        host: Arc<str>,
        message: String,
    },
    Warning {
        message: String,
    },
    /// The run is stopping; what is under way is finished.
    Interrupted,
    Ended(Summary),
}

/// A finished step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepDone {
    pub host: Arc<str>,
    /// Where it ran, when it was delegated.
    pub place: Option<Arc<str>>,
    pub role: Option<Arc<str>>,
    pub module: Arc<str>,
    /// The file and line of the task.
    pub origin: Arc<str>,
    /// It failed, and a rescue takes over.
    pub rescued: bool,
    /// Where the template that has no value was written.
    pub template: Option<String>,
    pub report: StepReport,
}

/// The seven figures of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recap {
    pub ok: usize,
    pub changed: usize,
    pub unreachable: usize,
    pub failed: usize,
    pub skipped: usize,
    pub rescued: usize,
    pub ignored: usize,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    pub recap: Vec<(Arc<str>, Recap)>,
    /// Steps that would change something, in check mode.
    pub known: usize,
    pub blocked: usize,
    pub unknown: usize,
    /// The worst interruption among the changes.
    pub risk: Option<Risk>,
    pub elapsed_ms: u64,
    pub interrupted: bool,
    /// No host matched, or the run ended before all plays were begun.
    pub stopped: Option<String>,
}

impl Summary {
    pub fn failed(&self) -> bool {
        self.recap.iter().any(|(_, recap)| recap.failed > 0)
    }

    pub fn unreachable(&self) -> bool {
        self.recap.iter().any(|(_, recap)| recap.unreachable > 0)
    }

    /// Says whether plan or check found anything to do, or could not tell.
    pub fn pending(&self) -> bool {
        self.known + self.blocked + self.unknown > 0
    }
}
