//! From Keddah back to Patroni, Debian's package of it, and over to Keddah again by the shipped playbook under load.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::commands::timeline;
use crate::world::{World, until};
use crate::writes::{SETTLED_WRITES, WriteLoop};

const PLAYBOOK: &str = "playbooks/migrate-from-patroni.yml";

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

/// A busy machine, nine hosts: generous, and only ever waited for in full when something is broken.
const HEALED_WITHIN: Duration = Duration::from_secs(240);

/// A switchover that Patroni begins takes it a few seconds; a failover would take a ttl of 30 s.
const GAP: Duration = Duration::from_secs(20);

/// The agent's file is Patroni's; the unit is installed and enabled by the package, and starts once the file is there.
const INSTALL: &str = "set -e
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install patroni python3-etcd >/dev/null
install -m 0640 -g postgres /etc/keddah/agent.yml /etc/patroni/config.yml";

/// Nothing of Keddah is left on the host, so that the playbook brings all of it.
const BACK: &str = "set -e
systemctl disable -q --now keddah-agent
systemctl disable -q --now keddah-guard
systemctl enable -q --now patroni
rm -r /etc/keddah /etc/systemd/system/keddah-*.service /usr/local/bin/keddah
systemctl daemon-reload";

/// Tells how the hosts whose member is run by this unit are called.
fn run_by(world: &World, unit: &str) -> Vec<&'static str> {
    let active = |host: &&str| world.on(host, &["systemctl", "is-active", "-q", unit]).is_ok();
    HOSTS.into_iter().filter(active).collect()
}

/// Gives a member to Patroni, and waits until it is Patroni that tells of it, and all stream.
fn back(world: &World, host: &str) -> Outcome {
    world.sh(host, BACK)?;
    let key = format!("/service/{}/members/{host}", world.name);
    let document = || world.on("etcd1", &["etcdctl", "get", "--print-value-only", &key]).unwrap_or_default();
    until(HEALED_WITHIN, || {
        let told = document();
        (!told.trim().is_empty() && !told.contains("\"keddah\"")).then_some(())
    })
    .ok_or_else(|| format!("Patroni does not tell of {host}: {}", document()))?;
    world.healthy(HEALED_WITHIN).map(|_| ())
}

/// Gives the cluster to Patroni, the way that the documentation tells: replicas first, one switchover, the old leader.
fn give_back(world: &World) -> Outcome {
    for host in HOSTS {
        world.sh(host, INSTALL)?;
    }
    let leader = world.healthy(HEALED_WITHIN)?;
    for host in HOSTS.into_iter().filter(|host| *host != leader) {
        back(world, host)?;
    }
    let inventory = world.inventory.display().to_string();
    world.succeed(&["switchover", "-i", &inventory, "--force"])?;
    world.healthy(HEALED_WITHIN)?;
    back(world, &leader)?;
    match run_by(world, "patroni") {
        all if all == HOSTS => Ok(()),
        some => Err(format!("only {some:?} are Patroni's")),
    }
}

pub fn a_cluster_of_patroni_is_taken_over_under_load(world: &World) -> Outcome {
    give_back(world)?;
    let before = timeline(world)?;
    let password = format!("patroni_restapi_password={}", world.secret("keddah_restapi_password")?);
    let variables = ["-e", "patroni_restapi_username=keddah", "-e", &password];

    let inventory = world.inventory.display().to_string();
    world.succeed(&["pause", "-i", &inventory, "--wait"])?;
    let refused = world.playbook(2, "apply", PLAYBOOK, &variables);
    world.succeed(&["resume", "-i", &inventory, "--wait"])?;
    let refused = refused?;
    if !refused.contains("the cluster is paused") || run_by(world, "patroni") != HOSTS {
        return Err(format!("a paused cluster is to be refused and left alone:\n{refused}"));
    }

    let writes = WriteLoop::start(world, "migration")?;
    let began = Instant::now();
    world.playbook(0, "apply", PLAYBOOK, &variables)?;
    let took = began.elapsed();
    world.healthy(HEALED_WITHIN)?;
    // A late interruption is seen too.
    writes.go_on(SETTLED_WRITES)?;
    let written = writes.finish(world)?;
    let moved = timeline(world)? - before;
    let gap = written.longest_gap();
    if run_by(world, "keddah-agent") != HOSTS || !run_by(world, "patroni").is_empty() {
        return Err(format!("run by Keddah: {:?}", run_by(world, "keddah-agent")));
    }
    if moved != 1 || gap > GAP {
        return Err(format!("the timeline rose by {moved}, the longest gap was {} ms", gap.as_millis()));
    }

    let again = world.playbook(0, "apply", PLAYBOOK, &variables)?;
    let converged = again.lines().filter(|line| line.contains("changed=0")).count();
    if converged != HOSTS.len() {
        return Err(format!("expected changed=0 on three hosts in the second run:\n{again}"));
    }
    print!("[{:.1} s, longest gap {} ms] ", took.as_secs_f32(), gap.as_millis());
    Ok(())
}
