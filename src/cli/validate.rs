//! `keddah validate`: everything that can be known without a host.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::flags;
use crate::cli::input;
use crate::input::Deployment;
use crate::source::{Diagnostics, Severity, render};

/// Check inventory, cluster.yml and playbooks offline: syntax, parameters, variables, topology rules
///
/// Exits 0 when no error was found (advice and warnings do not fail), 1 otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah validate -i inventory/lab playbooks/site.yml")]
pub struct Args {
    #[command(flatten)]
    input: flags::Input,

    #[command(flatten)]
    output: flags::Output,

    /// Fail on warnings too
    #[arg(long)]
    strict: bool,

    /// Playbooks; without one, inventory and cluster.yml alone are checked
    #[arg(value_name = "PLAYBOOK")]
    playbooks: Vec<PathBuf>,
}

/// Runs `keddah validate`.
///
/// # Errors
/// None; what is wrong with the input is the command's output.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (deployment, diagnostics) = input::read(&args.input, &args.playbooks);
    let warnings = count(&diagnostics, Severity::Warning);
    let failed = diagnostics.has_errors() || args.strict && warnings > 0;
    match args.output.form {
        flags::Form::Human => {
            print!("{}", render::text(&diagnostics, &deployment.sources));
            if !diagnostics.is_empty() {
                println!();
            }
            println!("{}", summary(&deployment, &diagnostics));
        }
        flags::Form::Json => {
            let document = json!({
                "ok": !failed,
                "errors": count(&diagnostics, Severity::Error),
                "warnings": warnings,
                "advice": count(&diagnostics, Severity::Advice),
                "problems": render::json(&diagnostics, &deployment.sources),
            });
            println!("{document:#}");
        }
    }
    Ok(if failed { Exit::Input } else { Exit::Ok })
}

fn count(diagnostics: &Diagnostics, severity: Severity) -> usize {
    diagnostics.sorted().iter().filter(|d| d.severity == severity).count()
}

fn summary(deployment: &Deployment, diagnostics: &Diagnostics) -> String {
    let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let seen = [
        plural(deployment.inventory.hosts.len(), "host", "hosts"),
        plural(deployment.plays.len(), "play", "plays"),
        plural(deployment.roles.len(), "role", "roles"),
    ];
    let found = [
        plural(count(diagnostics, Severity::Error), "error", "errors"),
        plural(count(diagnostics, Severity::Warning), "warning", "warnings"),
        plural(count(diagnostics, Severity::Advice), "piece of advice", "pieces of advice"),
    ];
    format!("{}: {}", seen.join(", "), found.join(", "))
}
