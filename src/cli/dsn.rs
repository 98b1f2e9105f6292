//! `keddah dsn`: where a member can be connected to.

use crate::cli::cluster::Where;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{Place, show};

/// Show host and port of a member
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah dsn --role replica")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Of any member with this role
    #[arg(short, long, value_parser = crate::cli::patronictl::members::ROLES)]
    role: Option<String>,

    /// Of this member
    #[arg(short, long, value_name = "NAME", conflicts_with = "role")]
    member: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::of(&args.place, args.cluster.as_deref())?;
    show::address(&place, args.role.as_deref(), args.member.as_deref())
}
