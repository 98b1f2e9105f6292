//! What goes into a module and what comes out: plain data that crosses to the process of another identity.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::expr::{Dict, Value};
use crate::source::Span;
use crate::sys::files::FileError;
use crate::sys::process::{Output, ProcessError, Program};

/// Whether changes are made or only told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Apply,
    Check,
}

/// How sure an answer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Known,
    /// What the module looks at is not there; a step before it may be about to make it.
    Blocked(Thing),
    /// It cannot be told without doing it, or not from here; the reason.
    Unknown(String),
}

/// Something on a host that a step makes or looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Thing {
    Path(String),
    User(String),
    Group(String),
    Package(String),
    Program(String),
    Unit(String),
    Port(u16),
    ProxyServer(Box<ProxyServer>),
    /// A database of the server on this host.
    Database(String),
}

/// A server that HAProxy knows once it runs with a configuration file that names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProxyServer {
    /// `backend/server`.
    pub name: String,
    /// The path of the configuration file.
    pub config: String,
}

impl Thing {
    /// Returns whether making this may bring `wanted` along: a package brings users, programs, units and files; a unit
    /// that is started brings ports and sockets.
    pub fn may_bring(&self, wanted: &Thing) -> bool {
        let is_below =
            |folder: &str, path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        match (self, wanted) {
            (Thing::Path(made), Thing::Path(path)) => {
                made == path || is_below(made, path) || is_below(path, made)
            }
            (Thing::Path(made), Thing::Unit(name) | Thing::Program(name)) => {
                made == name || made.rsplit('/').next() == Some(name)
            }
            (Thing::User(made), Thing::Group(name)) => made == name,
            (Thing::Path(made), Thing::ProxyServer(wanted)) => {
                made == &wanted.config || is_below(made, &wanted.config)
            }
            (
                Thing::Package(_),
                Thing::Path(_) | Thing::User(_) | Thing::Group(_) | Thing::Program(_) | Thing::Unit(_),
            )
            | (Thing::Unit(_), Thing::Path(_) | Thing::Port(_) | Thing::ProxyServer(_)) => true,
            (made, wanted) => made == wanted,
        }
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Thing::Path(path) => write!(f, "{path}"),
            Thing::User(name) => write!(f, "the user `{name}`"),
            Thing::Group(name) => write!(f, "the group `{name}`"),
            Thing::Package(name) => write!(f, "the package `{name}`"),
            Thing::Program(name) => write!(f, "the program `{name}`"),
            Thing::Unit(name) => write!(f, "the unit `{name}`"),
            Thing::Port(port) => write!(f, "something that listens on port {port}"),
            Thing::ProxyServer(server) => write!(f, "the server `{}` of {}", server.name, server.config),
            Thing::Database(name) => write!(f, "the database `{name}`"),
        }
    }
}

/// What a change interrupts; later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Risk {
    None,
    Reload,
    Restart,
    Failover,
    DataLoss,
}

/// One difference in words, and what it would interrupt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLine {
    pub text: String,
    pub risk: Risk,
}

/// A text before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    pub header: String,
    pub before: String,
    pub after: String,
}

/// A file of the controller that a step brings along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppliedFile {
    /// Relative to the folder that is copied; the file's own name when it is one file.
    pub name: String,
    pub sha256: [u8; 32],
    pub size: u64,
    pub mode: u32,
    /// Left out while only the comparison is asked for; a module that needs it answers with [`FaultKind::NeedsContent`].
    pub bytes: Option<Arc<[u8]>>,
}

/// One module to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleCall {
    /// Short or fully qualified.
    pub name: String,
    /// A dictionary of rendered parameters, or the text of a free-form module.
    pub params: Value,
    pub mode: Mode,
    /// Whether texts before and after are wanted.
    pub diff: bool,
    /// Observe a second time after apply, and refuse to believe the module's own word.
    pub verify: bool,
    /// A text that came along is made from a secret: no diff of it is shown.
    pub is_secret: bool,
    /// The task's `environment`, for the programs that the module runs.
    pub environment: Vec<(String, String)>,
    /// What `src` names on the controller: one file, or all of a folder.
    pub files: Vec<SuppliedFile>,
    /// Folders in a supplied folder, relative to it.
    pub folders: Vec<String>,
}

