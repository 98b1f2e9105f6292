//! `keddah demote-cluster`: a cluster follows another one from here on.

use std::time::Duration;

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;
use crate::ctl::standby::Follows;

/// Make the cluster a standby cluster: its primary is stopped and follows another cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah demote-cluster --host 10.0.0.21 --port 5432")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    follows: FollowsArgs,

    /// How many seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

/// The cluster to follow.
#[derive(Debug, Clone, clap::Args)]
pub struct FollowsArgs {
    /// Address of the remote node
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// Port of the remote node
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Command to restore WAL records from the remote primary
    #[arg(long, value_name = "COMMAND")]
    restore_command: Option<String>,

    /// Name of the slot on the remote node to use for replication
    #[arg(long, value_name = "NAME")]
    primary_slot_name: Option<String>,
}

impl From<FollowsArgs> for Follows {
    fn from(args: FollowsArgs) -> Follows {
        let FollowsArgs { host, port, restore_command, primary_slot_name } = args;
        Follows { host, port, restore_command, primary_slot_name }
    }
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    let limit = Duration::from_secs(args.timeout);
    talk(async {
        let section = Follows::from(args.follows).section()?;
        if cluster.set_standby_cluster(Some(&section), limit).await? {
            say!("Success: the cluster follows another one");
            return Ok(Exit::Ok);
        }
        eprintln!("the leader does not follow yet after {} s; see `keddah list`", args.timeout);
        Ok(Exit::Unknown)
    })
}
