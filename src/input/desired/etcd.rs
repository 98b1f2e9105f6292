//! The part `etcd` of `cluster.yml`.

use std::sync::Arc;

use crate::input::desired::shape::{Limit, PORT, part};

part! {
    /// The etcd cluster that agents elect their leader through.
    pub struct Etcd {
        /// The inventory group whose hosts are members.
        group: Arc<str> = "etcd".into(), Limit::None;
        /// The version that is expected, where it is known (`"3.5.21"`); `validate` then names its known faults.
        version: Option<Arc<str>> = None, Limit::None;
        /// The port that clients connect to.
        client_port: i64 = 2379, PORT;
        /// The port that members talk to each other on.
        peer_port: i64 = 2380, PORT;
        /// What keeps members of different clusters apart; the deployment's name when it is not given.
        token: Option<Arc<str>> = None, Limit::Name;
        /// Milliseconds between the leader's heartbeats; about the round trip between members, at least.
        heartbeat_interval_ms: i64 = 100, Limit::Range(10, 10_000);
        /// Milliseconds without a heartbeat after which members elect a leader; ten times the heartbeat is usual.
        election_timeout_ms: i64 = 1000, Limit::Range(50, 50_000);
        /// Most bytes of the database before etcd refuses writes.
        quota_backend_bytes: i64 = 2_147_483_648, Limit::Range(67_108_864, 8_589_934_592);
    }
}
