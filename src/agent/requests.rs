//! What people ask of this agent: taken from the REST API, kept until it is done or its time has come, answered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::agent::api::commands::Ask;
use crate::agent::schedule::Turn;
use crate::agent::view::{ReinitializeRequest, RequestId, RestartRequest};
use crate::cluster::UnixMs;
use crate::sys::clock;

impl Agent {
    pub(super) fn answer(&mut self, id: RequestId, done: bool) {
        if self.restart.as_ref().is_some_and(|(request, _)| request.id == id)
            && let Some((_, asker)) = self.restart.take()
        {
            // The asker may have gone.
            let _ = asker.send(done);
        }
        if self.reinitialize.as_ref().is_some_and(|request| request.id == id) {
            self.reinitialize = None;
        }
    }

    pub(super) fn take_asks(&mut self) {
        while let Ok(ask) = self.asks.try_recv() {
            self.take(ask);
        }
    }

    pub(super) fn take(&mut self, ask: Ask) {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        match ask {
            Ask::Restart { only_role, only_if_pending, done } => {
                self.restart = Some((RestartRequest { id, only_role, only_if_pending }, done));
            }
            Ask::Schedule { scheduled, done } => {
                let free = self.scheduled.is_none();
                if free {
                    self.scheduled = Some(scheduled);
                }
                // The asker may have gone.
                let _ = done.send(free);
            }
            Ask::Unschedule { done } => {
                let _ = done.send(self.scheduled.take().is_some());
            }
            Ask::Reinitialize { from_leader } => {
                self.reinitialize = Some(ReinitializeRequest { id, from_leader });
            }
            Ask::Reload => self.signals.reload.store(true, Ordering::Relaxed),
            Ask::Upgrade { done } => self.upgrade.ask(done),
            Ask::Look => {}
        }
    }

    /// Turns a scheduled restart whose time has come into a request.
    pub(super) fn take_scheduled(&mut self) {
        let Some(scheduled) = &self.scheduled else { return };
        let shown = self.shown.borrow().clone();
        let started = shown.as_ref().and_then(|shown| shown.extras.postmaster_start_time.as_deref());
        let version =
            shown.as_ref().and_then(|shown| shown.view.postgres.version).map_or(0, |version| version.0);
        let now = UnixMs(clock::wall().as_millisecond());
        let late_ms = i64::try_from((self.settings.loop_wait * 3 / 2).as_millis()).unwrap_or(i64::MAX);
        match scheduled.turn(now, late_ms, started, version) {
            Turn::Wait => return,
            Turn::Needless => tracing::info!("the scheduled restart is dropped: there is no need for it"),
            Turn::Late => tracing::warn!("the scheduled restart is dropped: its time has passed"),
            Turn::Now => {
                let (only_role, only_if_pending) = (scheduled.only_role, scheduled.only_if_pending);
                tracing::info!("the scheduled restart is due");
                // Nobody waits for its end.
                self.take(Ask::Restart { only_role, only_if_pending, done: oneshot::channel().0 });
            }
        }
        self.scheduled = None;
    }

    pub(super) fn until_scheduled(&self) -> Duration {
        let now = clock::wall().as_millisecond();
        self.scheduled.as_ref().map_or(Duration::MAX, |scheduled| {
            Duration::from_millis(u64::try_from(scheduled.at.0.saturating_sub(now)).unwrap_or(0))
        })
    }
}
