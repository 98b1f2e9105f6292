//! The one long-running job: making, copying, rewinding or recovering a data directory, and making the first roles.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::agent::act::postgres::{launch, write_passfile};
use crate::agent::act::remote;
use crate::agent::act::restored;
use crate::agent::birth::{self, Birth};
use crate::agent::instance::Instance;
use crate::agent::look::DYNAMIC_COPY;
use crate::agent::observe::dcs::DcsRead;
use crate::agent::view::{Job, JobFailure, JobReport, JobState, Origin};
use crate::cluster::{MemberName, Timeline};
use crate::contract::config::Credentials;
use crate::contract::methods::split_words;
use crate::postgres::basebackup::Source;
use crate::postgres::conf::split;
use crate::postgres::initdb::{Initdb, run_initdb};
use crate::postgres::postmaster::argv;
use crate::postgres::query::{QueryError, Session, connect};
use crate::postgres::rewind::{RecoveryError, RewindError};
use crate::postgres::users::{Purpose, Role, ensure, missing_rewind_grants};
use crate::postgres::{ProgramError, conf, controldata, rewind};
use crate::sys::children;
use crate::sys::clock;
use crate::sys::files::{self, FileError};
use crate::sys::process::{Leash, Output, ProcessError, Program};

/// The programs that jobs run.
pub const PROGRAMS: [&str; 5] = ["initdb", "pg_basebackup", "pg_rewind", "pg_receivewal", "postgres"];

/// Nothing is copied for longer.
pub(super) const COPY_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a rewind or a recovery alone may do nothing at least: a source with many files takes its time to name them.
const IDLE_LEAST: Duration = Duration::from_secs(300);
const POST_INIT_LIMIT: Duration = Duration::from_secs(3600);
/// Nobody can write meanwhile.
const PRE_PROMOTE_LIMIT: Duration = Duration::from_secs(300);

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Rewind(#[from] RewindError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot remove {0}")]
    Remove(PathBuf, #[source] std::io::Error),
    #[error("no member `{0}` is known to copy from")]
    Unknown(String),
    #[error("`{command}` ended with {exit}: {last_words}")]
    Command { command: String, exit: String, last_words: String },
    #[error("`{0}` ended well and left no database cluster")]
    NothingThere(String),
    #[error("the configuration names no cluster to copy")]
    NoRemote,
    #[error("no server of the other cluster is a primary")]
    NoRemotePrimary,
    #[error("the primary of the other cluster is not on timeline {expected} any more")]
    OtherTimeline { expected: Timeline },
    #[error("pg_control names no WAL file of its checkpoint")]
    NoLastWal,
    #[error("no method that makes a replica works without another member")]
    NoMethod,
    #[error("`{user}` is not let in at the source, so pg_rewind has not begun")]
    NotLetIn { user: String, source: QueryError },
    #[error("`{user}` may not call {missing} at the source, so pg_rewind has not begun")]
    NotGranted { user: String, missing: String },
    #[error("the copy needs {} MB at {}, where {} MB are free or would be without the data that is here, which is left alone",
        needed >> 20, path.display(), there >> 20)]
    NoRoom { path: PathBuf, needed: u64, there: u64 },
    #[error("the job was ended")]
    Cancelled,
}

impl JobError {
    fn why(&self) -> JobFailure {
        if let JobError::NoRoom { needed, there, .. } = self {
            return JobFailure::NoRoom { missing_mb: needed.saturating_sub(*there).div_ceil(1 << 20) };
        }
        match matches!(self, JobError::NotLetIn { .. } | JobError::NotGranted { .. }) {
            true => JobFailure::NotGranted,
            false => JobFailure::Transient,
        }
    }
}

/// Runs one job at a time.
#[derive(Debug, Clone)]
pub struct Jobs {
    report: Arc<Mutex<Option<JobReport>>>,
    task: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
    /// Ends the user's program that the job runs.
    leash: Arc<Mutex<Leash>>,
    wake: Arc<Notify>,
}

impl Jobs {
    pub fn new(wake: Arc<Notify>) -> Jobs {
        Jobs { report: Arc::default(), task: Arc::default(), leash: Arc::default(), wake }
    }

