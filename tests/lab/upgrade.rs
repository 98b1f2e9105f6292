//! Agent and guard become another program in their place, by the shipped playbook under load.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::commands::timeline;
use crate::world::World;
use crate::writes::{SETTLED_WRITES, WriteLoop};

const PLAYBOOK: &str = "playbooks/upgrade-agent.yml";

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

const HEALED_WITHIN: Duration = Duration::from_secs(240);

/// Prints what runs on a host: the agent, its guard, the postmaster, and the programs of the first two.
const LOOK: &str = "set -e
agent=$(systemctl show -p MainPID --value keddah-agent)
guard=$(systemctl show -p MainPID --value keddah-guard)
data=$(sed -n 's/^ *data_dir: *//p' /etc/keddah/agent.yml)
echo \"$agent $guard $(head -n 1 \"$data/postmaster.pid\")\"
sha256sum \"/proc/$agent/exe\" \"/proc/$guard/exe\" | cut -d ' ' -f 1";

/// What runs on a host.
#[derive(PartialEq, Eq)]
struct Running {
    /// Agent, guard and postmaster.
    pids: String,
    /// The checksums of the agent's and the guard's program.
    programs: [String; 2],
}

fn running(world: &World) -> Result<Vec<Running>, String> {
    let look = |host: &&str| {
        let text = world.sh(host, LOOK)?;
        let mut lines = text.lines().map(str::to_owned);
        match (lines.next(), lines.next(), lines.next()) {
            (Some(pids), Some(agent), Some(guard)) => Ok(Running { pids, programs: [agent, guard] }),
            _ => Err(format!("{host} does not tell what runs: {text}")),
        }
    };
    HOSTS.iter().map(look).collect()
}

pub fn agents_are_upgraded_in_place_under_load(world: &World) -> Outcome {
    // One more byte at its end: another program by its checksum, and the same one by what it does.
    let next = world.beside("next", |program| program.push(0))?;
    let leader = world.healthy(HEALED_WITHIN)?;
    let (before, on) = (running(world)?, timeline(world)?);

    let writes = WriteLoop::start(world, "upgrade")?;
    let began = Instant::now();
    next.playbook(0, "apply", PLAYBOOK, &[])?;
    let took = began.elapsed();
    // A late interruption is seen too.
    writes.go_on(2 * SETTLED_WRITES)?;
    let written = writes.finish(world)?;

    let after = running(world)?;
    for (host, (before, after)) in HOSTS.iter().zip(before.iter().zip(&after)) {
        if before.pids != after.pids {
            return Err(format!(
                "{host}: agent, guard and postmaster were {} and are {}",
                before.pids, after.pids
            ));
        }
        if after.programs[0] != after.programs[1] || before.programs.contains(&after.programs[0]) {
            return Err(format!("{host} runs {:?}, and ran {:?}", after.programs, before.programs));
        }
    }
    let (led, now_on) = (world.healthy(HEALED_WITHIN)?, timeline(world)?);
    if (led.as_str(), now_on) != (leader.as_str(), on) {
        return Err(format!("{leader} led on timeline {on}, {led} leads on {now_on}"));
    }
    if written.errors > 0 {
        return Err(format!("{} writes failed", written.errors));
    }

    let again = next.playbook(0, "apply", PLAYBOOK, &[])?;
    if again.lines().filter(|line| line.contains("changed=0")).count() != HOSTS.len() {
        return Err(format!("expected changed=0 on three hosts in the second run:\n{again}"));
    }
    print!("[{:.1} s, longest gap {} ms] ", took.as_secs_f32(), written.longest_gap().as_millis());
    Ok(())
}
