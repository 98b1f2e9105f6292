//! What `/patroni`, `/metrics` and health checks show. Pure: the last look in, a document out.

use serde_json::{Map, Value, json};

use crate::agent::api::health::Health;
use crate::agent::disk::Reading;
use crate::agent::shown::Shown;
use crate::agent::view::{Room, Running};
use crate::cluster::{Lsn, MemberName, ReplicationState, Role, State, SyncMode, Timeline};
use crate::contract::member::SPOKEN_VERSION;

/// What is known to the moment, beside the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    pub holds_lock: bool,
    pub is_primary: bool,
    pub loop_alive: bool,
}

/// Returns the facts that health checks are judged by.
pub fn health(shown: &Shown, moment: Moment) -> Health {
    let (replica, received, replayed) = match shown.running() {
        Some(Running::Replica(facts)) => (true, facts.lsn(), facts.replayed),
        Some(Running::Primary(_)) | None => (false, Lsn(0), Lsn(0)),
    };
    let optime = shown.read.shown.optime.unwrap_or_default().max(Lsn(shown.extras.latest_end_lsn));
    Health {
        running: shown.running().is_some(),
        replica,
        leader: moment.holds_lock,
        primary: moment.is_primary,
        standby_leader: moment.holds_lock && replica && shown.view.settings.standby_cluster.is_some(),
        noloadbalance: shown.tags_read().noloadbalance,
        dcs_known: shown.dcs_is_known(),
        position_known: shown.dcs_is_known() || shown.extras.latest_end_lsn > 0,
        sync_standby: is_sync_standby(shown) && !is_quorum(shown),
        quorum_standby: is_sync_standby(shown) && is_quorum(shown),
        paused: shown.view.settings.pause,
        replication_state: replication_state(shown).map_or_else(String::new, |state| state.word().to_owned()),
        replay_lag: optime.bytes_ahead_of(replayed),
        receive_lag: optime.bytes_ahead_of(received),
        maximum_lag_on_failover: shown.view.settings.maximum_lag_on_failover,
        tags: shown.tags.clone(),
        loop_alive: moment.loop_alive,
    }
}

fn is_sync_standby(shown: &Shown) -> bool {
    let mode = shown.view.settings.synchronous_mode;
    let replica = matches!(shown.running(), Some(Running::Replica(_)));
    let me: &MemberName = &shown.view.me;
    mode != SyncMode::Off && replica && shown.read.shown.sync.as_ref().is_some_and(|sync| sync.holds(me))
}

fn is_quorum(shown: &Shown) -> bool {
    shown.view.settings.synchronous_mode.is_quorum()
}

/// Tells whether promises stand in for the lock: this member's to a leader, or the others' to this one.
fn is_failsafe_active(shown: &Shown) -> bool {
    let failsafe = &shown.view.failsafe;
    let leads = failsafe.lead.is_some_and(|lead| shown.view.now < lead.deadline);
    let follows = failsafe
        .promise
        .as_ref()
        .is_some_and(|promise| promise.leader.is_some() && shown.view.now < promise.until);
    shown.view.settings.failsafe_mode && !shown.dcs_is_known() && (leads || follows)
}

fn replication_state(shown: &Shown) -> Option<ReplicationState> {
    match shown.running()? {
        Running::Replica(facts) => facts.replication(),
        Running::Primary(_) => None,
    }
}

fn timeline(shown: &Shown) -> Option<Timeline> {
    Some(match shown.running()? {
        Running::Primary(facts) => facts.timeline,
        Running::Replica(facts) => facts.timeline,
    })
}

/// Returns the document of `/patroni` and of every health check.
pub fn patroni(shown: &Shown) -> Map<String, Value> {
    let mut document = Map::new();
    let mut set = |key: &str, value: Value| {
        document.insert(key.to_owned(), value);
    };
    let running = shown.running();
    set("state", shown.state.word().into());
    if let (Some(_), Some(time)) = (running, &shown.extras.postmaster_start_time) {
        set("postmaster_start_time", time.as_str().into());
    }
    match running {
        Some(Running::Primary(facts)) => {
            set("role", "primary".into());
            set("server_version", shown.view.postgres.version.map_or(0, |version| version.0).into());
            set("xlog", json!({"location": facts.lsn.0}));
        }
        Some(Running::Replica(facts)) => {
            let leads = shown.role == Role::StandbyLeader;
            set("role", if leads { Role::StandbyLeader } else { Role::Replica }.word().into());
            set("server_version", shown.view.postgres.version.map_or(0, |version| version.0).into());
            set(
                "xlog",
                json!({
                    "received_location": facts.lsn().0,
                    "replayed_location": facts.replayed.0,
                    "replayed_timestamp": shown.extras.replayed_timestamp,
                    "paused": shown.extras.replay_paused,
                }),
            );
        }
        None => set("role", shown.role.word().into()),
    }
    if is_sync_standby(shown) {
        set(if is_quorum(shown) { "quorum_standby" } else { "sync_standby" }, true.into());
    }
    if let Some(timeline) = timeline(shown) {
        set("timeline", timeline.0.into());
    }
    if let Some(state) = replication_state(shown) {
        set("replication_state", state.word().into());
    }
    if running.is_some() && !shown.extras.replication.is_empty() {
        set("replication", shown.extras.replication.clone().into());
    }
    if shown.view.settings.pause {
        set("pause", true.into());
    }
    if shown.is_unlocked() {
        set("cluster_unlocked", true.into());
    }
    if is_failsafe_active(shown) {
        set("failsafe_mode_is_active", true.into());
    }
    set("dcs_last_seen", shown.dcs_last_seen.into());
    if !shown.tags.is_empty() {
        set("tags", shown.tags.clone().into());
    }
    if let Some(control) = shown.view.postgres.control() {
        set("database_system_identifier", control.system_id.to_string().into());
    }
    if !shown.pending_restart_reason.is_empty() {
        set("pending_restart", true.into());
        set("pending_restart_reason", shown.pending_restart_reason.clone().into());
    }
    if let Some(restart) = &shown.scheduled_restart {
        set("scheduled_restart", restart.clone().into());
    }
    if shown.view.watchdog == crate::agent::view::Watchdog::Unusable {
        set("watchdog_failed", true.into());
    }
    document
}

