//! What apply, plan and check have in common: load, refuse what is wrong, run, report.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::cli::exit::Exit;
use crate::cli::{flags, input};
use crate::executor::upload::Payload;
use crate::executor::wire::Mode;
use crate::expr::Value;
use crate::input::Deployment;
use crate::plan::compile::Compiler;
use crate::plan::tags::Selection;
use crate::report::human::Human;
use crate::report::json::Json;
use crate::report::progress::Progress;
use crate::report::recap;
use crate::run::event::{Event, Risk, Summary};
use crate::run::worker::Network;
use crate::run::{self, Options};
use crate::source::{Diagnostics, render};
use crate::sys::secret::Secret;
use crate::transport::Connector;
use crate::transport::options::Defaults;

/// Flags of every command that runs playbooks.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    pub input: flags::Input,

    #[command(flatten)]
    pub select: flags::Select,

    #[command(flatten)]
    pub connect: flags::Connect,

    #[command(flatten)]
    pub output: flags::Output,

    /// Show what changes inside texts
    #[arg(short = 'D', long)]
    pub diff: bool,

    /// Say more: also what is ok or skipped, with results
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Print the hosts of each play and do nothing
    #[arg(long = "list-hosts")]
    pub list_hosts: bool,

    /// Print the tasks of each play and do nothing
    #[arg(long = "list-tasks")]
    pub list_tasks: bool,

    #[arg(value_name = "PLAYBOOK", required = true)]
    pub playbooks: Vec<PathBuf>,
}

/// A deployment that may be run, and how.
#[derive(Debug)]
pub struct Prepared {
    pub deployment: Deployment,
    pub options: Options,
    pub network: Network,
}

/// Loads what the flags name; `Err` is the exit of a command whose input is wrong.
///
/// # Errors
/// This program or the password file cannot be read.
pub fn prepare(flags: &Flags, mode: Mode, diff: bool) -> anyhow::Result<Result<Prepared, Exit>> {
    let (deployment, diagnostics) = input::read(&flags.input, &flags.playbooks);
    if !show(&deployment, &diagnostics) {
        return Ok(Err(Exit::Input));
    }
    let limit = match &flags.select.limit {
        None => None,
        Some(pattern) => {
            let matched = deployment.hosts_of(pattern).with_context(|| format!("--limit {pattern}"))?;
            if matched.hosts.is_empty() {
                eprintln!("error: --limit `{pattern}` matches no host of the inventory");
                return Ok(Err(Exit::Input));
            }
            Some(matched.hosts.into_iter().collect())
        }
    };
    let options = Options {
        mode,
        diff: diff || flags.diff,
        verbose: flags.verbose > 0,
        limit,
        limit_text: flags.select.limit.clone(),
        selection: Selection {
            only: flags.select.tags.iter().map(|tag| tag.trim().to_owned()).collect(),
            skip: flags.select.skip_tags.iter().map(|tag| tag.trim().to_owned()).collect(),
        },
        forks: flags.connect.forks,
        become_by_default: flags.connect.become_.then(|| Value::from(true)),
    };
    Ok(Ok(Prepared { deployment, options, network: network(&flags.connect)? }))
}

/// Shows what is wrong with the input; says whether a run may begin.
pub fn show(deployment: &Deployment, diagnostics: &Diagnostics) -> bool {
    let errors = diagnostics.has_errors();
    if errors {
        eprint!("{}", render::text(diagnostics, &deployment.sources));
        eprintln!("no host was touched");
    }
    !errors
}

/// Makes the connections of a run.
///
/// # Errors
/// This program or the password file cannot be read.
pub fn network(flags: &flags::Connect) -> anyhow::Result<Network> {
    let password = match &flags.become_password_file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the password for sudo from {}", path.display()))?;
            Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
        }
        None => None,
    };
    let payload = Payload::of_this_program().context("cannot read this program to send it to hosts")?;
    let defaults = Defaults {
        user: flags.user.clone(),
        private_key: flags.private_key.clone(),
        ssh_common_args: flags.ssh_common_args.clone(),
        become_password: password,
        ..Defaults::default()
    };
    Ok(Network { connector: Connector::new(payload), defaults })
}

