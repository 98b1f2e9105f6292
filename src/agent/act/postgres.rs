//! What is done to the server. Whatever can make it writable is asked of the guard, which is the gate.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::act::preflight::Preflights;
use crate::agent::act::remote;
use crate::agent::act::restored;
use crate::agent::act::slots;
use crate::agent::birth::{self, Birth};
use crate::agent::decide::Action;
use crate::agent::instance::{Instance, sync_names_text};
use crate::agent::lease::gate::Gate;
use crate::agent::lease::keeper::Keeper;
use crate::agent::observe::configuration::{self, Kept};
use crate::agent::observe::dcs::DcsRead;
use crate::agent::observe::postgres::Observer;
use crate::agent::view::{Fence, Started, StopMode, Upstream, Verdict};
use crate::cluster::SyncNames;
use crate::contract::methods::split_words;
use crate::guard::client::GuardError;
use crate::guard::protocol::{self, Request, StartAs};
use crate::postgres::conf::{raise_to_primary, split};
use crate::postgres::postmaster::{Launch, argv, environment};
use crate::postgres::query::{QueryError, Session, connect};
use crate::postgres::{ProgramError, controldata, rewind, standby};
use crate::sys::clock;
use crate::sys::files::FileError;
use crate::sys::process::Program;

/// How long the guard may take to begin something.
const BEGIN: Duration = Duration::from_secs(5);

/// What an earlier server has left is ended by the guard within moments: a start that clients wait for asks again so
/// often, and for so long.
const LEFTOVERS_LOOK: Duration = Duration::from_millis(10);
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(2);

/// The longest that a checkpoint before a stop may hold up the loop; the checkpoint goes on without it.
const CHECKPOINT_BEFORE_STOP: Duration = Duration::from_secs(4);

/// The longest that the user's program before a stop may hold up the loop; the keeper and the guard go on meanwhile.
const BEFORE_STOP_LIMIT: Duration = Duration::from_secs(10);

/// The longest that a checkpoint in the background may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60 * 60);

/// After this long the guard goes on to the next mode by itself, should the agent be gone. After an immediate stop that
/// is the kill, which costs nothing more: a server that ends at all does so at once.
const FAST_LIMIT: Duration = Duration::from_secs(60 * 60);
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(2);

/// Why an action on the server failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("a configuration file cannot be written")]
    File(#[from] FileError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("a rewind was begun on this data and has not ended: half written, it is not started")]
    HalfRewound,
    #[error("the guard is armed under another fence")]
    Fenced,
    #[error("no member `{0}` is known to follow")]
    Unknown(String),
    #[error("the configuration names no cluster to follow")]
    NoRemote,
    #[error("there is no connection to Postgres")]
    NoSession,
    #[error("`{0}` has none of the logical slots that are missing here")]
    NoSlots(String),
}

impl ServerError {
    fn verdict(&self) -> Verdict {
        match self {
            ServerError::Fenced => Verdict::Fenced,
            ServerError::Guard(error) => match error.refusal() {
                Some(
                    protocol::Refusal::TooLate { .. }
                    | protocol::Refusal::NotArmed
                    | protocol::Refusal::LeaseDead { .. }
                    | protocol::Refusal::Displaced,
                ) => Verdict::Fenced,
                Some(_) => Verdict::Failed,
                None => Verdict::Unknown,
            },
            ServerError::Query(QueryError::Silent(_)) => Verdict::Unknown,
            ServerError::File(_)
            | ServerError::Query(_)
            | ServerError::Program(_)
            | ServerError::HalfRewound
            | ServerError::Unknown(_)
            | ServerError::NoSlots(_)
            | ServerError::NoRemote
            | ServerError::NoSession => Verdict::Failed,
        }
    }
}

/// Acts on the server through the guard and by SQL.
#[derive(Debug, Clone)]
pub struct ServerActor {
    pub gate: Gate,
    pub keeper: Keeper,
    pub preflights: Preflights,
}

/// What an action may look up, all of the same look.
#[derive(Debug)]
pub struct Site<'a> {
    pub instance: &'a Instance,
    pub observer: &'a mut Observer,
    pub read: &'a DcsRead,
}

