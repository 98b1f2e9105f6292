//! `keddah resume`: the agents act again.

use crate::cli::exit::Exit;
use crate::cli::pause::Change;

/// Let the agents act again after `keddah pause`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah resume --wait")]
pub struct Args {
    #[command(flatten)]
    change: Change,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    args.change.make(false, "Success: cluster management is resumed")
}