    /// Returns how the job stands. One that runs shows life by being there: its programs have limits of their own.
    pub fn report(&self) -> Option<JobReport> {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = report.as_mut()
            && report.state == JobState::Running
        {
            report.progressed = clock::now();
        }
        report.clone()
    }

    pub fn is_running(&self) -> bool {
        self.report().is_some_and(|report| report.state == JobState::Running)
    }

    /// Starts a job; returns false while another one runs.
    pub fn start(&self, job: &Job, instance: &Instance, read: &DcsRead) -> bool {
        if self.is_running() {
            return false;
        }
        let now = clock::now();
        let fresh = JobReport { job: job.clone(), started: now, progressed: now, state: JobState::Running };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        let leash = Leash::default();
        *self.leash.lock().unwrap_or_else(PoisonError::into_inner) = leash.clone();
        let work = Work { instance: instance.clone(), read: read.clone(), leash };
        let (jobs, job) = (self.clone(), job.clone());
        let task = tokio::spawn(async move {
            tracing::info!(job = job.name(), "a job begins");
            let outcome = Box::pin(work.run(&job)).await;
            let at = clock::now();
            let state = match outcome {
                Ok(()) => {
                    tracing::info!(job = job.name(), "the job is done");
                    JobState::Done { at }
                }
                Err(error) => {
                    tracing::error!(job = job.name(), error = %crate::sys::chain(&error), "the job failed");
                    JobState::Failed { at, why: error.why() }
                }
            };
            jobs.settle(state);
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        true
    }

    fn settle(&self, state: JobState) {
        if let Some(report) = self.report.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            report.state = state;
        }
        self.wake.notify_one();
    }

    /// Ends the job under way with all programs that it started.
    pub fn cancel(&self) {
        if !self.is_running() {
            return;
        }
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.leash.lock().unwrap_or_else(PoisonError::into_inner).end();
        children::end_children(&PROGRAMS);
        self.settle(JobState::Failed { at: clock::now(), why: JobFailure::Transient });
    }
}

pub(super) struct Work {
    pub(super) instance: Instance,
    read: DcsRead,
    pub(super) leash: Leash,
}

impl Work {
    async fn run(self, job: &Job) -> Result<(), JobError> {
        match job {
            Job::Initdb => self.blocking(Work::make).await,
            Job::PostBootstrap { .. } => self.post_bootstrap().await,
            Job::Clone { source, replaces } => {
                let sizes = self.size_of(&source.clone().into()).await;
                let (source, replaces) = (source.clone(), *replaces);
                self.blocking(move |work| work.copy_member(&source, replaces, sizes)).await
            }
            Job::CloneRemote { replaces } => {
                let sizes = if *replaces { self.size_of(&Origin::Remote).await } else { None };
                let replaces = *replaces;
                self.blocking(move |work| work.copy_remote(replaces, sizes)).await
            }
            Job::ArchiveLast { .. } => self.blocking(Work::archive_last).await,
            Job::Restore => self.blocking(|work| work.copy(None, false, None)).await,
            Job::PrePromote { .. } => self.pre_promote().await,
            Job::Rewind { source, timeline } => {
                self.may_rewind(source, *timeline).await?;
                let (source, timeline) = (source.clone(), *timeline);
                self.blocking(move |work| work.rewind(&source, timeline)).await
            }
            Job::CrashRecovery => self.blocking(Work::crash_recovery).await,
        }
    }

    async fn blocking(
        self,
        work: impl FnOnce(&Work) -> Result<(), JobError> + Send + 'static,
    ) -> Result<(), JobError> {
        tokio::task::spawn_blocking(move || work(&self)).await.unwrap_or(Err(JobError::Cancelled))
    }

    fn make(&self) -> Result<(), JobError> {
        match &self.instance.config.bootstrap.method {
            Some(method) => self.restore(method),
            None => self.initdb(),
        }
    }

