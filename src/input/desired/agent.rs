//! The part `agent` of `cluster.yml`.

use crate::input::desired::shape::{Free, Limit, PORT, part, words};

words! {
    /// Whether commits wait for standbys that may take over.
    pub enum SynchronousMode {
        /// Commits do not wait; a failover may lose the last ones.
        Off = "off",
        /// Commits wait for named standbys.
        On = "on",
        /// Commits wait for any of the standbys, as many as asked for.
        Quorum = "quorum",
    }
}

part! {
    /// The node agents: election, failover, replicas.
    pub struct Agent {
        /// The port of the REST API, which HAProxy's checks ask too.
        port: i64 = 8008, PORT;
        /// Seconds that the leader's lock lives without a sign of its holder; with `loop_wait`, how long a failover takes at most.
        ttl: i64 = 30, Limit::Range(5, 3600);
        /// Seconds between two looks of an agent when nothing happens.
        loop_wait: i64 = 10, Limit::Range(1, 600);
        /// Seconds that an operation on etcd or Postgres is tried again.
        retry_timeout: i64 = 10, Limit::Range(1, 600);
        /// Most bytes that a replica may be behind the last known position of the leader to stand for election.
        maximum_lag_on_failover: i64 = 1_048_576, Limit::Range(0, i64::MAX);
        /// Whether commits wait for standbys that may take over.
        synchronous_mode: SynchronousMode = SynchronousMode::Off, Limit::None;
        /// Whether commits wait for a standby to come when none is left.
        synchronous_mode_strict: bool = false, Limit::None;
        /// How many synchronous standbys there should be.
        synchronous_node_count: i64 = 1, Limit::Range(1, 100);
        /// Whether a primary goes on without etcd while every other member agrees.
        failsafe_mode: bool = false, Limit::None;
        /// Whether a former primary that went another way is brought back by pg_rewind.
        use_pg_rewind: bool = true, Limit::None;
        /// Whether replicas stream through replication slots.
        use_slots: bool = true, Limit::None;
        /// Seconds that a primary may take to come up before the lock goes to another member.
        primary_start_timeout: i64 = 300, Limit::Range(0, 86_400);
        /// More of the dynamic configuration, as Patroni documents it; what is said above stands above it.
        dynamic: Free = Free::default(), Limit::None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::desired::shape::Shape;
    use crate::settings::table;

    #[test]
    fn bounds_and_defaults_are_those_of_the_agent() {
        let schema = Agent::schema();
        let ours = ["use_pg_rewind"];
        for (key, entry) in schema["properties"].as_object().unwrap() {
            let row = table::find(key).or_else(|| table::find(&format!("postgresql.{key}")));
            let Some(row) = row.filter(|_| !ours.contains(&key.as_str())) else { continue };
            if let Some(default) = entry.get("default") {
                let default = match default {
                    serde_json::Value::Bool(flag) => if *flag { "on" } else { "off" }.to_owned(),
                    serde_json::Value::String(word) => word.clone(),
                    other => other.to_string(),
                };
                assert_eq!(default, row.default, "{key}");
            }
            if let Some(minimum) = entry.get("minimum").and_then(serde_json::Value::as_i64) {
                assert!(minimum >= row.range.0, "{key}");
            }
        }
    }
}
