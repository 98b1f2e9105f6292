//! A cluster becomes the standby of another one, or its own again.

use std::time::Duration;

use anyhow::bail;

use super::{Place, ask, confirm, read, timestamp};
use crate::cli::cluster::say;
use crate::cli::demote_cluster::FollowsArgs;
use crate::cli::exit::Exit;
use crate::ctl::standby::Follows;
use crate::ctl::{CtlError, list, table::Format};

/// The reference waits without a limit; nobody looks at a terminal for longer.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub struct Demote {
    cluster_name: Option<String>,
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    follows: FollowsArgs,
}

#[derive(Debug, clap::Args)]
pub struct Promote {
    cluster_name: Option<String>,
    #[arg(long)]
    force: bool,
}

pub fn demote(place: &Place, args: Demote) -> anyhow::Result<Exit> {
    let Demote { cluster_name, force, follows } = args;
    change(place, cluster_name.as_deref(), force, Some(&Follows::from(follows)))
}

pub fn promote(place: &Place, args: &Promote) -> anyhow::Result<Exit> {
    change(place, args.cluster_name.as_deref(), args.force, None)
}

fn change(place: &Place, name: Option<&str>, force: bool, follows: Option<&Follows>) -> anyhow::Result<Exit> {
    let section = follows.map(Follows::section).transpose()?;
    let stem = if section.is_some() { "demot" } else { "promot" };
    let cluster = place.cluster(name)?;
    let scope = cluster.scope.clone();
    say!(
        "Current cluster topology\n{}",
        list::list(&scope, &read(place, name)?, Format::Pretty, false).trim_end()
    );
    if !force && !confirm(&format!("Are you sure you want to {stem}e {scope} cluster?"))? {
        bail!("Aborted cluster {stem}ion");
    }
    ask(async {
        if !cluster.set_standby_cluster(section.as_ref(), LIMIT).await? {
            return Err(CtlError::Refused(format!("Failed to {stem}e {scope} cluster: status unknown")));
        }
        say!("{} cluster is successfully {stem}ed", timestamp());
        say!("{}", list::list(&scope, &cluster.read().await?, Format::Pretty, false).trim_end());
        Ok(Exit::Ok)
    })
}
