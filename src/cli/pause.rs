//! `keddah pause`: nobody fails over, starts or stops until `resume`.

use std::time::Duration;

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;

/// Stop automatic failover: Postgres is left alone until `keddah resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah pause --wait")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Wait until all members have followed
    #[arg(long)]
    wait: bool,

    /// How many seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    let wait = if args.wait { Duration::from_secs(args.timeout) } else { Duration::ZERO };
    talk(async {
        let left = cluster.set_pause(true, wait).await?;
        if args.wait && !left.is_empty() {
            eprintln!("{} did not follow within {} s", left.join(", "), args.timeout);
            return Ok(Exit::Unknown);
        }
        say!("Success: cluster management is paused");
        Ok(Exit::Ok)
    })
}
