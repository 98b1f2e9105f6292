//! What the agent's configuration means: one table row per key, one typed struct, one set of rules.
//!
//! Start at [`table::SETTINGS`]. [`Settings::from_dynamic`] reads the cluster's dynamic configuration; the same rows
//! serve `validate` offline, the reference page and the schema.

pub mod table;

mod slots;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::SyncMode;
use crate::cluster::slot::{SlotKind, SlotMatcher};

/// The settings that decisions rest on, checked and adjusted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long the leader key lives without a keepalive.
    pub ttl: Duration,
    /// The longest time between two looks.
    pub loop_wait: Duration,
    /// How long an operation against etcd or Postgres is tried again.
    pub retry_timeout: Duration,
    /// Most bytes a candidate may be behind the last known position of the leader.
    pub maximum_lag_on_failover: u64,
    /// Most bytes a synchronous standby may be behind before another takes its place; None for any.
    pub maximum_lag_on_syncnode: Option<u64>,
    pub synchronous_mode: SyncMode,
    /// How many synchronous standbys there should be.
    pub synchronous_node_count: usize,
    /// How long a primary may take to come up before the lock goes to another member; zero for not at all.
    pub primary_start_timeout: Duration,
    /// How long a stop may take in synchronous mode before it is made immediate; None for any time.
    pub primary_stop_timeout: Option<Duration>,
    /// How long a candidate waits for a vanished leader that goes on sending WAL.
    pub primary_race_backoff: Duration,
    pub failsafe_mode: bool,
    pub check_timeline: bool,
    pub pause: bool,
    /// How many lines of the history are kept in etcd; None for all.
    pub max_timelines_history: Option<usize>,
    /// How long a slot is kept for a member that is gone; zero for not at all.
    pub member_slots_ttl: Duration,
    /// Slots that every member which may lead has.
    pub permanent_slots: BTreeMap<String, SlotKind>,
    /// Slots that are somebody else's.
    pub ignore_slots: Vec<SlotMatcher>,
    pub use_pg_rewind: bool,
    pub use_slots: bool,
    /// This cluster is a copy of another one; None: it is its own.
    pub standby_cluster: Option<StandbyCluster>,
    pub remove_data_directory_on_rewind_failure: bool,
    pub remove_data_directory_on_diverged_timelines: bool,
}

/// The cluster that a standby cluster follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StandbyCluster {
    /// Its host, or several with commas, and their port; None: only its archive is read.
    pub place: Option<(String, u16)>,
    /// The slot there.
    pub slot: Option<String>,
}

impl StandbyCluster {
    /// Reads the section; None where it names neither a place nor an archive.
    fn read(document: &Value) -> Option<StandbyCluster> {
        let section = document.get("standby_cluster")?.as_object()?;
        let text = |key: &str| match section.get(key)? {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let (host, port) = (text("host"), text("port"));
        let place = (host.is_some() || port.is_some()).then(|| {
            let port = port.as_deref().and_then(|port| port.split(',').next()?.trim().parse().ok());
            (host.unwrap_or_else(|| "localhost".to_owned()), port.unwrap_or(5432))
        });
        let restores = text("restore_command").is_some();
        (place.is_some() || restores).then(|| StandbyCluster { place, slot: text("primary_slot_name") })
    }
}

/// A value that was not taken as written, and what is used in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// The value has another type or lies outside its range; the default is used.
    #[error("`{key}`: {found} is not {expected}; the default {default} is used")]
    Refused { key: &'static str, found: String, expected: String, default: &'static str },
    /// The value is below what keeps a cluster safe; the minimum is used.
    #[error("`{key}`: {found} is below the minimum; {used} is used")]
    Raised { key: &'static str, found: u64, used: u64 },
    /// A permanent slot has a name that Postgres does not take, or attributes that are those of no slot.
    #[error("the permanent slot `{name}` is left out: its name or its attributes cannot be those of a slot")]
    Slot { name: String },
    /// `loop_wait + 2 × retry_timeout` is above `ttl`; one of them is lowered.
    #[error(
        "`{key}`: loop_wait + 2 × retry_timeout must not be above ttl; {used} is used in place of {found}"
    )]
    Lowered { key: &'static str, found: u64, used: u64 },
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_dynamic(&Value::Null).0
    }
}

