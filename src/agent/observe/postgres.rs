//! What the server of this member is and does: pg_control, the guard's word on the postmaster, one query.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{Mutex, watch};

use crate::agent::instance::{Instance, read_sync_names};
use crate::agent::observe::configuration;
use crate::agent::observe::dcs::DcsRead;
use crate::agent::shown::{PostgresExtras, Shown};
use crate::agent::view::{
    CommitLevel, Configuration, Control, ControlState, Data, OldestWal, Postgres, PrimaryFacts, Process,
    ReplicaFacts, Running, Slot, Standby, Started, StopMode, Tick, Upstream,
};
use crate::cluster::control_file::ControlState as OnDisk;
use crate::cluster::{MemberName, PgVersion, Timeline};
use crate::guard::protocol::{self, Status};
use crate::postgres::query::{Monitored, QueryError, Session, Target, connect};
use crate::postgres::standby::parse_conninfo;
use crate::postgres::{controldata, has_data, history, is_vacant, rewind, slots, standby};
use crate::sys::{children, clock};

/// How often it is looked what a server does that does not answer yet.
const STARTING_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// How long the state of a logical slot may wait to be put in place.
const STAGED_FOR: std::time::Duration = std::time::Duration::from_secs(60);

/// The mark in a data directory whose cluster has not got its roles yet.
const BOOTSTRAP_MARK: &str = "keddah.bootstrap";

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
    report: Option<(controldata::Control, controldata::Report)>,
    version: Option<PgVersion>,
    /// The parameters that wait for a restart, as of the moment at which the server last read its configuration.
    pending: Option<(f64, Map<String, Value>)>,
    judged: configuration::Judged,
    /// States of logical slots that wait for the next start in recovery, and since when.
    staged: Option<(Tick, BTreeMap<String, Vec<u8>>)>,
    /// The last answer to a question for another member's WAL, which is asked beside the loop.
    pub oldest_wal: watch::Sender<Option<OldestWal>>,
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
                let running = running(instance, &monitored, &found_slots, read);
                server.answered = Some(match running {
                    Running::Primary(_) => Started::Primary,
                    Running::Replica(_) => Started::Replica,
                });
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
                self.report = None;
                return Data::Empty;
            }
            Err(_) if is_unfinished(data_dir) => return Data::Unfinished,
            Err(error) => {
                tracing::debug!(error = %crate::sys::chain(&error), "pg_control cannot be read");
                return Data::Unreadable;
            }
        };
        let stopped = matches!(process, Process::Stopped | Process::Crashed);
        let fresh = match &self.report {
            None => false,
            Some((of, _)) => !stopped || *of == control,
        };
        if !fresh {
            match controldata::report(&instance.installation, data_dir) {
                Ok(report) => self.report = Some((control, report)),
                Err(error) => {
                    tracing::warn!(error = %crate::sys::chain(&error), "pg_controldata failed");
                    self.report = None;
                }
            }
        }
        let report = self.report.as_ref().map(|(_, report)| report);
        let minimum_recovery = report.and_then(controldata::Report::minimum_recovery_end);
        let reached = minimum_recovery.map_or(control.timeline, |(_, on)| on.max(control.timeline));
        let newest = if stopped { history::newest(data_dir) } else { None };
        Data::Present(Control {
            system_id: control.system_id,
            state: state(control.state),
            timeline: control.timeline,
            checkpoint: control.checkpoint,
            minimum_recovery,
            history: history::read(data_dir, minimum_recovery.map_or(control.timeline, |(_, on)| on)),
            beyond: newest.filter(|(timeline, _)| *timeline > reached),
            rewindable: report.is_some_and(controldata::Report::allows_rewind),
            // The pg_control of a fresh copy is that of the running primary it was taken from: the label tells.
            recovery_signal: standby::is_signalled(data_dir) || data_dir.join(BACKUP_LABEL).exists(),
            bootstrap_unfinished: bootstrap_mark(data_dir).exists(),
            restored: is_restored(data_dir),
            half_rewound: rewind::half_done(data_dir),
        })
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

/// What a restart is needed for: name, value, and whether a new value waits for one.
type RestartSettings = Vec<(String, String, bool)>;

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

