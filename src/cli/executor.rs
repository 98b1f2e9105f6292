//! `keddah executor`: the half of a run that works on a host. Started by `keddah` itself, not by people.

use anyhow::Context as _;

use crate::cli::exit::Exit;
use crate::executor::identity::{self, Numbers};
use crate::executor::segment::Segments;
use crate::executor::server;
use crate::executor::upload::Marker;

/// Works on a host for a controller that speaks over standard input and output.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Works for the executor of another identity
    #[arg(long, conflicts_with = "become_as")]
    child: bool,

    /// Becomes this user first, and works for root's executor
    #[arg(long = "as", value_name = "UID:GID:GROUPS")]
    become_as: Option<Numbers>,

    /// The text that the first word begins with
    #[arg(value_name = "MARKER")]
    marker: Marker,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let Args { child, become_as, marker } = args;
    if let Some(numbers) = &become_as {
        identity::become_numbers(numbers).context("cannot become the other user")?;
    }
    if child || become_as.is_some() {
        server::serve_identity(&marker)?;
    } else {
        server::serve(&marker, &mut Segments::default())?;
    }
    Ok(Exit::Ok)
}
