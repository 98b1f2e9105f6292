//! `keddah reinit`: make a member's copy anew.

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, members};

/// Copy the data of replicas anew
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah reinit --member db2 --force --wait")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// This member; may be repeated
    #[arg(short, long, value_name = "NAME")]
    member: Vec<String>,

    /// Copy from the leader
    #[arg(long)]
    from_leader: bool,

    /// Wait until it is done
    #[arg(long)]
    wait: bool,

    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::of(&args.place, args.cluster.as_deref())?;
    let scope = place.cluster(None)?.scope;
    let Args { member, from_leader, wait, force, .. } = args;
    members::reinit(&place, &members::Reinit::of(&scope, member, from_leader, wait, force))
}