impl ModuleCall {
    pub fn new(name: impl Into<String>, params: Value, mode: Mode) -> ModuleCall {
        ModuleCall {
            name: name.into(),
            params,
            mode,
            diff: false,
            verify: false,
            is_secret: false,
            environment: Vec::new(),
            files: Vec::new(),
            folders: Vec::new(),
        }
    }
}

/// What a module run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub answer: Answer,
    pub changed: bool,
    pub changes: Vec<ChangeLine>,
    pub diff: Option<Diff>,
    /// What `register` sees, without `changed` and `failed`.
    pub output: Dict,
    /// Facts that the module returns as `ansible_facts`.
    pub facts: Dict,
    /// In check mode: what the step would have made.
    pub predicted: Vec<Thing>,
}

/// What a call is answered with.
pub type ModuleReply = Result<Outcome, Fault>;

/// What kind of refusal a [`Fault`] is, as far as the caller acts on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The host, a program or a server refused.
    Refused,
    /// The parameters are wrong; where they were written, if that is known.
    Params(Option<Span>),
    /// What the module needs is not there.
    Missing(Thing),
    /// A condition did not come true within its limit.
    TimedOut,
    /// This kind of host cannot do it at all, e.g. a container asked for a kernel module.
    NotOnThisHost,
    /// The bytes of a supplied file are needed.
    NeedsContent([u8; 32]),
    /// The module did not reach what it promised: a bug of the module's.
    NotConverged,
}

/// A host or a server refused: what was tried, what it said, what to do next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: FaultKind,
    pub message: String,
    /// The last lines of what a program said.
    pub lines: Vec<String>,
    pub hint: Option<String>,
    /// What `register` sees of the failure, e.g. `rc` and `stderr`.
    pub output: Box<Dict>,
}

/// How many lines of a program's last words an error shows.
const LAST_WORDS: usize = 12;

impl Fault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into(), lines: Vec::new(), hint: None, output: Box::default() }
    }

    pub fn refused(message: impl Into<String>) -> Fault {
        Fault::new(FaultKind::Refused, message)
    }

    pub fn params(message: impl Into<String>) -> Fault {
        Fault::new(FaultKind::Params(None), message)
    }

    pub fn missing(thing: Thing) -> Fault {
        Fault::new(FaultKind::Missing(thing.clone()), format!("{thing} is not on this host"))
    }

    /// A program that ended with something else than 0: its name, its status and its last words.
    pub fn program(program: &Program, output: &Output, tried: &str) -> Fault {
        let mut fault = Fault::refused(format!("{tried}: `{}` ended with {}", program.name(), output.exit));
        fault.lines = output.last_words(LAST_WORDS).lines().map(str::to_owned).collect();
        fault
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Fault {
        self.lines.push(line.into());
        self
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Fault {
        let fault = Fault::refused(crate::sys::chain(&error));
        match error.source.kind() {
            std::io::ErrorKind::PermissionDenied => fault.hint("the task may need `become: true`"),
            std::io::ErrorKind::ReadOnlyFilesystem => fault.hint("the file system is mounted read-only here"),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => fault.hint(
                "make room on that file system (`df -h` and `df -i` show what is used), then run it again; a file that \
                 was there is as it was",
            ),
            _ => fault,
        }
    }
}

impl From<ProcessError> for Fault {
    fn from(error: ProcessError) -> Fault {
        match &error {
            ProcessError::NotFound { program } => Fault::missing(Thing::Program(program.clone())),
            ProcessError::TimedOut { .. } | ProcessError::Hung { .. } => {
                Fault::new(FaultKind::TimedOut, error.to_string())
            }
            ProcessError::NotAllowed { .. } | ProcessError::Start { .. } | ProcessError::Pipe { .. } => {
                Fault::refused(crate::sys::chain(&error))
            }
        }
    }
}
