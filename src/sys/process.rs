//! The one door to other programs: a list of arguments and never a shell, an environment, a user, a time limit, capped output.
//!
//! The child has a process group of its own, so that a time limit ends what it started too. A program that leaves a daemon
//! behind which holds its standard output open does not hold up the caller: reading ends shortly after the child has.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::sys::clock::{self};

mod start;
mod talk;

pub use start::start;
use talk::{Kept, Talk, stop};

/// Most bytes of each output stream that are kept unless the caller says otherwise; the rest is dropped from the middle.
///
/// A failing `pg_basebackup` can print for hours; 64 KiB holds the first and last screenfuls, which is what people read.
const OUTPUT_KEPT_BYTES: usize = 64 * 1024;

/// The time limit of a program for which the caller names none: nothing may run for ever.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Folders that a login's `PATH` often lacks and administration needs.
const SYSTEM_FOLDERS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program to run. Nothing happens before [`Program::run`].
#[derive(Debug, Clone)]
pub struct Program {
    argv: Vec<OsString>,
    environment: BTreeMap<OsString, Option<OsString>>,
    folder: Option<PathBuf>,
    stdin: Vec<u8>,
    limit: Duration,
    idle_limit: Option<Duration>,
    kept_bytes: usize,
    leash: Option<Leash>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }

    /// Returns the number that a shell would show: the code, or 128 + the signal's number.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// What a program said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub took: Duration,
}

impl Output {
    /// Returns standard output as text, with what is not UTF-8 replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns standard error as text, with what is not UTF-8 replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns the last lines of what the program said, for an error message: of stderr, or of stdout if that is empty.
    pub fn last_words(&self, lines: usize) -> String {
        let text = if self.stderr.iter().all(u8::is_ascii_whitespace) {
            self.stdout_text()
        } else {
            self.stderr_text()
        };
        let all: Vec<&str> = text.trim_end().lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }
}

/// Why there is no [`Output`].
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("the program `{program}` is not on this host")]
    NotFound { program: String },
    #[error("`{program}` may not be started by this user")]
    NotAllowed {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{program}` could not be started")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{program}` did not end within {} s and was stopped; its last words: {last_words}", limit.as_secs())]
    TimedOut { program: String, limit: Duration, last_words: String },
    #[error("`{program}` did nothing for {} s and was stopped; its last words: {last_words}", limit.as_secs())]
    Hung { program: String, limit: Duration, last_words: String },
    #[error("talking to `{program}` failed")]
    Pipe {
        program: String,
        #[source]
        source: std::io::Error,
    },
}

