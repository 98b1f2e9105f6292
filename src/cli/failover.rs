//! `keddah failover`: a named member leads, whatever the present leader does.

use std::time::Duration;

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::switchover::change;
use crate::contract::requests::Kind;
use crate::ctl::change::Wish;

/// Make a named member lead even if the leader is gone: commits that it lacks are lost
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah failover --candidate db2 --force")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// The member that shall lead
    #[arg(long, value_name = "NAME")]
    candidate: String,

    /// Do not ask
    #[arg(long)]
    force: bool,

    /// How many seconds to wait for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    let wish = Wish { candidate: Some(args.candidate), ..Wish::default() };
    change(&cluster, Kind::Failover, &wish, args.force, Duration::from_secs(args.timeout))
}
