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
use crate::agent::view::Lease;
use crate::agent::{Agent, start};
use crate::guard::protocol::{Refusal, Request, Status};
use crate::guard::succession;
use crate::sys::children;
use crate::sys::process::Program;
use crate::sys::successor::Estate;

/// How long the new program may take to check itself.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// How long the guard may take to become another program.
const GUARD_LIMIT: Duration = Duration::from_secs(10);

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
    /// The guard may still run the program before.
    guard_due: bool,
    guard_check: Option<Check>,
}

/// The check that runs, and its outcome once it has one.
#[derive(Debug, Clone)]
struct Check {
    program: PathBuf,
    outcome: Arc<Mutex<Option<Result<(), String>>>>,
}

impl Upgrade {
    /// What a program begins with; one that has taken over brings the guard along.
    pub(super) fn new(has_taken_over: bool) -> Upgrade {
        Upgrade { guard_due: has_taken_over, ..Upgrade::default() }
    }

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
        let guard_due = self.guard_due;
        *self = Upgrade { refused: Some(reason), guard_due, ..Upgrade::default() };
    }
}

impl Check {
    /// Begins to check whether `program` could run with `arguments`; `wake` is told when it is done.
    fn begin(program: PathBuf, arguments: Vec<String>, wake: Arc<Notify>) -> Check {
        let check = Check { program, outcome: Arc::default() };
        let begun = check.clone();
        tokio::spawn(async move {
            let outcome = check_program(&begun.program, arguments).await;
            *begun.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            wake.notify_one();
        });
        check
    }

    fn outcome(&self) -> Option<Result<(), String>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the program with these arguments and the flag that makes it check itself.
async fn check_program(program: &Path, arguments: Vec<String>) -> Result<(), String> {
    let run = Program::new(program).args(arguments).arg(CHECK).env_remove("NOTIFY_SOCKET").limit(CHECK_LIMIT);
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
                    let arguments = std::env::args().skip(1).collect();
                    self.upgrade.check = Some(Check::begin(program, arguments, self.wake.clone()));
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

    /// A job would be lost with its hours, who asked for a restart would never be answered, and only one lease is handed
    /// over.
    fn waits_for_others(&mut self) -> bool {
        let changes = matches!(self.keeper.lease(), Lease::Held { next: Some(_), .. });
        let asked = self.restart.is_some() || self.reinitialize.is_some();
        let waits = self.jobs.is_running() || asked || changes;
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

    /// Has the guard become this program too, once this agent lives by it and what lies in its place is still the same.
    pub(super) async fn bring_guard_along(&mut self) {
        let seen = self.shown.borrow().is_some();
        let Some(status) = self.gate.last().filter(|_| self.upgrade.guard_due && seen) else { return };
        let outcome = match self.guards_next_step(&status).await {
            Ok(None) => return,
            Ok(Some(done)) => Ok(done),
            Err(reason) => Err(reason),
        };
        self.upgrade.guard_due = false;
        match outcome {
            Ok(done) => tracing::info!(pid = status.pid, "{done}"),
            Err(reason) => {
                let reason = format!("the guard goes on in its old program: {reason}");
                tracing::error!("{reason}");
                self.recorder.note(REFUSED, &reason);
                self.upgrade.refused = Some(reason);
            }
        }
    }

    /// Checks, then asks. Returns what came of it; None where it is not done yet.
    async fn guards_next_step(&mut self, status: &Status) -> Result<Option<&'static str>, String> {
        // Its real name: by another one the program would be something else.
        let program = children::own_program().and_then(|program| program.canonicalize());
        let program = program.map_err(|error| error.to_string())?;
        if children::runs(status.pid, &program) == Some(true) {
            return Ok(Some("the guard runs this program"));
        }
        if children::runs(std::process::id(), &program) != Some(true) {
            return Err("the program has been replaced since this agent took over".to_owned());
        }
        succession::follows(status.succession)?;
        let Some(check) = &self.upgrade.guard_check else {
            let guard = children::list().into_iter().find(|seen| u32::try_from(seen.pid) == Ok(status.pid));
            let arguments = guard.ok_or("its arguments cannot be seen")?.argv.into_iter().skip(1).collect();
            self.upgrade.guard_check = Some(Check::begin(program, arguments, self.wake.clone()));
            return Ok(None);
        };
        match check.outcome() {
            None => return Ok(None),
            Some(Err(reason)) => return Err(reason),
            Some(Ok(())) => {}
        }
        let request = Request::Upgrade { program: program.display().to_string() };
        match self.gate.ask(request, GUARD_LIMIT).await {
            Ok(_) => Ok(Some("the guard has become this program")),
            Err(error) => match error.refusal() {
                // Another moment is better.
                Some(Refusal::TooLate { .. } | Refusal::Stopping) => Ok(None),
                Some(Refusal::UnknownVerb) => {
                    Err("it is older than such an upgrade; restart its unit when Postgres may stop"
                        .to_owned())
                }
                Some(_) | None => Err(crate::sys::chain(&error)),
            },
        }
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
