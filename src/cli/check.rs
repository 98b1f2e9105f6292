//! `keddah check`: has anything drifted?

use crate::cli::converge;
use crate::cli::exit::Exit;
use crate::cli::plan;

/// Look for drift, for CI: each difference with its host, its resource and its text
///
/// Exits as `plan` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah check -i inventory/lab playbooks/site.yml --output json")]
pub struct Args {
    #[command(flatten)]
    flags: converge::Flags,
}

/// Runs `keddah check`.
///
/// # Errors
/// The run cannot begin or go on.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    plan::checked(&args.flags, true)
}