    fn initdb(&self) -> Result<(), JobError> {
        let config = &self.instance.config;
        let what = Initdb {
            options: config.bootstrap.initdb.clone(),
            superuser: config.postgresql.superuser.username.clone(),
            password: config.postgresql.superuser.password.clone(),
        };
        run_initdb(&self.instance.installation, self.instance.data_dir(), &what)?;
        birth::begin(self.instance.data_dir(), Birth::Plain)?;
        Ok(())
    }

    pub(super) fn place(&self, member: &MemberName) -> Result<(String, u16), JobError> {
        let place = self.read.documents.get(member).and_then(|document| document.host_port());
        place.ok_or_else(|| JobError::Unknown(member.as_str().to_owned()))
    }

    pub(super) fn source(&self, name: &MemberName, user: &Credentials) -> Result<Source, JobError> {
        let (host, port) = self.place(name)?;
        Ok(Source {
            host,
            port,
            user: user.username.clone(),
            passfile: Some(self.instance.passfile()),
            options: user.options.clone(),
        })
    }

    fn rewind_user(&self) -> &Credentials {
        let postgresql = &self.instance.config.postgresql;
        postgresql.rewind.as_ref().unwrap_or(&postgresql.superuser)
    }

    /// Finds out before anything is begun whether the source lets pg_rewind read what it needs.
    async fn may_rewind(&self, source: &Origin, timeline: Timeline) -> Result<(), JobError> {
        let user = self.rewind_user();
        let session = match self.session_at(source, user, "Patroni rewind").await {
            Err(JobError::Query(error)) if matches!(error.sqlstate(), Some("28000" | "28P01")) => {
                return Err(JobError::NotLetIn { user: user.username.clone(), source: error });
            }
            other => other?,
        };
        if *source == Origin::Remote && session.timelines().await?.map(|(writes, _)| writes) != Some(timeline)
        {
            return Err(JobError::OtherTimeline { expected: timeline });
        }
        let user = user.username.clone();
        let missing = missing_rewind_grants(&session, &user).await?;
        match missing.is_empty() {
            true => Ok(()),
            false => Err(JobError::NotGranted { user, missing: missing.join(", ") }),
        }
    }

    /// Connects to where the data comes from, as this user.
    pub(super) async fn session_at(
        &self,
        origin: &Origin,
        user: &Credentials,
        application_name: &str,
    ) -> Result<Session, JobError> {
        match origin {
            Origin::Member(name) => {
                let target = self.instance.target_at(self.place(name)?, user, application_name);
                Ok(connect(&target).await?)
            }
            Origin::Remote => remote::primary(&self.instance, user, application_name).await,
        }
    }

    fn rewind(&self, origin: &Origin, timeline: Timeline) -> Result<(), JobError> {
        let instance = &self.instance;
        write_passfile(instance)?;
        let source = match origin {
            Origin::Member(name) => self.source(name, self.rewind_user())?,
            Origin::Remote => self.remote_primary(self.rewind_user())?,
        };
        let was_half_done = rewind::half_done(instance.data_dir()).is_some();
        rewind::begin(instance.data_dir(), timeline)?;
        let done = rewind::rewind(
            &instance.installation,
            &instance.place,
            &source,
            "postgres",
            instance.has_restore_command(),
            self.idle(),
        );
        if matches!(done, Err(RewindError::Untouched(_) | RewindError::Needless)) && !was_half_done {
            rewind::finish(instance.data_dir(), timeline)?;
        }
        done?;
        birth::end(instance.data_dir())?;
        if *origin == Origin::Remote {
            // What came along is the other cluster's.
            files::remove(&instance.data_dir().join(DYNAMIC_COPY))?;
        }
        rewind::finish(instance.data_dir(), timeline)?;
        Ok(())
    }

    /// Returns how long a program that brings the data back may do nothing: as long as a start of a primary.
    fn idle(&self) -> Duration {
        self.instance.primary_start_timeout.max(IDLE_LEAST)
    }

    /// Archives the WAL file of the shutdown checkpoint, as the server would have.
    fn archive_last(&self) -> Result<(), JobError> {
        let instance = &self.instance;
        let Some(command) = instance.archive_command() else {
            return Ok(());
        };
        let report = controldata::report(&instance.installation, instance.data_dir())?;
        let file = report.checkpoint_wal_file().ok_or(JobError::NoLastWal)?;
        let line = conf::archiver_line(&command, file);
        tracing::info!(file, "the last WAL of the former primary is archived");
        let run = Program::new("/bin/sh").args(["-c", &line]).folder(instance.data_dir()).leash(&self.leash);
        ended_well(command, &run.run()?)
    }

