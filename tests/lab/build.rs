//! From bare hosts to a cluster, and converged means converged.

use std::time::Duration;

use crate::Outcome;
use crate::world::World;

pub const SITE: &str = "playbooks/site.yml";

pub fn plan_on_bare_hosts_changes_nothing(world: &World) -> Outcome {
    // Not the executor's own file, nor the note that sudo leaves for its first lecture.
    let listing = "find /etc /usr /var/lib /home -xdev \\( -path '*/keddah*' -prune \\) -o -newer /etc/hostname -type f \
                   ! -name .sudo_as_admin_successful -print | sort";
    let before = world.sh("db1", listing)?;
    let plan = world.playbook(2, "plan", SITE, &[])?;
    let after = world.sh("db1", listing)?;
    if before != after {
        return Err(format!("plan changed files on db1:\nbefore:\n{before}\nafter:\n{after}"));
    }
    // A step of a shipped role is known, or waits for a named one.
    let unknown: Vec<&str> = plan.lines().filter(|line| line.contains("` unknown: ")).collect();
    if !unknown.is_empty() || !plan.contains(" 0 unknown, in ") {
        return Err(format!("the plan of bare hosts has unknown steps:\n{}", unknown.join("\n")));
    }
    if !plan.contains("blocked by") {
        return Err(format!("no step of the plan is blocked by another:\n{plan}"));
    }
    Ok(())
}

pub fn site_builds_a_cluster(world: &World) -> Outcome {
    world.playbook(0, "apply", SITE, &[])?;
    world.healthy(Duration::from_secs(120)).map(|_| ())
}

pub fn second_apply_changes_nothing(world: &World) -> Outcome {
    let again = world.playbook(0, "apply", SITE, &[])?;
    let hosts = again.lines().filter(|line| line.contains("changed=")).count();
    let converged = again.lines().filter(|line| line.contains("changed=0")).count();
    if hosts != 8 || converged != 8 {
        return Err(format!(
            "expected changed=0 on eight hosts, found it on {converged} of {hosts}:\n{again}"
        ));
    }
    let check = world.playbook(0, "check", SITE, &[])?;
    if check.contains("unknown reason") { Err(check) } else { Ok(()) }
}
