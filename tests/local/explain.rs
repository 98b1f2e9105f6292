//! Something known is broken, and `keddah explain` names it first, by etcd and the members that are left.

use std::time::Duration;

use keddah::sys::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agents::{Agents, SLOW, within};
use crate::relay::Relay;

/// Returns what is told first: the cause, or the last disturbance where nothing is wrong.
fn first(agents: &Agents) -> String {
    let text = String::from_utf8_lossy(&agents.keddah(&["explain"]).stdout).into_owned();
    let mut lines = text.lines().skip_while(|line| *line == "nothing is wrong");
    lines.next().unwrap_or_default().to_owned()
}

/// What an answer may take on a machine that is busy with other tests; on an idle one it is below a second.
const ANSWER: Duration = Duration::from_secs(2);

/// Waits until the cause is named first.
fn names(agents: &Agents, broken: &str, words: &[&str]) {
    let mut told = String::new();
    let began = clock::now();
    while !words.iter().all(|word| told.contains(word)) {
        assert!(clock::now().since(began) < SLOW, "{broken}: what is told first is `{told}`");
        told = first(agents);
    }
    let took = (0..3).map(|_| {
        let asked = clock::now();
        assert!(
            words.iter().all(|word| first(agents).contains(word)),
            "{broken}: it is told once and not again"
        );
        clock::now().since(asked)
    });
    let fastest = took.min().unwrap();
    assert!(fastest < ANSWER, "{broken}: the answer takes {fastest:?}");
}

fn follows(agents: &Agents) {
    within(SLOW, "both others follow", || agents.primary().is_some() && agents.streaming() == 2);
    // What was wrong is over once everybody has said so.
    within(SLOW, "nothing is wrong", || {
        String::from_utf8_lossy(&agents.keddah(&["explain"]).stdout).starts_with("nothing is wrong")
    });
}

#[test]
fn a_crash_and_stopped_agents_are_named() {
    let agents = Agents::start("");
    follows(&agents);

    kill(Pid::from_raw(agents.postmaster("a").unwrap()), Signal::SIGKILL).unwrap();
    names(&agents, "the postmaster was killed", &["a said", "Postgres of it had ended by itself"]);
    follows(&agents);

    agents.signal_agent("c", Signal::SIGSTOP);
    names(&agents, "a replica's agent is stopped", &["1. c does not answer", "stopped or hangs"]);
    agents.signal_agent("c", Signal::SIGCONT);
    follows(&agents);

    agents.signal_agent("a", Signal::SIGSTOP);
    within(SLOW, "another member leads", || {
        ["b", "c"].iter().any(|name| agents.status(name, "/primary") == Some(200))
    });
    names(
        &agents,
        "the leader's agent is stopped",
        &["1. a, which led, does not answer", "stopped or hangs"],
    );
    agents.signal_agent("a", Signal::SIGCONT);
    within(SLOW, "both others follow", || agents.primary().is_some() && agents.streaming() == 2);
}

#[test]
fn a_member_that_is_cut_off_and_a_host_that_never_comes_back_are_named() {
    let mut agents = Agents::prepare("", false);
    let relay = Relay::to(agents.etcd_address());
    let own = format!("127.0.0.1:{}", relay.port);
    agents.edit_config("a", &agents.etcd_address(), &own);
    agents = agents.run();

    relay.cut();
    within(SLOW, "another member leads", || {
        ["b", "c"].iter().any(|name| agents.status(name, "/primary") == Some(200))
    });
    names(
        &agents,
        "the leader is cut off from etcd",
        &["1. a lives and has no member key", "etcd does not answer"],
    );
    relay.heal();
    follows(&agents);
    names(&agents, "the leader was cut off from etcd", &["a said", "etcd does not answer"]);

    let leader = agents.primary().expect("somebody leads");
    agents.kill_host(leader);
    within(SLOW, "another member leads", || agents.primary().is_some_and(|name| name != leader));
    names(
        &agents,
        "the leader's host is dead",
        &[&format!("1. {leader}, which led, is down"), "nothing listens"],
    );

    let forget = |name: &str| agents.keddah(&["remove", "--member", name]);
    let lives = agents.primary().expect("somebody leads");
    assert_eq!(forget(lives).status.code(), Some(1), "a member is not forgotten");
    let told = agents.keddah(&["explain"]).stdout;
    assert!(
        String::from_utf8_lossy(&told).contains(&format!("`keddah remove --member {leader}` forgets it"))
    );
    assert!(forget(leader).status.success());
    let told = String::from_utf8_lossy(&agents.keddah(&["explain", "--all"]).stdout).into_owned();
    assert!(!told.contains(&format!("\n{leader} (gone")), "{told}");
    assert_eq!(forget(leader).status.code(), Some(1), "nothing is kept of it");
}

#[test]
fn what_keeps_the_others_from_leading_is_named() {
    let mut agents = Agents::prepare("", false);
    for name in ["b", "c"] {
        agents.edit_config(name, "watchdog:", "tags: {nofailover: true}\nwatchdog:");
    }
    agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (step text)").is_some());

    for name in ["b", "c"] {
        within(SLOW, "it has the table", || agents.sql(name, "SELECT 1 FROM t").is_some());
    }

    agents.kill_host("a");
    names(&agents, "no other member may lead", &["1. nobody leads, and b says", "not allowed to promote"]);

    agents.edit_config("b", "nofailover: true", "nofailover: false");
    agents.signal_agent("b", Signal::SIGHUP);
    within(SLOW, "it leads once it may", || agents.primary() == Some("b"));
    agents.start_agent("a");
    within(SLOW, "both others follow", || agents.streaming() == 2);

    let senders = agents.sql("b", "SELECT pid FROM pg_stat_replication").expect("it is primary");
    for sender in senders.lines() {
        kill(Pid::from_raw(sender.parse().unwrap()), Signal::SIGSTOP).unwrap();
    }
    let many = "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
    assert!(agents.sql("b", many).is_some());
    within(SLOW, "it has told how far it is", || {
        let members = agents.get("c", "/cluster")["members"].clone();
        let lags = members.as_array().into_iter().flatten().filter_map(|member| member["lag"].as_u64());
        lags.filter(|lag| *lag > 10_485_760).count() == 2
    });
    agents.kill_host("b");
    names(
        &agents,
        "the others lack too much",
        &["1. nobody leads, and a says", "more than maximum_lag_on_failover"],
    );
}