/// Runs and reports; the summary is for the exit code.
///
/// # Errors
/// The run cannot begin or go on; hosts that fail are in the summary.
pub fn run(prepared: &Prepared, form: flags::Form) -> anyhow::Result<Summary> {
    let Prepared { deployment, options, network } = prepared;
    let human = Human { mode: options.mode, diff: options.diff, verbose: options.verbose };
    let runtime = crate::cli::runtime()?;
    match form {
        flags::Form::Human => {
            let mut progress = std::io::stderr().is_terminal().then(Progress::new);
            let mut listener = |event: &Event| {
                let lines = human.lines(event);
                match &mut progress {
                    Some(progress) => {
                        progress.event(event);
                        if !lines.is_empty() {
                            progress.print(&lines);
                        }
                    }
                    None => {
                        print!("{lines}");
                        std::io::stdout().flush().ok();
                    }
                }
            };
            let summary = runtime.block_on(run::run(deployment, options, network, &mut listener))?;
            print!("\n{}", recap::lines(&summary, options.mode));
            Ok(summary)
        }
        flags::Form::Json => {
            let mut json = Json::default();
            let mut listener = |event: &Event| json.event(event);
            let summary = runtime.block_on(run::run(deployment, options, network, &mut listener))?;
            println!("{:#}", json.document(&summary, options.mode));
            Ok(summary)
        }
    }
}

/// Finds out in silence whether a run would interrupt anything.
///
/// # Errors
/// As [`run`].
pub fn worst_interruption(prepared: &Prepared) -> anyhow::Result<Option<Risk>> {
    let options = Options { mode: Mode::Check, ..prepared.options.clone() };
    let mut listener = |_: &Event| {};
    let running = run::run(&prepared.deployment, &options, &prepared.network, &mut listener);
    Ok(crate::cli::runtime()?.block_on(running)?.risk)
}

/// Prints the hosts or tasks of each play, as `--list-hosts` and `--list-tasks` ask.
///
/// # Errors
/// A play cannot be compiled or its host pattern is malformed.
pub fn list(prepared: &Prepared, tasks: bool) -> anyhow::Result<()> {
    let mut next = 1;
    for play in &prepared.deployment.plays {
        let mut hosts = prepared.deployment.hosts_of(&play.hosts.value)?.hosts;
        if let Some(limit) = &prepared.options.limit {
            hosts.retain(|host| limit.contains(host));
        }
        println!("play \"{}\"", play.title());
        if !tasks {
            hosts.iter().for_each(|host| println!("  {host}"));
            continue;
        }
        let mut compiler = Compiler::new(&prepared.deployment, play, &prepared.options.selection, next);
        for task in compiler.play(false)? {
            if task.step.origin.is_empty() {
                continue;
            }
            let tags: Vec<&str> = task.tags.iter().map(|tag| &**tag as &str).collect();
            let tags = if tags.is_empty() { String::new() } else { format!("  [{}]", tags.join(", ")) };
            println!("  {}{tags}", task.title());
        }
        next = compiler.next_id();
    }
    Ok(())
}

/// The exit of plan and check.
pub fn exit_of_check(summary: &Summary) -> Exit {
    if summary.unreachable() {
        Exit::Unreachable
    } else if summary.failed() || summary.pending() || summary.interrupted {
        Exit::Pending
    } else {
        Exit::Ok
    }
}

/// The exit of apply.
pub fn exit_of_apply(summary: &Summary) -> Exit {
    if summary.unreachable() {
        Exit::Unreachable
    } else if summary.failed() || summary.interrupted {
        Exit::Pending
    } else {
        Exit::Ok
    }
}
