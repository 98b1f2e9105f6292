//! The lab tier: nine systemd hosts, the shipped playbooks over SSH, failures of whole hosts.
//!
//! All scenarios share one lab and run in the order of [`SCENARIOS`], each on the cluster that the one before left
//! healthy. `cargo test --test lab -- NAME` runs those whose name contains NAME (after `site`, which they need);
//! `--keep` leaves the lab up.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests start programs and read clocks"
)]

mod build;
mod commands;
mod drift;
mod failover;
mod hosts;
mod migration;
#[path = "../common/patronictl.rs"]
mod patronictl;
#[path = "../common/programs.rs"]
mod programs;
mod upgrade;
mod world;
mod writes;

use std::process::ExitCode;
use std::time::Instant;

use world::World;

/// What a scenario ends with: nothing, or what was expected and what was seen.
type Outcome = Result<(), String>;

type Scenario = fn(&World) -> Outcome;

/// Each with its name; the order is part of the story.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("names_resolve_on_another_libc", hosts::names_resolve_on_another_libc),
    ("killed_and_cut_hosts_heal", hosts::killed_and_cut_hosts_heal),
    ("plan_on_bare_hosts_changes_nothing", build::plan_on_bare_hosts_changes_nothing),
    ("site_builds_a_cluster", build::site_builds_a_cluster),
    ("second_apply_changes_nothing", build::second_apply_changes_nothing),
    ("drift_is_found_and_repaired", drift::drift_is_found_and_repaired),
    ("lists_are_those_of_patronictl", commands::lists_are_those_of_patronictl),
    ("switchover_moves_the_leader_under_load", commands::switchover_moves_the_leader_under_load),
    ("rolling_restart_switches_over_once", commands::rolling_restart_switches_over_once),
    ("agents_are_upgraded_in_place_under_load", upgrade::agents_are_upgraded_in_place_under_load),
    ("the_primarys_host_dies", failover::the_primarys_host_dies),
    ("the_primary_is_cut_from_etcd", failover::the_primary_is_cut_from_etcd),
    ("agent_and_guard_are_killed_together", failover::agent_and_guard_are_killed_together),
    // The last: the agents run by Patroni's file from here on.
    (
        "a_cluster_of_patroni_is_taken_over_under_load",
        migration::a_cluster_of_patroni_is_taken_over_under_load,
    ),
];

/// The scenario that makes what those after it need.
const CLUSTER: &str = "site_builds_a_cluster";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        SCENARIOS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let keep = arguments.iter().any(|argument| argument == "--keep");
    let wanted = arguments.iter().find(|word| !word.starts_with('-') && word.parse::<u32>().is_err());
    let missing = keddah::lab::requirements::missing();
    if !missing.is_empty() && std::env::var_os("KEDDAH_REQUIRE_LAB").is_none_or(|value| value != "1") {
        println!("lab tier skipped: hosts cannot be made here: {}", missing.join("; "));
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored", SCENARIOS.len());
        return ExitCode::SUCCESS;
    }
    let world = match World::new() {
        Ok(world) => world,
        Err(error) => {
            println!(
                "the lab did not come up: {error}\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored"
            );
            return ExitCode::FAILURE;
        }
    };
    let (passed, failed, skipped) = run(&world, wanted.map(String::as_str));
    if keep {
        println!(
            "the lab stays: keddah lab --name {} status; inventory {}",
            world.name,
            world.inventory.display()
        );
    } else if let Err(error) = world.down() {
        println!("the lab did not go down: {error}");
        return ExitCode::FAILURE;
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(world: &World, wanted: Option<&str>) -> (usize, usize, usize) {
    let (mut passed, mut failed) = (0, 0);
    let built = SCENARIOS.iter().skip_while(|(name, _)| *name != CLUSTER);
    let needs_cluster = built.skip(1).any(|(name, _)| wanted.is_some_and(|wanted| name.contains(wanted)));
    for (name, scenario) in SCENARIOS {
        let needed = *name == CLUSTER && needs_cluster;
        if !needed && wanted.is_some_and(|wanted| !name.contains(wanted)) {
            continue;
        }
        let started = Instant::now();
        print!("test {name} ... ");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(world)))
            .unwrap_or_else(|_| Err("it panicked; the message is above".to_owned()));
        let took = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok ({took:.1} s)");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED ({took:.1} s)\n{error}\n");
                match world.collect(name) {
                    Ok(folder) => println!("logs: {}", folder.display()),
                    Err(error) => println!("logs could not be collected: {error}"),
                }
                if *name == CLUSTER {
                    println!("the scenarios after it need its cluster; they are not run");
                    break;
                }
            }
        }
    }
    (passed, failed, SCENARIOS.len() - passed - failed)
}
