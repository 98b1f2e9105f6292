//! Where the promises end (docs/safety.md): what is not promised does happen here, and what holds all the same holds.

use std::time::Duration;

use keddah::cluster::SyncMode;
use keddah::settings::Settings;

use crate::faults::Fault;
use crate::world::World;

/// A primary's machine stands still for longer than its lease lasts, and its clocks with it; what was violated.
fn paused_unseen(mode: SyncMode) -> Vec<String> {
    let settings = Settings {
        ttl: Duration::from_secs(5),
        loop_wait: Duration::from_secs(1),
        synchronous_mode: mode,
        use_pg_rewind: true,
        ..Settings::default()
    };
    let mut world = World::new(1, &["a", "b", "c"], settings, 500);
    assert!(world.run_until(40_000, World::whole));
    world.run_for(15_000);
    let leader = world.leader().cloned().unwrap();
    let host = world.hosts.iter().position(|h| h.name == leader).unwrap();
    world.fault(Fault::BlindPause { host, ms: 20_000 });
    world.run_for(20_000);
    assert!(world.leader().is_some_and(|name| *name != leader), "another member leads meanwhile");
    world.run_for(60_000);
    assert!(world.whole(), "it has come back");
    world.oracle.violations
}

/// No program can tell a pause in which all clocks of its machine stand still: its first moments afterwards are those
/// of a primary with a living lease.
#[test]
fn a_pause_that_the_machine_cannot_see_lets_two_members_write() {
    let violated = paused_unseen(SyncMode::Off);
    assert!(violated.iter().any(|what| what.contains("I1: two members are writable")), "{violated:?}");
}

/// What it acknowledges in these moments needs a standby, and none streams from it any more.
#[test]
fn such_a_pause_loses_no_synchronous_commit() {
    for mode in [SyncMode::On, SyncMode::Strict, SyncMode::Quorum, SyncMode::QuorumStrict] {
        let violated = paused_unseen(mode);
        assert!(!violated.iter().any(|what| what.contains("I2")), "{mode:?}: {violated:?}");
    }
}
