//! One run of many faults from a number, and the smallest part of it that still goes wrong.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use keddah::agent::view::Watchdog;
use keddah::cluster::SyncMode;
use keddah::cluster::slot::SlotKind;
use keddah::settings::Settings;

use crate::chance::ttl;
use crate::faults::Fault;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::world::{Event, World};

/// How often all faults end in a run, and the cluster must be whole.
const ROUNDS: u32 = 3;

/// How long a cluster may take to be whole again after all faults have ended: a lease, a look, a rewind or a copy with
/// its repetitions, and starts with theirs.
const HEALED_WITHIN: u64 = 150_000;

/// In this many ms three fresh hosts are a cluster, with two copies that fail and an answer that is lost.
const FRESH: u64 = 60_000;

/// What a run adds to ttl + loop_wait until somebody is writable again after a host has died: the peers' 150 ms and
/// turns, a start or promotion, and the margin between an agent's look and etcd's expiry.
const FAILOVER_SLACK: u64 = 5_000;

/// How often a failing run is repeated with fewer faults.
const SMALLER_RUNS: u32 = 150;

/// Which faults of a seed happen, by number; None: all.
pub type Only = Option<BTreeSet<u32>>;

/// What came of one seed.
#[derive(Debug, Default)]
pub struct Run {
    pub trace: Vec<String>,
    pub oracle: Oracle,
    /// The numbers of the faults that happened.
    pub faults: Vec<u32>,
    pub simulated_ms: u64,
}

impl Run {
    pub fn failed(&self) -> bool {
        !self.oracle.violations.is_empty()
    }

    /// What was violated first, without its circumstances.
    fn kind(&self) -> Option<String> {
        let first = self.oracle.violations.first()?;
        first.split_once(' ').map(|(_, what)| what.chars().take(12).collect())
    }
}

fn settings(rng: &mut Rng) -> Settings {
    let ttl = [5, 5, 20, 30][rng.below(4)];
    let loop_wait = [1, 2, 10][rng.below(3)];
    let remove = !rng.once_in(8);
    Settings {
        ttl: Duration::from_secs(ttl),
        loop_wait: Duration::from_secs(loop_wait.min(ttl / 3).max(1)),
        retry_timeout: Duration::from_secs(3),
        synchronous_mode: [
            SyncMode::Off,
            SyncMode::On,
            SyncMode::Strict,
            SyncMode::Quorum,
            SyncMode::Quorum,
            SyncMode::QuorumStrict,
        ][rng.below(6)],
        failsafe_mode: rng.once_in(3),
        synchronous_node_count: 1 + rng.below(2),
        primary_start_timeout: Duration::from_secs([0, 10, 300][rng.below(3)]),
        use_pg_rewind: !rng.once_in(4),
        remove_data_directory_on_rewind_failure: remove,
        remove_data_directory_on_diverged_timelines: remove,
        member_slots_ttl: Duration::from_secs(30),
        ..Settings::default()
    }
}

