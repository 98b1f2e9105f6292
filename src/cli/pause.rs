//! `keddah pause`: nobody fails over, starts or stops until `resume`.

use std::time::Duration;

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;

/// Stop automatic failover: Postgres is left alone until `keddah resume`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah pause --wait")]
pub struct Args {
    #[command(flatten)]
    change: Change,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    args.change.make(true, "Success: cluster management is paused")
}

/// Which cluster, and how long its members are waited for; of `resume` too.
#[derive(Debug, clap::Args)]
pub(super) struct Change {
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

impl Change {
    /// Pauses the cluster or lets it go on, and waits if that was asked for; says `done` at the end.
    pub(super) fn make(self, pause: bool, done: &str) -> anyhow::Result<Exit> {
        let cluster = self.place.cluster(self.cluster.as_deref())?;
        let wait = if self.wait { Duration::from_secs(self.timeout) } else { Duration::ZERO };
        talk(async {
            let left = cluster.set_pause(pause, wait).await?;
            if self.wait && !left.is_empty() {
                eprintln!("{} did not follow within {} s", left.join(", "), self.timeout);
                return Ok(Exit::Unknown);
            }
            say!("{done}");
            Ok(Exit::Ok)
        })
    }
}
