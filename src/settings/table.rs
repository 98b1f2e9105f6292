//! The table: a row per key of the dynamic configuration, and the reader that obeys it.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::SyncMode;
use crate::contract::document::boolean;
use crate::settings::Complaint;

/// The shortest `ttl` that a Patroni member accepts, in seconds; below it only Keddah's members keep a lease.
pub const SHORTEST_TTL_OF_PATRONI: u64 = 20;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    Integer,
    /// `off`, `on` or `quorum`, as a word or a boolean.
    SyncMode,
}

/// What a number counts, and which suffixes it may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    None,
    Seconds,
    Bytes,
}

/// Where a key may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster's dynamic configuration only.
    Dynamic,
    /// In the dynamic configuration, and locally, where the local value wins.
    Both,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key; a dot leads into a mapping.
    pub name: &'static str,
    /// Other names that mean the same, older ones last.
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    pub unit: Unit,
    /// Smallest and largest value of a number; the smallest also takes the place of what lies below it.
    pub range: (i64, i64),
    /// As it would be written.
    pub default: &'static str,
    pub scope: Scope,
    /// The section of Patroni's documentation that describes it.
    pub section: &'static str,
    /// One sentence.
    pub meaning: &'static str,
}

const MOST: i64 = i64::MAX;

const fn number(
    name: &'static str,
    unit: Unit,
    range: (i64, i64),
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting {
        name,
        aliases: &[],
        kind: Kind::Integer,
        unit,
        range,
        default,
        scope: Scope::Dynamic,
        section: "Dynamic Configuration Settings",
        meaning,
    }
}

const fn switch(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { kind: Kind::Boolean, ..number(name, Unit::None, (0, 1), default, meaning) }
}

const fn postgres(setting: Setting) -> Setting {
    Setting { scope: Scope::Both, section: "YAML Configuration Settings, PostgreSQL", ..setting }
}

/// Every key that decisions rest on.
pub const SETTINGS: &[Setting] = &[
    number("ttl", Unit::Seconds, (5, MOST), "30", "How long the leader key lives without a keepalive."),
    number("loop_wait", Unit::Seconds, (1, MOST), "10", "The longest time between two looks of an agent."),
    number(
        "retry_timeout",
        Unit::Seconds,
        (1, MOST),
        "10",
        "How long an operation is tried again before it counts as failed.",
    ),
    number(
        "maximum_lag_on_failover",
        Unit::Bytes,
        (0, MOST),
        "1048576",
        "Most bytes a candidate may be behind the leader's last known position.",
    ),
    number(
        "maximum_lag_on_syncnode",
        Unit::Bytes,
        (-1, MOST),
        "-1",
        "Most bytes a synchronous standby may be behind before another takes its place; -1 for any.",
    ),
    Setting {
        kind: Kind::SyncMode,
        ..number(
            "synchronous_mode",
            Unit::None,
            (0, 1),
            "off",
            "Whether commits wait for standbys that may take over.",
        )
    },
    switch("synchronous_mode_strict", "off", "Whether commits wait for a standby to come when none is left."),
    number(
        "synchronous_node_count",
        Unit::None,
        (1, MOST),
        "1",
        "How many synchronous standbys there should be.",
    ),
    Setting {
        aliases: &["master_start_timeout"],
        ..number(
            "primary_start_timeout",
            Unit::Seconds,
            (0, MOST),
            "300",
            "How long a primary may take to come up before the lock goes to another member.",
        )
    },
    Setting {
        aliases: &["master_stop_timeout"],
        ..number(
            "primary_stop_timeout",
            Unit::Seconds,
            (0, MOST),
            "0",
            "How long a stop may take in synchronous mode before it is made immediate; 0 for any time.",
        )
    },
    number(
        "primary_race_backoff",
        Unit::Seconds,
        (0, MOST),
        "0",
        "How long replicas wait for a leader that has lost its key and goes on sending WAL; 0 for not at all.",
    ),
    switch("failsafe_mode", "off", "Whether a primary goes on without etcd while every member agrees."),
    switch("check_timeline", "off", "Whether a candidate's timeline must be that of the history's end."),
    switch("pause", "off", "Whether agents leave Postgres alone."),
    number(
        "max_timelines_history",
        Unit::None,
        (0, MOST),
        "0",
        "How many lines of the history are kept in etcd; 0 for all.",
    ),
    number(
        "member_slots_ttl",
        Unit::Seconds,
        (0, MOST),
        "30min",
        "How long a slot is kept for a member that is gone.",
    ),
    postgres(switch(
        "postgresql.use_pg_rewind",
        "off",
        "Whether a former primary is brought back by pg_rewind.",
    )),
    postgres(switch("postgresql.use_slots", "on", "Whether replicas stream through replication slots.")),
    postgres(switch(
        "postgresql.remove_data_directory_on_rewind_failure",
        "off",
        "Whether a failed pg_rewind may be followed by a new copy.",
    )),
    postgres(switch(
        "postgresql.remove_data_directory_on_diverged_timelines",
        "off",
        "Whether a member that diverged where pg_rewind cannot be used, or for which no WAL is left, may be copied anew.",
    )),
];

/// Returns the row of `name`.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|row| row.name == name)
}

