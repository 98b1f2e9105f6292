//! `keddah facts`: what hosts say of themselves.

use std::collections::BTreeMap;

use crate::cli::exit::Exit;
use crate::cli::{converge, flags, input};
use crate::executor::wire::Mode;
use crate::expr::Value;
use crate::input::playbook::{Common, Play};
use crate::plan::tags::Selection;
use crate::run::event::Event;
use crate::run::{self, Options};
use crate::source::{FileId, Span, Spanned};

/// Print the facts of hosts as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah facts -i inventory/lab db1")]
pub struct Args {
    #[command(flatten)]
    input: flags::Input,

    #[command(flatten)]
    connect: flags::Connect,

    /// Which hosts
    #[arg(value_name = "PATTERN", default_value = "all")]
    pattern: String,
}

/// Runs `keddah facts`.
///
/// # Errors
/// The run cannot begin.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (mut deployment, diagnostics) = input::read(&args.input, &[]);
    if !converge::show(&deployment, &diagnostics) {
        return Ok(Exit::Input);
    }
    if deployment.hosts_of(&args.pattern)?.hosts.is_empty() {
        eprintln!("error: `{}` matches no host of the inventory", args.pattern);
        return Ok(Exit::Input);
    }
    deployment.plays = vec![play(&args.pattern)];
    let options = Options {
        mode: Mode::Check,
        diff: false,
        verbose: false,
        limit: None,
        limit_text: None,
        selection: Selection::default(),
        forks: args.connect.forks,
        become_by_default: args.connect.become_.then(|| Value::from(true)),
    };
    let network = converge::network(&args.connect)?;
    let mut found = BTreeMap::new();
    let mut listener = |event: &Event| match event {
        Event::StepDone(done) => {
            if let Some(fault) = &done.report.details.fault {
                eprintln!("{}: {}", done.host, fault.message);
            } else {
                let facts = Value::from(done.report.facts.clone()).redacted();
                found.insert(done.host.to_string(), facts.to_json());
            }
        }
        Event::Unreachable { host, message } => eprintln!("{host}: unreachable: {message}"),
        Event::Warning { message } => eprintln!("warning: {message}"),
        Event::PlayStarted { .. } | Event::StepStarted { .. } | Event::Interrupted | Event::Ended(_) => {}
    };
    let summary =
        crate::cli::runtime()?.block_on(run::run(&deployment, &options, &network, &mut listener))?;
    println!("{:#}", serde_json::to_value(&found)?);
    Ok(converge::exit_of_apply(&summary))
}

/// A play that gathers facts and does nothing else.
fn play(pattern: &str) -> Play {
    let span = Span::new(FileId(u32::MAX), 0, 0);
    Play {
        span,
        playbook: std::path::PathBuf::new(),
        hosts: Spanned::new(pattern.into(), span),
        common: Common::default(),
        gather_facts: Some(Value::from(true)),
        gather_subset: None,
        serial: Vec::new(),
        max_fail_percentage: None,
        vars_files: Vec::new(),
        pre_tasks: Vec::new(),
        roles: Vec::new(),
        tasks: Vec::new(),
        post_tasks: Vec::new(),
        handlers: Vec::new(),
    }
}
