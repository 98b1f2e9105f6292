//! Clusters in which Patroni, the real one, runs some of the members.

use std::process::Command;
use std::time::Duration;

use keddah::sys::clock;
use nix::sys::signal::Signal;

use crate::agents::{Agents, NAMES, SLOW, within};
use crate::sshd::turn;
use crate::{ctl, patronictl};

/// Patroni's shortest ttl, which is everybody's in such a cluster, an election and a promotion on a busy machine.
const FAILOVER: Duration = Duration::from_secs(20 + 25);

/// What an agent says when it begins to count on Patroni's shortest ttl.
const RAISED: &str = "where Patroni runs a member the ttl is not below 20 s";

/// Makes a cluster that is Patroni's, of one member.
fn born_by_patroni(dynamic: &str) -> Agents {
    led_by_patroni(Agents::prepare(dynamic, false))
}

fn led_by_patroni(mut agents: Agents) -> Agents {
    agents.start_patroni("a");
    within(SLOW, "Patroni makes the cluster", || agents.status("a", "/primary") == Some(200));
    assert!(agents.sql("a", "CREATE TABLE t (step text)").is_some());
    agents
}

/// Waits until `leader` leads and takes a write that every one of `replicas` then has.
fn settled(agents: &Agents, step: &str, leader: &str, replicas: &[&str]) {
    within(SLOW, &format!("{step}: {leader} leads"), || agents.primary() == Some(leader));
    within(SLOW, &format!("{step}: all others stream"), || agents.streaming() == replicas.len());
    let write = format!("INSERT INTO t VALUES ('{step}')");
    within(SLOW, &format!("{step}: {leader} takes writes"), || agents.sql(leader, &write).is_some());
    let seen = format!("SELECT count(*) > 0 FROM t WHERE step = '{step}'");
    for name in replicas {
        within(SLOW, &format!("{step}: {name} has it"), || agents.sql(name, &seen).as_deref() == Some("t"));
    }
}

/// Moves the lead by Patroni's own tool.
fn switched_by_patronictl(agents: &Agents, leader: &str, candidate: &str) {
    let config = agents.config(leader).display().to_string();
    let mut command = Command::new(patronictl::program());
    let output = command
        .args(["-c", &config, "switchover", "demo", "--candidate", candidate, "--force"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("Successfully switched over to \"{candidate}\"")), "{text}");
}