    fn crash_recovery(&self) -> Result<(), JobError> {
        let instance = &self.instance;
        let (line, _) = split(&instance.parameters());
        // Program and data directory are given by the job itself.
        let arguments: Vec<String> =
            argv(&instance.installation, &launch(instance, line)).into_iter().skip(3).collect();
        rewind::recover(&instance.installation, instance.data_dir(), &arguments, self.idle())?;
        Ok(())
    }

    async fn post_bootstrap(self) -> Result<(), JobError> {
        let postgresql = &self.instance.config.postgresql;
        let session = connect(&self.instance.target("Keddah bootstrap")).await?;
        let mut roles = vec![(Purpose::Superuser, &postgresql.superuser)];
        roles.push((Purpose::Replication, &postgresql.replication));
        roles.extend(postgresql.rewind.as_ref().map(|rewind| (Purpose::Rewind, rewind)));
        for (purpose, credentials) in roles {
            let role =
                Role { name: credentials.username.clone(), password: credentials.password.clone(), purpose };
            ensure(&session, &role).await?;
        }
        if let Some(command) = &self.instance.config.bootstrap.post_init {
            self.post_init(command).await?;
        }
        if birth::read(self.instance.data_dir()) == Some(Birth::Restored) {
            restored::settle(&self.instance)?;
            birth::begin(self.instance.data_dir(), Birth::Plain)?;
            session.reload().await?;
        }
        Ok(())
    }

    /// Runs the user's command before a promotion; it fails where the command does.
    async fn pre_promote(self) -> Result<(), JobError> {
        let Some(command) = self.instance.pre_promote() else {
            return Ok(());
        };
        let mut words = split_words(&command).into_iter();
        let Some(program) = words.next() else {
            return Ok(());
        };
        let run = Program::new(program).args(words).limit(PRE_PROMOTE_LIMIT).leash(&self.leash);
        ended_well(command, &run.run_async().await?)
    }

    /// Runs the user's command with a connection string appended; its words are split at blanks, quotes respected.
    async fn post_init(&self, command: &str) -> Result<(), JobError> {
        write_passfile(&self.instance)?;
        let mut words = split_words(command).into_iter();
        let Some(program) = words.next() else {
            return Ok(());
        };
        let postgresql = &self.instance.config.postgresql;
        let port = postgresql.listen.port;
        let (host, query) = match self.instance.host() {
            crate::postgres::query::Host::Socket(folder) => {
                (String::new(), format!("?host={}", folder.display()))
            }
            crate::postgres::query::Host::Name(name) => (name, String::new()),
        };
        let url = format!("postgres://{}@{host}:{port}/postgres{query}", postgresql.superuser.username);
        let output = Program::new(program)
            .args(words)
            .arg(url)
            .env("PGPASSFILE", self.instance.passfile())
            .env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0")
            .limit(POST_INIT_LIMIT)
            .leash(&self.leash)
            .run_async()
            .await?;
        ended_well(command.to_owned(), &output)
    }
}

/// Takes any exit status but 0 for a failure.
pub(super) fn ended_well(command: String, output: &Output) -> Result<(), JobError> {
    if output.exit.is_success() {
        return Ok(());
    }
    Err(JobError::Command { command, exit: output.exit.to_string(), last_words: output.last_words(5) })
}

/// Moves the data directory of a failed bootstrap aside, to a name ending in `.failed`; an older one there is replaced.
///
/// # Errors
/// The folder around it may not be written.
pub fn set_data_aside(data_dir: &Path) -> Result<(), JobError> {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".failed");
    let aside = PathBuf::from(name);
    let wrong = |source| JobError::Remove(data_dir.to_owned(), source);
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrong(error)),
        Ok(()) | Err(_) => {}
    }
    match std::fs::rename(data_dir, &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(wrong),
    }
}
