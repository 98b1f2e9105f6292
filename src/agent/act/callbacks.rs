//! Tells the configured programs what happened: `PROGRAM ACTION ROLE SCOPE`, one at a time; the next one ends the one
//! before.

use std::path::Path;

use crate::agent::act::job::split_words;
use crate::agent::decide::action::{CallbackEvent, CallbackRole};
use crate::contract::config::AgentConfig;
use crate::sys::children;
use crate::sys::process::Program;

/// Runs the callback of an event, without waiting for it.
pub fn run(config: &AgentConfig, event: CallbackEvent, role: CallbackRole) {
    let action = match event {
        CallbackEvent::Start => "on_start",
        CallbackEvent::Stop => "on_stop",
        CallbackEvent::Restart => "on_restart",
        CallbackEvent::RoleChange => "on_role_change",
    };
    let role = match role {
        CallbackRole::Primary => "primary",
        CallbackRole::Replica => "replica",
        CallbackRole::Demoted => "demoted",
    };
    let configured = config.postgresql.callbacks.iter().find(|(name, _)| name == action);
    let Some(mut words) = configured.map(|(_, command)| split_words(command).into_iter()) else {
        return;
    };
    let Some(program) = words.next() else {
        return;
    };
    let all: Vec<&str> = config
        .postgresql
        .callbacks
        .iter()
        .filter_map(|(_, command)| Path::new(command.split_whitespace().next()?).file_name()?.to_str())
        .collect();
    children::end_children(&all);
    let run = Program::new(program).args(words).arg(action).arg(role).arg(config.scope.as_str());
    tokio::spawn(async move {
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
    });
}
