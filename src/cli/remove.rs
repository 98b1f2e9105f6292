//! `keddah remove`: forget a cluster, or a member that is gone.

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, config};

/// Delete all keys of a cluster from etcd, after three questions; or what a member has told that is gone for good
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  keddah remove --scope old\n  keddah remove --member db3")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Only what `keddah explain` says of this member, which is gone for good
    #[arg(short, long, value_name = "NAME")]
    member: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(member) = &args.member {
        let cluster = args.place.cluster(args.cluster.as_deref())?;
        return talk(async {
            cluster.forget(member).await?;
            say!("{member} is forgotten");
            Ok(Exit::Ok)
        });
    }
    let place = Place::of(&args.place, args.cluster.as_deref())?;
    let scope = place.cluster(None)?.scope;
    config::remove(&place, &config::Remove::of(&scope))
}
