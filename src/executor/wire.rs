//! What controller and host say to each other. Both ends are the same file, so nothing here has versions.
//!
//! A *segment* is the straight part of a play up to the next barrier, for one subject. It is opened once with its
//! steps and the variables they can reach, then advanced: the host observes as far as nothing would change, applies
//! only as far as it is told, and says where and why it stopped.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::executor::identity::{Order, Reply};
use crate::expr::{Dict, Value};
use crate::modules::{ChangeLine, Diff, Thing};
use crate::source::Span;

/// A step of the run; the same number means the same task of the playbook on every host.
pub type StepId = u32;

/// An open segment of one session.
pub type SegmentId = u32;

/// Whether changes are made or only predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Apply,
    Check,
}

/// One task, ready to be evaluated. Texts that the user wrote travel as they are, with their marks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub id: StepId,
    /// The name as written; rendered on the host, shown as written where that fails.
    pub name: Value,
    /// `roles/etcd/tasks/main.yml:12`, for messages.
    pub origin: Arc<str>,
    /// The module's short name.
    pub module: Arc<str>,
    /// A dictionary of parameters, or a template that gives one.
    pub args: Value,
    /// All must hold.
    pub when: Vec<Value>,
    pub looping: Option<Loop>,
    pub register: Option<Arc<str>>,
    pub until: Option<Until>,
    pub changed_when: Option<Vec<Value>>,
    pub failed_when: Option<Vec<Value>>,
    pub become_as: Option<Become>,
    /// Dictionaries, the outermost first; inner ones win.
    pub environment: Vec<Value>,
    pub check_mode: Option<Value>,
    pub diff: Option<Value>,
    pub no_log: Option<Value>,
    pub ignore_errors: Option<Value>,
    pub notify: Vec<Value>,
    /// `poll` of a task with `async`; 0 would leave the task running behind.
    pub poll: Option<Value>,
    /// Which of the segment's scopes holds its variables.
    pub scope: u32,
    /// Waits for every host of the batch even when it changes nothing here: it looks beyond this host.
    pub ordered: bool,
}

/// `loop` or `with_*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loop {
    /// The lookup of `with_LOOKUP`; none for `loop`.
    pub lookup: Option<Arc<str>>,
    pub over: Value,
    pub var: Arc<str>,
    pub index_var: Option<Arc<str>>,
    pub label: Option<Value>,
    pub pause: Option<Value>,
    pub extended: bool,
    pub break_when: Vec<Value>,
}

/// `until`, `retries`, `delay`. Without conditions: until the module succeeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Until {
    pub conditions: Vec<Value>,
    pub retries: Option<Value>,
    pub delay: Option<Value>,
}

/// `become` and what goes with it, as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Become {
    pub enabled: Value,
    pub user: Option<Value>,
    pub method: Option<Value>,
    pub exe: Option<Value>,
    pub flags: Option<Value>,
}

/// Who runs a module on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Identity {
    /// The user of the connection.
    Login,
    Other {
        /// `sudo`, `su` or `doas`.
        method: String,
        user: String,
        /// Another program than the method's own.
        exe: Option<String>,
        /// Other flags than the method's own.
        flags: Option<String>,
    },
}

/// The steps of one subject up to the next barrier, and the variables they can reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    pub id: SegmentId,
    /// The host whose variables these are; another than the place when the step is delegated.
    pub subject: Arc<str>,
    pub mode: Mode,
    pub diff: bool,
    /// Full results come back for every step, not only where they are registered or failed.
    pub verbose: bool,
    pub steps: Vec<Step>,
    /// Dictionaries of variables, shared by the scopes.
    pub layers: Vec<Dict>,
    pub scopes: Vec<Scope>,
    /// Variables of other hosts that the steps may name, evaluated.
    pub hostvars: Vec<(Arc<str>, Dict)>,
    /// Facts known so far.
    pub facts: Dict,
    /// What `include_vars` loaded.
    pub included: Dict,
    /// What `set_fact` and `register` have set so far.
    pub registers: Dict,
    /// Indexes of the steps before which handlers run if any was notified; the host stops there when one was.
    pub flushes: Vec<u32>,
    /// Texts of templates and the names of files that the steps surely need, by the name in the task.
    pub files: Vec<KnownFile>,
    /// What steps of earlier segments would have made, in check mode.
    pub pending: Vec<Pending>,
}

/// The variables of a step, as indexes into the segment's layers, in the order of precedence from low to high:
/// `base`, facts, `under`, included, registers, `over`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scope {
    /// Role defaults and the inventory.
    pub base: Vec<u32>,
    /// Play, role, block and task variables.
    pub under: Vec<u32>,
    /// Role parameters, variables of includes, extra and magic variables.
    pub over: Vec<u32>,
}

/// A step of an earlier segment that plan or check did not do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub step: StepId,
    pub name: String,
    /// What it would make; empty and `opaque` when nobody can tell.
    pub makes: Vec<Thing>,
    pub opaque: bool,
}