/// Reads values by name, as their rows say, and remembers what it could not take.
pub(crate) struct Reader<'a> {
    document: &'a Value,
    pub(crate) complaints: Vec<Complaint>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(document: &'a Value) -> Self {
        Self { document, complaints: Vec::new() }
    }

    pub(crate) fn seconds(&mut self, name: &'static str) -> Duration {
        Duration::from_secs(self.unsigned(name))
    }

    pub(crate) fn unsigned(&mut self, name: &'static str) -> u64 {
        self.optional(name).unwrap_or(0)
    }

    /// Reads a number; None for a negative one where the row allows it.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<u64> {
        let row = find(name).expect("every name read is a row; a test reads them all");
        let default = parse_number(row.default, row.unit).expect("defaults parse; a test reads them all");
        let number = match self.find(row) {
            None => default,
            Some(found) => match number_of(found, row.unit) {
                None => {
                    self.refuse(row, found, "a number");
                    default
                }
                Some(number) if number < 0 && row.range.0 >= 0 => {
                    self.refuse(row, found, "a number that is not negative");
                    default
                }
                Some(number) => number,
            },
        };
        let used = number.clamp(row.range.0, row.range.1);
        if used != number {
            self.complaints.push(Complaint::Raised {
                key: row.name,
                found: u64::try_from(number).unwrap_or(0),
                used: u64::try_from(used).unwrap_or(0),
            });
        }
        u64::try_from(used).ok()
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> bool {
        let row = find(name).expect("every name read is a row; a test reads them all");
        match self.find(row).map(|found| (found, boolean(found))) {
            None => row.default == "on",
            Some((_, Some(value))) => value,
            Some((found, None)) => {
                self.refuse(row, found, "a boolean");
                row.default == "on"
            }
        }
    }

    pub(crate) fn sync_mode(&mut self) -> SyncMode {
        let row = find("synchronous_mode").expect("every name read is a row; a test reads them all");
        let strict = self.boolean("synchronous_mode_strict");
        let (loose, tight) = match self.find(row) {
            None => return SyncMode::Off,
            Some(Value::String(word)) if word.eq_ignore_ascii_case("quorum") => {
                (SyncMode::Quorum, SyncMode::QuorumStrict)
            }
            Some(found) => match boolean(found) {
                Some(true) => (SyncMode::On, SyncMode::Strict),
                Some(false) => return SyncMode::Off,
                None => {
                    self.refuse(row, found, "off, on or quorum");
                    return SyncMode::Off;
                }
            },
        };
        if strict { tight } else { loose }
    }

    fn find(&self, row: &Setting) -> Option<&'a Value> {
        let lookup = |name: &str| {
            let found = name.split('.').try_fold(self.document, |value, part| value.get(part))?;
            (!found.is_null()).then_some(found)
        };
        lookup(row.name).or_else(|| row.aliases.iter().find_map(|alias| lookup(alias)))
    }

    fn refuse(&mut self, row: &Setting, found: &Value, expected: &str) {
        self.complaints.push(Complaint::Refused {
            key: row.name,
            found: found.to_string(),
            expected: expected.to_owned(),
            default: row.default,
        });
    }
}

fn number_of(value: &Value, unit: Unit) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => parse_number(text, unit),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Reads a number with an optional suffix of its unit, in the spelling of Postgres: `2MB`, `5min`.
fn parse_number(text: &str, unit: Unit) -> Option<i64> {
    let text = text.trim();
    let digits = text.char_indices().find(|(at, c)| !(c.is_ascii_digit() || (*at == 0 && *c == '-')));
    let (number, suffix) = text.split_at(digits.map_or(text.len(), |(at, _)| at));
    let factor = match (unit, suffix.trim()) {
        (_, "") | (Unit::Bytes, "B") | (Unit::Seconds, "s") => 1,
        (Unit::Bytes, "kB") => 1 << 10,
        (Unit::Bytes, "MB") => 1 << 20,
        (Unit::Bytes, "GB") => 1 << 30,
        (Unit::Bytes, "TB") => 1 << 40,
        (Unit::Seconds, "min") => 60,
        (Unit::Seconds, "h") => 3_600,
        (Unit::Seconds, "d") => 86_400,
        (Unit::None | Unit::Seconds | Unit::Bytes, _) => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_row() {
        for row in SETTINGS {
            match row.kind {
                Kind::Integer => {
                    let value = parse_number(row.default, row.unit).unwrap_or_else(|| panic!("{}", row.name));
                    assert!((row.range.0..=row.range.1).contains(&value), "{}", row.name);
                }
                Kind::Boolean | Kind::SyncMode => {
                    assert!(boolean(&Value::String(row.default.into())).is_some(), "{}", row.name);
                }
            }
        }
    }

    #[test]
    fn no_key_has_two_rows() {
        let mut names: Vec<&str> =
            SETTINGS.iter().flat_map(|row| row.aliases.iter().copied().chain([row.name])).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn suffixes_belong_to_their_unit() {
        assert_eq!(parse_number("1GB", Unit::Bytes), Some(1 << 30));
        assert_eq!(parse_number("1GB", Unit::Seconds), None);
        assert_eq!(parse_number("5 min", Unit::Seconds), Some(300));
        assert_eq!(parse_number("9999999999999TB", Unit::Bytes), None);
        assert_eq!(parse_number("-1", Unit::Bytes), Some(-1));
        assert_eq!(parse_number("", Unit::None), None);
    }
}
