//! `keddah promote-cluster`: a standby cluster becomes its own.

use std::time::Duration;

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;

/// Make a standby cluster its own: its leader is promoted and follows nobody
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah promote-cluster")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// How many seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    let limit = Duration::from_secs(args.timeout);
    talk(async {
        if cluster.set_standby_cluster(None, limit).await? {
            say!("Success: the cluster is its own");
            return Ok(Exit::Ok);
        }
        eprintln!("the leader is not primary yet after {} s; see `keddah list`", args.timeout);
        Ok(Exit::Unknown)
    })
}
