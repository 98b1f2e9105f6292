//! A restart that waits for its time. It is this agent's own: a new process does not know of it.

use serde_json::{Map, Value};

use crate::agent::view::Started;
use crate::cluster::UnixMs;
use crate::contract::failover::format_time;

/// A restart, with the conditions under which it is done when its time comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    pub at: UnixMs,
    pub only_role: Option<Started>,
    pub only_if_pending: bool,
    /// Only if the server is older than this.
    pub older_than: Option<u32>,
    /// The request as others are shown it.
    pub asked: Map<String, Value>,
    /// When the server was started that is to be restarted.
    pub started: Option<String>,
}

/// What becomes of a scheduled restart at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Wait,
    Now,
    /// The server has been restarted meanwhile, or is not older than asked for.
    Needless,
    /// Its time has passed by more than looks are apart.
    Late,
}

impl Scheduled {
    /// Judges it by the server that runs at `now`; `late` is how long past its time it is still done.
    pub fn turn(&self, now: UnixMs, late_ms: i64, started: Option<&str>, version: u32) -> Turn {
        let restarted = matches!((self.started.as_deref(), started), (Some(then), Some(now)) if then != now);
        if restarted {
            return Turn::Needless;
        }
        if now < self.at {
            return Turn::Wait;
        }
        if now.0 > self.at.0.saturating_add(late_ms) {
            return Turn::Late;
        }
        match self.older_than {
            Some(limit) if version >= limit => Turn::Needless,
            Some(_) | None => Turn::Now,
        }
    }

    /// Returns it as Patroni's documents show it.
    pub fn document(&self) -> Map<String, Value> {
        let mut document = self.asked.clone();
        document.insert("schedule".to_owned(), format_time(self.at).into());
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_done_in_its_time_and_only_for_the_server_it_was_meant_for() {
        let scheduled = Scheduled {
            at: UnixMs(10_000),
            only_role: None,
            only_if_pending: false,
            older_than: Some(150_004),
            asked: Map::new(),
            started: Some("then".to_owned()),
        };
        let table = [
            (9_999, Some("then"), 150_003, Turn::Wait),
            (10_000, Some("then"), 150_003, Turn::Now),
            (10_000, None, 150_003, Turn::Now),
            (10_000, Some("later"), 150_003, Turn::Needless),
            (10_000, Some("then"), 150_004, Turn::Needless),
            (13_001, Some("then"), 150_003, Turn::Late),
        ];
        for (now, started, version, expected) in table {
            assert_eq!(scheduled.turn(UnixMs(now), 3_000, started, version), expected, "{now} {started:?}");
        }
    }
}
