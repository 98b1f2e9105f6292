//! `keddah edit-config`: change the dynamic configuration, with its diff.

use anyhow::bail;
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::cli::cluster::{Where, confirm, say, talk};
use crate::cli::exit::Exit;
use crate::contract::config::to_json;
use crate::contract::dynamic;
use crate::ctl::{config, table};
use crate::source::{FileId, yaml};

/// Change the dynamic configuration of a cluster
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  keddah edit-config -s loop_wait=5 --force\n  keddah edit-config -p work_mem=8MB --force"
)]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Set a key, dots lead into mappings, `null` removes; may be repeated
    #[arg(short = 's', long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Set a parameter of Postgres; may be repeated
    #[arg(short = 'p', long = "pg", value_name = "PARAMETER=VALUE")]
    parameter: Vec<String>,

    /// Do not print the diff
    #[arg(short, long)]
    quiet: bool,

    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    if args.set.is_empty() && args.parameter.is_empty() {
        bail!("nothing to change: give -s KEY=VALUE or -p PARAMETER=VALUE");
    }
    let mut changes: Vec<Map<String, Value>> = Vec::new();
    for text in &args.set {
        changes.push(config::assignment(text, read_value)?);
    }
    for text in &args.parameter {
        changes.push(config::assignment(&format!("postgresql.parameters.{text}"), read_value)?);
    }
    let runtime = crate::cli::runtime()?;
    let (before, revision) = runtime.block_on(cluster.config())?;
    let mut after = before.clone();
    for change in &changes {
        dynamic::patch(&mut after, change);
    }
    if before == after {
        say!("Not changed");
        return Ok(Exit::Ok);
    }
    if !args.quiet {
        say!("{}", diff(&before, &after).trim_end());
    }
    if !confirm("Apply these changes?", args.force)? {
        eprintln!("nothing was changed");
        return Ok(Exit::Input);
    }
    drop(runtime);
    // Connections belong to the runtime that made them.
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    talk(async {
        cluster.write_config(&after, revision).await?;
        say!("Configuration changed");
        Ok(Exit::Ok)
    })
}

/// Reads a value as YAML does: `5`, `on`, `null`, `[a, b]`, or a text.
pub fn read_value(text: &str) -> Value {
    let (documents, diagnostics) = yaml::read(FileId(0), text);
    match documents.first() {
        Some(node) if !diagnostics.has_errors() => to_json(node),
        Some(_) | None => Value::String(text.to_owned()),
    }
}

/// Writes what an edit changes, as a unified diff of YAML.
pub fn diff(before: &Map<String, Value>, after: &Map<String, Value>) -> String {
    let text = |config: &Map<String, Value>| table::yaml(&Value::Object(config.clone()));
    let (before, after) = (text(before), text(after));
    TextDiff::from_lines(&before, &after).unified_diff().context_radius(3).header("---", "+++").to_string()
}
