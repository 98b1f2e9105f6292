//! A standby cluster whose other cluster fails over to a timeline that branched off before the end of its members' WAL.

use std::path::PathBuf;

use crate::agents::{Agents, BIN_DIR, SLOW, within};

/// Runs one of the server's programs as its user.
fn program(agents: &Agents, name: &str, arguments: &[&str]) {
    let mut command = agents.command(&PathBuf::from(BIN_DIR).join(name));
    let output = command.args(arguments).env("PGPASSWORD", "repl").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(agents.folder().join("etcd/copy.log")).unwrap_or_default();
    assert!(output.status.success(), "{name}: {said}{log}");
}

/// Has `b` lead a standby cluster of `a`, and `c` follow it. Then `a` is gone, and where it was a copy of it serves that
/// was behind them: nobody tells them, and their last rows are nowhere in its WAL.
fn fail_over(settings: &str) -> Agents {
    let mut agents = Agents::prepare("", false);
    agents.start_agent("a");
    within(SLOW, "a cluster to follow", || agents.status("a", "/primary") == Some(200));
    within(SLOW, "a table", || agents.sql("a", "CREATE TABLE t (id int)").is_some());
    let port = agents.postgres_port("a").to_string();
    for name in ["b", "c"] {
        agents.edit_config(name, "scope: demo", "scope: other");
        let lag = "maximum_lag_on_failover: 10485760";
        let section = format!("{lag}, standby_cluster: {{host: '127.0.0.2,127.0.0.1', port: {port}}}");
        agents.edit_config(name, lag, &section);
        agents.edit_config(name, "use_pg_rewind: true", settings);
    }
    agents.start_agent("b");
    within(SLOW, "a copy leads", || agents.status("b", "/standby_leader") == Some(200));
    agents.start_agent("c");
    within(SLOW, "the cascade streams", || {
        agents.status("c", "/replica?replication_state=streaming") == Some(200)
    });

    let folder = agents.folder().join("etcd").display().to_string();
    let copy = format!("{folder}/copy");
    let source = ["-h", "127.0.0.1", "-p", &port, "-U", "replicator", "-w"];
    program(&agents, "pg_basebackup", &[&["-D", &copy, "-R", "-c", "fast"], source.as_slice()].concat());
    assert!(agents.sql("a", "INSERT INTO t SELECT generate_series(1, 1000)").is_some());
    for name in ["b", "c"] {
        within(SLOW, "it has got further than the copy", || {
            agents.sql(name, "SELECT count(*) FROM t").as_deref() == Some("1000")
        });
    }
    agents.kill_host("a");
    let options = format!("-p {port} -k {folder} -c primary_conninfo=");
    program(&agents, "pg_ctl", &["-D", &copy, "-o", &options, "-l", &format!("{copy}.log"), "-w", "start"]);
    program(&agents, "pg_ctl", &["-D", &copy, "-w", "promote"]);
    assert!(agents.sql("a", "CHECKPOINT").is_some());
    assert!(agents.sql("a", "INSERT INTO t VALUES (0)").is_some());
    agents
}

fn all_follow(agents: &Agents) {
    for name in ["b", "c"] {
        within(SLOW, "it has what the other cluster has, and nothing else", || {
            agents.sql(name, "SELECT count(*) FROM t").as_deref() == Some("1")
        });
    }
    assert!(agents.sql("a", "INSERT INTO t VALUES (1)").is_some());
    for name in ["b", "c"] {
        within(SLOW, "it streams", || agents.sql(name, "SELECT count(*) FROM t").as_deref() == Some("2"));
    }
    within(SLOW, "the same member leads", || agents.status("b", "/standby_leader") == Some(200));
}

#[test]
fn members_of_a_standby_cluster_are_rewound_from_the_other_cluster() {
    let agents = fail_over("use_pg_rewind: true");
    all_follow(&agents);

    for name in ["b", "c"] {
        let log = agents.log(name);
        assert!(log.contains("my WAL has parted from that of the other cluster; I rewind"), "{log}");
        assert!(!log.contains("anew"), "{log}");
    }
}

#[test]
fn without_rewinds_the_standby_leader_is_copied_from_the_other_cluster_and_its_replica_from_it() {
    let agents = fail_over("remove_data_directory_on_diverged_timelines: true");
    all_follow(&agents);

    for (name, source) in [("b", "the other cluster"), ("c", "b")] {
        let log = agents.log(name);
        assert!(log.contains(&format!("I copy the data of {source} anew")), "{log}");
    }
}
