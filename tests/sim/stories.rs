//! Stories: one fault per file, its commands on top, what happened below. `UPDATE=1` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use keddah::agent::view::{Disk, Room, Watchdog};
use keddah::cluster::{SyncMode, SystemId};
use keddah::settings::Settings;

use crate::faults::{Change, Fault, Key};
use crate::host::ROOMY;
use crate::network::ETCD;
use crate::world::World;

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sim/stories");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "txt"));
    files.sort();
    files
}

/// The reasons that the stories reach.
pub fn reasons() -> BTreeSet<&'static str> {
    files().iter().flat_map(|path| tell(&std::fs::read_to_string(path).unwrap()).reasons).collect()
}

struct Told {
    text: String,
    reasons: BTreeSet<&'static str>,
    violations: Vec<String>,
}

fn seconds(text: &str) -> u64 {
    let number: f64 = text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("`{text}` is no time"));
    (number * 1000.0) as u64
}

fn host(world: &World, name: &str) -> usize {
    if name == "etcd" {
        return ETCD;
    }
    world.hosts.iter().position(|h| h.name.as_str() == name).unwrap_or_else(|| panic!("no host `{name}`"))
}

fn new_world(words: &[&str]) -> World {
    let names: Vec<&str> = words.iter().copied().filter(|word| !word.contains('=')).collect();
    let mut settings = Settings { use_pg_rewind: true, ..Settings::default() };
    for (key, value) in words.iter().filter_map(|word| word.split_once('=')) {
        let time = || Duration::from_millis(seconds(value));
        match key {
            "ttl" => settings.ttl = time(),
            "loop_wait" => settings.loop_wait = time(),
            "retry_timeout" => settings.retry_timeout = time(),
            "primary_start_timeout" => settings.primary_start_timeout = time(),
            "primary_race_backoff" => settings.primary_race_backoff = time(),
            "maximum_lag" => settings.maximum_lag_on_failover = value.parse().unwrap(),
            "failsafe" => settings.failsafe_mode = value == "yes",
            "sync" => settings.synchronous_mode = value.parse::<SyncMode>().unwrap(),
            "sync_nodes" => settings.synchronous_node_count = value.parse().unwrap(),
            "rewind" => settings.use_pg_rewind = value == "yes",
            "remove" => {
                settings.remove_data_directory_on_diverged_timelines = value == "yes";
                settings.remove_data_directory_on_rewind_failure = value == "yes";
            }
            other => panic!("no setting `{other}`"),
        }
    }
    World::new(1, &names, settings, 500)
}

