//! `keddah version`: which build this is.

use crate::cli::exit::Exit;

/// Prints the version of this binary.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<Exit> {
    println!("keddah {}", env!("CARGO_PKG_VERSION"));
    Ok(Exit::Ok)
}
