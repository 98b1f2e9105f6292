//! A pipe in the place of a watchdog device: what is written into it, and when.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use keddah::sys::clock::{self, Tick};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::User;

pub struct Device {
    pipe: File,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    written: String,
    last: Tick,
    longest: Duration,
}

impl Seen {
    /// Reads what is in the pipe, and notes when.
    fn take_from(&mut self, mut pipe: &File) {
        let mut bytes = [0; 64];
        while holds_something(pipe, PollTimeout::ZERO) {
            let count = pipe.read(&mut bytes).unwrap();
            let now = clock::now();
            if !self.written.is_empty() {
                self.longest = self.longest.max(now.since(self.last));
            }
            self.last = now;
            self.written.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

fn holds_something(pipe: &File, limit: PollTimeout) -> bool {
    let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, limit).is_ok_and(|ready| ready > 0)
}

impl Device {
    pub fn make(path: &Path, user: &User) -> Device {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        // Open for writing too, so that the reading end is there between two of the guard's openings.
        let pipe = File::options().read(true).write(true).open(path).unwrap();
        let device = Device { pipe: pipe.try_clone().unwrap(), seen: Arc::default() };
        let kept = device.seen.clone();
        std::thread::spawn(move || {
            while holds_something(&pipe, PollTimeout::NONE) {
                kept.lock().unwrap().take_from(&pipe);
            }
        });
        device
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap();
        // On a busy machine the thread is late; what is in the pipe has been written all the same.
        seen.take_from(&self.pipe);
        seen
    }

    /// Returns all that was ever written.
    pub fn written(&self) -> String {
        self.seen().written.clone()
    }

    /// Returns how often it was fed.
    pub fn meals(&self) -> usize {
        self.written().matches('1').count()
    }

    /// Returns the longest time between two writes.
    pub fn longest(&self) -> Duration {
        self.seen().longest
    }

    /// Returns when it was written to for the last time.
    pub fn last(&self) -> Tick {
        self.seen().last
    }
}
