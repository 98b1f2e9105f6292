//! Going on in the background: the caller returns once the guard listens, or has said why it does not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

/// What became of this process.
#[derive(Debug)]
pub enum Side {
    /// The caller's: true where the other side is ready.
    Caller(bool),
    /// The one that goes on, in a session of its own.
    Background(Ready),
}

/// The way to tell the caller; dropped without a word, it means failure.
#[derive(Debug)]
pub struct Ready(OwnedFd);

impl Ready {
    /// Lets the caller return with success.
    pub fn tell(self) {
        // A caller that has gone need not be told.
        let _gone = File::from(self.0).write_all(b"1");
    }
}

/// Splits the process. What the background side prints goes to `log`, or nowhere.
///
/// Must be called while the process has one thread.
///
/// # Errors
/// The system refuses, or the log cannot be opened.
#[expect(unsafe_code, reason = "a process goes on in its child")]
pub fn split(log: Option<&Path>) -> io::Result<Side> {
    let path = log.unwrap_or(Path::new("/dev/null"));
    let mut options = File::options();
    let log = options.append(true).create(true).mode(0o600).open(path)?;
    let (heard, told) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: with one thread, the child is a whole process; commands make threads only after this.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(told);
            let mut answer = Vec::new();
            File::from(heard).read_to_end(&mut answer)?;
            Ok(Side::Caller(answer == b"1"))
        }
        ForkResult::Child => {
            drop(heard);
            setsid()?;
            dup2_stdin(File::open("/dev/null")?)?;
            dup2_stdout(&log)?;
            dup2_stderr(&log)?;
            Ok(Side::Background(Ready(told)))
        }
    }
}
