//! Every member comes back by itself, whatever has happened to its data.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::agents::{Agents, BIN_DIR, NAMES, SLOW, within};
use crate::programs;

/// Makes a folder that belongs to who runs the servers.
fn make_folder(agents: &Agents, path: &Path) {
    std::fs::create_dir(path).unwrap();
    let owner = nix::sys::stat::stat(&agents.folder().join("a")).unwrap();
    chown(path, Some(owner.st_uid), Some(owner.st_gid)).unwrap();
}

/// Gives a member programs of its own: all are the installed ones but `pg_rewind`, which does `first` instead while
/// there is no file `done`.
fn own_rewind(agents: &Agents, name: &str, first: &str) {
    let folder = agents.folder().join(name).join("bin");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(BIN_DIR).unwrap().flatten() {
        symlink(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let program = folder.join("pg_rewind");
    std::fs::remove_file(&program).unwrap();
    let text = format!("#!/bin/sh\nD={}\n{first}\nexec {BIN_DIR}/pg_rewind \"$@\"\n", folder.display());
    programs::put(&program, text.as_bytes());
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    agents.edit_config(name, &format!("bin_dir: {BIN_DIR}"), &format!("bin_dir: {}", folder.display()));
}

/// Agents of which one may lead that lacks as much as [`part`] takes from it: how much of that the leader still tells depends
/// on how long its host takes to write it.
fn prepare() -> Agents {
    let agents = Agents::prepare("", false);
    for name in NAMES {
        let lag = "maximum_lag_on_failover: 10485760";
        agents.edit_config(name, lag, "maximum_lag_on_failover: 1073741824");
    }
    agents
}

/// Kills the host of the leader with WAL that nobody else has; returns who leads then.
fn part(agents: &mut Agents, leader: &str) -> &'static str {
    let others: Vec<&str> = NAMES.into_iter().filter(|name| *name != leader).collect();
    let receivers: Vec<_> =
        others.iter().filter_map(|name| agents.server_process(name, "walreceiver")).collect();
    for receiver in &receivers {
        kill(*receiver, Signal::SIGSTOP).unwrap();
    }
    // More than the buffers of a connection hold.
    assert!(agents.sql(leader, "INSERT INTO t SELECT generate_series(1, 300000)").is_some());
    agents.kill_host(leader);
    for receiver in &receivers {
        // It may have ended with its sender.
        let _gone = kill(*receiver, Signal::SIGCONT);
    }
    within(SLOW, "another member leads", || agents.primary().is_some_and(|name| name != leader));
    let next = agents.primary().expect("somebody leads");
    within(SLOW, "it takes writes", || agents.sql(next, "INSERT INTO t VALUES (1)").is_some());
    next
}

#[test]
fn interrupted_rewinds_end_well_with_tablespaces_and_a_folder_for_wal() {
    let mut agents = prepare();
    let root = agents.folder().to_owned();
    for name in NAMES {
        for folder in ["space", "wal"] {
            make_folder(&agents, &root.join(name).join(folder));
        }
        let wal = root.join(name).join("wal");
        let place = |name: &str| root.join(name).join("space").display().to_string();
        let mapped = NAMES.into_iter().filter(|other| *other != name);
        let mapped: Vec<String> =
            mapped.map(|o| format!("{{tablespace-mapping: '{}={}'}}", place(o), place(name))).collect();
        let options = format!("basebackup: [{}]\n  pgpass:", mapped.join(", "));
        agents.edit_config(name, "pgpass:", &options);
        let removes = "use_pg_rewind: true, remove_data_directory_on_rewind_failure: true";
        agents.edit_config(name, "use_pg_rewind: true", removes);
        agents.edit_config(name, "no-sync]", &format!("no-sync, waldir: {}]", wal.display()));
    }
    // The first rewind is killed, the second one hangs until the agent is.
    let first = "test -e $D/1 || { touch $D/1; kill -9 $$; }
test -e $D/2 || { touch $D/2; while test -e $D; do sleep 0.2; done; exit 1; }";
    own_rewind(&agents, "a", first);
    agents.start_agent("a");
    within(SLOW, "the first agent makes the cluster", || agents.status("a", "/primary") == Some(200));
    let space = root.join("a/space").display().to_string();
    within(SLOW, "a tablespace", || {
        agents.sql("a", &format!("CREATE TABLESPACE s LOCATION '{space}'")).is_some()
    });
    assert!(agents.sql("a", "CREATE TABLE t (id int) TABLESPACE s").is_some());
    agents.start_agent("b");
    agents.start_agent("c");
    within(SLOW, "two replicas stream", || agents.streaming() == 2);

    // Killed in the middle, and run again from the same timeline.
    let bin = root.join("a/bin");
    std::fs::write(bin.join("2"), "").unwrap();
    part(&mut agents, "a");
    agents.start_agent("a");
    within(SLOW, "it is rewound and streams", || agents.streaming() == 2);
    assert!(bin.join("1").exists(), "the first attempt was killed");
    let data = agents.data_dir("a");
    let marks = || {
        let names = std::fs::read_dir(&data).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("keddah.rewind")).count()
    };
    assert_eq!(marks(), 0, "it has ended well");
    assert!(data.join("pg_wal").is_symlink());

    // The agent is killed in the middle, and the source is gone when the next one comes.
    std::fs::remove_file(bin.join("2")).unwrap();
    // What members answer from memory is in etcd a moment later, where commands read it.
    within(SLOW, "it leads again", || {
        agents.keddah(&["switchover", "--candidate", "a", "--force"]).status.success()
    });
    within(SLOW, "both others follow", || agents.streaming() == 2);
    let second = part(&mut agents, "a");
    agents.start_agent("a");
    within(SLOW, "the rewind hangs", || marks() == 1);
    agents.kill_agent("a");
    agents.kill_host(second);
    agents.start_agent("a");
    within(SLOW, "the third one leads", || {
        agents.primary().is_some_and(|name| name != "a" && name != second)
    });
    agents.start_agent(second);
    within(SLOW, "all stream", || agents.streaming() == 2);
    let leader = agents.primary().expect("somebody leads");
    let rows = agents.sql(leader, "SELECT count(*) FROM t");
    within(SLOW, "it has what the leader has", || agents.sql("a", "SELECT count(*) FROM t") == rows);
    assert!(agents.log("a").contains("I copy the data of"), "the half written data was not started");
    assert!(data.join("pg_wal").is_symlink(), "the copy keeps the folder for WAL");
}