fn tell(text: &str) -> Told {
    let head = text.split("\n----").next().unwrap().trim_end();
    let mut world: Option<World> = None;
    let mut out = String::new();
    for line in head.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|word| !word.starts_with('#')) else { continue };
        if *first == "cluster" {
            world = Some(new_world(&words[1..]));
            continue;
        }
        let world = world.as_mut().expect("a story begins with `cluster`");
        let at = |index: usize| host(world, words[index]);
        match words.as_slice() {
            ["until", rest @ ..] => {
                let birth = world.now == 0;
                let told = until(world, rest);
                // How a cluster is made has a story of its own, without an `until` before it.
                let lines = std::mem::take(&mut world.trace);
                if !birth {
                    lines.iter().for_each(|line| writeln!(out, "{}", line.trim_end()).unwrap());
                }
                writeln!(out, "until {}: {told}", rest.join(" ")).unwrap();
            }
            ["run", time] => world.run_for(seconds(time)),
            ["cut", ..] => {
                let (one, other) = (at(1), at(2));
                world.fault(Fault::Cut { from: one, to: other });
                world.fault(Fault::Cut { from: other, to: one });
            }
            ["cut-from", ..] => {
                let f = Fault::Cut { from: at(1), to: at(2) };
                world.fault(f);
            }
            ["heal", ..] if words.len() == 3 => {
                let (one, other) = (at(1), at(2));
                world.fault(Fault::Heal { from: one, to: other });
                world.fault(Fault::Heal { from: other, to: one });
            }
            ["heal"] => world.heal(),
            ["delete", "leader-key"] => world.fault(Fault::DeleteLeaderKey),
            ["delete", "initialize"] => world.fault(Fault::DeleteKey(Key::Initialize)),
            ["delete", "history"] => world.fault(Fault::DeleteKey(Key::History)),
            ["remove", "cluster"] => {
                world.fault(Fault::DeleteLeaderKey);
                let members = (0..world.hosts.len()).map(Key::Member);
                let keys =
                    [Key::Initialize, Key::Status, Key::History, Key::Failsafe, Key::Failover, Key::Config];
                keys.into_iter().chain(members).for_each(|key| world.fault(Fault::DeleteKey(key)));
            }
            ["write", "initialize"] => world.restore_identifier(),
            ["lose-data", _] => {
                let f = Fault::LoseData { host: at(1) };
                world.fault(f);
            }
            ["foreign-data", _] => {
                let h = at(1);
                world.hosts[h].postgres.disk.as_mut().expect("it has data").system_id = SystemId(99);
            }
            ["spoil-data", _] => {
                let h = at(1);
                world.hosts[h].postgres.spoilt = true;
            }
            ["nostream", _] => {
                let h = at(1);
                world.hosts[h].tags.nostream = true;
            }
            ["pre-promote", _] => {
                let h = at(1);
                world.hosts[h].local.pre_promote = true;
            }
            ["custom-bootstrap", _] => {
                let h = at(1);
                world.hosts[h].local.custom_bootstrap = true;
            }
            ["copies-without-leader", _] => {
                let h = at(1);
                world.hosts[h].local.copies_without_leader = true;
            }
            ["programs", _, "fail"] => {
                let h = at(1);
                world.hosts[h].programs_fail = true;
            }
            ["programs", _, "take", time] => {
                let h = at(1);
                world.hosts[h].programs_take = Some(seconds(time));
            }
            ["patroni", name] => drop(world.etcd.patroni.insert(name.parse().unwrap())),
            ["kill", "host", _] => {
                let f = Fault::CrashHost { host: at(2) };
                world.fault(f);
            }
            ["boot", _] => {
                let f = Fault::BootHost { host: at(1) };
                world.fault(f);
            }
            ["kill", "agent", _] => {
                let f = Fault::KillAgent { host: at(2) };
                world.fault(f);
            }
            ["start", "agent", _] => {
                let f = Fault::StartAgent { host: at(2) };
                world.fault(f);
            }
            ["stop", "agent", _] => {
                let f = Fault::StopAgent { host: at(2) };
                world.fault(f);
            }
            ["continue", "agent", _] => {
                let f = Fault::ContinueAgent { host: at(2) };
                world.fault(f);
            }
            ["kill", "postmaster", _] => {
                let f = Fault::KillPostmaster { host: at(2) };
                world.fault(f);
            }
            ["deaf", _] => {
                let f = Fault::Deaf { host: at(1) };
                world.fault(f);
            }
            ["freeze", _] => {
                let f = Fault::FreezeHost { host: at(1) };
                world.fault(f);
            }
            ["thaw", _] => {
                let f = Fault::ThawHost { host: at(1) };
                world.fault(f);
            }
            ["snapshot", "etcd"] => world.snapshot_etcd(),
            ["restore", "etcd"] => world.fault(Fault::RestoreEtcd { age: 0, same_id: true }),
            ["kill", "guard", _] => {
                let f = Fault::KillGuard { host: at(2) };
                world.fault(f);
            }
            ["start", "guard", _] => {
                let f = Fault::StartGuard { host: at(2) };
                world.fault(f);
            }
            ["hang", _] => {
                let f = Fault::Hang { host: at(1), on: true };
                world.fault(f);
            }
            ["stall", "etcd", time] => world.fault(Fault::StallEtcd { ms: seconds(time) }),
            ["slow-start", _, time] => {
                let f = Fault::SlowStart { host: at(1), ms: Some(seconds(time)) };
                world.fault(f);
            }
            ["break-starts", _, times] => {
                let f = Fault::BreakStarts { host: at(1), times: times.parse().unwrap() };
                world.fault(f);
            }
            ["slow-replay", _] => {
                let f = Fault::SlowReplay { host: at(1), on: true };
                world.fault(f);
            }
            ["recycle", _] => {
                let h = at(1);
                world.hosts[h].postgres.lacks_wal = true;
            }
            ["too-small", _] => {
                let h = at(1);
                world.hosts[h].postgres.too_small = true;
            }
            ["large-enough", _] => {
                let h = at(1);
                world.hosts[h].postgres.too_small = false;
            }
            ["revoke", _] => {
                let h = at(1);
                world.hosts[h].postgres.no_grants = true;
            }
            ["grant", _] => {
                let h = at(1);
                world.hosts[h].postgres.no_grants = false;
            }
            ["terminate", _] => {
                let f = Fault::Terminate { host: at(1) };
                world.fault(f);
            }
            ["restart", _] => {
                let f = Fault::Restart { host: at(1) };
                world.fault(f);
            }
            ["reinitialize", _] => {
                let f = Fault::Reinitialize { host: at(1) };
                world.fault(f);
            }
            ["switchover", _, _] => {
                let f = Fault::Failover { leader: Some(at(1)), candidate: Some(at(2)) };
                world.fault(f);
            }
            ["switchover", _] => {
                let f = Fault::Failover { leader: Some(at(1)), candidate: None };
                world.fault(f);
            }
            ["failover", _] => {
                let f = Fault::Failover { leader: None, candidate: Some(at(1)) };
                world.fault(f);
            }
            ["pause"] => world.fault(Fault::Config(Change::Pause(true))),
            ["resume"] => world.fault(Fault::Config(Change::Pause(false))),
            ["standby-cluster", "on"] => world.fault(Fault::Config(Change::StandbyCluster(true))),
            ["standby-cluster", "off"] => world.fault(Fault::Config(Change::StandbyCluster(false))),
            ["follow-another-cluster"] => world.follow_another(),
            ["other-cluster-fails-over", lacking] => world.fail_over_there(lacking.parse().unwrap()),
            ["ttl", time] => world.fault(Fault::Config(Change::Ttl(seconds(time) / 1_000))),
            ["sync", mode] => world.fault(Fault::Config(Change::Sync(mode.parse().unwrap()))),
            ["nofailover", _] => {
                let f = Fault::Tags { host: at(1), nofailover: true };
                world.fault(f);
            }
            ["full", _] => fill(world, at(1), Room::Full, false),
            ["nearly-full", _] => fill(world, at(1), Room::Scarce, true),
            ["room", _] => {
                let f = Fault::Disk { host: at(1), disk: ROOMY };
                world.fault(f);
            }
            ["watchdog-broken", _] => {
                let h = at(1);
                world.hosts[h].watchdog = Watchdog::Unusable;
            }
            _ => panic!("no command `{line}`"),
        }
    }
    let world = world.expect("a story begins with `cluster`");
    let mut text = format!("{head}\n----\n{out}");
    for line in &world.trace {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let state = world.leader().map_or_else(|| "nobody leads".to_owned(), |name| format!("{name} leads"));
    writeln!(text, "end: {state}").unwrap();
    Told { text, reasons: world.oracle.reasons, violations: world.oracle.violations }
}

