//! What the whole cluster shares: pause, the dynamic configuration, and all of it at its end.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::{Group, Place, ask, confirm, prompt};
use crate::cli::cluster::say;
use crate::cli::edit_config::{diff, read_value};
use crate::cli::exit::Exit;
use crate::contract::dynamic;
use crate::ctl::table::Format;
use crate::ctl::{config, list};
use crate::sys::files;

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
pub struct Edit {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    /// Do not show changes
    #[arg(short, long)]
    quiet: bool,
    /// Set specific configuration value; may be repeated
    #[arg(short = 's', long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Set specific PostgreSQL parameter value; may be repeated
    #[arg(short = 'p', long = "pg", value_name = "PARAMETER=VALUE")]
    pg: Vec<String>,
    /// Apply configuration from file, - for standard input
    #[arg(long, value_name = "FILE")]
    apply: Option<String>,
    /// Apply configuration from file, replacing what is there
    #[arg(long, value_name = "FILE")]
    replace: Option<String>,
    #[arg(long)]
    force: bool,
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

pub fn edit(place: &Place, args: &Edit) -> anyhow::Result<Exit> {
    let name = args.cluster_name.as_deref();
    let runtime = crate::cli::runtime().context("the runtime could not be made")?;
    let (before, revision) = runtime
        .block_on(place.cluster(name)?.config())
        .map_err(|error| anyhow::anyhow!(crate::sys::chain(&error)))?;
    drop(runtime);
    let after = edited(args, &before)?;
    if before == after {
        say!("Not changed");
        return Ok(Exit::Ok);
    }
    if !args.quiet {
        say!("{}", diff(&before, &after).trim_end());
    }
    if (args.apply.as_deref() == Some("-") || args.replace.as_deref() == Some("-")) && !args.force {
        say!("Use --force option to apply changes");
        return Ok(Exit::Ok);
    }
    if !args.force && !confirm("Apply these changes?")? {
        return Ok(Exit::Ok);
    }
    let cluster = place.cluster(name)?;
    ask(async {
        cluster.write_config(&after, revision).await?;
        say!("Configuration changed");
        Ok(Exit::Ok)
    })
}

fn edited(args: &Edit, before: &Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let mut after = before.clone();
    if let Some(path) = &args.replace {
        after = from_file(path)?;
    } else if let Some(path) = &args.apply {
        dynamic::patch(&mut after, &from_file(path)?);
    }
    for text in &args.set {
        dynamic::patch(&mut after, &config::assignment(text, read_value)?);
    }
    for text in &args.pg {
        let text = format!("postgresql.parameters.{text}");
        dynamic::patch(&mut after, &config::assignment(&text, read_value)?);
    }
    let asked = args.replace.is_some() || args.apply.is_some() || !args.set.is_empty() || !args.pg.is_empty();
    if !asked {
        bail!("EDITOR is not used here: give --set, --pg, --apply or --replace");
    }
    Ok(after)
}

fn from_file(path: &str) -> anyhow::Result<Map<String, Value>> {
    let mut text = String::new();
    if path == "-" {
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    } else {
        let bytes = files::read(std::path::Path::new(path)).with_context(|| format!("cannot read {path}"))?;
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    match read_value(&text) {
        Value::Object(map) => Ok(map),
        _ => bail!("{path} holds no mapping"),
    }
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