/// Moves the lead by the product's tool, to the best member where none is named.
fn switched_by_keddah(agents: &Agents, candidate: Option<&str>) {
    // A server streams before its Patroni has told so, and a member that is told to start is no candidate.
    let leader = agents.primary().expect("a leader");
    let told = || agents.get(leader, "/cluster")["members"].as_array().cloned().unwrap_or_default();
    within(SLOW, "all others are told of as streaming", || {
        told().iter().filter(|member| member["state"] == "streaming").count() == NAMES.len() - 1
    });
    let mut words = vec!["switchover", "--force"];
    words.extend(candidate.iter().flat_map(|candidate| ["--candidate", candidate]));
    let output = agents.keddah(&words);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn timeline(agents: &Agents, name: &str) -> u64 {
    agents.get(name, "/patroni")["timeline"].as_u64().expect("a timeline")
}

#[test]
fn a_cluster_of_patroni_is_taken_over_node_by_node_and_goes_back() {
    let mut agents = born_by_patroni("");
    agents.start_agent("b");
    agents.start_patroni("c");
    settled(&agents, "joined", "a", &["b", "c"]);
    // Patroni has stored its own shortest ttl in the place of the file's.
    agents.patch_config("a", r#"{"ttl": 6}"#);
    within(SLOW, "its shortest ttl is the Keddah member's too", || agents.log("b").contains(RAISED));
    ctl::lists_agree(&agents);

    switched_by_patronictl(&agents, "a", "b");
    settled(&agents, "to-keddah", "b", &["a", "c"]);
    // Whichever of Patroni's members finds the free lock first, and not the old leader, which looks sooner than they do.
    switched_by_keddah(&agents, None);
    within(SLOW, "one of them leads", || agents.primary().is_some_and(|name| name != "b"));
    let first = agents.primary().expect("a leader");
    let others: Vec<&str> = NAMES.into_iter().filter(|name| *name != first).collect();
    settled(&agents, "to-either-of-patroni", first, &others);
    switched_by_patronictl(&agents, first, "b");
    settled(&agents, "to-keddah-again", "b", &["a", "c"]);
    switched_by_keddah(&agents, Some("c"));
    settled(&agents, "to-patroni", "c", &["a", "b"]);
    ctl::lists_agree(&agents);

    let before = timeline(&agents, "c");
    agents.stop_agent("a");
    agents.start_agent("a");
    settled(&agents, "a-is-taken-over", "c", &["a", "b"]);
    switched_by_keddah(&agents, Some("a"));
    settled(&agents, "the-lead-is-taken-over", "a", &["b", "c"]);
    agents.stop_agent("c");
    agents.start_agent("c");
    settled(&agents, "c-is-taken-over", "a", &["b", "c"]);
    assert_eq!(timeline(&agents, "a"), before + 1, "one switchover, and nothing else moved the lead");
    for name in NAMES {
        assert!(agents.get(name, "/patroni")["keddah"]["version"].is_string(), "{name} is a Keddah member");
    }

    agents.stop_agent("b");
    agents.start_patroni("b");
    settled(&agents, "b-goes-back", "a", &["b", "c"]);
}

#[test]
fn failover_goes_both_ways_in_synchronous_mode() {
    let mut agents = born_by_patroni(", synchronous_mode: true");
    agents.start_agent("b");
    settled(&agents, "joined", "a", &["b"]);
    let synchronous = |agents: &Agents, name: &str| {
        within(SLOW, "the standby is synchronous", || agents.status(name, "/sync") == Some(200));
    };

    synchronous(&agents, "b");
    agents.kill_host("a");
    within(FAILOVER, "the Keddah member leads", || agents.primary() == Some("b"));
    agents.start_patroni("a");
    settled(&agents, "patroni-is-back", "b", &["a"]);

    synchronous(&agents, "a");
    agents.kill_host("b");
    within(FAILOVER, "the Patroni member leads", || agents.primary() == Some("a"));
    agents.start_agent("b");
    settled(&agents, "keddah-is-back", "a", &["b"]);
    synchronous(&agents, "b");
    let kept = "SELECT string_agg(step, ' ' ORDER BY ctid) FROM t";
    assert_eq!(agents.sql("b", kept).as_deref(), Some("joined patroni-is-back keddah-is-back"));
}

/// Writes for a while, by new connections, each of which must be served.
fn writes_for(agents: &Agents, step: &str, leader: &str, long: Duration) {
    let (began, write) = (clock::now(), format!("INSERT INTO t VALUES ('{step}')"));
    while clock::now().since(began) < long {
        assert!(agents.sql(leader, &write).is_some(), "{step}: {leader} takes writes");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn failsafe_mode_holds_across_both_kinds() {
    let mut agents = born_by_patroni(", failsafe_mode: true");
    // Who asks for a promise shows his own password.
    agents.edit_config("b", "admin-1", "admin-0");
    agents.edit_config("c", "admin-2", "admin-0");
    agents.start_agent("b");
    agents.start_patroni("c");
    settled(&agents, "joined", "a", &["b", "c"]);
    let known = |name: &str| agents.get(name, "/failsafe").as_object().is_some_and(|all| all.len() == 3);
    within(SLOW, "all members are known", || NAMES.iter().all(|name| known(name)));

    // Without anybody's answer it would give up after retry_timeout, which is 3 s.
    agents.freeze_etcd();
    writes_for(&agents, "patroni-goes-on", "a", Duration::from_secs(12));
    agents.thaw_etcd();
    settled(&agents, "patroni-went-on", "a", &["b", "c"]);

    switched_by_keddah(&agents, Some("b"));
    settled(&agents, "to-keddah", "b", &["a", "c"]);
    // And this one when its lease ends, at 20 s.
    agents.freeze_etcd();
    writes_for(&agents, "keddah-goes-on", "b", Duration::from_secs(25));
    agents.signal_agent("c", Signal::SIGSTOP);
    let write = "INSERT INTO t VALUES ('too-few')";
    within(FAILOVER, "without the promise of one it stops", || agents.sql("b", write).is_none());
    agents.signal_agent("c", Signal::SIGCONT);
    agents.thaw_etcd();
    within(SLOW, "somebody leads", || agents.primary().is_some() && agents.streaming() == 2);
}

/// Returns the shipped playbook with those of its tasks that ask the REST API: the others need hosts.
fn what_the_migration_asks() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/migrate-from-patroni.yml");
    let mut plays: Vec<serde_yaml::Mapping> =
        serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let asks = |task: &serde_yaml::Value| {
        ["uri", "cluster_health", "cluster_switchover"].iter().any(|module| task.get(module).is_some())
    };
    for play in &mut plays {
        play.remove("become");
        play["tasks"].as_sequence_mut().unwrap().retain(asks);
    }
    serde_yaml::to_string(&plays).unwrap()
}

#[test]
fn the_migration_playbook_asks_members_of_both_kinds_over_tls_with_a_certificate() {
    let mut agents = led_by_patroni(Agents::prepare("", true));
    agents.start_agent("b");
    agents.start_agent("c");
    settled(&agents, "replicas-have-gone-over", "a", &["b", "c"]);

    let mut inventory = "[postgres]\n".to_owned();
    for (number, name) in NAMES.iter().enumerate() {
        inventory += &format!(
            "{name} ansible_connection=local patroni_url=https://127.0.0.1:{} patroni_restapi_password=admin-{number}\n",
            agents.rest_port(name)
        );
    }
    inventory += &format!(
        "[postgres:vars]\npatroni_restapi_username=admin\npatroni_ca={pair}\npatroni_cert={pair}\n",
        pair = agents.pair().display()
    );
    std::fs::write(agents.folder().join("inventory"), inventory).unwrap();
    std::fs::write(agents.folder().join("ask.yml"), what_the_migration_asks()).unwrap();
    let done = {
        let _turn = turn();
        let mut command = Command::new(agents.binary());
        command.args(["apply", "-i", "inventory", "ask.yml"]).current_dir(agents.folder());
        command.env("HOME", agents.folder()).output().unwrap()
    };
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("the lead moves from a"), "{said}");
    within(SLOW, "a member that has gone over leads", || {
        agents.primary().is_some_and(|name| name != "a") && agents.streaming() == 2
    });
}
