//! What the server of this member is and does: pg_control, the guard's word on the postmaster, one query.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{Mutex, watch};

use crate::agent::birth::{self, Birth};
use crate::agent::instance::Instance;
use crate::agent::observe::configuration;
use crate::agent::observe::dcs::DcsRead;
use crate::agent::observe::facts::{fill, kept_by_slot, replica_timeline, running};
use crate::agent::observe::pending::{RestartSettings, pending_restart};
use crate::agent::shown::PostgresExtras;
use crate::agent::view::{
    Configuration, Control, ControlState, Data, OldestWal, Postgres, Process, Remote, Started, StopMode, Tick,
};
use crate::cluster::control_file::ControlState as OnDisk;
use crate::cluster::{PgVersion, SegmentSize, Timeline};
use crate::guard::protocol::{self, Status};
use crate::postgres::query::{Monitored, QueryError, Session, connect};
use crate::postgres::{controldata, has_data, history, is_vacant, rewind, slots, standby};
use crate::sys::{children, clock};

/// How often it is looked what a server does that does not answer yet.
const STARTING_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// How long the state of a logical slot may wait to be put in place.
const STAGED_FOR: std::time::Duration = std::time::Duration::from_secs(60);

/// One look at the server.
#[derive(Debug, Clone)]
pub struct Looked {
    pub postgres: Postgres,
    pub extras: PostgresExtras,
    pub pending_restart_reason: Map<String, Value>,
}

/// What is known of the server from look to look.
#[derive(Debug, Default)]
pub struct Observer {
    session: Option<Arc<Session>>,
    /// The postmaster that is there, since when, and whether it has ever answered.
    server: Option<Server>,
    /// The mode of the stop that was asked for last.
    stop_asked: Option<StopMode>,
    /// As what the server was started last.
    start_asked: Option<Started>,
    starting: Starting,
    report: controldata::LastReport,
    version: Option<PgVersion>,
    /// The parameters that wait for a restart, as of the moment at which the server last read its configuration.
    pending: Option<(f64, Map<String, Value>)>,
    judged: configuration::Judged,
    /// The server may be on another timeline than its data: each has a reader.
    histories_of_server: history::Reader,
    histories_of_data: history::Reader,
    /// The rewind that was begun and not ended on the data of a server that runs: none begins while it does.
    half_rewound: Option<((u32, u64), Option<Timeline>)>,
    /// States of logical slots that wait for the next start in recovery, and since when.
    staged: Option<(Tick, BTreeMap<String, Vec<u8>>)>,
    /// The last answer to a question for another member's WAL, which is asked beside the loop.
    pub oldest_wal: watch::Sender<Option<OldestWal>>,
    /// The same of the primary of the cluster that a standby cluster follows.
    pub remote: watch::Sender<Option<Remote>>,
    /// Whether the server that runs was told to let clients only read.
    brake_told: Option<bool>,
    /// Held by the round of work on logical slots that is under way.
    pub logical_slots: Arc<Mutex<()>>,
}

/// What a server that does not answer yet was last seen to do.
#[derive(Debug, Default)]
struct Starting {
    pid: u32,
    work: Option<(String, u64)>,
    looked: Tick,
    progressed: Tick,
}

impl Starting {
    /// Returns when the server was last seen to do something.
    fn progressed(&mut self, pid: u32, now: Tick) -> Tick {
        let known = self.pid == pid;
        if known && now.since(self.looked) < STARTING_EVERY {
            return self.progressed;
        }
        let work = children::work_of(pid, "startup");
        let progressed = if known && work == self.work { self.progressed } else { now };
        *self = Starting { pid, work, looked: now, progressed };
        progressed
    }
}

#[derive(Debug, Clone, Copy)]
struct Server {
    pid: u32,
    start_ticks: u64,
    since: Tick,
    answered: Option<Started>,
    /// The highest timeline that it was seen on in recovery.
    timeline: Option<Timeline>,
    silent_since: Option<Tick>,
    stopping_since: Option<Tick>,
}

impl Observer {
    /// Remembers how the server was told to stop; the guard's word tells when it is gone.
    pub fn note_stop(&mut self, mode: StopMode) {
        self.stop_asked = Some(self.stop_asked.map_or(mode, |before| before.max(mode)));
    }

    /// Remembers as what the server was started: it cannot be asked before it answers.
    pub fn note_start(&mut self, role: Started) {
        self.start_asked = Some(role);
    }

    /// Remembers what the server was told about its clients.
    pub fn note_brake(&mut self, on: bool) {
        self.brake_told = Some(on);
    }

    pub fn brake_told(&self) -> Option<bool> {
        self.brake_told
    }

    /// Keeps states of logical slots for the next start in recovery.
    pub fn stage_slots(&mut self, states: BTreeMap<String, Vec<u8>>) {
        self.staged = Some((clock::now(), states));
    }

