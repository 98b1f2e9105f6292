//! A pipe in the place of a watchdog device: what is written into it, and when.

use std::io::Read;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keddah::sys::clock::{self, Tick};
use nix::unistd::User;

#[derive(Default)]
pub struct Device {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    written: String,
    last: Tick,
    longest: Duration,
}

impl Device {
    pub fn make(path: &Path, user: &User) -> Device {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let device = Device::default();
        // Open for writing too, so that the reading end is there between two of the guard's openings.
        let mut pipe = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let kept = device.seen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok(count) = pipe.read(&mut bytes) {
                let (mut seen, now) = (kept.lock().unwrap(), clock::now());
                if !seen.written.is_empty() {
                    seen.longest = seen.longest.max(now.since(seen.last));
                }
                seen.last = now;
                seen.written.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        device
    }

    /// Returns all that was ever written.
    pub fn written(&self) -> String {
        self.seen.lock().unwrap().written.clone()
    }

    /// Returns how often it was fed.
    pub fn meals(&self) -> usize {
        self.written().matches('1').count()
    }

    /// Returns the longest time between two writes.
    pub fn longest(&self) -> Duration {
        self.seen.lock().unwrap().longest
    }

    /// Returns when it was written to for the last time.
    pub fn last(&self) -> Tick {
        self.seen.lock().unwrap().last
    }
}
