//! What a DBA types on a running cluster, under a write loop.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::world::World;
use crate::writes::{WriteLoop, config, query};

const HEALED_WITHIN: Duration = Duration::from_secs(240);
/// Writes keep flowing for this long after a change, so that a late interruption is seen too.
const SETTLED_WRITES: usize = 50;

pub fn switchover_moves_the_leader_under_load(world: &World) -> Outcome {
    let leader = world.healthy(HEALED_WITHIN)?;
    let writes = WriteLoop::start(world, "switchover")?;
    let inventory = world.inventory.display().to_string();
    let said = world.succeed(&["switchover", "-i", &inventory, "--force"])?;
    let moved = world.healthy(HEALED_WITHIN)?;
    let written = writes.finish(world)?;
    if moved == leader {
        return Err(format!("{leader} still leads; the command said:\n{said}"));
    }
    print!("[longest gap {} ms, {} errors] ", written.longest_gap().as_millis(), written.errors);
    Ok(())
}

pub fn rolling_restart_switches_over_once(world: &World) -> Outcome {
    let before = started(world)?;
    let timeline = timeline(world)?;
    let writes = WriteLoop::start(world, "rolling")?;
    world.playbook(0, "apply", "playbooks/rolling-restart.yml", &[])?;
    let done = Instant::now();
    let leader = world.healthy(HEALED_WITHIN)?;
    crate::world::until(Duration::from_secs(30), || (done.elapsed() > Duration::from_secs(1)).then_some(()));
    let written = writes.finish(world)?;
    let after = started(world)?;
    let same: Vec<&str> =
        before.iter().filter(|start| after.contains(start)).map(|start| start.0.as_str()).collect();
    if !same.is_empty() {
        return Err(format!("not restarted: {same:?}"));
    }
    let switched = self::timeline(world)? - timeline;
    if switched != 1 {
        return Err(format!("expected one switchover, the timeline rose by {switched}"));
    }
    if written.since(done) < SETTLED_WRITES / 10 {
        return Err(format!("writes do not flow after the restart; {leader} leads"));
    }
    print!("[longest gap {} ms] ", written.longest_gap().as_millis());
    Ok(())
}

fn started(world: &World) -> Result<Vec<(String, String)>, String> {
    ["db1", "db2", "db3"]
        .iter()
        .map(|host| {
            let rows = query(&config(world, host, 5432)?, "select pg_postmaster_start_time()")?;
            Ok(((*host).to_owned(), rows.join("")))
        })
        .collect()
}

fn timeline(world: &World) -> Result<i64, String> {
    let leader = world.healthy(HEALED_WITHIN)?;
    let rows = query(&config(world, &leader, 5432)?, "select timeline_id from pg_control_checkpoint()")?;
    // A fresh promotion shows in pg_control with its checkpoint; the WAL's own name has it at once.
    let wal =
        query(&config(world, &leader, 5432)?, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")?;
    let number = wal.first().and_then(|text| i64::from_str_radix(text, 16).ok());
    number.ok_or_else(|| format!("no timeline: {rows:?} {wal:?}"))
}
