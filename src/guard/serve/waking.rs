//! What wakes the guard: the timer, signals, files, agents, the end of the server.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};

use crate::guard::agents::SEATS;
use crate::sys::clock::Tick;

use super::Guard;

/// What woke the guard. A server that ended is looked for in any case.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) timer: bool,
    pub(super) signals: bool,
    pub(super) listener: bool,
    pub(super) changes: bool,
    pub(super) agents: [bool; SEATS],
}

impl Guard {
    pub(super) fn set_timer(&self, next: Tick) -> io::Result<()> {
        // Zero would disarm it.
        let at = TimeSpec::from_duration(Duration::from_millis(next.0.max(1)));
        Ok(self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    pub(super) fn wait(&self) -> io::Result<Ready> {
        let mut fds = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 5 + SEATS];
        let fixed: [Option<BorrowedFd<'_>>; 5] = [
            Some(self.timer.as_fd()),
            Some(self.signals.as_fd()),
            Some(self.listener.as_fd()),
            Some(self.data.changes()),
            self.server.as_ref().map(|server| server.pidfd.as_fd()),
        ];
        for (slot, fd) in fds.iter_mut().zip(fixed.into_iter().chain(self.agents.descriptors())) {
            slot.fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        }
        wait_for(&mut fds)?;
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| fd.revents != 0);
        let mut agents = [false; SEATS];
        for (seat, ready) in agents.iter_mut().enumerate() {
            *ready = is_ready(5 + seat);
        }
        Ok(Ready {
            timer: is_ready(0),
            signals: is_ready(1),
            listener: is_ready(2),
            changes: is_ready(3),
            agents,
        })
    }
}

#[expect(unsafe_code, reason = "nix's poll wants borrowed descriptors for every slot, and some are empty")]
fn wait_for(fds: &mut [libc::pollfd]) -> io::Result<()> {
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: the kernel reads and writes the given number of structures.
    let done = unsafe { libc::poll(fds.as_mut_ptr(), count, -1) };
    if done >= 0 || Errno::last() == Errno::EINTR { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGPIPE] {
        set.add(signal);
    }
    // Exactly these: the program before may have blocked more.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}
