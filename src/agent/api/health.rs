//! Which status a health check gets. Pure: facts in, a number out.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What health checks are judged by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Postgres runs and answers.
    pub running: bool,
    /// Postgres is in recovery.
    pub replica: bool,
    /// The lock is held at this moment.
    pub leader: bool,
    /// The lock is held and Postgres has left recovery.
    pub primary: bool,
    /// The lock of a standby cluster is held.
    pub standby_leader: bool,
    pub noloadbalance: bool,
    /// Etcd answered in the last look.
    pub dcs_known: bool,
    /// How far the leader is: etcd says it, or the WAL receiver.
    pub position_known: bool,
    /// A synchronous standby that every commit waits for.
    pub sync_standby: bool,
    /// One of the synchronous standbys that enough of are waited for.
    pub quorum_standby: bool,
    pub paused: bool,
    /// As in `replication_state`; empty where there is none.
    pub replication_state: String,
    /// Bytes that replay lacks of the leader's position.
    pub replay_lag: u64,
    /// Bytes that have not been received of the leader's position.
    pub receive_lag: u64,
    pub maximum_lag_on_failover: u64,
    pub tags: Map<String, Value>,
    /// The last look is younger than the limit of `/liveness`.
    pub loop_alive: bool,
}

const OK: u16 = 200;
const UNAVAILABLE: u16 = 503;

/// Returns the status of a health check; None where `path` is none.
pub fn status(path: &str, query: &BTreeMap<String, String>, health: &Health) -> u16 {
    let path = if path == "/" { "/primary" } else { path };
    let code = |good: bool| if good { OK } else { UNAVAILABLE };
    let lag_limit = query.get("lag").and_then(|text| parse_bytes(text)).unwrap_or(u64::MAX);
    let wanted_state = query.get("replication_state").is_none_or(|state| *state == health.replication_state);
    let replica = health.running
        && health.replica
        && !health.leader
        && !health.noloadbalance
        && health.replay_lag <= lag_limit
        && wanted_state;
    // Without etcd a pause lets the role decide: nothing promotes meanwhile.
    let primary = health.primary || (!health.dcs_known && health.paused && health.running && !health.replica);
    let leader = health.leader || primary;
    let has = |word: &str| path.contains(word);
    match path {
        "/liveness" => return code(health.paused || health.loop_alive),
        "/readiness" => return code(is_ready(query, health, leader)),
        _ => {}
    }
    let (good, by_tags) = if has("standby_leader") || has("standby-leader") {
        (health.standby_leader, false)
    } else if has("leader") {
        (leader, false)
    } else if has("master") || has("primary") || has("read-write") {
        (primary, false)
    } else if has("replica") {
        (replica, true)
    } else if has("read-only") && !has("sync") && !has("quorum") {
        (primary || replica, true)
    } else if has("health") {
        (health.running, true)
    } else if health.dcs_known {
        let good = match path {
            "/sync" | "/synchronous" => replica && health.sync_standby,
            "/quorum" => replica && health.quorum_standby,
            "/async" | "/asynchronous" => replica && !health.sync_standby && !health.quorum_standby,
            "/read-only-sync" | "/read-only-synchronous" => primary || (replica && health.sync_standby),
            "/read-only-quorum" => primary || (replica && health.quorum_standby),
            _ => false,
        };
        (good, true)
    } else {
        (false, true)
    };
    code(good && (!by_tags || tags_match(query, &health.tags)))
}

fn tags_match(query: &BTreeMap<String, String>, tags: &Map<String, Value>) -> bool {
    query.iter().filter_map(|(key, wanted)| Some((key.strip_prefix("tag_")?, wanted))).all(|(tag, wanted)| {
        match tags.get(tag) {
            Some(Value::String(text)) => text == wanted,
            Some(other) => other.to_string().to_lowercase() == *wanted,
            None => false,
        }
    })
}

fn is_ready(query: &BTreeMap<String, String>, health: &Health, leader: bool) -> bool {
    if leader {
        return true;
    }
    let lag = if query.get("mode").is_some_and(|mode| mode == "write") {
        health.receive_lag
    } else {
        health.replay_lag
    };
    let limit = query.get("lag").and_then(|text| parse_bytes(text)).unwrap_or(health.maximum_lag_on_failover);
    health.running && health.position_known && health.replication_state == "streaming" && lag <= limit
}

