//! What makes the loop look before its time: changes in etcd that concern it, and signals. Nothing here acts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::cluster::{Role, State};
use crate::contract::keys::{Key, Keys};
use crate::contract::member::MemberDocument;
use crate::etcd::Client;
use crate::etcd::mirror::Mirror;
use crate::etcd::watch::{Change, watch};

/// What signals have asked for.
#[derive(Debug, Default)]
pub struct Signals {
    pub stop: AtomicBool,
    pub reload: AtomicBool,
    pub execute: AtomicBool,
}

/// Watches the cluster's keys: wakes the loop when one changes that a decision may rest on at once, and keeps the mirror
/// in step with the others.
pub fn watch_keys(client: &Client, keys: &Keys, me: &str, mirror: Arc<Mirror>, wake: Arc<Notify>) {
    let mut changes = watch(client, keys.prefix());
    let (keys, me) = (keys.clone(), me.to_owned());
    tokio::spawn(async move {
        let mut turns = Turns::default();
        while let Some(changes) = changes.recv().await {
            // Both are asked for each change: what a member is from here on is remembered in any case.
            let concerning =
                changes.iter().filter(|change| concerns(&keys, &me, change) | turns.take(&keys, &me, change));
            let concern = concerning.count() > 0;
            mirror.take(&changes, concern);
            if concern {
                wake.notify_one();
            }
        }
    });
}

/// What the other members are, as they said last: one that serves from here on, or has stopped, is what somebody may be
/// waiting for.
#[derive(Debug, Default)]
struct Turns(BTreeMap<String, (Option<Role>, Option<State>)>);

impl Turns {
    /// Tells whether a change makes another member something else than it was.
    fn take(&mut self, keys: &Keys, me: &str, change: &Change) -> bool {
        let Change::Put(kv) = change else { return false };
        let Key::Member(name) = keys.read(&kv.key) else { return false };
        let Some(document) = MemberDocument::parse(&kv.value).ok().filter(|_| name != me) else {
            return false;
        };
        let is = (document.role(), document.state());
        self.0.insert(name.to_owned(), is) != Some(is)
    }
}

/// The others' positions and the status change with each write; the loop sees them in its own time.
fn concerns(keys: &Keys, me: &str, change: &Change) -> bool {
    let (key, created, deleted) = match change {
        Change::Gap => return true,
        Change::Put(kv) => (kv.key.as_str(), kv.version == 1, false),
        Change::Deleted { key, .. } => (key.as_str(), false, true),
    };
    match keys.read(key) {
        Key::Leader | Key::Config | Key::Failover | Key::Sync | Key::Failsafe | Key::Initialize => true,
        Key::Member(name) => created || (deleted && name == me),
        Key::Status | Key::History | Key::Reasons(_) | Key::Other => false,
    }
}

/// Listens for signals: SIGTERM and SIGINT end, SIGHUP reloads, SIGUSR2 executes the program that lies in the place of this one.
///
/// # Errors
/// The kernel refused a handler.
pub fn listen(signals: &Arc<Signals>, wake: &Arc<Notify>) -> std::io::Result<()> {
    type Flag = fn(&Signals) -> &AtomicBool;
    let kinds: [(SignalKind, Flag); 4] = [
        (SignalKind::terminate(), |signals| &signals.stop),
        (SignalKind::interrupt(), |signals| &signals.stop),
        (SignalKind::hangup(), |signals| &signals.reload),
        (SignalKind::user_defined2(), |signals| &signals.execute),
    ];
    for (kind, flag) in kinds {
        let mut stream = signal(kind)?;
        let (signals, wake) = (signals.clone(), wake.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                flag(&signals).store(true, Ordering::Relaxed);
                wake.notify_one();
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Kv;

    #[test]
    fn a_member_that_serves_from_here_on_wakes_and_its_positions_do_not() {
        let keys = Keys::new("service", "demo");
        let mut turns = Turns::default();
        let mut put = |name: &str, text: &str| {
            let kv = Kv {
                key: keys.member(name),
                value: text.to_owned(),
                create_revision: 1,
                mod_revision: 9,
                version: 2,
                lease: 7,
            };
            turns.take(&keys, "a", &Change::Put(kv))
        };

        assert!(put("b", r#"{"role": "replica", "state": "starting"}"#), "what it was is not known");
        assert!(!put("b", r#"{"role": "replica", "state": "starting", "xlog_location": 7}"#));
        assert!(put("b", r#"{"role": "primary", "state": "running"}"#));
        assert!(!put("a", r#"{"role": "replica", "state": "stopped"}"#), "it knows itself");
    }

    #[test]
    fn a_status_does_not_wake_and_a_leader_does() {
        let keys = Keys::new("service", "demo");
        let deleted = |key: String| Change::Deleted { key, mod_revision: 7 };

        assert!(concerns(&keys, "a", &deleted(keys.leader())));
        assert!(concerns(&keys, "a", &deleted(keys.member("a"))));
        assert!(!concerns(&keys, "a", &deleted(keys.member("b"))));
        assert!(!concerns(&keys, "a", &deleted(keys.status())));
        assert!(concerns(&keys, "a", &Change::Gap));
    }
}