impl Program {
    /// Names the program: an absolute path, or a name that is looked up in `PATH` and the system's folders.
    pub fn new(program: impl Into<OsString>) -> Program {
        let mut environment = BTreeMap::new();
        environment.insert(OsString::from("LC_ALL"), Some(OsString::from("C.UTF-8")));
        environment.insert(OsString::from("LANG"), Some(OsString::from("C.UTF-8")));
        Program {
            argv: vec![program.into()],
            environment,
            folder: None,
            stdin: Vec::new(),
            limit: LIMIT,
            idle_limit: None,
            kept_bytes: OUTPUT_KEPT_BYTES,
            leash: None,
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Program {
        self.argv.push(arg.into());
        self
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Program {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Program {
        self.environment.insert(name.into(), Some(value.into()));
        self
    }

    /// Takes a variable of this process away from the program.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Program {
        self.environment.insert(name.into(), None);
        self
    }

    /// Lets the program have a variable as this process has it.
    #[must_use]
    pub fn env_inherited(mut self, name: &str) -> Program {
        self.environment.remove(OsStr::new(name));
        self
    }

    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Program {
        self.folder = Some(folder.into());
        self
    }

    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.stdin = bytes.into();
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Program {
        self.limit = limit;
        self
    }

    /// Ends the program too where neither it nor what it started does anything for so long: it uses no CPU time, and
    /// reads, writes and says nothing.
    #[must_use]
    pub fn idle_limit(mut self, limit: Duration) -> Program {
        self.idle_limit = Some(limit);
        self
    }

    /// Sets how many bytes of each output stream are kept; what is over it is dropped from the middle.
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Program {
        self.kept_bytes = bytes;
        self
    }

    /// Returns the arguments as text, for messages and allow-lists.
    pub fn argv(&self) -> Vec<String> {
        self.argv.iter().map(|a| a.to_string_lossy().into_owned()).collect()
    }

    /// Returns the program's name as it was given.
    pub fn name(&self) -> String {
        self.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Lets `leash` end the program from another thread.
    pub fn leash(mut self, leash: &Leash) -> Program {
        self.leash = Some(leash.clone());
        self
    }

    fn hold(&self, group: Option<Pid>) {
        if let Some(leash) = &self.leash {
            leash.hold(group);
        }
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// It could not be started, or did not end within its limits. An exit status other than 0 is an [`Output`], not an error.
    pub fn run(&self) -> Result<Output, ProcessError> {
        let started = clock::now();
        let mut command = self.command();
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = start(&mut command).map_err(|source| self.start_error(source))?;
        let deadline = started + self.limit;
        self.hold(i32::try_from(child.id()).ok().map(Pid::from_raw));
        let (mut out, mut err) = (Kept::new(self.kept_bytes), Kept::new(self.kept_bytes));
        let talked = self.talk(&mut child, deadline, &mut out, &mut err);
        self.hold(None);
        let exit = match talked {
            Ok(Talk::Ended(status)) => Exit::from(status),
            Ok(Talk::TooLong) => {
                let (program, limit) = (self.name(), self.limit);
                return Err(ProcessError::TimedOut { program, limit, last_words: stop(child, err) });
            }
            Ok(Talk::Idle(limit)) => {
                let program = self.name();
                return Err(ProcessError::Hung { program, limit, last_words: stop(child, err) });
            }
            Err(source) => {
                drop(stop(child, err));
                return Err(ProcessError::Pipe { program: self.name(), source });
            }
        };
        Ok(Output { exit, stdout: out.take(), stderr: err.take(), took: clock::now().since(started) })
    }

    /// Runs the program to its end on a thread of the runtime's, so that an async caller goes on meanwhile.
    ///
    /// # Errors
    /// As [`Program::run`]; a runtime that is shutting down reads as a broken pipe.
    pub async fn run_async(self) -> Result<Output, ProcessError> {
        let program = self.name();
        match tokio::task::spawn_blocking(move || self.run()).await {
            Ok(done) => done,
            Err(error) => Err(ProcessError::Pipe { program, source: std::io::Error::other(error) }),
        }
    }

    /// Runs a program with which a person works, an editor say: it has this process's terminal, input and output, and takes
    /// as long as the person does.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run_for_a_person(&self) -> Result<Exit, ProcessError> {
        // In this process's group: a terminal stops a program that reads from it in a group of the background.
        let status = self.command().status().map_err(|source| self.start_error(source))?;
        Ok(Exit::from(status))
    }

    fn start_error(&self, source: std::io::Error) -> ProcessError {
        let program = self.name();
        match source.kind() {
            ErrorKind::NotFound if self.folder.as_ref().is_none_or(|f| f.is_dir()) => {
                ProcessError::NotFound { program }
            }
            ErrorKind::PermissionDenied => ProcessError::NotAllowed { program, source },
            _ => ProcessError::Start { program, source },
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    fn command(&self) -> std::process::Command {
        let program = self.argv.first().map_or(OsStr::new(""), OsString::as_os_str);
        let mut command = std::process::Command::new(program);
        command.args(self.argv.iter().skip(1));
        command.env("PATH", search_path());
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

/// Holds the process group of a program that runs, so that another thread can end all of it.
#[derive(Debug, Clone, Default)]
pub struct Leash(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    group: Option<Pid>,
    ended: bool,
}

impl Leash {
    /// Kills what is on the leash, now and from here on.
    pub fn end(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.ended = true;
        if let Some(group) = held.group {
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }

    fn hold(&self, group: Option<Pid>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.group = group;
        if held.ended
            && let Some(group) = group
        {
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

/// From now on this process ends quietly when it writes to a pipe that nobody reads any more, as programs that only
/// print do; Rust's own setting turns that into a panic of `println!`.
#[expect(unsafe_code, reason = "nix leaves it to the caller what a handler may do; the default has none")]
pub fn end_with_the_reader() {
    // SAFETY: the default action runs no code of this process.
    let _kept = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
}

/// Returns whether a program can be found, as [`Program::run`] would look for it.
pub fn is_installed(program: &str) -> bool {
    if program.contains('/') {
        return std::path::Path::new(program).is_file();
    }
    folder_of(program).is_some()
}

/// Returns the folder in which [`Program::run`] would find a program that is given by its name alone.
pub fn folder_of(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).find(|folder| folder.join(program).is_file())
}

fn search_path() -> OsString {
    let inherited = std::env::var_os("PATH");
    let mut folders: Vec<PathBuf> = inherited.iter().flat_map(std::env::split_paths).collect();
    for folder in SYSTEM_FOLDERS.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    std::env::join_paths(folders)
        .unwrap_or_else(|_colon_in_path| OsString::from("/usr/sbin:/usr/bin:/sbin:/bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_arguments_as_they_are_and_its_input() {
        let done = Program::new("sh")
            .args(["-c", "cat; printf '%s|' \"$@\"; exit 3", "x", "a b", "$c"])
            .stdin("in ")
            .run()
            .unwrap();

        assert_eq!(done.stdout_text(), "in a b|$c|");
        assert_eq!(done.exit, Exit::Code(3));
    }

    #[test]
    fn a_program_over_its_limit_is_ended_with_what_it_started() {
        let error = Program::new("sh")
            .args(["-c", "echo busy >&2; sleep 600 & wait"])
            .limit(Duration::from_secs(2))
            .run();

        let Err(ProcessError::TimedOut { last_words, .. }) = error else { panic!("{error:?}") };
        assert_eq!(last_words, "busy");
    }

    #[test]
    fn a_program_that_does_nothing_is_ended_and_one_that_works_is_not() {
        let limit = Duration::from_secs(2);
        let run = |line: &str| Program::new("sh").args(["-c", line]).idle_limit(limit).run();

        let hangs = run("echo waiting >&2; sleep 600 & wait");
        let works = run("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; done; echo done");

        let Err(ProcessError::Hung { last_words, .. }) = hangs else { panic!("{hangs:?}") };
        assert_eq!(last_words, "waiting");
        assert_eq!(works.unwrap().stdout_text(), "done\n");
    }

    #[test]
    fn a_daemon_that_keeps_the_output_open_does_not_hold_up_the_caller() {
        let done = Program::new("sh").args(["-c", "sleep 3 & echo started"]).run().unwrap();

        assert_eq!(done.stdout_text(), "started\n");
        assert!(done.took < Duration::from_secs(2), "{:?}", done.took);
    }

    #[test]
    fn of_much_output_the_first_and_last_bytes_are_kept() {
        let done = Program::new("seq").arg("100000").keep(64).run().unwrap();
        let text = done.stdout_text();

        assert!(
            text.starts_with("1\n2\n") && text.ends_with("99999\n100000\n") && text.contains("bytes dropped"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_is_said_by_name() {
        let error = Program::new("no-such-program-here").run().unwrap_err();

        assert_eq!(error.to_string(), "the program `no-such-program-here` is not on this host");
    }
}