fn running(instance: &Instance, seen: &Monitored, found: &[slots::Slot], read: &DcsRead) -> Running {
    let sync_names = read_sync_names(&seen.synchronous_standby_names, &instance.own_sync_names());
    let slots: BTreeMap<String, Slot> = found
        .iter()
        .map(|slot| {
            let seen = Slot {
                kind: slot.kind.clone(),
                active: slot.active,
                lsn: if slot.kind.is_physical() { slot.restart } else { slot.confirmed },
                has_xmin: slot.has_xmin,
                lost: slot.lost,
                failover: slot.failover,
            };
            (slot.name.clone(), seen)
        })
        .collect();
    if seen.in_recovery {
        return Running::Replica(ReplicaFacts {
            timeline: seen.timeline,
            history: history::read(instance.data_dir(), seen.timeline),
            received: seen.received,
            replayed: seen.replayed.unwrap_or_default(),
            streaming: seen.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming"),
            upstream: upstream(instance, &seen.primary_conninfo, &seen.primary_slot_name, read),
            sync_names,
            slots,
        });
    }
    Running::Primary(PrimaryFacts {
        timeline: seen.timeline,
        lsn: seen.flushed.unwrap_or_default(),
        history: history::read(instance.data_dir(), seen.timeline).unwrap_or_default(),
        sync_names,
        commit_level: match seen.synchronous_commit.as_str() {
            "remote_write" => CommitLevel::Write,
            "remote_apply" => CommitLevel::Apply,
            _ => CommitLevel::Flush,
        },
        standbys: standbys(seen, read),
        slots,
        checkpoint_pending: seen.checkpoint_timeline < seen.timeline,
    })
}

/// Bytes of a WAL segment, unless initdb was told otherwise; then the file's name is not found and nothing is learnt.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Returns the timeline that a replica is on.
///
/// Only a WAL receiver that lives says it; without one pg_control lags behind until the next restartpoint. What the
/// replica has received lies in a segment that is named after its timeline.
fn replica_timeline(data_dir: &Path, seen: &Monitored) -> Timeline {
    if seen.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming") {
        return seen.timeline;
    }
    let end = seen.received.max(seen.replayed).unwrap_or_default().0.saturating_sub(1) / SEGMENT_BYTES;
    let suffix = format!("{:08X}{:08X}", end >> 8, end & 0xFF);
    let names = crate::sys::files::list(&data_dir.join("pg_wal")).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| name.to_str()?.strip_suffix(&suffix))
        .filter(|timeline| timeline.len() == 8)
        .filter_map(|timeline| u32::from_str_radix(timeline, 16).ok())
        .map(Timeline)
        .fold(seen.timeline, Timeline::max)
}

/// Tells whom a replica follows. A connection that leads to no member in its present place is `Other`.
fn upstream(instance: &Instance, conninfo: &str, slot: &str, read: &DcsRead) -> Upstream {
    if conninfo.trim().is_empty() {
        return Upstream::Nobody;
    }
    let Some(pairs) = parse_conninfo(conninfo) else {
        return Upstream::Other;
    };
    let host = pairs.get("host").map(String::as_str).unwrap_or_default();
    let port: u16 = pairs.get("port").and_then(|port| port.parse().ok()).unwrap_or(5432);
    let there = |document: &crate::contract::member::MemberDocument| {
        document.host_port().is_some_and(|(h, p)| h == host && p == port)
    };
    let slot = Some(slot.to_owned()).filter(|slot| !slot.is_empty());
    if instance.remote().is_some_and(|remote| (remote.host.as_str(), remote.port) == (host, port)) {
        return Upstream::Remote { slot };
    }
    match read.documents.iter().find(|(_, document)| there(document)) {
        Some((name, _)) => Upstream::Member { name: name.clone(), slot },
        None => Upstream::Other,
    }
}

fn standbys(seen: &Monitored, read: &DcsRead) -> BTreeMap<MemberName, Standby> {
    let mut standbys = BTreeMap::new();
    for sender in &seen.senders {
        let member =
            read.documents.keys().find(|name| name.as_str().eq_ignore_ascii_case(&sender.application_name));
        let Some(name) = member.cloned().or_else(|| sender.application_name.parse().ok()) else {
            continue;
        };
        if sender.state == "backup" {
            continue;
        }
        let facts = Standby {
            streaming: sender.state == "streaming",
            sync: matches!(sender.sync_state.as_str(), "sync" | "quorum"),
            written: sender.written.unwrap_or_default(),
            flushed: sender.flushed.unwrap_or_default(),
            replayed: sender.replayed.unwrap_or_default(),
        };
        // Of two connections with one name the one that is further counts.
        standbys
            .entry(name)
            .and_modify(|known: &mut Standby| {
                if known.flushed < facts.flushed {
                    *known = facts.clone();
                }
            })
            .or_insert(facts);
    }
    standbys
}

