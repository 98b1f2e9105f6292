//! One Postgres server of this host: its files, its programs, its answers. The guard starts and stops it.
//!
//! Every function does one thing at once and reports what happened; none decides. What is pure (text, argument lists,
//! judgements) is apart from what touches the host. Start at `query` for what a running server says, `controldata` for
//! what a stopped one says.
//!
//! Invariant: nothing here knows etcd, other members or who should lead.

pub mod basebackup;
pub mod conf;
pub mod controldata;
pub mod hba;
pub mod history;
pub mod initdb;
pub mod postmaster;
pub mod query;
pub mod refusal;
pub mod rewind;
pub mod scram;
pub mod slots;
pub mod standby;
mod tls;
pub mod users;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::PgVersion;
use crate::sys::process::{Output, ProcessError, Program};

/// Lines of a failed program's last words that an error shows.
const LAST_WORDS_LINES: usize = 5;

/// The programs of one Postgres version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub bin_dir: PathBuf,
    /// The server's own name: `postgres`, or what a flavour calls it.
    pub server: String,
}

/// Why a program of Postgres did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot run {0}")]
    Run(String, #[source] ProcessError),
    #[error("{program} failed ({exit}): {last_words}")]
    Failed { program: String, exit: String, last_words: String },
    #[error("{program} answered what cannot be read: {answer}")]
    Unreadable { program: String, answer: String },
}

impl Installation {
    /// Returns the installation in `bin_dir` with the names that the community's packages use.
    pub fn at(bin_dir: impl Into<PathBuf>) -> Installation {
        Installation { bin_dir: bin_dir.into(), server: "postgres".to_owned() }
    }

    /// Returns the path of one of its programs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Returns the path of the server.
    pub fn server_path(&self) -> PathBuf {
        self.path(&self.server)
    }

    /// Prepares one of its programs. Messages are English, since some are read; nothing asks for a password.
    pub fn program(&self, name: &str) -> Program {
        Program::new(self.path(name)).env("LC_ALL", "C")
    }

    /// Asks the server for its version.
    ///
    /// # Errors
    /// There is no server, or its answer is not that of a Postgres.
    pub fn version(&self) -> Result<PgVersion, ProgramError> {
        let program = self.server.clone();
        let output = run(&self.program(&self.server).arg("--version").limit(Duration::from_secs(10)))?;
        let answer = output.stdout_text().trim().to_owned();
        answer
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .and_then(|word| word.parse().ok())
            .ok_or(ProgramError::Unreadable { program, answer })
    }
}

/// Runs a program to its end and takes any exit status but 0 for a failure.
fn run(program: &Program) -> Result<Output, ProgramError> {
    let output = program.run().map_err(|source| ProgramError::Run(program.name(), source))?;
    judge(program, output)
}

fn judge(program: &Program, output: Output) -> Result<Output, ProgramError> {
    if output.exit.is_success() {
        return Ok(output);
    }
    let last_words = output.last_words(LAST_WORDS_LINES);
    Err(ProgramError::Failed { program: program.name(), exit: output.exit.to_string(), last_words })
}

/// Spells a program's options as `--name` or `--name=value`.
fn long_options<'a>(
    options: impl Iterator<Item = &'a (String, Option<String>)>,
) -> impl Iterator<Item = String> {
    options.map(|(name, value)| match value {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name}"),
    })
}

/// Tells whether a folder holds a database cluster (or what is left of one).
pub fn has_data(data_dir: &Path) -> bool {
    data_dir.join("PG_VERSION").is_file()
}

/// Tells whether a folder is missing or empty, `lost+found` apart: a new cluster or a copy may be put there.
pub fn is_vacant(data_dir: &Path) -> bool {
    match std::fs::read_dir(data_dir) {
        Ok(mut entries) => !entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
