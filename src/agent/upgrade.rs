//! Becoming the program that lies where this one lay: it is checked in a process of its own, and then executed in place
//! of this one, with the lease, the line to the guard and the listening sockets.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use crate::agent::handover::{self, Document, Legacy};
use crate::agent::lease::keeper::Handed;
use crate::agent::look::times;
use crate::agent::shown::Shown;
use crate::agent::{Agent, start};
use crate::guard::protocol::Status;
use crate::sys::children;
use crate::sys::process::Program;
use crate::sys::successor::Estate;

/// How long the new program may take to check itself.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// The flag with which a program checks itself, beside the arguments that it will be executed with.
const CHECK: &str = "--check";

/// The name under which `keddah explain` knows a refusal.
const REFUSED: &str = "UpgradeRefused";

/// Who is told of the outcome.
type Asker = oneshot::Sender<Result<(), String>>;

/// An upgrade that was asked for, and what became of the last one.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    asked: bool,
    askers: Vec<Asker>,
    check: Option<Check>,
    refused: Option<String>,
    /// That something is waited for has been said.
    told: bool,
}

/// The check that runs, and its outcome once it has one.
#[derive(Debug, Clone)]
struct Check {
    program: PathBuf,
    outcome: Arc<Mutex<Option<Result<(), String>>>>,
}

impl Upgrade {
    pub(super) fn ask(&mut self, asker: Asker) {
        self.asked = true;
        self.askers.push(asker);
    }

    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    fn refuse(&mut self, reason: String) {
        for asker in self.askers.drain(..) {
            // The asker may have gone.
            let _ = asker.send(Err(reason.clone()));
        }
        *self = Upgrade { refused: Some(reason), ..Upgrade::default() };
    }
}

impl Check {
    /// Begins to check `program`; `wake` is told when it is done.
    fn begin(program: PathBuf, wake: Arc<Notify>) -> Check {
        let check = Check { program, outcome: Arc::default() };
        let begun = check.clone();
        tokio::spawn(async move {
            let outcome = check_program(&begun.program).await;
            *begun.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            wake.notify_one();
        });
        check
    }

    fn outcome(&self) -> Option<Result<(), String>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the program with the arguments of this one and the flag that makes it check itself.
async fn check_program(program: &Path) -> Result<(), String> {
    let arguments = std::env::args().skip(1).chain([CHECK.to_owned()]);
    let run = Program::new(program).args(arguments).env_remove("NOTIFY_SOCKET").limit(CHECK_LIMIT);
    let shown = program.display();
    match run.run_async().await {
        Ok(output) if output.exit.is_success() => Ok(()),
        Ok(output) => {
            Err(format!("{shown} does not pass its check ({}): {}", output.exit, output.last_words(5)))
        }
        Err(error) => Err(crate::sys::chain(&error)),
    }
}

/// Returns what `GET /upgrade` answers: whether agent and guard run the program that lies at its place.
pub(super) fn shown(shown: &Shown, guard: Option<&Status>) -> Value {
    let program = children::own_program().unwrap_or_default();
    let process = |pid: u32| json!({"pid": pid, "current": children::runs(pid, &program)});
    json!({
        "program": program,
        "version": env!("CARGO_PKG_VERSION"),
        "agent": process(std::process::id()),
        "guard": guard.map(|status| process(status.pid)),
        "refused": shown.upgrade_refused,
    })
}

impl Agent {
    /// Takes the next step of an upgrade. Returns only if this program goes on.
    pub(super) async fn follow_upgrade(&mut self) {
        self.upgrade.asked |= self.signals.execute.swap(false, Ordering::Relaxed);
        if !self.upgrade.asked || self.waits_for_others() {
            return;
        }
        let reason = match &self.upgrade.check {
            None => match children::own_program() {
                Ok(program) => {
                    tracing::info!(program = %program.display(), "the program is checked before it takes over");
                    self.upgrade.check = Some(Check::begin(program, self.wake.clone()));
                    return;
                }
                Err(error) => format!("the program cannot be found: {error}"),
            },
            Some(check) => match check.outcome() {
                None => return,
                Some(Err(reason)) => reason,
                Some(Ok(())) => {
                    let program = check.program.clone();
                    self.execute(&program).await
                }
            },
        };
        tracing::error!("the upgrade is refused, this program goes on: {reason}");
        self.recorder.note(REFUSED, &reason);
        self.upgrade.refuse(reason);
    }

    /// A job would be lost with its hours, and who asked for a restart would never be answered.
    fn waits_for_others(&mut self) -> bool {
        let waits = self.jobs.is_running() || self.restart.is_some() || self.reinitialize.is_some();
        if waits && !self.upgrade.told {
            tracing::info!("the upgrade waits for what is under way");
        }
        self.upgrade.told = waits;
        waits
    }

    /// Executes the checked program. Returns why it is not executed.
    async fn execute(&mut self, program: &Path) -> String {
        match start::read_config(&self.config_path) {
            Ok(config) if config.name != self.config.name || config.scope != self.config.scope => {
                return "name or scope of the configuration file have changed; they need a real restart"
                    .to_owned();
            }
            // What this program cannot read, the next one could: it has just checked it.
            Ok(_) | Err(_) => {}
        }
        self.keep_state();
        for asker in self.upgrade.askers.drain(..) {
            let _ = asker.send(Ok(()));
        }
        self.door.shut().await;
        let error = match self.keeper.hand_over().await {
            Ok(lease) => self.become_program(program, lease).await,
            Err(error) => format!("the lease cannot be handed over: {}", crate::sys::chain(&error)),
        };
        self.door.open();
        error
    }

    async fn become_program(&self, program: &Path, lease: Option<Handed>) -> String {
        let times = times(&self.settings);
        let legacy = Legacy { config: &self.config, lease, times, scheduled: self.scheduled.as_ref() };
        let mut estate = Estate::default();
        let error = match Document::write(&legacy, &self.gate, &self.door, &mut estate).await {
            Ok(document) => {
                let arguments: Vec<String> = std::env::args().collect();
                tracing::info!(program = %program.display(), "the program takes over");
                estate.execute(program, &arguments, handover::VERSION, &document)
            }
            Err(error) => error,
        };
        format!("{} cannot be executed: {error}", program.display())
    }
}
