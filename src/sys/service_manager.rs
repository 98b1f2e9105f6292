//! Telling systemd that this process is ready and alive.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::sys::clock::Tick;

/// The way to the service manager; silent where there is none.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    every: Option<Duration>,
    last: Tick,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn from_environment() -> ServiceManager {
        let socket = std::env::var("NOTIFY_SOCKET").ok().and_then(|name| open(&name));
        let every = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|text| text.parse().ok())
            .map(|limit| Duration::from_micros(limit) / 3);
        ServiceManager { socket, every, last: Tick(0) }
    }

    /// Tells whether a service manager started this process, and starts it again when it ends.
    pub fn is_managed(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns the longest time between two signs of life.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    pub fn ready(&self) {
        self.send(b"READY=1");
    }

    /// Gives a sign of life when one is due.
    pub fn alive(&mut self, now: Tick) {
        if self.every.is_some_and(|every| now.since(self.last) >= every) {
            self.last = now;
            self.send(b"WATCHDOG=1");
        }
    }

    pub fn ending(&self) {
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
