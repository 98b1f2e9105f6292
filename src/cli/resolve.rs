//! `keddah resolve`: what this binary makes of a name, on this host.

use crate::cli::exit::Exit;
use crate::sys::names;

/// Prints the addresses of a name as this binary finds them: /etc/hosts first, then DNS.
///
/// Example: keddah resolve db1
#[derive(Debug, clap::Args)]
pub struct Args {
    name: String,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    for address in crate::cli::runtime()?.block_on(names::resolve(&args.name, 0))? {
        println!("{}", address.ip());
    }
    Ok(Exit::Ok)
}