#[test]
fn a_replica_for_which_no_wal_is_left_is_copied_anew() {
    let agents = prepare();
    for name in NAMES {
        let section = "use_pg_rewind: true, remove_data_directory_on_diverged_timelines: true,
    parameters: {max_slot_wal_keep_size: 32MB, wal_keep_size: 0, max_wal_size: 32MB, min_wal_size: 32MB}";
        agents.edit_config(name, "use_pg_rewind: true", section);
    }
    let mut agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    agents.kill_host("c");

    // As if much had been written while it was away.
    for _ in 0..6 {
        assert!(agents.sql("a", "INSERT INTO t VALUES (1)").is_some());
        assert!(agents.sql("a", "SELECT pg_switch_wal()").is_some());
        assert!(agents.sql("a", "CHECKPOINT").is_some());
    }
    agents.start_agent("c");
    within(SLOW, "it is known that no WAL is left", || agents.log("c").contains("has no WAL from"));
    within(SLOW, "both stream", || agents.streaming() == 2);
    within(SLOW, "it has what was written", || {
        agents.sql("c", "SELECT count(*) FROM t").as_deref() == Some("6")
    });
}

#[test]
fn where_the_user_of_rewinds_has_no_grants_the_data_is_copied_anew() {
    let agents = prepare();
    for name in NAMES {
        let removes = "use_pg_rewind: true, remove_data_directory_on_rewind_failure: true";
        agents.edit_config(name, "use_pg_rewind: true", removes);
    }
    let mut agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    let revoked = "REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM rewinder";
    assert!(agents.sql("a", revoked).is_some());
    let leader = part(&mut agents, "a");

    agents.start_agent("a");
    within(SLOW, "both others stream", || agents.streaming() == 2);

    let log = agents.log("a");
    assert!(log.contains("whose files the user of pg_rewind may not read"), "{log}");
    assert!(log.contains("`rewinder` may not call pg_read_binary_file(text)"), "{log}");
    assert!(!log.contains("rewinding from"), "it was not begun: {log}");
    let rows = agents.sql(leader, "SELECT count(*) FROM t");
    within(SLOW, "it has what the leader has", || agents.sql("a", "SELECT count(*) FROM t") == rows);
}