    /// Takes the states kept, if they are young: what an old one needs may be gone.
    pub fn staged_slots(&mut self) -> BTreeMap<String, Vec<u8>> {
        let staged = self.staged.take().filter(|(at, _)| clock::now().since(*at) < STAGED_FOR);
        staged.map(|(_, states)| states).unwrap_or_default()
    }

    /// Returns the open connection, for what acts on the server.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.clone().filter(|session| session.is_open())
    }

    /// Returns how long WAL segments are: as pg_control said it, as usual where there is no data.
    pub fn segment_size(&self) -> SegmentSize {
        self.report.get().map(controldata::Report::segment_size).unwrap_or_default()
    }

    /// The configuration has changed: what was judged by it is judged anew.
    pub fn forget_configuration(&mut self) {
        self.pending = None;
        self.judged = configuration::Judged::default();
    }

    /// Looks. `status` is the guard's, None where it cannot be reached.
    pub async fn look(&mut self, instance: &Instance, status: Option<&Status>, read: &DcsRead) -> Looked {
        let now = clock::now();
        let mut extras = PostgresExtras::default();
        let (process, monitored) = self.process(instance, status, read, now, &mut extras).await;
        let data = self.data(instance, &process);
        let running = matches!(process, Process::Running(_));
        if !running {
            self.pending = None;
            self.brake_told = None;
        }
        if let Some(monitored) = &monitored {
            self.version = Some(monitored.version);
        }
        let files = running.then(|| self.judged.look(instance));
        let in_step = files.is_none_or(|files| files.in_step);
        let braked = files.is_some_and(|files| files.braked || self.brake_told == Some(true));
        let pending = self.pending.as_ref().map(|(_, found)| found.clone()).unwrap_or_default();
        let postgres = Postgres {
            data,
            process,
            configuration: if in_step { Configuration::InStep } else { Configuration::Differs },
            pending_restart: !pending.is_empty(),
            // A server that was told is told the opposite, whatever its file says.
            braked,
            version: self.version,
        };
        Looked { postgres, extras, pending_restart_reason: pending }
    }

    async fn process(
        &mut self,
        instance: &Instance,
        status: Option<&Status>,
        read: &DcsRead,
        now: Tick,
        extras: &mut PostgresExtras,
    ) -> (Process, Option<Monitored>) {
        let Some(found) = status.and_then(|status| status.server) else {
            self.session = None;
            let was_here = self.server.take().is_some();
            let asked = self.stop_asked.take().is_some();
            let exit = status.and_then(|status| status.last_exit);
            let crashed = match exit {
                Some(exit) => !exit.asked,
                None => was_here && !asked,
            };
            return (if crashed { Process::Crashed } else { Process::Stopped }, None);
        };
        let server = match self.server {
            Some(server) if server.pid == found.pid && server.start_ticks == found.start_ticks => server,
            _ => {
                self.session = None;
                self.stop_asked = None;
                Server {
                    pid: found.pid,
                    start_ticks: found.start_ticks,
                    since: now,
                    answered: None,
                    timeline: None,
                    silent_since: None,
                    stopping_since: None,
                }
            }
        };
        let server = self.server.insert(server);
        let started = match self.start_asked {
            Some(role) => role,
            None if found.writable => Started::Primary,
            None => Started::Replica,
        };
        if found.stopping {
            self.session = None;
            let since = *server.stopping_since.get_or_insert(now);
            let stage = status.and_then(|status| status.stage);
            let mode = match (self.stop_asked, stage) {
                (Some(StopMode::Immediate), _)
                | (_, Some(protocol::StopMode::Immediate | protocol::StopMode::Kill)) => StopMode::Immediate,
                (Some(StopMode::Fast) | None, Some(protocol::StopMode::Fast) | None) => StopMode::Fast,
            };
            return (Process::Stopping { mode, since }, None);
        }
        let known = self.pending.as_ref().map(|(loaded, _)| *loaded);
        let answer = monitor(&mut self.session, instance, known).await;
        match answer {
            Ok((mut monitored, found_slots, settings)) => {
                if let Some(settings) = settings {
                    self.pending = Some((monitored.loaded, pending_restart(&settings, instance)));
                }
                if monitored.in_recovery {
                    let seen = replica_timeline(instance.data_dir(), &monitored);
                    monitored.timeline = server.timeline.map_or(seen, |before| before.max(seen));
                    server.timeline = Some(monitored.timeline);
                }
                let running =
                    running(instance, &monitored, &found_slots, read, &mut self.histories_of_server);
                server.answered = Some(running.started());
                server.silent_since = None;
                fill(extras, &monitored);
                extras.kept_by_slot = kept_by_slot(&found_slots, &monitored);
                (Process::Running(running), Some(monitored))
            }
            Err(error) => {
                self.session = None;
                // A server that has not answered yet is starting; that another one answers in its place is worth a word.
                let worth_telling =
                    server.answered.is_some() || matches!(error, QueryError::OtherServer { .. });
                if worth_telling && server.silent_since.is_none() {
                    tracing::warn!(error = %crate::sys::chain(&error), "Postgres does not answer");
                    server.silent_since = Some(now);
                }
                let process = match server.answered {
                    None => {
                        let progressed = self.starting.progressed(found.pid, now);
                        Process::Starting { role: started, since: server.since, progressed }
                    }
                    Some(role) => {
                        Process::Unresponsive { role, since: *server.silent_since.get_or_insert(now) }
                    }
                };
                (process, None)
            }
        }
    }

    fn data(&mut self, instance: &Instance, process: &Process) -> Data {
        let data_dir = instance.data_dir();
        let control = match controldata::read(data_dir) {
            Ok(control) => control,
            Err(_) if is_vacant(data_dir) => {
                self.report.forget();
                return Data::Empty;
            }
            Err(_) if is_unfinished(data_dir) => return Data::Unfinished,
            Err(error) => {
                tracing::debug!(error = %crate::sys::chain(&error), "pg_control cannot be read");
                return Data::Unreadable;
            }
        };
        let stopped = matches!(process, Process::Stopped | Process::Crashed);
        if let Err(error) = self.report.refresh(&instance.installation, data_dir, stopped) {
            tracing::warn!(error = %crate::sys::chain(&error), "pg_controldata failed");
        }
        let report = self.report.get();
        let minimum_recovery = report.and_then(controldata::Report::minimum_recovery_end);
        let recovered = minimum_recovery.map_or(control.timeline, |(_, on)| on);
        let reached = recovered.max(control.timeline);
        let newest = if stopped { history::newest(data_dir) } else { None };
        let birth = birth::read(data_dir);
        Data::Present(Control {
            system_id: control.system_id,
            state: state(control.state),
            timeline: control.timeline,
            checkpoint: control.checkpoint,
            minimum_recovery,
            history: self.histories_of_data.read(data_dir, recovered),
            beyond: newest.filter(|(timeline, _)| *timeline > reached),
            rewindable: report.is_some_and(controldata::Report::allows_rewind),
            // The pg_control of a fresh copy is that of the running primary it was taken from: the label tells.
            recovery_signal: standby::is_signalled(data_dir) || data_dir.join(BACKUP_LABEL).exists(),
            bootstrap_unfinished: birth.is_some(),
            restored: birth == Some(Birth::Restored),
            half_rewound: self.half_rewound(data_dir),
        })
    }

    /// Returns the timeline of a rewind that was begun on the data and not ended: the folder is read once for each server
    /// that runs on it.
    fn half_rewound(&mut self, data_dir: &Path) -> Option<Timeline> {
        let server = self.server.map(|server| (server.pid, server.start_ticks));
        match self.half_rewound {
            Some((of, found)) if server == Some(of) => found,
            Some(_) | None => {
                let found = rewind::half_done(data_dir);
                self.half_rewound = server.map(|server| (server, found));
                found
            }
        }
    }
}

