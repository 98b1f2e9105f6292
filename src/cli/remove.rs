//! `keddah remove`: forget a cluster.

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, config};

/// Delete all keys of a cluster from etcd, after three questions
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah remove --scope old")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::of(&args.place, args.cluster.as_deref())?;
    let scope = place.cluster(None)?.scope;
    config::remove(&place, &config::Remove::of(&scope))
}
