//! The watchdog of Patroni's own scenarios (`frozen_patroni`), with a guard that feeds it: a pipe says what it is told.

use std::time::Duration;

use keddah::sys::clock;
use nix::sys::signal::{Signal, kill};

use crate::agents::{Agents, NAMES, SLOW, within};
use crate::device::Device;

/// ttl 6, an election and a promotion, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(6 + 20);

fn device(agents: &Agents) -> &Device {
    agents.device.as_ref().expect("a watched cluster")
}

/// Waits until it is fed, and fed again.
fn fed(agents: &Agents, what: &str) {
    let before = device(agents).meals();
    within(SLOW, what, || device(agents).meals() > before + 1);
}

/// A lease of 20 s that has to end first would take longer.
const SOON: Duration = Duration::from_secs(12);

fn closed(agents: &Agents, limit: Duration, what: &str) {
    within(limit, what, || device(agents).written().ends_with('V'));
}

/// Waits until a member other than the first leads.
fn another_leads(agents: &Agents) -> &'static str {
    let leads = || NAMES[1..].iter().copied().find(|name| agents.status(name, "/primary") == Some(200));
    within(FAILOVER, "another member leads", || leads().is_some());
    leads().expect("it leads")
}

#[test]
fn at_patronis_ttl_the_device_has_patronis_timeout_and_is_let_go_where_patroni_does() {
    let mut agents = Agents::prepare_watched();
    agents.edit_config("a", "ttl: 6", "ttl: 21");
    agents.start_agent("a");
    within(SLOW, "the agent makes the cluster", || agents.status("a", "/primary") == Some(200));

    assert!(device(&agents).written().starts_with("Ctimeout=16\n"), "{}", device(&agents).written());
    fed(&agents, "it is fed");
    agents.patch_config("a", r#"{"ttl": 20}"#);
    within(SLOW, "it is told of another ttl", || device(&agents).written().contains("Ctimeout=15\n"));

    assert!(agents.keddah(&["pause", "--wait"]).status.success());
    closed(&agents, SOON, "it is closed in a pause");
    assert!(agents.keddah(&["resume", "--wait"]).status.success());
    fed(&agents, "it is fed after the pause");

    agents.stop_agent("a");
    closed(&agents, SOON, "it is closed at a clean end");
}

#[test]
fn below_patronis_ttl_the_device_has_half_of_it_and_never_more_than_the_lease_in_force() {
    let agents = Agents::start_watched();

    assert!(device(&agents).written().starts_with("Ctimeout=3\n1"), "{}", device(&agents).written());
    fed(&agents, "it is fed");
    // The lease in force lasts as long as before: a device that waits longer would starve.
    agents.patch_config("a", r#"{"ttl": 30}"#);
    within(SLOW, "the longer ttl is known", || agents.get("a", "/config")["ttl"] == 30);
    fed(&agents, "it is fed under a longer ttl");
    agents.patch_config("a", r#"{"ttl": 5}"#);
    within(SLOW, "it is told of a shorter ttl", || device(&agents).written().contains("Ctimeout=2\n"));
    fed(&agents, "it is fed under a shorter ttl");

    agents.signal_agent("a", Signal::SIGTERM);
    closed(&agents, SLOW, "it is closed at a clean end");
    another_leads(&agents);
}

#[test]
fn a_frozen_host_starves_its_device_and_a_frozen_agent_alone_does_not() {
    let agents = Agents::start_watched();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    fed(&agents, "it is fed");

    // All that could feed it or stop Postgres is frozen, and Postgres is not: what the device is there for.
    let guard = agents.guard_pid("a").expect("it has a guard");
    agents.freeze(guard);
    agents.freeze(agents.agent_pid("a"));
    let (written, fed_last) = (device(&agents).written(), device(&agents).last());
    assert!(!written.ends_with('V'), "{written}");
    another_leads(&agents);
    let starved = clock::now().since(fed_last);
    assert_eq!(device(&agents).written(), written, "nobody has fed it since");
    assert!(starved > Duration::from_secs(3), "the host would have been reset: {starved:?}");
    assert!(agents.postmaster("a").is_some(), "nobody has stopped the server");

    kill(guard, Signal::SIGCONT).unwrap();
    closed(&agents, SLOW, "a guard that wakes up stops the server and then lets the device go");
    agents.signal_agent("a", Signal::SIGCONT);
    agents.settle();

    let moved = agents.keddah(&["switchover", "--candidate", "a", "--force"]);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    agents.settle();
    fed(&agents, "it is fed again");
    agents.freeze(agents.agent_pid("a"));
    closed(&agents, SLOW, "the guard lets it go");
    assert_eq!(agents.server_process("a", "checkpointer"), None, "but only after the server");
    another_leads(&agents);
    agents.signal_agent("a", Signal::SIGCONT);
    within(SLOW, "the old primary follows", || agents.streaming() == 2);
}