/// In a copy until its first recovery has read it.
const BACKUP_LABEL: &str = "backup_label";

/// Tells whether a data directory without a usable pg_control is what an interrupted copy left: pg_basebackup writes
/// the label first and pg_control last, and initdb writes no label.
fn is_unfinished(data_dir: &Path) -> bool {
    let control = data_dir.join("global/pg_control").exists();
    let label = data_dir.join(BACKUP_LABEL).exists();
    let only_wal = !has_data(data_dir) && data_dir.join("pg_wal").exists();
    !control && (label || only_wal)
}

fn state(state: OnDisk) -> ControlState {
    match state {
        OnDisk::StartingUp => ControlState::StartingUp,
        OnDisk::ShutDown => ControlState::ShutDown,
        OnDisk::ShutDownInRecovery => ControlState::ShutDownInRecovery,
        OnDisk::ShuttingDown => ControlState::ShuttingDown,
        OnDisk::CrashRecovery => ControlState::InCrashRecovery,
        OnDisk::ArchiveRecovery => ControlState::InArchiveRecovery,
        OnDisk::InProduction => ControlState::InProduction,
    }
}

/// Asks all that a look needs at once: the questions share their way there and back. The settings are asked for where
/// the server has read its configuration since `known`.
async fn monitor(
    slot: &mut Option<Arc<Session>>,
    instance: &Instance,
    known: Option<f64>,
) -> Result<(Monitored, Vec<slots::Slot>, Option<RestartSettings>), QueryError> {
    let session = match slot.take().filter(|session| session.is_open()) {
        Some(session) => session,
        None => {
            let session = connect(&instance.target("Patroni heartbeat")).await?;
            session.serves(instance.data_dir()).await?;
            Arc::new(session)
        }
    };
    let (monitored, found) = tokio::join!(session.monitor(), slots::list(&session));
    let (monitored, found) = (monitored?, found?);
    let settings = if known == Some(monitored.loaded) { None } else { session.restart_settings().await.ok() };
    *slot = Some(session);
    Ok((monitored, found, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_copy_is_told_from_foreign_files() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!is_unfinished(temp.path()));

        std::fs::create_dir(temp.path().join("pg_wal")).unwrap();
        assert!(is_unfinished(temp.path()));
    }
}
