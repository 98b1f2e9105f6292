//! `keddah inventory`: hosts, groups and variables as they are after all files were merged.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::{Map, Value as Json, json};

use crate::cli::exit::Exit;
use crate::cli::flags;
use crate::cli::input;
use crate::input::Deployment;
use crate::source::{Severity, render};

/// Show hosts, groups and variables, as merged from all inventory files
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  keddah inventory -i inventory/lab --graph\n  keddah inventory -i inventory/lab --host pg1"
)]
pub struct Args {
    #[command(flatten)]
    input: flags::Input,

    #[command(flatten)]
    what: What,

    /// Show secrets (passwords, private keys) in clear
    #[arg(long)]
    reveal: bool,

    /// The folder of this playbook takes part with its `group_vars` and `host_vars`
    #[arg(long, value_name = "PLAYBOOK")]
    playbook: Option<PathBuf>,
}

#[derive(Debug, Default, clap::Args)]
#[group(multiple = false)]
struct What {
    /// All groups, and every host's variables, as JSON in the form of ansible-inventory (the default)
    #[arg(long)]
    list: bool,

    /// One host's variables, as JSON
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// Groups and hosts as a tree
    #[arg(long)]
    graph: bool,
}

/// Runs `keddah inventory`.
///
/// # Errors
/// The host asked for is not in the inventory.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let playbooks: Vec<PathBuf> = args.playbook.iter().cloned().collect();
    let (deployment, diagnostics) = input::read(&args.input, &playbooks);
    for diagnostic in diagnostics.sorted().into_iter().filter(|d| d.severity != Severity::Advice) {
        eprint!("{}", render::one(diagnostic, &deployment.sources));
    }
    if diagnostics.has_errors() {
        return Ok(Exit::Input);
    }
    if let Some(host) = &args.what.host {
        if !deployment.inventory.hosts.contains_key(host.as_str()) {
            let names = deployment.inventory.hosts.keys().map(AsRef::as_ref);
            match crate::source::suggest::did_you_mean(host, names) {
                Some(hint) => bail!("there is no host `{host}` in the inventory; {hint}"),
                None => bail!("there is no host `{host}` in the inventory; --graph shows those there are"),
            }
        }
        println!("{:#}", variables(&deployment, host, args.reveal));
    } else if args.what.graph {
        print!("{}", graph(&deployment));
    } else {
        println!("{:#}", list(&deployment, args.reveal));
    }
    Ok(Exit::Ok)
}

fn variables(deployment: &Deployment, host: &str, reveal: bool) -> Json {
    let vars = deployment.vars_of(host, deployment.plays.first());
    let shown = vars.iter().map(|(name, value)| {
        let value = if reveal { value.to_json() } else { value.redacted().to_json() };
        (name.to_string(), value)
    });
    Json::Object(shown.collect())
}

fn list(deployment: &Deployment, reveal: bool) -> Json {
    let inventory = &deployment.inventory;
    let hostvars: Map<String, Json> =
        inventory.hosts.keys().map(|host| (host.to_string(), variables(deployment, host, reveal))).collect();
    let mut document = Map::new();
    document.insert("_meta".into(), json!({ "hostvars": hostvars }));
    for group in inventory.groups.values() {
        let mut shown = Map::new();
        if !group.children.is_empty() {
            shown.insert("children".into(), group.children.keys().map(ToString::to_string).collect());
        }
        if !group.hosts.is_empty() {
            shown.insert("hosts".into(), group.hosts.iter().map(ToString::to_string).collect());
        }
        if !shown.is_empty() {
            document.insert(group.name.to_string(), Json::Object(shown));
        }
    }
    Json::Object(document)
}

fn graph(deployment: &Deployment) -> String {
    let mut lines = String::from("@all:\n");
    branch(deployment, "all", 1, &mut lines);
    lines
}

fn branch(deployment: &Deployment, group: &str, depth: usize, lines: &mut String) {
    let Some(group) = deployment.inventory.groups.get(group) else { return };
    let lead = "  |".repeat(depth);
    for child in group.children.keys() {
        lines.push_str(&lead);
        lines.push_str(&format!("--@{child}:\n"));
        branch(deployment, child, depth + 1, lines);
    }
    for host in &group.hosts {
        lines.push_str(&lead);
        lines.push_str(&format!("--{host}\n"));
    }
}
