//! Hosts that die and networks that part, under a write loop.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::world::{World, until};
use crate::writes::{WriteLoop, config, query};

/// The lab's ttl is the default of 30 s; writes must be back within ttl + 10 s.
const BACK_WITHIN: Duration = Duration::from_secs(40);
/// A busy machine, nine hosts: generous, and only ever waited for in full when something is broken.
const HEALED_WITHIN: Duration = Duration::from_secs(240);

fn synchronous(world: &World, on: bool) -> Outcome {
    let inventory = world.inventory.display().to_string();
    let setting = format!("synchronous_mode={on}");
    world.succeed(&["edit-config", "-i", &inventory, "-s", &setting, "--force"])?;
    let leader = world.healthy(HEALED_WITHIN)?;
    let config = config(world, &leader, 5432)?;
    let names =
        || query(&config, "show synchronous_standby_names").ok().and_then(|rows| rows.into_iter().next());
    // From the setting to the set that etcd holds it is a second: only members of that set may follow a dead leader.
    let listed = || {
        let members = world.members().unwrap_or_default();
        members.iter().any(|member| member["Role"] == "Sync Standby")
    };
    until(Duration::from_secs(60), || (names()?.is_empty() != on && listed() == on).then_some(())).ok_or_else(
        || {
            format!(
                "the cluster does not follow synchronous_mode={on}: synchronous_standby_names {:?}, {:?}",
                names(),
                world.members()
            )
        },
    )
}

/// Waits for the first acknowledged write after the fault by another member; returns how long it took.
fn writes_return(world: &World, old: &str, since: Instant) -> Result<Duration, String> {
    let config = config(world, "proxy1", 5000)?;
    let address = world.address(old)?;
    until(BACK_WITHIN + Duration::from_secs(60), || {
        let server =
            query(&config, "create table if not exists probe (); select host(inet_server_addr())").ok()?;
        (server.first().is_some_and(|server| *server != address)).then(|| since.elapsed())
    })
    .ok_or_else(|| format!("no write succeeds on another member than {old} after {:?}", since.elapsed()))
}

/// Demands that `explain` names what was broken first; returns how long the fastest of three answers took.
fn explained(world: &World, cause: &str) -> Result<Duration, String> {
    let inventory = world.inventory.display().to_string();
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let asked = Instant::now();
        let said = world.succeed(&["explain", "-i", &inventory])?;
        fastest = fastest.min(asked.elapsed());
        if !said.starts_with(&format!("1. {cause}")) {
            return Err(format!("expected `{cause}` as the first cause; explain said:\n{said}"));
        }
    }
    Ok(fastest)
}

pub fn the_primarys_host_dies(world: &World) -> Outcome {
    synchronous(world, true)?;
    let leader = world.healthy(HEALED_WITHIN)?;
    let writes = WriteLoop::start(world, "host_death")?;
    let died = Instant::now();
    world.lab.kill(&leader).map_err(|error| error.to_string())?;
    let back = writes_return(world, &leader, died);
    let explained = explained(world, &format!("{leader}, which led, "));
    world.lab.heal().map_err(|error| error.to_string())?;
    let healed = world.healthy(HEALED_WITHIN);
    let written = writes.finish(world)?;
    let back = back?;
    if back > BACK_WITHIN {
        return Err(format!("writes came back after {back:?}, expected at most {BACK_WITHIN:?}"));
    }
    print!(
        "[writes back after {:.1} s, longest gap {:.1} s, explained in {} ms] ",
        back.as_secs_f32(),
        written.longest_gap().as_secs_f32(),
        explained?.as_millis()
    );
    healed?;
    synchronous(world, false)
}

/// Agent and guard of the primary are killed at one stroke, under load: systemd ends what is left of the guard's unit,
/// with nobody there to keep the deadline, and the cluster heals by itself.
pub fn agent_and_guard_are_killed_together(world: &World) -> Outcome {
    let leader = world.healthy(HEALED_WITHIN)?;
    let writes = WriteLoop::start(world, "both_killed")?;
    let servers = |leader: &str| world.on(leader, &["pgrep", "-x", "postgres"]);
    let main_pid = |unit: &str| world.on(&leader, &["systemctl", "show", "-P", "MainPID", unit]);
    let (agent, guard) = (main_pid("keddah-agent")?, main_pid("keddah-guard")?);
    let before = servers(&leader)?;
    if before.lines().count() < 5 {
        return Err(format!("no server with a busy backend runs on {leader} before the fault: {before}"));
    }
    let killed = Instant::now();
    world.on(&leader, &["kill", "-9", agent.trim(), guard.trim()])?;
    let left = || {
        let now = servers(&leader).unwrap_or_default();
        before
            .lines()
            .filter(|pid| now.lines().any(|other| other == *pid))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    until(Duration::from_secs(20), || left().is_empty().then_some(())).ok_or_else(|| {
        format!("processes of Postgres on {leader} outlive agent and guard by 20 s: {}", left().join(", "))
    })?;
    print!("[no process left after {:.2} s] ", killed.elapsed().as_secs_f32());
    world.healthy(HEALED_WITHIN)?;
    let proxy = config(world, "proxy1", 5000)?;
    until(Duration::from_secs(30), || query(&proxy, "create table if not exists probe ()").ok())
        .ok_or("no write succeeds through proxy1:5000 within 30 s of the cluster's recovery")?;
    writes.finish(world).map(|_| ())
}

pub fn the_primary_is_cut_from_etcd(world: &World) -> Outcome {
    synchronous(world, true)?;
    let leader = world.healthy(HEALED_WITHIN)?;
    let direct = config(world, &leader, 5432)?;
    let writes = WriteLoop::start(world, "partition")?;
    let cut = Instant::now();
    // Cut from etcd and from the other members, not from clients and proxies.
    let others: Vec<&str> = ["db1", "db2", "db3"].into_iter().filter(|name| *name != leader).collect();
    let far = format!("etcd,{}", others.join(","));
    world.lab.partition(&leader, &far, false).map_err(|error| error.to_string())?;
    let back = writes_return(world, &leader, cut);
    // Whoever leads now took an expired lease: the old side must not accept a write any more.
    let still = query(&direct, "create table if not exists second_primary ()");
    let explained = explained(world, &format!("{leader} lives and has no member key"));
    world.lab.heal().map_err(|error| error.to_string())?;
    let healed = world.healthy(HEALED_WITHIN);
    writes.finish(world)?;
    let back = back?;
    if still.is_ok() {
        return Err(format!("{leader} accepted a write after another member had taken the lead"));
    }
    if back > BACK_WITHIN {
        return Err(format!("writes came back after {back:?}, expected at most {BACK_WITHIN:?}"));
    }
    print!("[writes back after {:.1} s, explained in {} ms] ", back.as_secs_f32(), explained?.as_millis());
    healed?;
    synchronous(world, false)
}
