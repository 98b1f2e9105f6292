//! A cluster of three on loopback lives through what happens to clusters.

use std::io::{Read, Write};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::agents::{Agents, NAMES, SLOW, within};
use crate::sshd::turn;

/// A ttl of up to 12, an election and a promotion, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(12 + 20);

/// Longer than `retry_timeout`, and less than half a lease of 12 s.
const STALL: Duration = Duration::from_secs(5);

#[test]
fn an_agent_that_was_killed_goes_on_and_a_host_that_died_comes_back_by_rewind() {
    // The next agent must be there, and etcd answer, while the lease lasts: with a ttl of 6 a busy machine is too slow.
    let agents = Agents::prepare("", false);
    agents.edit_config("a", "ttl: 6", "ttl: 12");
    let mut agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());

    let postmaster = agents.postmaster("a");
    agents.kill_agent("a");
    agents.start_agent("a");
    within(SLOW, "the next agent leads", || agents.status("a", "/primary") == Some(200));
    assert_eq!(agents.postmaster("a"), postmaster, "Postgres was not restarted");
    assert!(agents.log("a").contains("leading=true"), "{}", agents.log("a"));

    agents.freeze_etcd();
    std::thread::sleep(STALL);
    agents.thaw_etcd();
    assert!(agents.sql("a", "INSERT INTO t VALUES (1)").is_some(), "a stall of etcd costs nothing");
    assert_eq!(agents.postmaster("a"), postmaster);

    // What no standby has got goes with its host.
    let known = |name: &str| agents.sql(name, "SELECT count(*) FROM t").as_deref() == Some("1");
    within(SLOW, "the others have it", || known("b") && known("c"));
    agents.kill_host("a");
    within(FAILOVER, "another member leads", || agents.primary().is_some_and(|name| name != "a"));
    let leader = agents.primary().expect("somebody leads");
    within(SLOW, "it takes writes", || agents.sql(leader, "INSERT INTO t VALUES (2)").is_some());

    agents.start_agent("a");
    within(SLOW, "the dead host streams again", || agents.streaming() == 2);
    within(SLOW, "it has what was written", || {
        agents.sql("a", "SELECT count(*) FROM t").as_deref() == Some("2")
    });
    assert!(agents.folder().exists());
}

#[test]
fn a_stopped_agent_acknowledges_nothing_after_its_deadline() {
    let agents = Agents::start("");
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());

    agents.freeze(agents.agent_pid("a"));
    // A session that was open before goes on committing for as long as it is let.
    within(FAILOVER, "another member leads", || {
        NAMES[1..].iter().any(|n| agents.status(n, "/primary") == Some(200))
    });
    assert_eq!(agents.sql("a", "INSERT INTO t VALUES (1)"), None, "the old primary takes no write");

    agents.signal_agent("a", Signal::SIGCONT);
    within(SLOW, "the old primary follows", || agents.streaming() == 2);
    assert!(agents.primary().is_some_and(|name| name != "a"));
}