/// Many faults over each other, then all end, and the cluster must be whole; again and again.
fn storm(seed: u64, only: &Only) -> Run {
    let mut rng = Rng::new(seed ^ 0xABCD);
    let mut settings = settings(&mut rng);
    if seed % 5 == 3 {
        let kind = SlotKind::Logical { database: "postgres".to_owned(), plugin: "pgoutput".to_owned() };
        settings.permanent_slots.insert("kept".to_owned(), kind);
    }
    let mut world = World::new(seed, &["a", "b", "c"], settings.clone(), 0);
    world.supervised = true;
    if rng.once_in(4) {
        let preferred = rng.below(3);
        world.hosts[preferred].tags.failover_priority = Some(2);
        world.hosts[preferred].tags.sync_priority = Some(2);
    }
    if rng.once_in(4) {
        world.hosts.iter_mut().for_each(|h| h.watchdog = Watchdog::Usable);
    }
    let restless = seed % 20 == 18;
    world.say("*", &format!("{settings:?}"));
    if !world.run_until(FRESH, World::whole) {
        world.oracle.violate(FRESH, "three fresh hosts did not become a cluster in time".to_owned());
    }
    let mut happened = Vec::new();
    let mut number = 0;
    for _ in 0..ROUNDS {
        for _ in 0..rng.between(1, 40) {
            number += 1;
            let mut rng = Rng::new(seed.wrapping_mul(1_000).wrapping_add(u64::from(number)));
            if rng.once_in(3) {
                world.snapshot_etcd();
            }
            let pause = if rng.once_in(5) { rng.between(50, 12_000) } else { rng.between(10, 3_000) };
            let (fault, end) = world.random_fault(&mut rng);
            // Some runs change the ttl all the time, whatever else happens.
            if restless && rng.once_in(2) {
                world.fault(Fault::Config(ttl(&mut rng)));
            }
            if only.as_ref().is_none_or(|only| only.contains(&number)) && world.applies(&fault) {
                happened.push(number);
                world.at(0, Event::Fault(fault));
                if let Some((after, end)) = end {
                    let round = world.round;
                    world.at(after, Event::Ends(round, end));
                }
            }
            world.run_for(pause);
        }
        world.round += 1;
        world.heal();
        if !world.oracle.violations.is_empty() {
            break;
        }
        if !world.becomes_whole(HEALED_WITHIN) {
            let what = format!("the cluster was not whole {} s after the last fault", HEALED_WITHIN / 1000);
            world.oracle.violate(world.now, what);
            break;
        }
    }
    finish(world, happened)
}

/// The leader's host dies in a healthy cluster: somebody else is writable within ttl + loop_wait + slack.
fn host_death(seed: u64) -> Run {
    let mut rng = Rng::new(seed ^ 0x5555);
    let settings = Settings { primary_start_timeout: Duration::from_secs(300), ..settings(&mut rng) };
    let mut world = World::new(seed, &["a", "b", "c"], settings.clone(), 0);
    world.run_until(40_000, World::whole);
    world.run_for(15_000 + rng.between(0, 10_000));
    let leader = world.leader().cloned().unwrap();
    let host = world.hosts.iter().position(|h| h.name == leader).unwrap();
    world.fault(Fault::CrashHost { host });
    let died = world.now;
    let bound = u64::try_from((settings.ttl + settings.loop_wait).as_millis()).unwrap() + FAILOVER_SLACK;
    let back = world.run_until(died + bound, |world| {
        world.hosts.iter().any(|h| h.postgres.writable() && h.name != leader)
    });
    if !back {
        world
            .oracle
            .violate(died + bound, format!("nobody was writable {bound} ms after the leader's host died"));
    }
    world.fault(Fault::BootHost { host });
    if !world.becomes_whole(HEALED_WITHIN) {
        world.oracle.violate(world.now, "the dead host did not come back".to_owned());
    }
    finish(world, vec![1])
}

fn finish(world: World, faults: Vec<u32>) -> Run {
    Run { trace: world.trace, oracle: world.oracle, faults, simulated_ms: world.now }
}

/// Runs one seed. An agent that panics has violated I7.
pub fn run(seed: u64, only: &Only) -> Run {
    let run = || if seed % 20 == 19 { host_death(seed) } else { storm(seed, only) };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let mut oracle = Oracle::default();
        oracle.violate(0, "I7: something panicked, its words are above".to_owned());
        Run { oracle, ..Run::default() }
    })
}

/// Leaves out one fault after the other, as long as the same still goes wrong.
pub fn smallest(seed: u64, mut failing: Run) -> Run {
    let kind = failing.kind();
    let mut left = SMALLER_RUNS;
    // The last faults are the nearest to what went wrong, so the first go first, several at once.
    let mut step = failing.faults.len() / 2;
    while step > 0 {
        let mut from = 0;
        while from < failing.faults.len() && left > 0 {
            left -= 1;
            let kept = failing.faults.iter().enumerate();
            let kept = kept.filter(|(index, _)| *index < from || *index >= from + step);
            let smaller = run(seed, &Some(kept.map(|(_, number)| *number).collect()));
            match smaller.kind() == kind && smaller.faults.len() < failing.faults.len() {
                true => failing = smaller,
                false => from += step,
            }
        }
        step /= 2;
    }
    failing
}
