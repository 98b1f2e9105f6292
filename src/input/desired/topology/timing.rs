//! Rules about leases, elections, synchronous commits and the watchdog.

use crate::input::desired::agent::SynchronousMode;
use crate::input::desired::topology::{Facts, Finding};
use crate::input::desired::watchdog::WatchdogMode;
use crate::settings::table::SHORTEST_TTL_OF_PATRONI;

pub(super) fn lease_budget(facts: &Facts<'_>) -> Vec<Finding> {
    let agent = &facts.desired.agent.value;
    let (ttl, wait, retry) = (agent.ttl.value, agent.loop_wait.value, agent.retry_timeout.value);
    let needed = wait + 2 * retry;
    if needed <= ttl {
        return Vec::new();
    }
    let message =
        format!("loop_wait {wait} + 2 × retry_timeout {retry} = {needed} seconds is above ttl {ttl}");
    let span = agent.ttl.span.or(agent.loop_wait.span).or(agent.retry_timeout.span);
    let hint = format!("raise `ttl` to {needed}, or lower `loop_wait` to {}", (ttl - 2 * retry).max(1));
    let finding = Finding::new(message, span);
    vec![if ttl > 2 * retry {
        finding.hint(hint)
    } else {
        finding.hint(format!("raise `ttl` to {needed}, or lower `retry_timeout`"))
    }]
}

pub(super) fn ttl_below_election(facts: &Facts<'_>) -> Vec<Finding> {
    let (ttl, election) = (&facts.desired.agent.value.ttl, &facts.desired.etcd.value.election_timeout_ms);
    let needed = (3 * election.value + 2000 + 999) / 1000;
    if ttl.value >= needed {
        return Vec::new();
    }
    let message = format!(
        "ttl is {} s, and etcd's election timeout of {} ms asks for {needed} s at least",
        ttl.value, election.value
    );
    vec![Finding::new(message, ttl.span.or(election.span))]
}

pub(super) fn short_ttl(facts: &Facts<'_>) -> Vec<Finding> {
    let ttl = &facts.desired.agent.value.ttl;
    if u64::try_from(ttl.value).is_ok_and(|seconds| seconds >= SHORTEST_TTL_OF_PATRONI) {
        return Vec::new();
    }
    vec![Finding::new(format!("ttl is {} s, below {SHORTEST_TTL_OF_PATRONI}", ttl.value), ttl.span)]
}

pub(super) fn election_below_heartbeat(facts: &Facts<'_>) -> Vec<Finding> {
    let etcd = &facts.desired.etcd.value;
    let (heartbeat, election) = (&etcd.heartbeat_interval_ms, &etcd.election_timeout_ms);
    if election.value >= 5 * heartbeat.value {
        return Vec::new();
    }
    let message = format!(
        "etcd's election timeout of {} ms is below five heartbeats of {} ms",
        election.value, heartbeat.value
    );
    let hint = format!("set `election_timeout_ms` to {}", 10 * heartbeat.value);
    vec![Finding::new(message, election.span.or(heartbeat.span)).hint(hint)]
}

fn replicas(facts: &Facts<'_>) -> i64 {
    i64::try_from(facts.parts.postgres.len()).unwrap_or(i64::MAX) - 1
}

pub(super) fn many_synchronous(facts: &Facts<'_>) -> Vec<Finding> {
    let agent = &facts.desired.agent.value;
    let (count, replicas) = (&agent.synchronous_node_count, replicas(facts));
    if agent.synchronous_mode.value == SynchronousMode::Off || count.value <= replicas || replicas < 0 {
        return Vec::new();
    }
    let message =
        format!("{} synchronous standbys are asked for, and there are {replicas} replicas", count.value);
    vec![
        Finding::new(message, count.span.or(agent.synchronous_mode.span))
            .hint("lower `synchronous_node_count`, or add hosts"),
    ]
}

pub(super) fn strict_with_one_replica(facts: &Facts<'_>) -> Vec<Finding> {
    let agent = &facts.desired.agent.value;
    let strict = agent.synchronous_mode.value != SynchronousMode::Off && agent.synchronous_mode_strict.value;
    if !strict || replicas(facts) != 1 {
        return Vec::new();
    }
    let message = "strict synchronous mode with a single replica: writes stop whenever it is away";
    vec![
        Finding::new(message, agent.synchronous_mode_strict.span)
            .hint("add a replica, or turn `synchronous_mode_strict` off"),
    ]
}

pub(super) fn asynchronous(facts: &Facts<'_>) -> Vec<Finding> {
    let agent = &facts.desired.agent.value;
    if agent.synchronous_mode.value != SynchronousMode::Off || replicas(facts) < 1 {
        return Vec::new();
    }
    let message = format!(
        "commits do not wait for a standby: a failover may lose those of the last {} bytes",
        agent.maximum_lag_on_failover.value
    );
    let span = agent.synchronous_mode.span.or(facts.desired.name.span);
    vec![
        Finding::new(message, span)
            .hint("set `agent: {synchronous_mode: on}` where no acknowledged commit may be lost"),
    ]
}

pub(super) fn no_watchdog(facts: &Facts<'_>) -> Vec<Finding> {
    let mode = &facts.desired.watchdog.value.mode;
    if mode.value != WatchdogMode::Off {
        return Vec::new();
    }
    vec![Finding::new("the watchdog is off", mode.span).hint("use `automatic`, or `required` in production")]
}