#[test]
fn leadership_moves_by_plan_under_a_pause_and_in_synchronous_mode() {
    let agents = Agents::start("");

    let done = agents.keddah(&["switchover", "--candidate", "b", "--force"]);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("Successfully switched over to \"b\""), "{text}");
    assert!(text.contains("time without a primary"), "{text}");
    within(SLOW, "both others follow", || agents.streaming() == 2);
    assert_eq!(agents.primary(), Some("b"));

    let refused = agents.keddah(&["switchover", "--candidate", "nobody", "--force"]);
    assert_eq!(refused.status.code(), Some(1));

    assert!(agents.keddah(&["pause", "--wait"]).status.success());
    assert!(agents.get("b", "/patroni").get("pause").is_some());
    assert!(agents.keddah(&["resume", "--wait"]).status.success());

    agents.patch_config("b", r#"{"synchronous_mode": true}"#);
    within(SLOW, "one standby is synchronous", || {
        NAMES.iter().filter(|name| agents.status(name, "/sync") == Some(200)).count() == 1
    });
    let names = agents.sql("b", "SHOW synchronous_standby_names").unwrap_or_default();
    assert!(names == "\"a\"" || names == "\"c\"", "{names}");

    agents.patch_config("b", r#"{"synchronous_mode_strict": true}"#);
    let standby = if names == "\"a\"" { "a" } else { "c" };
    let show = "SHOW synchronous_standby_names";
    within(SLOW, "the standby would wait for the leader", || {
        agents.sql(standby, show).as_deref() == Some("\"b\"")
    });
    let done = agents.keddah(&["switchover", "--candidate", standby, "--force"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let write = "CREATE TABLE strict (id int)";
    within(SLOW, "a standby confirms what is written", || agents.sql(standby, write).is_some());
}

/// Asks as the migration playbook does; whom the members do not trust is told why nobody answers.
fn playbooks_reach_them(agents: &Agents) {
    let play = "
- hosts: localhost
  gather_facts: false
  module_defaults:
    uri: &files
      ca_path: \"{{ ca | default(omit) }}\"
      client_cert: \"{{ ca | default(omit) }}\"
    cluster_health: *files
  tasks:
    - cluster_health: {url: URL, members: 3, timeout: 60}
      when: ca is defined
    - uri: {url: URL/patroni}
      register: told
    - assert: {that: told.json.role == 'primary'}
";
    let url = format!("https://127.0.0.1:{}", agents.rest_port("a"));
    let (play, ca) = (play.replace("URL", &url), agents.pair().display().to_string());
    std::fs::write(agents.folder().join("ask.yml"), play).unwrap();
    let run = |more: &[&str]| {
        let _turn = turn();
        let mut command = std::process::Command::new(agents.binary());
        command.args(["apply", "-i", "localhost,", "ask.yml", "-e", "ansible_connection=local"]).args(more);
        command.current_dir(agents.folder()).env("HOME", agents.folder()).output().unwrap()
    };
    let done = run(&["-e", &format!("ca={ca}")]);
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    let refused = run(&[]);
    assert!(!refused.status.success());
    let said =
        [refused.stdout, refused.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(said.contains("does not speak TLS as it should"), "{said}");
}

#[test]
fn members_talk_over_tls_and_patronis_tool_is_the_binary_under_another_name() {
    let agents = Agents::start_encrypted();
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", agents.rest_port("a"))).unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A TLS alert, or a closed connection.
    let _closed = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "nobody is answered without TLS");

    let tool = |arguments: &[&str]| agents.patronictl("a", arguments);
    assert!(tool(&["list", "demo"]).contains("| a "));
    let tree = tool(&["topology", "demo"]);
    assert!(tree.contains("| a ") && tree.contains("| + b "), "{tree}");
    let told = tool(&["query", "demo", "-r", "leader", "-c", "SELECT 7 AS n FROM pg_sleep(3)"]);
    assert_eq!(told.trim(), "n\n7", "also one that takes its time");
    let changed = tool(&["edit-config", "demo", "-s", "maximum_lag_on_failover=1048576", "--force"]);
    assert!(changed.contains("+maximum_lag_on_failover: 1048576"), "{changed}");
    // The passwords of the members differ: the tool has that of the leader only.
    assert!(tool(&["restart", "demo", "a", "--force"]).contains("Success: restart on member a"));
    within(SLOW, "the leader is back", || agents.status("a", "/primary") == Some(200));
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    within(SLOW, "both others stream again", || agents.sql("a", streaming).as_deref() == Some("2"));
    playbooks_reach_them(&agents);

    let told = tool(&["switchover", "demo", "--candidate", "b", "--force"]);
    assert!(told.contains("Successfully switched over to \"b\""), "{told}");
    within(SLOW, "both others follow", || agents.streaming() == 2);
    assert_eq!(agents.primary(), Some("b"));
    assert!(tool(&["dsn", "demo"]).contains(&format!("port={}", agents.postgres_port("b"))));
}
