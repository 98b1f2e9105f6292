//! `keddah query`: ask a member's Postgres.

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, show};

/// Ask the Postgres of a member
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah query --role replica --command 'SELECT pg_is_in_recovery()'")]
pub struct Args {
    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    what: show::Question,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    show::ask(&Place::of(&args.place, None)?, None, &args.what)
}