/// Reads bytes with Postgres's units: `10MB`, `1048576`, `512 kB`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let (whole, fraction) = number.split_once('.')?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 6)?;
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole.checked_mul(factor)? + fraction.checked_mul(factor)? / 10_u64.pow(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str, health: &Health) -> u16 {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        status(path, &pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(), health)
    }

    fn replica() -> Health {
        Health {
            running: true,
            replica: true,
            dcs_known: true,
            position_known: true,
            replication_state: "streaming".to_owned(),
            maximum_lag_on_failover: 1 << 20,
            loop_alive: true,
            ..Health::default()
        }
    }

    fn primary() -> Health {
        Health {
            running: true,
            leader: true,
            primary: true,
            dcs_known: true,
            position_known: true,
            loop_alive: true,
            ..Health::default()
        }
    }

    #[test]
    fn a_primary_takes_writes_and_reads() {
        for path in
            ["/", "/primary", "/read-write", "/leader", "/master", "/read-only", "/health", "/readiness"]
        {
            assert_eq!(ask(path, &primary()), 200, "{path}");
        }
        for path in ["/replica", "/sync", "/async", "/nonsense", "/standby-leader"] {
            assert_eq!(ask(path, &primary()), 503, "{path}");
        }
    }

    #[test]
    fn a_leader_in_recovery_is_no_primary_yet() {
        let promoting = Health { leader: true, ..replica() };

        assert_eq!(ask("/leader", &promoting), 200);
        assert_eq!(ask("/primary", &promoting), 503);
        assert_eq!(ask("/replica", &promoting), 503);
    }

    #[test]
    fn a_standby_leader_is_a_leader_and_no_primary() {
        let standby = Health { leader: true, standby_leader: true, ..replica() };

        for path in ["/standby_leader", "/standby-leader", "/leader", "/health"] {
            assert_eq!(ask(path, &standby), 200, "{path}");
        }
        for path in ["/", "/primary", "/read-write", "/replica"] {
            assert_eq!(ask(path, &standby), 503, "{path}");
        }
    }

    #[test]
    fn a_replica_is_judged_by_lag_state_and_tags() {
        let mut lagging = replica();
        lagging.replay_lag = 2 << 20;
        lagging.tags.insert("dc".to_owned(), "a".into());

        assert_eq!(ask("/replica", &lagging), 200);
        assert_eq!(ask("/replica?lag=1MB", &lagging), 503);
        assert_eq!(ask("/replica?lag=3MB&tag_dc=a", &lagging), 200);
        assert_eq!(ask("/replica?tag_dc=b", &lagging), 503);
        assert_eq!(ask("/replica?replication_state=streaming", &lagging), 200);
        assert_eq!(ask("/readiness", &lagging), 503);
        assert_eq!(ask("/async", &lagging), 200);
        assert_eq!(ask("/replica", &Health { noloadbalance: true, ..replica() }), 503);
    }

    #[test]
    fn a_streaming_replica_is_ready_while_etcd_is_silent() {
        let silent = Health { dcs_known: false, position_known: true, ..replica() };

        assert_eq!(ask("/readiness", &silent), 200);
        assert_eq!(ask("/readiness", &Health { position_known: false, ..silent }), 503);
    }

    #[test]
    fn a_synchronous_standby_is_known_as_such() {
        let sync = Health { sync_standby: true, ..replica() };

        assert_eq!(ask("/sync", &sync), 200);
        assert_eq!(ask("/async", &sync), 503);
        assert_eq!(ask("/read-only-sync", &sync), 200);
    }

    #[test]
    fn a_quorum_standby_is_no_synchronous_one() {
        let quorum = Health { quorum_standby: true, ..replica() };

        assert_eq!(ask("/quorum", &quorum), 200);
        assert_eq!(ask("/read-only-quorum", &quorum), 200);
        for path in ["/sync", "/async"] {
            assert_eq!(ask(path, &quorum), 503, "{path}");
        }
        assert_eq!(ask("/quorum", &replica()), 503);
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("10MB"), Some(10 << 20));
        assert_eq!(parse_bytes("1.5kB"), Some(1536));
        assert_eq!(parse_bytes("7"), Some(7));
        assert_eq!(parse_bytes("x"), None);
    }
}