fn fill(world: &mut World, host: usize, room: Room, brake: bool) {
    world.fault(Fault::Disk { host, disk: Disk { room, brake, left: None } });
}

fn until(world: &mut World, words: &[&str]) -> String {
    let limit = world.now + 300_000;
    let start = world.now;
    let held = match words {
        ["whole"] => world.run_until(limit, World::whole),
        ["all", "follow"] => world.run_until(limit, World::all_follow),
        ["leader", "other", "than", name] => {
            world.run_until(limit, |w| w.leader().is_some_and(|l| l.as_str() != *name))
        }
        ["lock", "lives", time] => world.run_until(limit, |w| {
            let lease = w.etcd.leader.as_ref().and_then(|key| w.etcd.leases.get(&key.lease));
            lease.is_some_and(|(ttl, _)| *ttl == seconds(time))
        }),
        ["leader", name] => world.run_until(limit, |w| w.leader().is_some_and(|l| l.as_str() == *name)),
        other => panic!("no condition `{}`", other.join(" ")),
    };
    match held {
        true if start == 0 => "yes".to_owned(),
        true => format!("after {:.1}s", (world.now - start) as f64 / 1000.0),
        false => "never".to_owned(),
    }
}

#[test]
fn stories() {
    let write = std::env::var("UPDATE").is_ok();
    let mut wrong = Vec::new();
    for path in files() {
        let before = std::fs::read_to_string(&path).unwrap();
        let told = tell(&before);
        assert!(told.violations.is_empty(), "{}: {:#?}", path.display(), told.violations);
        if told.text != before {
            if write {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a golden file of the sources, written on request"
                )]
                std::fs::write(&path, &told.text).unwrap();
            } else {
                wrong.push(format!("{}:\n{}", path.display(), told.text));
            }
        }
    }
    assert!(wrong.is_empty(), "these stories end otherwise (UPDATE=1 writes them):\n{}", wrong.join("\n"));
}
