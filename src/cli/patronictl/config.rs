//! What the whole cluster shares: pause, the dynamic configuration, and all of it at its end.

use std::time::Duration;

use anyhow::bail;

use super::{Group, Place, ask, confirm, prompt};
use crate::cli::cluster::say;
use crate::cli::edit_config;
use crate::cli::exit::Exit;
use crate::ctl::list;
use crate::ctl::table::Format;

#[derive(Debug, clap::Args)]
pub struct Pause {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    /// Wait until it is applied on all nodes
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
pub struct EditConfig {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    #[command(flatten)]
    edit: edit_config::Edit,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    cluster_name: String,
    #[command(flatten)]
    _group: Group,
    #[command(flatten)]
    output: super::Output,
}

impl Remove {
    pub fn of(cluster: &str) -> Remove {
        Remove {
            cluster_name: cluster.to_owned(),
            _group: Group::default(),
            output: super::Output { format: Format::Pretty },
        }
    }
}

pub fn pause(place: &Place, args: &Pause, paused: bool) -> anyhow::Result<Exit> {
    let cluster = place.cluster(args.cluster_name.as_deref())?;
    let word = if paused { "paused" } else { "resumed" };
    let wait = if args.wait {
        let request = if paused { "pause" } else { "resume" };
        say!("'{request}' request sent, waiting until it is recognized by all nodes");
        Duration::from_secs(30)
    } else {
        Duration::ZERO
    };
    ask(async {
        let left = cluster.set_pause(paused, wait).await?;
        if args.wait && !left.is_empty() {
            say!(
                "{} members didn't recognized pause state after {} seconds",
                left.join(", "),
                wait.as_secs()
            );
        } else {
            say!("Success: cluster management is {word}");
        }
        Ok(Exit::Ok)
    })
}

pub fn edit(place: &Place, args: &EditConfig) -> anyhow::Result<Exit> {
    let agree = |question: &str| Ok((confirm(question)?, Exit::Ok));
    args.edit.carry_out(place, args.cluster_name.as_deref(), agree)
}

pub fn remove(place: &Place, args: &Remove) -> anyhow::Result<Exit> {
    let name = args.cluster_name.as_str();
    let view = super::read(place, Some(name))?;
    let format = args.output.format;
    say!("{}", list::list(name, &view, format, format == Format::Pretty).trim_end());
    if prompt("Please confirm the cluster name to remove", None)? != name {
        bail!("Cluster names specified do not match");
    }
    let message = "Yes I am aware";
    let question =
        format!("You are about to remove all information in DCS for {name}, please type: \"{message}\"");
    if prompt(&question, None)? != message {
        bail!("You did not exactly type \"{message}\"");
    }
    if let Some(leader) = &view.leader {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if prompt(question, None)? != *leader {
            bail!("You did not specify the current leader of the cluster");
        }
    }
    let cluster = place.cluster(Some(name))?;
    ask(async {
        cluster.client.delete_prefix(cluster.keys.prefix()).await?;
        Ok(Exit::Ok)
    })
}