impl ServerActor {
    /// Carries out `action` if it is one on the server or the gate; None: it is not.
    pub async fn run(&self, action: &Action, site: &mut Site<'_>) -> Option<Verdict> {
        let done = match action {
            Action::Arm { fence } => {
                return Some(match self.keeper.arm(*fence).await {
                    Ok(()) => Verdict::Done,
                    Err(error) => {
                        tracing::warn!(error = %crate::sys::chain(&error), "the guard is not armed");
                        Verdict::Failed
                    }
                });
            }
            Action::Disarm => return Some(told(self.keeper.disarm().await)),
            Action::ReleaseGate => return Some(told(self.keeper.release().await)),
            Action::StartPrimary { fence } => {
                site.observer.note_start(Started::Primary);
                self.start_primary(*fence, site).await
            }
            Action::StartReplica { upstream, archive } => {
                site.observer.note_start(Started::Replica);
                self.start_replica(upstream, *archive, site).await
            }
            Action::Promote { fence } => self.promote(*fence).await,
            Action::Stop { mode, checkpoint } => self.stop(*mode, *checkpoint, site).await,
            Action::Brake { on } => brake(*on, site).await,
            Action::Follow { upstream } => follow(upstream, site).await,
            Action::SetSyncNames { names } => set_sync_names(names, site).await,
            Action::KeepSlots { create, drop, advance } => slots::keep(create, drop, advance, site).await,
            Action::AskForWal { source } => slots::ask_for_wal(source, site),
            Action::AskRemote => {
                remote::ask(site);
                Ok(())
            }
            Action::FetchSlots { source, slots } => slots::fetch(source, slots, site).await,
            Action::Checkpoint => {
                checkpoint_in_background(site.instance);
                Ok(())
            }
            Action::Preflight { request } => {
                self.preflights.begin(*request, site.instance);
                Ok(())
            }
            Action::ApplyConfiguration => apply_configuration(site).await,
            _ => return None,
        };
        Some(match done {
            Ok(()) => Verdict::Done,
            Err(error) => {
                tracing::warn!(action = ?action.deed(), error = %crate::sys::chain(&error), "it did not work");
                error.verdict()
            }
        })
    }

    async fn start_primary(&self, fence: Fence, site: &mut Site<'_>) -> Result<(), ServerError> {
        if self.keeper.armed() != Some(fence) {
            return Err(ServerError::Fenced);
        }
        let (mut line, _) = split(&site.instance.parameters());
        if birth::read(site.instance.data_dir()) == Some(Birth::Restored) {
            restored::prepare(site.instance)?;
            let report = controldata::report(&site.instance.installation, site.instance.data_dir())?;
            raise_to_primary(&mut line, &report);
            return self.start(StartAs::Primary, site.instance, line).await;
        }
        let kept = Kept {
            recovery: configuration::recovery(site.instance, None),
            ..configuration::kept(site.instance)
        };
        configuration::write(site.instance, &kept)?;
        standby::unsignal(site.instance.data_dir())?;
        self.start(StartAs::Primary, site.instance, line).await
    }

    async fn start_replica(
        &self,
        upstream: &Upstream,
        archive: bool,
        site: &mut Site<'_>,
    ) -> Result<(), ServerError> {
        let instance = site.instance;
        let upstream = upstream_of(upstream, site)?;
        let mut recovery = configuration::recovery(instance, upstream.as_ref());
        if !archive {
            recovery.remove("restore_command");
        }
        let kept = Kept { recovery, braked: false, ..configuration::kept(instance) };
        write_passfile(instance)?;
        configuration::write(instance, &kept)?;
        standby::signal(instance.data_dir())?;
        slots::install(&site.observer.staged_slots(), instance)?;
        let (mut line, _) = split(&instance.parameters());
        let report = controldata::report(&instance.installation, instance.data_dir())?;
        for name in raise_to_primary(&mut line, &report) {
            tracing::info!(
                parameter = name,
                "started with the larger value of the primary; a restart is pending"
            );
        }
        self.start(StartAs::Replica, instance, line).await
    }

    async fn start(
        &self,
        start_as: StartAs,
        instance: &Instance,
        parameters: crate::postgres::conf::Parameters,
    ) -> Result<(), ServerError> {
        if rewind::half_done(instance.data_dir()).is_some() {
            return Err(ServerError::HalfRewound);
        }
        let launch = launch(instance, parameters);
        let request = Request::Start {
            start_as,
            argv: argv(&instance.installation, &launch),
            env: environment(std::env::vars()),
            output: None,
        };
        let asked = clock::now();
        loop {
            let Err(refused) = self.gate.ask(request.clone(), BEGIN).await else { return Ok(()) };
            let ending = matches!(refused.refusal(), Some(protocol::Refusal::StillEnding));
            if !ending || clock::now().since(asked) >= LEFTOVERS_LIMIT {
                return Err(refused.into());
            }
            tokio::time::sleep(LEFTOVERS_LOOK).await;
        }
    }

