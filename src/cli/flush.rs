//! `keddah flush`: discard what is scheduled.

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, members};

/// Discard a scheduled switchover, or scheduled restarts
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah flush switchover --force")]
pub struct Args {
    #[command(flatten)]
    place: Where,

    /// What is discarded
    #[arg(value_parser = ["restart", "switchover"])]
    target: String,

    /// Only the restart of this member; may be repeated
    #[arg(short, long, value_name = "NAME")]
    member: Vec<String>,

    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::of(&args.place, None)?;
    let scope = place.cluster(None)?.scope;
    let words = args.member.into_iter().chain([args.target]).collect();
    members::flush(&place, &members::Flush::of(&scope, words, args.force))
}
