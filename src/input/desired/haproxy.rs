//! The part `haproxy` of `cluster.yml`.

use std::sync::Arc;

use crate::input::desired::shape::{Limit, PORT, part};

part! {
    /// The proxies that clients connect to.
    pub struct Haproxy {
        /// The inventory group whose hosts run HAProxy.
        group: Arc<str> = "haproxy".into(), Limit::None;
        /// The port that leads to the primary.
        read_write_port: i64 = 5000, PORT;
        /// The port that leads to the replicas in turn.
        read_only_port: i64 = 5001, PORT;
        /// The port of the statistics page.
        stats_port: i64 = 7000, PORT;
        /// Most connections of one proxy.
        max_connections: i64 = 1000, Limit::Range(1, 1_000_000);
    }
}
