//! What a DBA types on a running cluster, under a write loop.

use std::time::Duration;

use crate::Outcome;
use crate::patronictl;
use crate::world::{World, until};
use crate::writes::{SETTLED_WRITES, WriteLoop, config, query};

const HEALED_WITHIN: Duration = Duration::from_secs(240);

pub fn switchover_moves_the_leader_under_load(world: &World) -> Outcome {
    let leader = world.healthy(HEALED_WITHIN)?;
    let writes = WriteLoop::start(world, "switchover")?;
    let inventory = world.inventory.display().to_string();
    let said = world.succeed(&["switchover", "-i", &inventory, "--force"])?;
    let moved = world.healthy(HEALED_WITHIN)?;
    writes.go_on(SETTLED_WRITES)?;
    let written = writes.finish(world)?;
    if moved == leader {
        return Err(format!("{leader} still leads; the command said:\n{said}"));
    }
    print!("[longest gap {} ms, {} errors] ", written.longest_gap().as_millis(), written.errors);
    Ok(())
}

/// Patroni's own tool reads the agent's configuration file and the lab's etcd, and prints what ours prints.
pub fn lists_are_those_of_patronictl(world: &World) -> Outcome {
    world.healthy(HEALED_WITHIN)?;
    let config = world.inventory.with_extension("agent.yml");
    let text = world.on("db1", &["cat", "/etc/keddah/agent.yml"])?;
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let inventory = world.inventory.display().to_string();
    for words in [&["list"][..], &["list", "-f", "json"], &["list", "-e"], &["history", "-f", "yaml"]] {
        let (command, flags) = words.split_first().ok_or("no command")?;
        let mut seen = (String::new(), String::new());
        // Positions move between two looks; when nothing moves, both say the same.
        let same = until(Duration::from_secs(60), || {
            let theirs =
                std::process::Command::new(patronictl::program()).arg("-c").arg(&config).args(words).output();
            let ours = world.succeed(&[&[command, "-i", inventory.as_str()], flags].concat());
            let theirs = theirs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let ours = without_volumes(&ours.unwrap_or_else(|error| error));
            seen = (ours, theirs.unwrap_or_else(|error| error.to_string()));
            (seen.0.trim_end() == seen.1.trim_end()).then_some(())
        });
        same.ok_or_else(|| format!("`{}` differs; ours:\n{}\ntheirs:\n{}", words.join(" "), seen.0, seen.1))?;
    }
    Ok(())
}

/// Leaves out what members say of their volumes: all hosts of a lab have the disk of this machine, however full it is.
fn without_volumes(listed: &str) -> String {
    let of_a_volume = |line: &&str| !line.contains(": the volume of data and WAL has ");
    listed.lines().filter(of_a_volume).map(|line| format!("{line}\n")).collect()
}

pub fn rolling_restart_switches_over_once(world: &World) -> Outcome {
    let before = started(world)?;
    let timeline = timeline(world)?;
    let writes = WriteLoop::start(world, "rolling")?;
    world.playbook(0, "apply", "playbooks/rolling-restart.yml", &[])?;
    world.healthy(HEALED_WITHIN)?;
    writes.go_on(SETTLED_WRITES)?;
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

/// Returns the leader's timeline.
pub fn timeline(world: &World) -> Result<i64, String> {
    let leader = world.healthy(HEALED_WITHIN)?;
    let rows = query(&config(world, &leader, 5432)?, "select timeline_id from pg_control_checkpoint()")?;
    // A fresh promotion shows in pg_control with its checkpoint; the WAL's own name has it at once.
    let wal =
        query(&config(world, &leader, 5432)?, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")?;
    let number = wal.first().and_then(|text| i64::from_str_radix(text, 16).ok());
    number.ok_or_else(|| format!("no timeline: {rows:?} {wal:?}"))
}
