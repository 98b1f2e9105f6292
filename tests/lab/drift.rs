//! Drift made by hand: six kinds that `check` finds and `apply` repairs, and one that the agent repairs, without a failover.

use std::time::Duration;

use crate::Outcome;
use crate::build::SITE;
use crate::world::{World, until};

/// The host, what is done to it by hand, and a word that `check` must say about it.
const DRIFTS: &[(&str, &str, &str)] = &[
    ("etcd1", "sed -i 's/^ETCD_LOG_LEVEL=.*/ETCD_LOG_LEVEL=debug/' /etc/etcd/etcd.env", "etcd.env"),
    ("db2", "chmod 0666 /etc/keddah/agent.yml", "agent.yml"),
    ("proxy1", "systemctl stop haproxy", "haproxy: start"),
    (
        "LEADER",
        "runuser -u postgres -- psql -qc \"alter system set work_mem = '5MB'\" -c 'select pg_reload_conf()'",
        "work_mem",
    ),
    (
        "etcd3",
        "etcdctl --endpoints 127.0.0.1:2379 member remove $(etcdctl member list | grep etcd2 | cut -d, -f1)",
        "etcd2",
    ),
    (
        "proxy2",
        "printf 'set server read-write/db1 state maint\\n' | \
         perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(shift); print $s <STDIN>; print <$s>' /run/haproxy/admin.sock",
        "maint",
    ),
];

pub fn drift_is_found_and_repaired(world: &World) -> Outcome {
    let leader = world.healthy(Duration::from_secs(120))?;
    for (host, script, _) in DRIFTS {
        let host = if *host == "LEADER" { leader.as_str() } else { host };
        world.sh(host, script).map_err(|error| format!("making the drift on {host}: {error}"))?;
    }
    let agents_own = a_rule_of_the_members_own_goes(world, &leader);
    // An agent that has just lost the etcd member it talked to answers again within seconds.
    let mut seen = Err("check was not run".to_owned());
    until(Duration::from_secs(60), || {
        seen = world.playbook(2, "check", SITE, &[]).and_then(names_every_drift);
        seen.is_ok().then_some(())
    });
    let repaired = world.playbook(0, "apply", SITE, &[]);
    seen?;
    agents_own?;
    repaired?;
    world.playbook(0, "check", SITE, &[])?;
    let still = world.healthy(Duration::from_secs(120))?;
    if still == leader { Ok(()) } else { Err(format!("the leader moved from {leader} to {still}")) }
}

/// A line that somebody adds to pg_hba.conf lets nobody in for long: the agent keeps that file.
fn a_rule_of_the_members_own_goes(world: &World, host: &str) -> Outcome {
    let file = world.sh(host, "runuser -u postgres -- psql -Atc 'show hba_file'")?;
    let rule = "host all all 203.0.113.0/24 trust";
    world.sh(host, &format!("echo '{rule}' >> {}", file.trim()))?;
    let gone = || world.sh(host, &format!("! grep -q 203.0.113.0 {}", file.trim())).ok();
    until(Duration::from_secs(60), gone)
        .map(|_| ())
        .ok_or_else(|| format!("the rule `{rule}` stays on {host}"))
}

fn names_every_drift(said: String) -> Outcome {
    match DRIFTS.iter().find(|(_, _, word)| !said.contains(word)) {
        None => Ok(()),
        Some((host, _, word)) => Err(format!("check does not name `{word}` (drift on {host}):\n{said}")),
    }
}