/// What a file on the controller is for; decides in which folders it is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileUse {
    /// `src` of `template`.
    Template,
    /// `src` of `copy`, `script`, `unarchive`.
    File,
}

/// A file on the controller, as the host knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownFile {
    pub step: StepId,
    pub usage: FileUse,
    /// As the task names it.
    pub name: Arc<str>,
    pub found: FoundFile,
}

/// What was found on the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FoundFile {
    /// The text of a template and its full path.
    Text { path: String, text: Arc<str> },
    /// A file that travels by its hash.
    File { path: String, sha256: [u8; 32], size: u64, mode: u32 },
    /// A folder: every file in it, with names relative to the folder.
    Folder { path: String, folders: Vec<String>, files: Vec<FolderFile> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FolderFile {
    pub name: String,
    pub sha256: [u8; 32],
    pub size: u64,
    pub mode: u32,
}

/// Lets the host go on in an open segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    pub segment: SegmentId,
    /// Index of the first step.
    pub from: u32,
    /// Index after the last step.
    pub to: u32,
    /// Steps below this index may change the host and may look beyond it; later ones are observed only, and the
    /// first of them that would change something stops the host.
    pub apply_below: u32,
    /// Whether handlers of this host wait for the next flush.
    pub notified: bool,
}

/// From the controller. Cancelling is not among them: [`frame::Down`](crate::executor::frame::Down) overtakes work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToHost {
    /// Takes the lock of this host for a run that changes things; answered by [`FromHost::Lock`].
    Lock {
        /// Who asks, for the message to the next one.
        holder: String,
    },
    Unlock,
    /// Opens a segment and begins it at once.
    Open(Box<Segment>, Advance),
    Advance(Advance),
    Close(SegmentId),
    /// To [`FromHost::Ask`] with the same number.
    Answer {
        ask: u32,
        answer: Result<Answer, String>,
    },
    /// One piece of work outside of any segment; answered by [`FromHost::Reply`].
    Order(Box<Order>),
}

/// From the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromHost {
    /// Answer to [`ToHost::Lock`]: taken, or who holds it and since when.
    Lock(Result<(), String>),
    /// A step that may take a while has begun; for progress only.
    Started {
        segment: SegmentId,
        step: StepId,
        name: String,
    },
    Report(Box<StepReport>),
    Stopped {
        segment: SegmentId,
        stop: Stop,
    },
    Ask {
        ask: u32,
        segment: SegmentId,
        question: Question,
    },
    /// To [`ToHost::Order`].
    Reply(Box<Reply>),
    /// The executor cannot go on at all; the text says why.
    Broken(String),
}

/// Why the host does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// The end of what was asked; the index of the step that would come next.
    End { at: u32 },
    /// The step at this index would change the host or looks beyond it, and may not yet.
    Pending { at: u32 },
    /// The step at this index failed; its report went before.
    Failed { at: u32 },
    /// Cancelled before the step at this index.
    Cancelled { at: u32 },
}

/// What only the controller can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Where a file that a step names is, by that step's search path.
    File { step: StepId, usage: FileUse, name: String },
    /// The bytes of a file named before.
    Content { sha256: [u8; 32] },
    /// A lookup that reads the controller.
    Lookup { step: StepId, plugin: String, terms: Vec<Value>, options: Dict },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    File(FoundFile),
    Content(Arc<[u8]>),
    Value(Value),
}

/// How a step or an item of a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Ok,
    Changed,
    Skipped,
    Failed,
}

/// How sure plan and check are of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    Known,
    /// What it looks at would be made by an earlier step.
    Blocked {
        by: StepId,
        name: String,
    },
    Unknown {
        reason: String,
    },
}

/// One step done on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    pub segment: SegmentId,
    pub step: StepId,
    /// Rendered.
    pub name: String,
    pub status: Status,
    pub answered: Answered,
    /// Failed, and the task says that this does not matter.
    pub ignored: bool,
    /// Nothing of it may be shown but its name and status.
    pub no_log: bool,
    pub details: Details,
    /// One for each item of a loop, in order; empty without a loop.
    pub items: Vec<ItemReport>,
    /// What `register` saw; there when registered, failed or verbose.
    pub result: Option<Value>,
    pub register: Option<Arc<str>>,
    /// What `set_fact` set.
    pub set: Dict,
    /// Facts that the module returned.
    pub facts: Dict,
    /// Handlers to notify, rendered.
    pub notify: Vec<String>,
    /// What the step would make, in check mode.
    pub pending: Option<Pending>,
    pub elapsed_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemReport {
    pub label: String,
    pub status: Status,
    pub answered: Answered,
    pub details: Details,
}

/// What is told about a module run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Details {
    pub changes: Vec<ChangeLine>,
    pub diff: Option<Diff>,
    /// What `debug` says, why a step was skipped, or what failed.
    pub message: Option<String>,
    pub fault: Option<FaultText>,
}

/// A failure for people: what was tried, what it said, what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FaultText {
    pub message: String,
    /// The last lines of what a program wrote.
    pub lines: Vec<String>,
    pub hint: Option<String>,
    /// The template that has no value.
    pub place: Option<Span>,
}
