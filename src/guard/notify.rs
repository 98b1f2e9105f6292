//! Telling systemd that the guard is ready and alive.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::sys::clock::Tick;

/// The way to the service manager; silent where there is none.
#[derive(Debug, Default)]
pub(super) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    every: Option<Duration>,
    last: Tick,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub(super) fn from_environment() -> Notify {
        let socket = std::env::var("NOTIFY_SOCKET").ok().and_then(|name| open(&name));
        let every = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|text| text.parse().ok())
            .map(|limit| Duration::from_micros(limit) / 3);
        Notify { socket, every, last: Tick(0) }
    }

    /// Tells whether a service manager started this process, and starts it again when it ends.
    pub(super) fn is_managed(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns the longest time between two signs of life.
    pub(super) fn every(&self) -> Option<Duration> {
        self.every
    }

    pub(super) fn ready(&self) {
        self.send(b"READY=1");
    }

    /// Gives a sign of life when one is due.
    pub(super) fn alive(&mut self, now: Tick) {
        if self.every.is_some_and(|every| now.since(self.last) >= every) {
            self.last = now;
            self.send(b"WATCHDOG=1");
        }
    }

    pub(super) fn ending(&self) {
        self.send(b"STOPPING=1");
    }

    fn send(&self, text: &[u8]) {
        if let Some((socket, address)) = &self.socket {
            // A full or absent manager is no reason to wait.
            let _refused = socket.send_to_addr(text, address);
        }
    }
}

fn open(name: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(hidden) => SocketAddr::from_abstract_name(hidden).ok()?,
        None => SocketAddr::from_pathname(name).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address))
}
