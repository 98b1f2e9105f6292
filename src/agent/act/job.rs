//! The one long-running job: making, copying, rewinding or recovering a data directory, and making the first roles.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::agent::act::postgres::{launch, write_passfile};
use crate::agent::instance::Instance;
use crate::agent::observe::dcs::DcsRead;
use crate::agent::observe::postgres::{BOOTSTRAP_MARK, bootstrap_mark};
use crate::agent::view::{Job, JobReport, JobState};
use crate::cluster::MemberName;
use crate::contract::config::Credentials;
use crate::postgres::basebackup::Source;
use crate::postgres::conf::split;
use crate::postgres::initdb::{Initdb, run_initdb};
use crate::postgres::postmaster::argv;
use crate::postgres::query::{QueryError, connect};
use crate::postgres::rewind::RecoveryError;
use crate::postgres::users::{Purpose, Role, ensure};
use crate::postgres::{ProgramError, basebackup, conf, rewind};
use crate::sys::children;
use crate::sys::clock;
use crate::sys::files::{self, Attributes, FileError};
use crate::sys::process::{ProcessError, Program};

/// The programs that jobs run.
pub const PROGRAMS: [&str; 6] =
    ["initdb", "pg_basebackup", "pg_rewind", "pg_receivewal", "postgres", "pg_waldump"];

/// Nothing is copied for longer.
const COPY_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);
const POST_INIT_LIMIT: Duration = Duration::from_secs(3600);

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
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
    PostInit { command: String, exit: String, last_words: String },
    #[error("the job was ended")]
    Cancelled,
}

/// Runs one job at a time.
#[derive(Debug, Clone)]
pub struct Jobs {
    report: Arc<Mutex<Option<JobReport>>>,
    task: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
    wake: Arc<Notify>,
}

impl Jobs {
    pub fn new(wake: Arc<Notify>) -> Jobs {
        Jobs { report: Arc::default(), task: Arc::default(), wake }
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
        let work = Work { instance: instance.clone(), read: read.clone() };
        let (jobs, job) = (self.clone(), job.clone());
        let task = tokio::spawn(async move {
            tracing::info!(job = job.name(), "a job begins");
            let outcome = work.run(&job).await;
            let at = clock::now();
            let state = match outcome {
                Ok(()) => {
                    tracing::info!(job = job.name(), "the job is done");
                    JobState::Done { at }
                }
                Err(error) => {
                    tracing::error!(job = job.name(), error = %crate::sys::chain(&error), "the job failed");
                    JobState::Failed { at }
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
        children::end_children(&PROGRAMS);
        self.settle(JobState::Failed { at: clock::now() });
    }
}

struct Work {
    instance: Instance,
    read: DcsRead,
}

impl Work {
    async fn run(self, job: &Job) -> Result<(), JobError> {
        match job {
            Job::Initdb => self.blocking(Work::initdb).await,
            Job::PostBootstrap { .. } => self.post_bootstrap().await,
            Job::Clone { source, replaces } => {
                let (source, replaces) = (source.clone(), *replaces);
                self.blocking(move |work| work.copy(&source, replaces)).await
            }
            Job::Rewind { source } => {
                let source = source.clone();
                self.blocking(move |work| work.rewind(&source)).await
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

    fn initdb(&self) -> Result<(), JobError> {
        let config = &self.instance.config;
        let what = Initdb {
            options: config.bootstrap.initdb.clone(),
            superuser: config.postgresql.superuser.username.clone(),
            password: config.postgresql.superuser.password.clone(),
        };
        run_initdb(&self.instance.installation, self.instance.data_dir(), &what)?;
        let owner_only = Attributes { mode: Some(0o600), uid: None, gid: None };
        files::replace(&bootstrap_mark(self.instance.data_dir()), b"", owner_only)?;
        Ok(())
    }

    fn source(&self, name: &MemberName, user: &Credentials) -> Result<Source, JobError> {
        let place = self.read.documents.get(name).and_then(|document| document.host_port());
        let (host, port) = place.ok_or_else(|| JobError::Unknown(name.as_str().to_owned()))?;
        Ok(Source {
            host,
            port,
            user: user.username.clone(),
            passfile: Some(self.instance.passfile()),
            options: user.options.clone(),
        })
    }

    fn copy(&self, source: &MemberName, replaces: bool) -> Result<(), JobError> {
        let instance = &self.instance;
        let data_dir = instance.data_dir();
        write_passfile(instance)?;
        let source = self.source(source, &instance.config.postgresql.replication)?;
        if replaces || !crate::postgres::is_vacant(data_dir) {
            empty(data_dir)?;
        }
        let options = instance.basebackup_options();
        basebackup::copy(&instance.installation, data_dir, &source, &options, COPY_LIMIT)?;
        files::remove(&data_dir.join(BOOTSTRAP_MARK))?;
        conf::clean_auto(data_dir)?;
        conf::restore_copies(&instance.place)?;
        Ok(())
    }

    fn rewind(&self, source: &MemberName) -> Result<(), JobError> {
        let instance = &self.instance;
        let postgresql = &instance.config.postgresql;
        write_passfile(instance)?;
        let user = postgresql.rewind.as_ref().unwrap_or(&postgresql.superuser);
        let source = self.source(source, user)?;
        rewind::rewind(
            &instance.installation,
            instance.data_dir(),
            &source,
            "postgres",
            instance.has_restore_command(),
            REWIND_LIMIT,
        )?;
        files::remove(&instance.data_dir().join(BOOTSTRAP_MARK))?;
        Ok(())
    }

    fn crash_recovery(&self) -> Result<(), JobError> {
        let instance = &self.instance;
        let (line, _) = split(&instance.parameters());
        // Program and data directory are given by the job itself.
        let arguments: Vec<String> =
            argv(&instance.installation, &launch(instance, line)).into_iter().skip(3).collect();
        rewind::recover(&instance.installation, instance.data_dir(), &arguments)?;
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
        files::remove(&bootstrap_mark(self.instance.data_dir()))?;
        Ok(())
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
            .run_async()
            .await?;
        if output.exit.is_success() {
            return Ok(());
        }
        Err(JobError::PostInit {
            command: command.to_owned(),
            exit: output.exit.to_string(),
            last_words: output.last_words(5),
        })
    }
}

/// Splits a command line as a shell would where it has only words and quotes.
pub fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Removes everything in a folder; the folder itself may be a mount point and stays.
fn empty(folder: &Path) -> Result<(), JobError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| JobError::Remove(path, source)
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(wrong(folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(wrong(folder))?.path();
        if path.file_name().is_some_and(|name| name == "lost+found") {
            continue;
        }
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        removed.map_err(wrong(&path))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_like_a_shell_does() {
        assert_eq!(split_words("psql -w -c \"SELECT 1\""), ["psql", "-w", "-c", "SELECT 1"]);
        assert_eq!(split_words(" a '' 'b c'\\ d "), ["a", "", "b c d"]);
    }

    #[test]
    fn emptying_leaves_the_folder() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("base/1")).unwrap();
        std::fs::create_dir(temp.path().join("lost+found")).unwrap();

        empty(temp.path()).unwrap();

        assert!(crate::postgres::is_vacant(temp.path()));
    }
}
