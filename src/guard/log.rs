//! One line per event on standard error, which never holds up the guard.

use std::fmt::{self, Write as _};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::clock;

/// A pipe that is ready takes so many bytes without blocking (POSIX's `PIPE_BUF` is larger).
const LINE_BYTES_MAX: usize = 512;

/// A line that is being put together; what is too long is cut.
struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte is kept for the end of the line.
        let space = LINE_BYTES_MAX - 1 - self.length;
        let taken = text.as_bytes().get(..text.len().min(space)).unwrap_or_default();
        if let Some(room) = self.bytes.get_mut(self.length..self.length + taken.len()) {
            room.copy_from_slice(taken);
            self.length += taken.len();
        }
        Ok(())
    }
}

/// Writes a line if standard error takes it at once; otherwise the line is lost rather than the moment.
pub(super) fn line(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES_MAX], length: 0 };
    // Writing to a Line does not fail.
    let _ = write!(line, "{:.3} guard[{}]: {text}", clock::wall(), std::process::id());
    if let Some(end) = line.bytes.get_mut(line.length) {
        *end = b'\n';
    }
    let stderr = std::io::stderr();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        let _lost = nix::unistd::write(&stderr, line.bytes.get(..=line.length).unwrap_or_default());
    }
}

/// `say!("…")`: see [`line`].
macro_rules! say {
    ($($text:tt)*) => { $crate::guard::log::line(format_args!($($text)*)) };
}
pub(super) use say;
