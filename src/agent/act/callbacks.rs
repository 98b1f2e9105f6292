//! Tells the configured programs what happened: `PROGRAM ACTION ROLE SCOPE`, one at a time.
//!
//! Nobody waits for them. One that still runs when the next is due gets a moment, and is ended then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::agent::decide::action::{CallbackEvent, CallbackRole};
use crate::contract::config::AgentConfig;
use crate::contract::methods::split_words;
use crate::sys::process::{Leash, Program};

/// How long the one before may still run. A short program that was just begun ends in it; one that hangs must not keep
/// an address at the wrong host.
const GRACE: Duration = Duration::from_secs(1);

/// Runs callbacks.
#[derive(Debug, Clone, Default)]
pub struct Callbacks {
    /// Those of a reload end nobody else's.
    of_reload: Lane,
    others: Lane,
}

type Lane = Arc<Mutex<Option<Running>>>;

#[derive(Debug)]
struct Running {
    leash: Leash,
    /// Closed when it has ended.
    ended: oneshot::Receiver<()>,
}

impl Callbacks {
    /// Runs the callback of an event, without waiting for it.
    pub fn run(&self, config: &AgentConfig, event: CallbackEvent, role: CallbackRole) {
        let (action, lane) = match event {
            CallbackEvent::Start => ("on_start", &self.others),
            CallbackEvent::Stop => ("on_stop", &self.others),
            CallbackEvent::Restart => ("on_restart", &self.others),
            CallbackEvent::RoleChange => ("on_role_change", &self.others),
            CallbackEvent::Reload => ("on_reload", &self.of_reload),
        };
        let role = match role {
            CallbackRole::Primary => "primary",
            CallbackRole::Replica => "replica",
            CallbackRole::StandbyLeader => "standby_leader",
            CallbackRole::Demoted => "demoted",
        };
        let configured = config.postgresql.callbacks.iter().find(|(name, _)| name == action);
        let Some(mut words) = configured.map(|(_, command)| split_words(command).into_iter()) else {
            return;
        };
        let Some(program) = words.next() else {
            return;
        };
        let leash = Leash::default();
        let run = Program::new(program).args(words).args([action, role, config.scope.as_str()]).leash(&leash);
        let (end, ended) = oneshot::channel();
        let before = lane.lock().unwrap_or_else(PoisonError::into_inner).replace(Running { leash, ended });
        tokio::spawn(async move {
            if let Some(Running { leash, ended }) = before
                && tokio::time::timeout(GRACE, ended).await.is_err()
            {
                leash.end();
            }
            tell(run).await;
            drop(end);
        });
    }
}

async fn tell(run: Program) {
    let name = run.name();
    match run.run_async().await {
        Ok(output) if output.exit.is_success() => {}
        Ok(output) => {
            tracing::warn!(callback = name, exit = %output.exit, words = output.last_words(3), "a callback failed");
        }
        Err(error) => {
            tracing::warn!(callback = name, error = %crate::sys::chain(&error), "a callback could not be run");
        }
    }
}
