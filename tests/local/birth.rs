//! Clusters that do not begin with initdb: from a backup, and as the copy of another cluster.

use crate::agents::{Agents, SLOW, within};

/// Writes the words of each callback of `name` to a file of its own.
fn log_callbacks(agents: &Agents, name: &str) -> std::path::PathBuf {
    let log = agents.folder().join(name).join("callbacks");
    let script =
        agents.script(&format!("callbacks-{name}.sh"), &format!("echo \"$@\" >> {}\n", log.display()));
    let all = ["on_start", "on_stop", "on_restart", "on_role_change"];
    let lines: Vec<String> = all.iter().map(|event| format!("{event}: '{script}'")).collect();
    agents.edit_config(
        name,
        "  use_unix_socket: true",
        &format!("  use_unix_socket: true\n  callbacks: {{{}}}", lines.join(", ")),
    );
    log
}

fn told(log: &std::path::Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

#[test]
fn a_backup_becomes_a_cluster_and_replicas_come_by_the_configured_methods() {
    let mut agents = Agents::prepare("", false);
    agents.start_agent("a");
    within(SLOW, "a cluster to copy from", || agents.status("a", "/primary") == Some(200));
    assert!(agents.sql("a", "CREATE TABLE t AS SELECT 1 AS id").is_some());

    let source = agents.postgres_port("a");
    let copy = agents.script(
        "copy.sh",
        &format!(
            "for word; do case $word in --datadir=*) data=${{word#*=}};; --mark=*) mark=${{word#*=}};; esac; done\n\
             PGPASSWORD=repl /usr/lib/postgresql/15/bin/pg_basebackup -w -D \"$data\" -c fast -h 127.0.0.1 -p \"${{mark:-{source}}}\" -U replicator\n"
        ),
    );
    for name in ["b", "c"] {
        agents.edit_config(name, "scope: demo", "scope: other");
    }
    agents.edit_config(
        "b",
        "  initdb:",
        &format!("  method: backup\n  backup: {{command: \"{copy}\"}}\n  initdb:"),
    );
    let from = agents.postgres_port("b");
    agents.edit_config(
        "c",
        "  use_unix_socket: true",
        &format!(
            "  use_unix_socket: true\n  create_replica_methods: [broken, mine]\n  broken: {{command: 'false'}}\n  mine: {{command: \"{copy}\", mark: {from}}}"
        ),
    );
    let callbacks = log_callbacks(&agents, "b");

    agents.start_agent("b");
    within(SLOW, "the backup is a cluster", || agents.status("b", "/primary") == Some(200));
    within(SLOW, "it has its roles and takes writes", || {
        agents.sql("b", "INSERT INTO t VALUES (2)").is_some()
    });
    agents.start_agent("c");
    within(SLOW, "a replica streams", || {
        agents.status("c", "/replica?replication_state=streaming") == Some(200)
    });
    within(SLOW, "it has what was written", || {
        agents.sql("c", "SELECT count(*) FROM t").as_deref() == Some("2")
    });

    assert_eq!(agents.sql("a", "SELECT count(*) FROM t").as_deref(), Some("1"), "two clusters");
    assert!(agents.log("c").contains("the method failed"), "the broken one came first");
    within(SLOW, "callbacks are told", || told(&callbacks).contains("primary other"));
}

#[test]
fn a_standby_cluster_follows_fails_over_and_becomes_its_own() {
    let mut agents = Agents::prepare("", false);
    agents.start_agent("a");
    within(SLOW, "a cluster to follow", || agents.status("a", "/primary") == Some(200));
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    let section = format!(", standby_cluster: {{host: 127.0.0.1, port: {}}}", agents.postgres_port("a"));
    for name in ["b", "c"] {
        agents.edit_config(name, "scope: demo", "scope: other");
        let lag = "maximum_lag_on_failover: 10485760";
        agents.edit_config(name, lag, &format!("{lag}{section}"));
    }
    let callbacks = log_callbacks(&agents, "c");

    agents.start_agent("b");
    within(SLOW, "a copy leads", || agents.status("b", "/standby_leader") == Some(200));
    agents.start_agent("c");
    within(SLOW, "the cascade streams", || {
        agents.status("c", "/replica?replication_state=streaming") == Some(200)
    });
    assert!(agents.sql("a", "INSERT INTO t VALUES (1)").is_some());
    for name in ["b", "c"] {
        within(SLOW, "what the other cluster writes arrives", || {
            agents.sql(name, "SELECT count(*) FROM t").as_deref() == Some("1")
        });
        assert_eq!(agents.status(name, "/primary"), Some(503));
        assert_eq!(agents.sql(name, "INSERT INTO t VALUES (2)"), None);
    }

    agents.kill_host("b");
    within(SLOW, "the next one leads", || agents.status("c", "/standby_leader") == Some(200));
    within(SLOW, "its callback is told", || told(&callbacks).contains("on_role_change standby_leader other"));
    assert!(agents.sql("a", "INSERT INTO t VALUES (2)").is_some());
    within(SLOW, "it follows the other cluster", || {
        agents.sql("c", "SELECT count(*) FROM t").as_deref() == Some("2")
    });

    let told = agents.patronictl("c", &["promote-cluster", "other", "--force"]);
    assert!(told.contains("cluster is successfully promoted"), "{told}");
    within(SLOW, "it is a cluster of its own", || agents.status("c", "/primary") == Some(200));
    within(SLOW, "it takes writes", || agents.sql("c", "INSERT INTO t VALUES (3)").is_some());
    assert_eq!(agents.sql("a", "SELECT count(*) FROM t").as_deref(), Some("2"));

    let told = agents.patronictl("c", &["demote-cluster", "other", "--force", "--restore-command", "false"]);
    assert!(told.contains("cluster is successfully demoted"), "{told}");
    assert_eq!(agents.sql("c", "INSERT INTO t VALUES (4)"), None);
}

#[test]
fn data_that_is_there_becomes_a_cluster_of_another_name() {
    let mut agents = Agents::prepare("", false);
    agents.start_agent("a");
    within(SLOW, "a cluster", || agents.status("a", "/primary") == Some(200));
    assert!(agents.sql("a", "CREATE TABLE t AS SELECT 1 AS id").is_some());
    // What a failed attempt to make a cluster leaves is put aside; this one is to be whole.
    let mark = agents.folder().join("a/data/keddah.bootstrap");
    within(SLOW, "the cluster is made", || !mark.exists());
    agents.kill_host("a");

    agents.edit_config("a", "scope: demo", "scope: again");
    agents.start_agent("a");
    within(SLOW, "the data is a cluster", || agents.status("a", "/primary") == Some(200));

    assert_eq!(agents.sql("a", "SELECT count(*) FROM t").as_deref(), Some("1"));
    assert!(agents.folder().join("a/data/patroni.dynamic.json").exists());
    agents.patch_config("a", r#"{"postgresql": {"parameters": {"restore_command": "false"}}}"#);
    within(SLOW, "another restore_command counts without a restart", || {
        agents.sql("a", "SHOW restore_command").as_deref() == Some("false")
    });
}
