//! What this agent leaves to the program that it becomes by exec: its lease, its line to the guard, its listening
//! sockets.
//!
//! Durable: an agent of another version may read it. A program that does not know the version, or cannot read the
//! document, takes the state file and etcd's word as after a crash ([`crate::agent::state`]).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::api::Door;
use crate::agent::lease::gate::Gate;
use crate::agent::lease::keeper::{Handed, Times};
use crate::agent::schedule::Scheduled;
use crate::agent::view::{Fence, LeaseId, Revision, Started};
use crate::cluster::UnixMs;
use crate::contract::config::AgentConfig;
use crate::guard::protocol::Hold;
use crate::sys::clock::Tick;
use crate::sys::successor::{Estate, Inherited};

/// The version that this build writes and reads. Fields are only added, optional; anything else raises it.
pub(super) const VERSION: u32 = 1;

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    name: String,
    scope: String,
    listeners: Vec<RawFd>,
    guard: Option<Line>,
    lease: Option<Lease>,
    times: [u64; 3],
    scheduled: Option<Restart>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    fd: RawFd,
    next_id: u64,
    hold: Option<Hold>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Lease {
    id: i64,
    asked_ms: u64,
    lasts_ms: u64,
    sent: Tick,
    /// Of the leader key; absent where this member does not lead.
    create_revision: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Restart {
    at: i64,
    /// True: only a primary. False: only a replica.
    only_primary: Option<bool>,
    only_if_pending: bool,
    older_than: Option<u32>,
    asked: Map<String, Value>,
    started: Option<String>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Lease {
    fn of(handed: Handed) -> Lease {
        Lease {
            id: handed.id.0,
            asked_ms: millis(handed.asked),
            lasts_ms: millis(handed.lasts),
            sent: handed.sent,
            create_revision: handed.fence.map(|fence| fence.create_revision.0),
        }
    }

    fn handed(self) -> Handed {
        let id = LeaseId(self.id);
        let fence = |revision| Fence { lease: id, create_revision: Revision(revision) };
        Handed {
            id,
            asked: Duration::from_millis(self.asked_ms),
            lasts: Duration::from_millis(self.lasts_ms),
            sent: self.sent,
            fence: self.create_revision.map(fence),
        }
    }
}

impl Restart {
    fn of(scheduled: &Scheduled) -> Restart {
        Restart {
            at: scheduled.at.0,
            only_primary: scheduled.only_role.map(|role| role == Started::Primary),
            only_if_pending: scheduled.only_if_pending,
            older_than: scheduled.older_than,
            asked: scheduled.asked.clone(),
            started: scheduled.started.clone(),
        }
    }

    fn scheduled(self) -> Scheduled {
        let role = |primary| if primary { Started::Primary } else { Started::Replica };
        Scheduled {
            at: UnixMs(self.at),
            only_role: self.only_primary.map(role),
            only_if_pending: self.only_if_pending,
            older_than: self.older_than,
            asked: self.asked,
            started: self.started,
        }
    }
}

/// What is handed over besides descriptors.
pub(super) struct Legacy<'a> {
    pub(super) config: &'a AgentConfig,
    pub(super) lease: Option<Handed>,
    pub(super) times: Times,
    pub(super) scheduled: Option<&'a Scheduled>,
}

impl Document {
    /// Writes the document, and gives the descriptors that it names to `estate`.
    ///
    /// # Errors
    /// The process has as many descriptors as it may have.
    pub(super) async fn write(
        legacy: &Legacy<'_>,
        gate: &Gate,
        door: &Door,
        estate: &mut Estate,
    ) -> std::io::Result<Document> {
        let line = gate.give(estate).await?;
        let listeners = door.listeners().map(|listener| estate.give(listener.as_fd()));
        Ok(Document {
            name: legacy.config.name.clone(),
            scope: legacy.config.scope.clone(),
            listeners: listeners.collect::<std::io::Result<_>>()?,
            guard: line.map(|(fd, next_id)| Line { fd, next_id, hold: gate.held() }),
            lease: legacy.lease.map(Lease::of),
            times: [legacy.times.ttl, legacy.times.loop_wait, legacy.times.retry_timeout].map(millis),
            scheduled: legacy.scheduled.map(Restart::of),
        })
    }
}

/// What the program before has left.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) listeners: Vec<(SocketAddr, TcpListener)>,
    /// The connection to the guard, the number of its next ask, and what was shown there.
    pub(super) guard: Option<(OwnedFd, u64, Option<Hold>)>,
    pub(super) lease: Option<Handed>,
    pub(super) times: Times,
    pub(super) scheduled: Option<Scheduled>,
}

impl Received {
    /// Takes what the program before left to a member of this name; None where there was none, or none like it.
    pub(super) fn take(config: &AgentConfig) -> Option<Received> {
        let inherited = Inherited::receive()?;
        let version = inherited.version();
        match Received::read(inherited, config) {
            Ok(received) => Some(received),
            Err(why) => {
                tracing::warn!(
                    version,
                    "what the program before left is of no use, {why}: the state file counts"
                );
                None
            }
        }
    }

    fn read(mut inherited: Inherited, config: &AgentConfig) -> Result<Received, String> {
        if inherited.version() != VERSION {
            return Err(format!("this program reads version {VERSION}"));
        }
        let document: Document = inherited.body().map_err(|error| error.to_string())?;
        if document.name != config.name || document.scope != config.scope {
            return Err(format!("it is of member {} of {}", document.name, document.scope));
        }
        let listeners = document.listeners.iter().filter_map(|fd| {
            let listener = TcpListener::from(inherited.take(*fd)?);
            Some((listener.local_addr().ok()?, listener))
        });
        let listeners = listeners.collect();
        let guard = document.guard.and_then(|line| Some((inherited.take(line.fd)?, line.next_id, line.hold)));
        let [ttl, loop_wait, retry_timeout] = document.times.map(Duration::from_millis);
        Ok(Received {
            listeners,
            guard,
            lease: document.lease.map(Lease::handed),
            times: Times { ttl, loop_wait, retry_timeout },
            scheduled: document.scheduled.map(Restart::scheduled),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it.
    const FIRST: &str = r#"{"name":"a","scope":"demo","listeners":[11],"guard":{"fd":10,"next_id":7,
        "hold":{"lease":5,"create_revision":9}},"lease":{"id":5,"asked_ms":6000,"lasts_ms":6000,"sent":1000,
        "create_revision":9},"times":[6000,1000,3000],"scheduled":{"at":1,"only_primary":false,
        "only_if_pending":true,"older_than":null,"asked":{},"started":"then"}}"#;

    #[test]
    fn a_document_of_the_first_version_is_read() {
        let document: Document = serde_json::from_str(FIRST).unwrap();

        let lease = document.lease.unwrap().handed();
        let fence = Fence { lease: LeaseId(5), create_revision: Revision(9) };
        assert_eq!((lease.sent, lease.fence), (Tick(1_000), Some(fence)));
        assert_eq!(Lease::of(lease).handed(), lease);
        let scheduled = document.scheduled.unwrap().scheduled();
        assert_eq!(scheduled.only_role, Some(Started::Replica));
        assert_eq!(Restart::of(&scheduled).scheduled(), scheduled);
    }
}