impl Settings {
    /// Reads the dynamic configuration. Whatever it holds, usable settings come out, with a list of what was not
    /// taken as written.
    pub fn from_dynamic(document: &Value) -> (Settings, Vec<Complaint>) {
        let mut read = table::Reader::new(document);
        let mut settings = Settings {
            ttl: read.seconds("ttl"),
            loop_wait: read.seconds("loop_wait"),
            retry_timeout: read.seconds("retry_timeout"),
            maximum_lag_on_failover: read.unsigned("maximum_lag_on_failover"),
            maximum_lag_on_syncnode: read.optional("maximum_lag_on_syncnode"),
            synchronous_mode: SyncMode::Off,
            synchronous_node_count: usize::try_from(read.unsigned("synchronous_node_count"))
                .unwrap_or(usize::MAX),
            primary_start_timeout: read.seconds("primary_start_timeout"),
            primary_stop_timeout: Some(read.seconds("primary_stop_timeout")).filter(|limit| !limit.is_zero()),
            primary_race_backoff: read.seconds("primary_race_backoff"),
            failsafe_mode: read.boolean("failsafe_mode"),
            check_timeline: read.boolean("check_timeline"),
            pause: read.boolean("pause"),
            max_timelines_history: Some(read.unsigned("max_timelines_history"))
                .filter(|lines| *lines > 0)
                .and_then(|lines| usize::try_from(lines).ok()),
            member_slots_ttl: read.seconds("member_slots_ttl"),
            permanent_slots: BTreeMap::new(),
            ignore_slots: slots::ignored(document),
            use_pg_rewind: read.boolean("postgresql.use_pg_rewind"),
            use_slots: read.boolean("postgresql.use_slots"),
            standby_cluster: StandbyCluster::read(document),
            remove_data_directory_on_rewind_failure: read
                .boolean("postgresql.remove_data_directory_on_rewind_failure"),
            remove_data_directory_on_diverged_timelines: read
                .boolean("postgresql.remove_data_directory_on_diverged_timelines"),
        };
        settings.synchronous_mode = read.sync_mode();
        if settings.standby_cluster.is_some() {
            // Nothing is committed here that anybody could wait for.
            settings.synchronous_mode = SyncMode::Off;
        }
        let mut complaints = read.complaints;
        settings.permanent_slots = slots::permanent(document, &mut complaints);
        settings.adjust(&mut complaints);
        (settings, complaints)
    }

