//! `keddah agent`: the node agent.

use std::path::PathBuf;

use anyhow::Context;

use crate::agent::{self, Ended};
use crate::cli::exit::Exit;

/// Run the node agent of one Postgres: elect, fail over, follow, come back.
///
/// The file is Patroni's configuration file. Example:
///
///   keddah agent /etc/keddah/agent.yml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read the configuration, say what is wrong with it, and end
    #[arg(long)]
    validate_config: bool,

    /// The configuration file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,

    /// Only tell whether this program could be the agent: read the file and etcd, ask the guard for its version
    #[arg(long)]
    check: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    if args.validate_config {
        Ok(validate(&args.config))
    } else if args.check {
        examine(&args.config)
    } else {
        start(&args.config)
    }
}

/// Tells whether an agent could run here, without disturbing the one that does.
///
/// # Errors
/// The runtime could not be made.
pub fn examine(config: &std::path::Path) -> anyhow::Result<Exit> {
    let runtime = crate::cli::runtime().context("the runtime could not be made")?;
    let examined = runtime.block_on(agent::examine(config));
    runtime.shutdown_background();
    Ok(match examined {
        Ok(found) => {
            println!("{found}");
            Exit::Ok
        }
        Err(error) => {
            eprintln!("{}", crate::sys::chain(&error));
            Exit::Input
        }
    })
}

/// Says what is wrong with a configuration; nothing where nothing is.
pub fn validate(config: &std::path::Path) -> Exit {
    match agent::check_config(config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            println!("{}", crate::sys::chain(&error));
            Exit::Input
        }
    }
}

/// Runs the agent until it ends.
///
/// # Errors
/// It does not start.
pub fn start(config: &std::path::Path) -> anyhow::Result<Exit> {
    let runtime = crate::cli::runtime_of_one().context("the runtime could not be made")?;
    let ended = runtime.block_on(agent::run(config));
    // Jobs and callbacks that still run are not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Clean) => Ok(Exit::Ok),
        Ok(Ended::Failure) => Ok(Exit::Input),
        Err(error) => {
            tracing::error!(critical = true, "{}", crate::sys::chain(&error));
            anyhow::bail!(crate::sys::chain(&error))
        }
    }
}
