//! `keddah history`: where each timeline was left, why, when, and who led next.

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;
use crate::ctl::list;
use crate::ctl::table::Format;

/// Show the history of failovers and switchovers
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah history -f json")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// pretty, json, yaml or tsv
    #[arg(short, long, value_name = "FORMAT", default_value = "pretty")]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    talk(async {
        let view = cluster.read().await?;
        say!("{}", list::history(&view, args.format).trim_end());
        Ok(Exit::Ok)
    })
}