    async fn promote(&self, fence: Fence) -> Result<(), ServerError> {
        if self.keeper.armed() != Some(fence) {
            return Err(ServerError::Fenced);
        }
        self.gate.ask(Request::Promote, BEGIN).await?;
        Ok(())
    }

    async fn stop(&self, mode: StopMode, checkpoint: bool, site: &mut Site<'_>) -> Result<(), ServerError> {
        if checkpoint && let Some(session) = site.observer.session() {
            // What it leaves dirty is little: the shutdown checkpoint, during which nobody can write, is short.
            if let Err(error) = session.checkpoint(CHECKPOINT_BEFORE_STOP).await {
                tracing::info!(error = %crate::sys::chain(&error), "the checkpoint before the stop is not done yet");
            }
        }
        if mode == StopMode::Fast {
            before_stop(site.instance).await;
        }
        let (mode, limit) = match mode {
            StopMode::Fast => (protocol::StopMode::Fast, FAST_LIMIT),
            StopMode::Immediate => (protocol::StopMode::Immediate, IMMEDIATE_LIMIT),
        };
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.gate.ask(Request::Stop { mode, limit_ms }, BEGIN).await?;
        site.observer.note_stop(match mode {
            protocol::StopMode::Fast => StopMode::Fast,
            protocol::StopMode::Immediate | protocol::StopMode::Kill => StopMode::Immediate,
        });
        Ok(())
    }
}

/// Runs the user's program before the server is told to stop. Whatever it does, the stop goes on.
async fn before_stop(instance: &Instance) {
    let mut words =
        instance.before_stop().map(|command| split_words(&command)).unwrap_or_default().into_iter();
    let Some(program) = words.next() else {
        return;
    };
    match Program::new(program).args(words).limit(BEFORE_STOP_LIMIT).run_async().await {
        Ok(output) if output.exit.is_success() => {}
        Ok(output) => {
            tracing::warn!(exit = %output.exit, words = output.last_words(3), "before_stop failed");
        }
        Err(error) => {
            tracing::warn!(error = %crate::sys::chain(&error), "before_stop could not be run");
        }
    }
}

fn told(outcome: Result<(), crate::agent::lease::keeper::KeeperError>) -> Verdict {
    match outcome {
        Ok(()) => Verdict::Done,
        Err(error) => {
            tracing::warn!(error = %crate::sys::chain(&error), "the guard was not told");
            Verdict::Unknown
        }
    }
}

/// Returns the command line's part of a start.
pub fn launch(instance: &Instance, parameters: crate::postgres::conf::Parameters) -> Launch {
    let postgresql = &instance.config.postgresql;
    Launch {
        place: instance.place.clone(),
        listen_addresses: postgresql.listen.host.clone(),
        port: postgresql.listen.port,
        cluster_name: instance.config.scope.clone(),
        parameters,
    }
}

/// Writes the file by which replicas, copies and rewinds sign in.
///
/// # Errors
/// Its folder may not be written.
pub fn write_passfile(instance: &Instance) -> Result<(), FileError> {
    let postgresql = &instance.config.postgresql;
    let mut entries = Vec::new();
    let known = [Some(&postgresql.replication), postgresql.rewind.as_ref(), Some(&postgresql.superuser)];
    for credentials in known.into_iter().flatten() {
        if let Some(password) = &credentials.password {
            entries.push(standby::Password {
                host: "*".to_owned(),
                port: None,
                user: credentials.username.clone(),
                password: password.clone(),
            });
        }
    }
    standby::write_passfile(&postgresql.pgpass, &entries)
}

