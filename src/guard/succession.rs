//! What a guard leaves to the program that it becomes by exec: everything that its promise rests on.
//!
//! The server's parent is the process, which stays. A program that does not know the version of the document goes on
//! like a guard that finds a running server: it has the grace of an adoption until an agent arms it again.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::guard::agents::{Agents, Seat};
use crate::guard::gate::{Arm, Origin};
use crate::guard::instance::Process;
use crate::guard::log::say;
use crate::guard::protocol::ServerExit;
use crate::guard::server::{Server, Stamp};
use crate::guard::watchdog::{Leash, Watchdog};
use crate::sys::clock::Tick;
use crate::sys::successor::{Estate, Inherited};

/// The version that this build writes and reads. Fields are only added, optional; anything else raises it.
pub const VERSION: u32 = 1;

/// Tells whether this program can go on where a guard leaves off that hands over in `version`; one that does not say
/// so is of the first.
///
/// # Errors
/// It cannot, for the reason that is returned.
pub fn follows(version: Option<u32>) -> Result<(), String> {
    match version.unwrap_or(1) {
        VERSION => Ok(()),
        other => Err(format!(
            "it hands over in version {other}, and this program reads {VERSION}; restart its unit when Postgres may stop"
        )),
    }
}

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    lock: RawFd,
    listener: RawFd,
    seats: Vec<Seat>,
    /// Who asked for this: the seat, and the ask that is not answered yet.
    asked: (usize, u64),
    watchdog: Leash,
    arm: Arm,
    server: Option<Child>,
    last_exit: Option<ServerExit>,
    fence_off: bool,
    idle_since: Tick,
    oom_score: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Child {
    pid: i32,
    start_ticks: u64,
    pidfd: RawFd,
    child: bool,
    origin: Origin,
    baseline: Option<Stamp>,
    told: bool,
}

/// What is handed over.
pub(super) struct Legacy<'a> {
    pub(super) lock: &'a Flock<File>,
    pub(super) listener: &'a OwnedFd,
    pub(super) agents: &'a Agents,
    pub(super) asked: (usize, u64),
    pub(super) watchdog: &'a Watchdog,
    pub(super) arm: Arm,
    pub(super) server: Option<&'a Server>,
    pub(super) last_exit: Option<ServerExit>,
    pub(super) fence_off: bool,
    pub(super) idle_since: Tick,
    pub(super) oom_score: Option<String>,
}

impl Legacy<'_> {
    /// Executes `program` in the place of this one. Returns only if that failed.
    pub(super) fn execute(&self, program: &Path) -> std::io::Error {
        let mut estate = Estate::default();
        match self.write(&mut estate) {
            Ok(document) => {
                let arguments: Vec<String> = std::env::args().collect();
                estate.execute(program, &arguments, VERSION, &document)
            }
            Err(error) => error,
        }
    }

    fn write(&self, estate: &mut Estate) -> std::io::Result<Document> {
        let mut child = |server: &Server| {
            std::io::Result::Ok(Child {
                pid: server.process.pid.as_raw(),
                start_ticks: server.process.start_ticks,
                pidfd: estate.give(server.pidfd.as_fd())?,
                child: server.child,
                origin: server.origin,
                baseline: server.baseline,
                told: server.told,
            })
        };
        let server = self.server.map(&mut child).transpose()?;
        Ok(Document {
            lock: estate.give(self.lock.as_fd())?,
            listener: estate.give(self.listener.as_fd())?,
            seats: self.agents.give(estate)?,
            asked: self.asked,
            watchdog: self.watchdog.give(estate)?,
            arm: self.arm,
            server,
            last_exit: self.last_exit,
            fence_off: self.fence_off,
            idle_since: self.idle_since,
            oom_score: self.oom_score.clone(),
        })
    }
}

/// What the program before has left.
#[derive(Debug)]
pub struct Received {
    pub(super) lock: Flock<File>,
    pub(super) listener: OwnedFd,
    pub(super) agents: Agents,
    pub(super) asked: (usize, u64),
    pub(super) watchdog: Watchdog,
    pub(super) arm: Arm,
    pub(super) server: Option<Server>,
    pub(super) last_exit: Option<ServerExit>,
    pub(super) fence_off: bool,
    pub(super) idle_since: Tick,
    pub(super) oom_score: Option<String>,
}

/// How this process came to be.
#[derive(Debug)]
pub enum Birth {
    New,
    /// By exec, and the program before was a guard: this process is where it belongs.
    Successor(Option<Box<Received>>),
}

impl Birth {
    /// Finds out. Must be called once, before anything else opens descriptors.
    pub fn of_this_process() -> Birth {
        let Some(inherited) = Inherited::receive() else { return Birth::New };
        let version = inherited.version();
        let received = Received::read(inherited);
        if received.is_none() {
            say!(
                "what the program before left (version {version}) is of no use: the server is taken over as found"
            );
        }
        Birth::Successor(received.map(Box::new))
    }
}

impl Received {
    fn read(mut inherited: Inherited) -> Option<Received> {
        if inherited.version() != VERSION {
            return None;
        }
        let document: Document = inherited.body().ok()?;
        let lock = File::from(inherited.take(document.lock)?);
        let server = document.server.and_then(|child| {
            Some(Server {
                process: Process { pid: Pid::from_raw(child.pid), start_ticks: child.start_ticks },
                pidfd: inherited.take(child.pidfd)?,
                child: child.child,
                origin: child.origin,
                baseline: child.baseline,
                told: child.told,
            })
        });
        Some(Received {
            // Held by the open file, whoever has it: this only says so.
            lock: Flock::lock(lock, FlockArg::LockExclusiveNonblock).ok()?,
            listener: inherited.take(document.listener)?,
            agents: Agents::take(document.seats, &mut inherited),
            asked: document.asked,
            watchdog: Watchdog::take(document.watchdog, &mut inherited),
            arm: document.arm,
            server,
            last_exit: document.last_exit,
            fence_off: document.fence_off,
            idle_since: document.idle_since,
            oom_score: document.oom_score,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::protocol::Margins;

    /// As the first version wrote it.
    const FIRST: &str = r#"{"lock":10,"listener":11,"seats":[{"seat":0,"fd":12,"served":{"pid":7,
        "hold":{"lease":5,"create_revision":9}}}],"asked":[0,33],"watchdog":{"settings":null,"device":13,
        "timeout_ms":3000,"problem":null,"fed":900},"arm":{"armed":{"deadline":6000,
        "margins":{"fast_ms":1200,"immediate_ms":600,"kill_ms":300},"lease":5}},"server":{"pid":77,"start_ticks":88,
        "pidfd":14,"child":true,"origin":"primary","baseline":{"inode":3,"modified":[1,2]},"told":false},
        "last_exit":null,"fence_off":false,"idle_since":1,"oom_score":"0"}"#;

    #[test]
    fn a_document_of_the_first_version_is_read() {
        let document: Document = serde_json::from_str(FIRST).unwrap();

        assert_eq!(document.arm, Arm::Armed { deadline: Tick(6_000), margins: Margins::SHORTEST, lease: 5 });
        let compact: String = FIRST.split('\n').map(str::trim_start).collect();
        assert_eq!(serde_json::to_string(&document).unwrap(), compact);
    }

    #[test]
    fn a_guard_that_hands_over_in_another_version_is_left_in_its_program() {
        assert_eq!(follows(None), Ok(()));
        assert_eq!(follows(Some(VERSION)), Ok(()));
        let why = follows(Some(VERSION + 1)).unwrap_err();
        assert!(why.contains(&format!("version {}", VERSION + 1)), "{why}");
    }
}
