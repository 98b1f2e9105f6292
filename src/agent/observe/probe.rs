//! Positions of this very moment, for who asks the REST API.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::agent::instance::Instance;
use crate::agent::observe::facts::fill;
use crate::agent::shown::Shown;
use crate::agent::view::{PrimaryFacts, Process, ReplicaFacts, Running};
use crate::postgres::query::{Session, Target, connect};

/// Asks the server for its position at the moment of a question, on a connection of its own.
#[derive(Debug, Clone)]
pub struct Probe {
    target: Target,
    session: Arc<Mutex<Option<Arc<Session>>>>,
}

impl Probe {
    pub fn new(instance: &Instance) -> Probe {
        Probe { target: instance.target("Patroni restapi"), session: Arc::default() }
    }

    /// Returns the last look with positions of this moment; None where the server does not answer.
    pub async fn refresh(&self, shown: &Shown) -> Option<Shown> {
        shown.running()?;
        let mut slot = self.session.lock().await;
        let session = match slot.take().filter(|session| session.is_open()) {
            Some(session) => session,
            None => Arc::new(connect(&self.target).await.ok()?),
        };
        let seen = session.monitor().await.ok()?;
        *slot = Some(session);
        drop(slot);
        let mut fresh = shown.clone();
        fill(&mut fresh.extras, &seen);
        let running = match &mut fresh.view.postgres.process {
            Process::Running(running) => running,
            Process::Stopped
            | Process::Crashed
            | Process::Starting { .. }
            | Process::Unresponsive { .. }
            | Process::Stopping { .. } => return None,
        };
        *running = match (&*running, seen.in_recovery) {
            (Running::Replica(facts), true) => Running::Replica(ReplicaFacts {
                timeline: facts.timeline.max(seen.timeline),
                received: seen.received,
                replayed: seen.replayed.unwrap_or_default(),
                streaming: seen.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming"),
                ..facts.clone()
            }),
            (Running::Primary(facts), false) => Running::Primary(PrimaryFacts {
                timeline: seen.timeline,
                lsn: seen.flushed.unwrap_or_default(),
                ..facts.clone()
            }),
            // It has left recovery since the last look: the next look says so.
            (Running::Replica(_), false) | (Running::Primary(_), true) => return None,
        };
        Some(fresh)
    }
}
