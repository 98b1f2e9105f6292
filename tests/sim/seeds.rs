//! Thousands of runs, each from a number.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keddah::agent::decide::Reason;
use keddah::cluster::SyncMode;
use keddah::settings::Settings;

use crate::faults::Fault;
use crate::rng::Rng;
use crate::world::{Event, World};

/// How many seeds a plain test run takes.
const SEEDS: u64 = 600;

/// How long a cluster may take to be whole again after all faults have ended: a lease, a look, a rewind or a copy with
/// its repetitions, and starts with theirs.
const HEALED_WITHIN: u64 = 150_000;

/// What a run adds to ttl + loop_wait until somebody is writable again after a host has died: the peers' 150 ms and
/// turns, a start or promotion, and the margin between an agent's look and etcd's expiry.
const FAILOVER_SLACK: u64 = 5_000;

fn settings(rng: &mut Rng) -> Settings {
    let ttl = [5, 5, 20, 30][rng.below(4)];
    let loop_wait = [1, 2, 10][rng.below(3)];
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
        remove_data_directory_on_rewind_failure: true,
        remove_data_directory_on_diverged_timelines: true,
        member_slots_ttl: Duration::from_secs(30),
        ..Settings::default()
    }
}

/// What came of one seed.
pub struct Run {
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub reasons: BTreeSet<&'static str>,
}

/// Many faults over each other, then all end, and the cluster must be whole.
pub fn storm(seed: u64) -> Run {
    let mut rng = Rng::new(seed ^ 0xABCD);
    let settings = settings(&mut rng);
    let mut world = World::new(seed, &["a", "b", "c"], settings.clone(), 0);
    world.supervised = true;
    if rng.once_in(4) {
        let preferred = rng.below(3);
        world.hosts[preferred].tags.failover_priority = Some(2);
        world.hosts[preferred].tags.sync_priority = Some(2);
    }
    world.say("*", &format!("{settings:?}"));
    if !world.run_until(40_000, World::whole) {
        world.oracle.violate(40_000, "three fresh hosts did not become a cluster within 40 s".to_owned());
    }
    let faults = rng.between(1, 12);
    for _ in 0..faults {
        let (fault, end) = world.random_fault();
        world.at(0, Event::Fault(fault));
        if let Some((after, end)) = end {
            world.at(after, Event::Fault(end));
        }
        let pause = rng.between(50, 12_000);
        world.run_for(pause);
        if !world.oracle.violations.is_empty() {
            break;
        }
    }
    world.run_for(60_000);
    world.heal();
    let end = world.now + HEALED_WITHIN;
    // Ends of faults that are still to come belong to the storm.
    if world.oracle.violations.is_empty() && !world.run_until(end, World::whole) {
        let what = format!("the cluster was not whole {} s after the last fault", HEALED_WITHIN / 1000);
        world.oracle.violate(end, what);
    }
    finish(world)
}

/// The leader's host dies in a healthy cluster: somebody else is writable within ttl + loop_wait + slack.
pub fn host_death(seed: u64) -> Run {
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
    let end = world.now + HEALED_WITHIN;
    if !world.run_until(end, World::whole) {
        world.oracle.violate(end, "the dead host did not come back".to_owned());
    }
    finish(world)
}

fn finish(world: World) -> Run {
    Run { violations: world.oracle.violations, trace: world.trace, reasons: world.oracle.reasons }
}

fn one(seed: u64) -> Run {
    if seed % 5 == 4 { host_death(seed) } else { storm(seed) }
}

/// Reasons that no seed and no story reaches, each with why.
const NOT_REACHED: &[(&str, &str)] = &[
    (
        "PreparingSyncForPromotion",
        "taking the lock and handing it over write the set already; a unit test has the rest",
    ),
    ("LeadingWithoutData", "no simulated person empties a data directory under the lock"),
    ("GuardAbsent", "the simulated guard is a part of its host and dies only with it"),
    ("PrimaryUnresponsive", "the simulated server has no probes that fail while it lives"),
    ("ReplicaUnresponsive", "the simulated server has no probes that fail while it lives"),
    ("ReleasedForCandidate", "every simulated member is Keddah's, and its member key is there when asked"),
    ("SwitchoverScheduled", "requests of the simulated people are for at once"),
    ("CopyingSlots", "the simulated servers have no logical slots; a unit test has it"),
    ("FollowingNobody", "no simulated member has the tag nostream"),
    ("AdoptingData", "no simulated person deletes the initialize key"),
    ("NoIdentifier", "no simulated person deletes the initialize key"),
    ("RunningPrePromote", "no simulated member has a program before its promotion; unit tests have it"),
    ("PrePromoteFailed", "no simulated member has a program before its promotion; unit tests have it"),
    ("JoiningOnly", "every simulated member may make the cluster; a unit test has it"),
    ("CloningRemote", "there is one simulated cluster; a unit test has it"),
    ("RecoveringRestored", "no simulated cluster is made from a backup; unit tests have it"),
    ("Restoring", "no simulated member has a method that needs no leader; a unit test has it"),
    ("InitializeFailed", "the simulated initdb never fails"),
    ("ForeignData", "no simulated data comes from another cluster; a unit test has it"),
    ("UnreadableData", "the simulated disk does not rot"),
    ("SwitchoverAwaitsCandidate", "a run writes less WAL than maximum_lag_on_failover; a unit test has it"),
    ("TooFarBehind", "a run writes less WAL than maximum_lag_on_failover; a unit test has it"),
    (
        "LeaseDoubtful",
        "the simulated guard begins its stop at the instant at which the agent would; a unit test has it",
    ),
    ("LeaseLost", "the simulated guard ends the server before an agent sees its lease dead"),
    ("CancellingJob", "the simulated job that needs the lock takes less than its lease"),
];

#[test]
fn seeds() {
    let asked: Option<u64> = std::env::var("SEED").ok().map(|text| text.parse().expect("SEED is a number"));
    if let Some(seed) = asked {
        let run = one(seed);
        println!("{}", run.trace.join("\n"));
        assert!(run.violations.is_empty(), "seed {seed}: {:#?}", run.violations);
        return;
    }
    let count: u64 =
        std::env::var("SEEDS").ok().map_or(SEEDS, |text| text.parse().expect("SEEDS is a number"));
    let next = AtomicU64::new(0);
    let failed: Mutex<Vec<(u64, Run)>> = Mutex::new(Vec::new());
    let reached: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || failed.lock().unwrap().len() >= 5 {
                        return;
                    }
                    let run = one(seed);
                    reached.lock().unwrap().extend(run.reasons.iter());
                    if !run.violations.is_empty() {
                        failed.lock().unwrap().push((seed, run));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    for (seed, run) in &failed {
        println!("SEED={seed} cargo test --test sim -- seeds --nocapture\n{}", run.violations.join("\n"));
    }
    assert!(failed.is_empty(), "{} seeds failed; the first: SEED={}", failed.len(), failed[0].0);
    let mut reached = reached.into_inner().unwrap();
    reached.extend(crate::stories::reasons());
    let missing: Vec<&str> = Reason::ALL
        .iter()
        .map(|(code, _)| *code)
        .filter(|code| !reached.contains(code) && !NOT_REACHED.iter().any(|(known, _)| known == code))
        .collect();
    assert!(missing.is_empty(), "no seed and no story reaches: {}", missing.join(", "));
}