fn fill(extras: &mut PostgresExtras, seen: &Monitored) {
    extras.postmaster_start_time = python_time(seen.started);
    extras.replay_paused = seen.replay_paused;
    extras.latest_end_lsn =
        seen.receiver.as_ref().and_then(|receiver| receiver.latest_end).map_or(0, |lsn| lsn.0);
    extras.replication = seen
        .senders
        .iter()
        .map(|sender| {
            serde_json::json!({
                "application_name": sender.application_name,
                "state": sender.state,
                "sync_state": sender.sync_state,
            })
        })
        .collect();
}

/// Who is connected takes what its slot keeps, most times: such a slot counts for so many parts less.
const IN_USE_COUNTS: u64 = 4;

/// Returns the slot that keeps the most WAL, and how many bytes of it.
fn kept_by_slot(found: &[slots::Slot], seen: &Monitored) -> Option<(String, u64)> {
    let end = seen.flushed.or(seen.received).max(seen.replayed)?;
    let kept = |slot: &slots::Slot| slot.restart.map_or(0, |from| end.bytes_ahead_of(from));
    let weight = |slot: &&slots::Slot| if slot.active { kept(slot) / IN_USE_COUNTS } else { kept(slot) };
    found.iter().max_by_key(weight).map(|slot| (slot.name.clone(), kept(slot)))
}

/// Writes seconds since 1970 as Python prints a time with its zone.
fn python_time(seconds: f64) -> Option<String> {
    let micros = (seconds * 1e6).round();
    if !(0.0..1e18).contains(&micros) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let time = jiff::Timestamp::from_microsecond(micros as i64).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string())
}

/// Returns the parameters that wait for a restart, with both values.
fn pending_restart(settings: &RestartSettings, instance: &Instance) -> Map<String, Value> {
    let (line, file) = crate::postgres::conf::split(&instance.parameters());
    let mut found = Map::new();
    let mut note = |name: &str, old: &str, new: &str| {
        found.insert(name.to_owned(), serde_json::json!({"old_value": old, "new_value": new}));
    };
    for (name, setting, waits) in settings {
        if let Some(wanted) = line.get(name) {
            if !same_value(wanted, setting) {
                note(name, setting, wanted);
            }
        } else if *waits {
            let wanted = file.get(name).cloned().unwrap_or_default();
            note(name, setting, &wanted);
        }
    }
    found
}

/// Compares a wanted value with what the server shows: numbers as numbers, truth values as truth values.
fn same_value(wanted: &str, shown: &str) -> bool {
    let flag = |text: &str| match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    };
    let number = |text: &str| text.trim().parse::<i64>().ok();
    wanted.eq_ignore_ascii_case(shown)
        || (number(wanted).is_some() && number(wanted) == number(shown))
        || (matches!(shown, "on" | "off") && flag(wanted) == flag(shown))
}

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

/// What the mark holds where the user's program made the cluster.
pub const RESTORED: &[u8] = b"restored\n";

/// Tells whether the data is that of a cluster in the making which the user's program restored.
pub fn is_restored(data_dir: &Path) -> bool {
    crate::sys::files::read_if_there(&bootstrap_mark(data_dir)).ok().flatten().as_deref() == Some(RESTORED)
}

/// Returns the path of the mark of a cluster without its roles.
pub fn bootstrap_mark(data_dir: &Path) -> PathBuf {
    data_dir.join(BOOTSTRAP_MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_as_postgres_means_them() {
        assert!(same_value("on", "on"));
        assert!(same_value("true", "on"));
        assert!(same_value("0100", "100"));
        assert!(!same_value("101", "100"));
        assert!(!same_value("1", "off"));
    }

    #[test]
    fn the_mark_of_initdb_is_not_that_of_a_restored_cluster() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::File::create(bootstrap_mark(temp.path())).unwrap();
        assert!(!is_restored(temp.path()));

        let plain = crate::sys::files::Attributes::default();
        crate::sys::files::replace(&bootstrap_mark(temp.path()), RESTORED, plain).unwrap();
        assert!(is_restored(temp.path()));
    }

    #[test]
    fn an_interrupted_copy_is_told_from_foreign_files() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!is_unfinished(temp.path()));

        std::fs::create_dir(temp.path().join("pg_wal")).unwrap();
        assert!(is_unfinished(temp.path()));
    }

    #[test]
    fn times_are_written_as_python_prints_them() {
        assert_eq!(python_time(1_769_860_800.123_456).unwrap(), "2026-01-31 12:00:00.123456+00:00");
    }
}
