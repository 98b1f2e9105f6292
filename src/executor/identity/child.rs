//! One child that does work as somebody: its start, the conversation with `sudo` or `doas` before it, what it is told after.
//!
//! Start at [`start`]. The child's first word is the marker; until then the program that starts it may ask for a password,
//! refuse or say nothing.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::executor::frame::{self, Begin, Down, Up};
use crate::executor::upload::Marker;
use crate::sys::clock;
use crate::sys::process;
use crate::sys::secret::Secret;

use super::{IdentityError, Order, Reply};

/// How long `sudo` may take until it either asks, refuses or starts the child. PAM stacks that ask a directory or delay
/// after a wrong password stay below it; a wrong password is not recognized by it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Most bytes of what `sudo` says that an error shows.
const SAID_BYTES: usize = 2048;

/// A child that does work as somebody.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    stdin: Arc<Mutex<ChildStdin>>,
    stdout: ChildStdout,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its input, for what must reach it while it works.
    pub(super) fn input(&self) -> Arc<Mutex<ChildStdin>> {
        Arc::clone(&self.stdin)
    }

    /// Has it do an order.
    ///
    /// # Errors
    /// It has ended: how, in words.
    pub(super) fn exchange(&mut self, order: Order) -> Result<Reply, String> {
        let sent = {
            let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
            frame::write(&mut *stdin, &Down::Work(order))
        };
        match sent.and_then(|()| frame::read::<Up<Reply>>(&mut self.stdout)) {
            Ok(Some(Up::Work(reply))) => Ok(reply),
            Ok(Some(Up::Need { .. })) => Err("it asked for a file, which it has no way to get".to_owned()),
            Ok(None) => Err(said(&self.said)),
            Err(error) => Err(format!("{error}; {}", said(&self.said))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child ends by itself when its input ends; it may be a program of root's that could not be ended from here.
        self.child.try_wait().ok();
    }
}

/// What to say and whom to name while a child starts.
pub(super) struct Ask<'a> {
    pub(super) program: &'a str,
    pub(super) login: &'a str,
    pub(super) user: &'a str,
    /// What the program says when it wants the password.
    pub(super) prompt: Option<(&'a Marker, &'a Secret)>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the door for children that live as long as the session and are spoken with all the while"
)]
pub(super) fn command(program: &OsString) -> Command {
    Command::new(program)
}

/// Starts the child and waits for its first word.
pub(super) fn start(mut command: Command, marker: &Marker, ask: &Ask<'_>) -> Result<Running, IdentityError> {
    let start_error = |why: String| IdentityError::Start { program: ask.program.to_owned(), why };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::start(&mut command).map_err(|error| start_error(error.to_string()))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = pipes else {
        return Err(start_error("a pipe is missing".to_owned()));
    };
    let mut told = Vec::new();
    let heard = listen(&mut stdin, &mut stdout, &mut stderr, &mut told, marker, ask);
    let words = || tail(&told);
    let (program, login, user) = (ask.program.to_owned(), ask.login.to_owned(), ask.user.to_owned());
    let failed = match heard {
        Ok(Heard::Ready) => {
            let begin = frame::write(&mut stdin, &Down::<Order>::Begin(Begin::default()));
            begin.map_err(|error| start_error(error.to_string()))?;
            let said = Arc::new(Mutex::new(told));
            drain_in_background(stderr, Arc::clone(&said));
            return Ok(Running { child, stdin: Arc::new(Mutex::new(stdin)), stdout, said });
        }
        Ok(Heard::AskedAgain) => IdentityError::WrongPassword { program, login, user, said: words() },
        Ok(Heard::Ended) => {
            // Its status comes with the end of its output; it says nothing that its words do not.
            child.wait().ok();
            let words = words();
            // A policy of one try does not ask again.
            if ask.prompt.is_some() && words.contains("incorrect password") {
                IdentityError::WrongPassword { program, login, user, said: words }
            } else {
                IdentityError::Refused { program, login, user, said: words }
            }
        }
        Ok(Heard::Nothing) => {
            IdentityError::Silent { program, seconds: START_LIMIT.as_secs(), said: words() }
        }
        Err(error) => start_error(error.to_string()),
    };
    // sudo ends when its input does, or is ended where that is allowed.
    drop(stdin);
    child.kill().ok();
    Err(failed)
}

enum Heard {
    Ready,
    AskedAgain,
    Ended,
    Nothing,
}

/// Listens to both outputs until the child is ready or something ends the wait; gives the password when it is asked for.
fn listen(
    stdin: &mut ChildStdin,
    stdout: &mut ChildStdout,
    stderr: &mut ChildStderr,
    told: &mut Vec<u8>,
    marker: &Marker,
    ask: &Ask<'_>,
) -> io::Result<Heard> {
    let ready = format!("{} ready\n", marker.as_str()).into_bytes();
    let deadline = clock::now() + START_LIMIT;
    let mut heard = Vec::new();
    let mut given = false;
    let mut stderr_open = true;
    loop {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return Ok(Heard::Nothing);
        }
        let mut fds = vec![PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        if stderr_open {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, limit) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let is_readable = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any().unwrap_or(true));
        let (out, err) = (is_readable(fds.first()), is_readable(fds.get(1)));
        if err {
            stderr_open = take(stderr, told)? > 0;
            if let Some((prompt, password)) = ask.prompt
                && cut(told, prompt.as_str().as_bytes())
            {
                if given {
                    return Ok(Heard::AskedAgain);
                }
                given = true;
                stdin.write_all(password.reveal().as_bytes())?;
                stdin.write_all(b"\n")?;
                stdin.flush()?;
            }
        }
        if out {
            if take(stdout, &mut heard)? == 0 {
                // What it said last may still be in the other pipe.
                while stderr_open && take(stderr, told)? > 0 {}
                return Ok(Heard::Ended);
            }
            if heard.windows(ready.len()).any(|window| window == ready) {
                return Ok(Heard::Ready);
            }
        }
    }
}

fn take(from: &mut impl Read, to: &mut Vec<u8>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(length) => {
                to.extend_from_slice(bytes.get(..length).unwrap_or_default());
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the first `wanted` out of `text`, if it is there.
fn cut(text: &mut Vec<u8>, wanted: &[u8]) -> bool {
    let found = text.windows(wanted.len()).position(|window| window == wanted);
    if let Some(at) = found {
        text.drain(at..at + wanted.len());
    }
    found.is_some()
}

fn drain_in_background(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stderr.read(&mut bytes) {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(bytes.get(..length).unwrap_or_default());
            let surplus = said.len().saturating_sub(SAID_BYTES);
            said.drain(..surplus);
        }
    });
}

fn said(bytes: &Mutex<Vec<u8>>) -> String {
    tail(&bytes.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns the last lines in one.
fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(SAID_BYTES);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "(nothing)".to_owned() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_taken_out_of_what_was_said_once() {
        let mut text = b"lecture PROMPTSorry PROMPT".to_vec();
        assert!(cut(&mut text, b"PROMPT"));
        assert_eq!(text, b"lecture Sorry PROMPT");
    }
}
