//! `keddah show-config`: the dynamic configuration.

use serde_json::Value;

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;
use crate::ctl::table;

/// Show the dynamic configuration of a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah show-config")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    talk(async {
        let (config, _) = cluster.config().await?;
        say!("{}", table::yaml(&Value::Object(config)));
        Ok(Exit::Ok)
    })
}
