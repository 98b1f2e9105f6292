//! `keddah reload`: members read their configuration files again.

use serde_json::Map;

use crate::cli::cluster::{Where, say, say_refused, talk};
use crate::cli::exit::Exit;

/// Make members read their configuration files again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah reload --member db2")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Only this member; may be repeated
    #[arg(short, long, value_name = "NAME")]
    member: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    talk(async {
        let view = cluster.read().await?;
        let mut failed = false;
        for member in cluster.choose(&view, &args.member, |_| true)? {
            let reply = cluster.post(&view, &member, "/reload", &Map::new()).await;
            match reply.status {
                Some(202) => say!("Reload request received for member {member}"),
                _ => {
                    failed = true;
                    say_refused("reload", &reply);
                }
            }
        }
        Ok(if failed { Exit::PutBack } else { Exit::Ok })
    })
}
