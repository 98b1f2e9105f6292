//! `keddah topology`: the members as a tree.

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, Watching, show};

/// Show the members of a cluster below whom they follow
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah topology")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    watching: Watching,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::of(&args.place, args.cluster.as_deref())?;
    show::tree(&place, &[], args.watching)
}