    /// Returns the settings under another ttl, as they would be adjusted to it.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Settings {
        self.ttl = ttl;
        // What is adjusted here is not what somebody wrote.
        self.adjust(&mut Vec::new());
        self
    }

    /// Makes `loop_wait + 2 × retry_timeout ≤ ttl` true: loop_wait goes down first, to one second at the least, then
    /// retry_timeout. Source: Patroni 4.1, `config.py`; stored configuration is not touched.
    ///
    /// Below ttl 20 nothing is adjusted: the keeper renews by periods of its own there, and the guard holds the
    /// deadline.
    fn adjust(&mut self, complaints: &mut Vec<Complaint>) {
        let (ttl, wait, retry) = (self.ttl.as_secs(), self.loop_wait.as_secs(), self.retry_timeout.as_secs());
        if ttl < table::SHORTEST_TTL_OF_PATRONI || wait.saturating_add(retry.saturating_mul(2)) <= ttl {
            return;
        }
        let new_wait = ttl.saturating_sub(retry.saturating_mul(2)).max(1);
        if new_wait != wait {
            complaints.push(Complaint::Lowered { key: "loop_wait", found: wait, used: new_wait });
            self.loop_wait = Duration::from_secs(new_wait);
        }
        let most_retry = ttl.saturating_sub(new_wait) / 2;
        if retry > most_retry {
            complaints.push(Complaint::Lowered { key: "retry_timeout", found: retry, used: most_retry });
            self.retry_timeout = Duration::from_secs(most_retry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn nothing_written_gives_the_defaults_of_the_contract() {
        let (settings, complaints) = Settings::from_dynamic(&json!({}));

        assert!(complaints.is_empty());
        assert_eq!(settings.ttl, Duration::from_secs(30));
        assert_eq!(settings.loop_wait, Duration::from_secs(10));
        assert_eq!(settings.retry_timeout, Duration::from_secs(10));
        assert_eq!(settings.maximum_lag_on_failover, 1_048_576);
        assert_eq!(settings.maximum_lag_on_syncnode, None);
        assert_eq!(settings.synchronous_mode, SyncMode::Off);
        assert_eq!(settings.primary_start_timeout, Duration::from_secs(300));
        assert!(settings.use_slots);
        assert!(!settings.use_pg_rewind);
    }

    #[test]
    fn loop_wait_is_lowered_before_retry_timeout() {
        let (settings, complaints) =
            Settings::from_dynamic(&json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10}));

        assert_eq!(settings.loop_wait, Duration::from_secs(1));
        assert_eq!(settings.retry_timeout, Duration::from_secs(9));
        assert_eq!(complaints.len(), 2);
    }

    #[test]
    fn text_and_units_are_read_as_numbers() {
        let (settings, complaints) = Settings::from_dynamic(
            &json!({"ttl": "45", "maximum_lag_on_failover": "2MB", "primary_start_timeout": "1min", "pause": "on"}),
        );

        assert_eq!(complaints, []);
        assert_eq!(settings.ttl, Duration::from_secs(45));
        assert_eq!(settings.maximum_lag_on_failover, 2 * 1024 * 1024);
        assert_eq!(settings.primary_start_timeout, Duration::from_secs(60));
        assert!(settings.pause);
    }

    #[test]
    fn a_standby_cluster_needs_a_place_or_an_archive() {
        let read = |section: Value| {
            let (settings, _) =
                Settings::from_dynamic(&json!({"synchronous_mode": true, "standby_cluster": section}));
            let standby = settings.standby_cluster.is_some();
            assert_eq!(settings.synchronous_mode == SyncMode::Off, standby);
            settings.standby_cluster
        };
        let place = |host: &str, port| Some((host.to_owned(), port));

        let full = read(json!({"host": "a,b", "port": "5433", "primary_slot_name": "s"})).unwrap();
        assert_eq!((full.place, full.slot.as_deref()), (place("a,b", 5433), Some("s")));
        assert_eq!(read(json!({"port": 7})).unwrap().place, place("localhost", 7));
        assert_eq!(read(json!({"host": null, "restore_command": "cp"})).unwrap().place, None);
        assert_eq!(read(json!({"primary_slot_name": "s"})), None);
        assert_eq!(read(json!({})), None);
    }

    #[test]
    fn strictness_counts_only_in_synchronous_mode() {
        let mode = |document: Value| Settings::from_dynamic(&document).0.synchronous_mode;

        assert_eq!(mode(json!({"synchronous_mode_strict": true})), SyncMode::Off);
        assert_eq!(mode(json!({"synchronous_mode": true})), SyncMode::On);
        assert_eq!(
            mode(json!({"synchronous_mode": "on", "synchronous_mode_strict": true})),
            SyncMode::Strict
        );
        assert_eq!(mode(json!({"synchronous_mode": "quorum"})), SyncMode::Quorum);
    }

    #[test]
    fn a_value_of_another_type_gives_the_default_and_a_complaint() {
        let (settings, complaints) =
            Settings::from_dynamic(&json!({"ttl": [1], "pause": "perhaps", "loop_wait": -1}));

        assert_eq!(settings.ttl, Duration::from_secs(30));
        assert!(!settings.pause);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
    }

    #[test]
    fn the_old_names_of_the_timeouts_are_read() {
        let (settings, _) = Settings::from_dynamic(&json!({"master_start_timeout": 0}));
        assert_eq!(settings.primary_start_timeout, Duration::ZERO);
    }

    proptest! {
        #[test]
        fn settings_always_fit_into_the_ttl(ttl in 0u64..200, wait in 0u64..200, retry in 0u64..200) {
            let (settings, _) = Settings::from_dynamic(&json!({"ttl": ttl, "loop_wait": wait, "retry_timeout": retry}));
            prop_assert!(settings.ttl >= Duration::from_secs(5));
            prop_assert!(settings.loop_wait >= Duration::from_secs(1));
            if settings.ttl >= Duration::from_secs(20) {
                prop_assert!(settings.loop_wait + 2 * settings.retry_timeout <= settings.ttl);
            }
        }
    }
}