/// Makes etcd as it was before anybody was promoted, as a backup of it does that is put back.
fn forget_timelines(agents: &Agents) {
    for key in ["leader", "members/b", "history", "status"] {
        let endpoint = format!("--endpoints={}", agents.etcd_address());
        let key = format!("/service/demo/{key}");
        let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args([&endpoint, "del", &key]).output();
        assert!(output.unwrap().status.success());
    }
}

/// Has `b` lead in the place of `a`, and `c` follow it beyond where it began its timeline; then `b` dies, and
/// nobody but `c` has that timeline.
fn fork(agents: &mut Agents) {
    // pg_rewind goes back to the last one that both have.
    assert!(agents.sql("a", "CHECKPOINT").is_some());
    assert_eq!(part(agents, "a"), "b");
    assert!(agents.sql("b", "INSERT INTO t SELECT generate_series(1, 1000)").is_some());
    assert!(agents.sql("b", "CHECKPOINT").is_some());
    let rows = agents.sql("b", "SELECT count(*) FROM t");
    within(SLOW, "it is followed", || agents.sql("c", "SELECT count(*) FROM t") == rows);
    agents.kill_host("b");
}

/// Has `a` lead, which knows nothing of the timeline that was begun meanwhile.
fn lead_again(agents: &mut Agents) {
    forget_timelines(agents);
    agents.start_agent("a");
    within(SLOW, "it takes writes", || agents.sql("a", "INSERT INTO t VALUES (1)").is_some());
}

fn forkable() -> Agents {
    let agents = prepare();
    for name in NAMES {
        let section = "use_pg_rewind: true, remove_data_directory_on_diverged_timelines: true,
    parameters: {wal_keep_size: 512MB}";
        agents.edit_config(name, "use_pg_rewind: true", section);
    }
    agents.edit_config("c", "watchdog:", "tags: {nofailover: true}\nwatchdog:");
    let agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    agents
}

fn all_have_the_same(agents: &Agents) {
    within(SLOW, "both others stream", || agents.streaming() == 2);
    let leader = agents.primary().expect("somebody leads");
    let rows = agents.sql(leader, "SELECT count(*) FROM t");
    for name in NAMES {
        within(SLOW, "it has what the leader has", || agents.sql(name, "SELECT count(*) FROM t") == rows);
    }
}

#[test]
fn replicas_of_a_dead_timeline_of_the_leaders_number_come_back() {
    let mut agents = forkable();
    fork(&mut agents);
    lead_again(&mut agents);

    // `c` runs all the while, and is told to follow another timeline 2 than its own.
    within(SLOW, "it streams", || agents.streaming() == 1);
    assert!(agents.log("c").contains("I copy the data of a anew"), "{}", agents.log("c"));
    agents.start_agent("b");
    all_have_the_same(&agents);
}

/// Has `c` follow a dead timeline 2, and come back where `a` leads on timeline 4 by way of another timeline 2; returns
/// what it said.
fn come_back_to_a_higher_number(with_checkpoint: bool) -> String {
    let mut agents = forkable();
    fork(&mut agents);
    if with_checkpoint {
        assert!(agents.sql("c", "CHECKPOINT").is_some());
    }
    agents.kill_host("c");
    lead_again(&mut agents);
    agents.start_agent("b");
    for candidate in ["b", "a"] {
        within(SLOW, "the other one streams", || agents.streaming() == 1);
        within(SLOW, "it leads, on the next timeline", || {
            agents.keddah(&["switchover", "--candidate", candidate, "--force"]).status.success()
        });
    }
    agents.start_agent("c");
    all_have_the_same(&agents);
    agents.log("c").split_off(agents.log("c").rfind("the guard is started").unwrap())
}

#[test]
fn a_replica_whose_data_is_of_a_dead_timeline_is_rewound() {
    let log = come_back_to_a_higher_number(true);

    assert!(log.contains("I recover from the crash") && log.contains("I rewind"), "{log}");
    assert!(!log.contains("anew"), "{log}");
}

#[test]
fn a_replica_that_has_received_a_dead_timeline_comes_back_without_a_copy() {
    // What of it was in the data when the host died is for the server to say.
    let log = come_back_to_a_higher_number(false);

    assert!(log.contains("my WAL of timeline 2 is not the leader's") || log.contains("I rewind"), "{log}");
    assert!(!log.contains("anew"), "{log}");
}