/// Returns the connection to an upstream; None: there is nobody to follow.
fn upstream_of(upstream: &Upstream, site: &Site<'_>) -> Result<Option<standby::Upstream>, ServerError> {
    let (name, slot) = match upstream {
        Upstream::Nobody => return Ok(None),
        Upstream::Remote { slot } => {
            let remote = site.instance.remote().ok_or(ServerError::NoRemote)?;
            return Ok(Some(standby::Upstream { slot: slot.clone(), ..remote }));
        }
        Upstream::Member { name, slot } => (name, slot),
        // Only ever seen, never asked for.
        Upstream::Other => return Err(ServerError::Unknown("of an unknown connection".to_owned())),
    };
    let place = site.read.documents.get(name).and_then(|document| document.host_port());
    let (host, port) = place.ok_or_else(|| ServerError::Unknown(name.as_str().to_owned()))?;
    let replication = &site.instance.config.postgresql.replication;
    Ok(Some(standby::Upstream {
        host,
        port,
        user: replication.username.clone(),
        passfile: Some(site.instance.passfile()),
        application_name: site.instance.config.name.clone(),
        options: replication.options.clone(),
        slot: slot.clone(),
    }))
}

pub(super) fn session(site: &Site<'_>) -> Result<Arc<Session>, ServerError> {
    site.observer.session().ok_or(ServerError::NoSession)
}

async fn follow(upstream: &Upstream, site: &mut Site<'_>) -> Result<(), ServerError> {
    let upstream = upstream_of(upstream, site)?;
    let kept = Kept {
        recovery: configuration::recovery(site.instance, upstream.as_ref()),
        ..configuration::kept(site.instance)
    };
    write_passfile(site.instance)?;
    configuration::write(site.instance, &kept)?;
    session(site)?.reload().await?;
    Ok(())
}

async fn set_sync_names(names: &SyncNames, site: &mut Site<'_>) -> Result<(), ServerError> {
    let kept = Kept { sync_names: sync_names_text(names), ..configuration::kept(site.instance) };
    configuration::write(site.instance, &kept)?;
    let session = session(site)?;
    session.reload().await?;
    if !session.is_in_recovery().await? {
        if let Err(error) = session.execute(MOVE_WAL_NOW).await {
            tracing::debug!(error = %crate::sys::chain(&error), "waiting commits are released with the next WAL");
        }
        session.execute(MOVE_WAL_SOON).await?;
    }
    Ok(())
}

/// A commit that waits for a standby is released at that one's next report, and standbys report when WAL moves. This
/// moves it and waits for no standby itself: a commit is flushed at once only where its transaction has written
/// something, and a restore point is what nobody else reads.
const MOVE_WAL_NOW: &str = "SET LOCAL synchronous_commit = 'local'; SELECT pg_catalog.txid_current();
    SELECT pg_catalog.pg_create_restore_point('synchronous_standby_names')";

/// The same with the next round of the WAL writer. The postmaster tells its children one after another: where it is kept
/// from running in between, this session has read the names and a WAL sender has not, and by the first WAL alone a commit
/// waits up to `wal_receiver_status_interval` longer. (5 ms between two of its signals are enough.)
const MOVE_WAL_SOON: &str =
    "BEGIN; SET LOCAL synchronous_commit = 'off'; SELECT pg_catalog.txid_current(); COMMIT";

/// Ends what has written in a transaction that began before clients were told to only read: it may go on writing.
const END_OLDER_WRITERS: &str = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() AND backend_xid IS NOT NULL
    AND xact_start <= pg_catalog.pg_conf_load_time() + '1 s'::pg_catalog.interval";

async fn brake(on: bool, site: &mut Site<'_>) -> Result<(), ServerError> {
    let kept = Kept { braked: on, ..configuration::kept(site.instance) };
    let changed = configuration::write_main(site.instance, &kept)?;
    let session = session(site)?;
    if changed || site.observer.brake_told() != Some(on) {
        session.reload().await?;
        site.observer.note_brake(on);
        match on {
            true => tracing::warn!("clients may only read until there is room"),
            false => tracing::info!("there is room: clients may write again"),
        }
    }
    if on {
        session.execute(END_OLDER_WRITERS).await?;
    }
    Ok(())
}

fn checkpoint_in_background(instance: &Instance) {
    let target = instance.target("Keddah checkpoint");
    tokio::spawn(async move {
        let done = async { connect(&target).await?.checkpoint(CHECKPOINT_LIMIT).await };
        if let Err(error) = done.await {
            tracing::warn!(error = %crate::sys::chain(&error), "the checkpoint failed");
        }
    });
}

async fn apply_configuration(site: &mut Site<'_>) -> Result<(), ServerError> {
    let kept = configuration::kept(site.instance);
    if configuration::write(site.instance, &kept)? {
        tracing::info!(
            "configuration files of Postgres differed from what the cluster wants; they are written again"
        );
        if let Some(session) = site.observer.session() {
            session.reload().await?;
        }
    }
    Ok(())
}
