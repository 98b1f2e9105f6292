//! Talking to a child: its input, its output, and its end.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ExitStatus};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::sys::clock::{self, Tick};
use crate::sys::progress::Progress;

use super::Program;

/// How long a program that is over its limit has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How long output is read on after the child has ended, for what is still in the pipe and for its own children's last words.
const LINGER: Duration = Duration::from_millis(300);

/// How many lines of what a program said are its last words when it is ended.
const LAST_LINES: usize = 5;

impl Program {
    /// Feeds and reads the child until it has ended or is over a limit.
    pub(super) fn talk(
        &self,
        child: &mut Child,
        deadline: Tick,
        out: &mut Kept,
        err: &mut Kept,
    ) -> std::io::Result<Talk> {
        let mut stdin = child.stdin.take();
        let mut to_write = self.stdin.as_slice();
        let mut stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        for fd in [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ] {
            fd.map_or(Ok(()), never_block)?;
        }
        let mut progress = self.idle_limit.map(|limit| (limit, Progress::of(child.id(), limit)));
        let mut ended: Option<(ExitStatus, Tick)> = None;
        let mut wait_ms: u16 = 1;
        loop {
            let mut moved = feed(&mut stdin, &mut to_write);
            moved |= drain(&mut stdout, out)?;
            moved |= drain(&mut stderr, err)?;
            if ended.is_none() {
                ended = child.try_wait()?.map(|status| (status, clock::now()));
            }
            if let Some((status, at)) = ended
                && ((stdout.is_none() && stderr.is_none()) || (!moved && clock::now().since(at) >= LINGER))
            {
                return Ok(Talk::Ended(status));
            }
            if ended.is_none() && clock::now() >= deadline {
                return Ok(Talk::TooLong);
            }
            if let Some((limit, progress)) = progress.as_mut().filter(|_| ended.is_none())
                && progress.idle(moved) >= *limit
            {
                return Ok(Talk::Idle(*limit));
            }
            wait_ms = if moved { 1 } else { (wait_ms * 2).min(50) };
            let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
            fds.extend(stdout.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
            fds.extend(stderr.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
            fds.extend(stdin.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLOUT)));
            match poll(&mut fds, PollTimeout::from(wait_ms)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// How talking to a child ended.
pub(super) enum Talk {
    Ended(ExitStatus),
    TooLong,
    Idle(Duration),
}

/// Ends a child that is over a limit, and whatever else is in its process group; returns the end of what it said.
pub(super) fn stop(mut child: Child, mut said: Kept) -> String {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    // A group that is gone already is what is wanted.
    let _gone = killpg(group, Signal::SIGTERM);
    let until = clock::now() + GRACE;
    while clock::now() < until && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _gone = killpg(group, Signal::SIGKILL);
    let _reaped = child.wait();
    let _read = drain(&mut child.stderr.take(), &mut said);
    let said = String::from_utf8_lossy(&said.take()).trim().to_owned();
    let lines: Vec<&str> = said.lines().collect();
    match lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default() {
        [] => "(none)".to_owned(),
        last => last.join("\n"),
    }
}

fn never_block(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Writes what the pipe takes; closes it when all is written or nobody reads. Returns whether anything moved.
fn feed(stdin: &mut Option<ChildStdin>, to_write: &mut &[u8]) -> bool {
    let Some(pipe) = stdin.as_mut() else { return false };
    match pipe.write(to_write) {
        Ok(written) => *to_write = to_write.get(written..).unwrap_or_default(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
        // A program that does not read all of its input is its own business; its exit status tells.
        Err(_closed) => *to_write = &[],
    }
    if to_write.is_empty() {
        *stdin = None;
    }
    true
}

/// Reads what the pipe holds; drops it at its end. Returns whether anything moved.
fn drain<R: Read>(pipe: &mut Option<R>, kept: &mut Kept) -> std::io::Result<bool> {
    let mut moved = false;
    let mut buffer = [0_u8; 16 * 1024];
    while let Some(stream) = pipe.as_mut() {
        match stream.read(&mut buffer) {
            Ok(0) => {
                *pipe = None;
                moved = true;
            }
            Ok(count) => {
                kept.add(buffer.get(..count).unwrap_or_default());
                moved = true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

/// The first and last halves of a stream.
#[derive(Debug)]
pub(super) struct Kept {
    half: usize,
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    dropped: usize,
}

impl Kept {
    pub(super) fn new(bytes: usize) -> Kept {
        Kept { half: bytes / 2, head: Vec::new(), tail: std::collections::VecDeque::new(), dropped: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let over = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..over);
        self.dropped += over;
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.head);
        if self.dropped > 0 {
            all.extend_from_slice(format!("\n[... {} bytes dropped ...]\n", self.dropped).as_bytes());
        }
        all.extend(std::mem::take(&mut self.tail));
        all
    }
}