/// Adds who answers, and why it does what it does.
pub fn signed(mut document: Map<String, Value>, scope: &str, shown: &Shown) -> Map<String, Value> {
    document.insert(
        "patroni".to_owned(),
        json!({"version": SPOKEN_VERSION, "scope": scope, "name": shown.view.me.as_str()}),
    );
    let (code, text) = &shown.reason;
    let mut ours = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "reason": code,
        "reason_text": text,
        "etcd_silent": shown.is_etcd_silent(),
        "room": shown.view.disk.room.word(),
        "data_volume": volume(shown.volumes.data.as_ref()),
        "wal_volume": volume(shown.volumes.wal_volume()),
    });
    if let Some(sentence) = shown.volumes.sentence() {
        ours["disk"] = sentence.into();
    }
    document.insert("keddah".to_owned(), ours);
    document
}

fn volume(reading: Option<&Reading>) -> Value {
    reading.map_or(Value::Null, |Reading { size, free, pace, left, .. }| {
        json!({"size": size, "free": free, "pace": pace, "seconds_left": left.map(|left| left.as_secs())})
    })
}

/// Returns Prometheus's text. Names and meaning are Patroni's.
pub fn metrics(scope: &str, shown: &Shown, moment: Moment) -> String {
    let labels = format!("{{scope=\"{}\",name=\"{}\"}}", escape(scope), escape(shown.view.me.as_str()));
    let flag = |value: bool| u64::from(value);
    let version: String = SPOKEN_VERSION.split('.').map(|part| format!("{part:0>2}")).collect();
    let (primary, replica) = match shown.running() {
        Some(Running::Primary(facts)) => (facts.lsn.0, None),
        Some(Running::Replica(facts)) => (0, Some(facts)),
        None => (0, None),
    };
    let running = shown.running().is_some();
    let rows: Vec<(&str, &str, &str, String)> = vec![
        ("patroni_version", "Patroni semver without periods.", "gauge", version),
        (
            "patroni_postgres_running",
            "Value is 1 if Postgres is running, 0 otherwise.",
            "gauge",
            flag(running).to_string(),
        ),
        (
            "patroni_postmaster_start_time",
            "Epoch seconds since Postgres started.",
            "gauge",
            epoch(shown.extras.postmaster_start_time.as_deref().filter(|_| running)),
        ),
        (
            "patroni_primary",
            "Value is 1 if this node is the leader, 0 otherwise.",
            "gauge",
            flag(moment.is_primary).to_string(),
        ),
        (
            "patroni_xlog_location",
            "Current location of the Postgres transaction log, 0 if this node is not the leader.",
            "counter",
            primary.to_string(),
        ),
        (
            "patroni_standby_leader",
            "Value is 1 if this node is the standby_leader, 0 otherwise.",
            "gauge",
            flag(shown.role == Role::StandbyLeader && moment.holds_lock).to_string(),
        ),
        (
            "patroni_replica",
            "Value is 1 if this node is a replica, 0 otherwise.",
            "gauge",
            flag(replica.is_some()).to_string(),
        ),
        (
            "patroni_sync_standby",
            "Value is 1 if this node is a sync standby, 0 otherwise.",
            "gauge",
            flag(is_sync_standby(shown) && !is_quorum(shown)).to_string(),
        ),
        (
            "patroni_quorum_standby",
            "Value is 1 if this node is a quorum standby, 0 otherwise.",
            "gauge",
            flag(is_sync_standby(shown) && is_quorum(shown)).to_string(),
        ),
        (
            "patroni_xlog_received_location",
            "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
            "counter",
            replica.map_or(0, |facts| facts.lsn().0).to_string(),
        ),
        (
            "patroni_xlog_replayed_location",
            "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
            "counter",
            replica.map_or(0, |facts| facts.replayed.0).to_string(),
        ),
        (
            "patroni_xlog_replayed_timestamp",
            "Current timestamp of the replayed Postgres transaction log, 0 if null.",
            "gauge",
            epoch(shown.extras.replayed_timestamp.as_deref().filter(|_| replica.is_some())),
        ),
        (
            "patroni_xlog_paused",
            "Value is 1 if the Postgres xlog is paused, 0 otherwise.",
            "gauge",
            flag(shown.extras.replay_paused).to_string(),
        ),
        (
            "patroni_postgres_streaming",
            "Value is 1 if Postgres is streaming, 0 otherwise.",
            "gauge",
            flag(replication_state(shown) == Some(ReplicationState::Streaming)).to_string(),
        ),
        (
            "patroni_postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
            "gauge",
            flag(replication_state(shown) == Some(ReplicationState::InArchiveRecovery)).to_string(),
        ),
        (
            "patroni_postgres_server_version",
            "Version of Postgres (if running), 0 otherwise.",
            "gauge",
            shown.view.postgres.version.filter(|_| running).map_or(0, |version| version.0).to_string(),
        ),
        (
            "patroni_cluster_unlocked",
            "Value is 1 if the cluster is unlocked, 0 if locked.",
            "gauge",
            flag(shown.is_unlocked()).to_string(),
        ),
        (
            "patroni_failsafe_mode_is_active",
            "Value is 1 if failsafe mode is active, 0 if inactive.",
            "gauge",
            flag(is_failsafe_active(shown)).to_string(),
        ),
        (
            "patroni_postgres_timeline",
            "Postgres timeline of this node (if running), 0 otherwise.",
            "gauge",
            timeline(shown).map_or(0, |timeline| timeline.0).to_string(),
        ),
        (
            "patroni_dcs_last_seen",
            "Epoch timestamp when DCS was last contacted successfully by Patroni.",
            "gauge",
            shown.dcs_last_seen.to_string(),
        ),
        (
            "patroni_pending_restart",
            "Value is 1 if the node needs a restart, 0 otherwise.",
            "gauge",
            flag(!shown.pending_restart_reason.is_empty()).to_string(),
        ),
        (
            "patroni_is_paused",
            "Value is 1 if auto failover is disabled, 0 otherwise.",
            "gauge",
            flag(shown.view.settings.pause).to_string(),
        ),
        (
            "patroni_postgres_state",
            "Numeric representation of Postgres state.",
            "gauge",
            state_number(shown.state).to_string(),
        ),
        (
            "patroni_failover_priority",
            "Failover priority of this node.",
            "gauge",
            shown.tags_read().failover_priority().to_string(),
        ),
    ];
    let mut text = String::new();
    for (name, help, kind, value) in rows.into_iter().chain(volume_rows(shown)) {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n"));
    }
    text
}

