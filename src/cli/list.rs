//! `keddah list`: the members of a cluster.

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;
use crate::ctl::list;
use crate::ctl::table::Format;

/// Show the members of a cluster: who leads, how far the others are
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  keddah list\n  keddah list -i inventory/lab -f json")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// pretty, json, yaml or tsv
    #[arg(short, long, value_name = "FORMAT", default_value = "pretty")]
    format: Format,

    /// Show columns in which nobody has anything, too
    #[arg(short, long)]
    extended: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    talk(async {
        let view = cluster.read().await?;
        say!("{}", list::list(&cluster.scope, &view, args.format, args.extended).trim_end());
        if args.format == Format::Pretty {
            for warning in list::warnings(&view) {
                say!("{warning}");
            }
        }
        Ok(Exit::Ok)
    })
}