/// What Patroni has no name for.
fn volume_rows(shown: &Shown) -> Vec<(&'static str, &'static str, &'static str, String)> {
    let mut rows = Vec::new();
    if let Some(reading) = &shown.volumes.data {
        let [size, free] = [reading.size, reading.free].map(|bytes| bytes.to_string());
        rows.push(("keddah_data_volume_size_bytes", "Size of the volume of the data.", "gauge", size));
        rows.push(("keddah_data_volume_free_bytes", "Free space of the volume of the data.", "gauge", free));
    }
    if let Some(reading) = shown.volumes.wal_volume() {
        let [size, free] = [reading.size, reading.free].map(|bytes| bytes.to_string());
        rows.push(("keddah_wal_volume_size_bytes", "Size of the volume of the WAL.", "gauge", size));
        rows.push(("keddah_wal_volume_free_bytes", "Free space of the volume of the WAL.", "gauge", free));
    }
    let flag = |room: Room| u64::from(shown.view.disk.room >= room).to_string();
    rows.push((
        "keddah_disk_scarce",
        "Value is 1 if a volume is below its limit, 0 otherwise.",
        "gauge",
        flag(Room::Scarce),
    ));
    rows.push((
        "keddah_disk_full",
        "Value is 1 if a volume has no room for another WAL segment, 0 otherwise.",
        "gauge",
        flag(Room::Full),
    ));
    rows
}

/// The number of a state in Patroni's order.
fn state_number(state: State) -> i32 {
    match state {
        State::Initializing => 0,
        State::InitializeFailed => 1,
        State::CustomBootstrap => 2,
        State::CustomBootstrapFailed => 3,
        State::CreatingReplica => 4,
        State::Running => 5,
        State::Starting => 6,
        State::StartFailed => 8,
        State::Restarting => 9,
        State::RestartFailed => 10,
        State::Stopping => 11,
        State::Stopped => 12,
        State::StopFailed => 13,
        State::Crashed => 14,
        State::Unknown => -1,
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Returns seconds since 1970 of a time as Postgres and Python print it, `0` where there is none.
fn epoch(text: Option<&str>) -> String {
    let parsed = text.and_then(|text| text.replacen(' ', "T", 1).parse::<jiff::Timestamp>().ok());
    parsed.map_or_else(
        || "0".to_owned(),
        |time| format!("{}.{:06}", time.as_second(), time.subsec_nanosecond().unsigned_abs() / 1000),
    )
}
