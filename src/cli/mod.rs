//! The command line: one file per command, each `Args` → one call → one report.
//!
//! Commands are plain functions; those that need a runtime make one with [`runtime`], so that `guard` and the
//! executor's children never have one.

pub mod agent;
pub mod apply;
pub mod check;
pub mod cluster;
pub mod converge;
pub mod executor;
pub mod exit;
pub mod facts;
pub mod flags;
pub mod guard;
pub mod input;
pub mod inventory;
pub mod plan;
pub mod schema;
pub mod validate;

pub mod demote_cluster;
pub mod dsn;
pub mod edit_config;
pub mod editor;
pub mod explain;
pub mod failover;
pub mod flush;
pub mod history;
pub mod lab;
pub mod list;
pub mod patroni;
pub mod patronictl;
pub mod pause;
pub mod promote_cluster;
pub mod query;
pub mod reinit;
pub mod reload;
pub mod remove;
pub mod resolve;
pub mod restart;
pub mod resume;
pub mod show_config;
pub mod switchover;
pub mod topology;
pub mod version;

use clap::{Parser, Subcommand};

use exit::Exit;

/// Builds, keeps and upgrades highly available Postgres clusters.
#[derive(Debug, Parser)]
#[command(name = "keddah", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One row per command, in the order of `--help`; the file of the same name holds its `Args` and `run`.
#[derive(Debug, Subcommand)]
enum Command {
    Apply(apply::Args),
    Plan(plan::Args),
    Check(check::Args),
    Validate(validate::Args),
    Facts(facts::Args),
    Inventory(inventory::Args),
    Schema(schema::Args),
    Lab(lab::Args),
    List(list::Args),
    Topology(topology::Args),
    History(history::Args),
    Explain(explain::Args),
    Switchover(switchover::Args),
    Failover(failover::Args),
    Restart(restart::Args),
    Reload(reload::Args),
    Reinit(reinit::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    ShowConfig(show_config::Args),
    EditConfig(edit_config::Args),
    DemoteCluster(demote_cluster::Args),
    PromoteCluster(promote_cluster::Args),
    Query(query::Args),
    Dsn(dsn::Args),
    Flush(flush::Args),
    Remove(remove::Args),
    Agent(agent::Args),
    #[command(hide = true)]
    Resolve(resolve::Args),
    Version(version::Args),
    #[command(hide = true)]
    Guard(guard::Args),
    #[command(hide = true)]
    Executor(executor::Args),
}

impl Command {
    /// Tells whether the command changes nothing, so that it may end as soon as nobody reads on (`keddah schema | head`).
    fn only_prints(&self) -> bool {
        matches!(
            self,
            Command::Validate(_)
                | Command::Facts(_)
                | Command::Inventory(_)
                | Command::Schema(_)
                | Command::List(_)
                | Command::History(_)
                | Command::Explain(_)
                | Command::ShowConfig(_)
                | Command::Resolve(_)
                | Command::Version(_)
        )
    }
}

/// Runs the command that the arguments name.
pub fn run() -> Exit {
    match called_as().as_deref() {
        Some("patroni") => return patroni::run(),
        Some("patronictl") => return patronictl::run(),
        Some(_) | None => {}
    }
    let cli = Cli::parse();
    if cli.command.only_prints() {
        crate::sys::process::end_with_the_reader();
    }
    let done: anyhow::Result<Exit> = match cli.command {
        Command::Apply(args) => apply::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Facts(args) => facts::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Inventory(args) => inventory::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Lab(args) => lab::run(args),
        Command::List(args) => list::run(args),
        Command::Topology(args) => topology::run(args),
        Command::History(args) => history::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Switchover(args) => switchover::run(args),
        Command::Failover(args) => failover::run(args),
        Command::Restart(args) => restart::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Reinit(args) => reinit::run(args),
        Command::Pause(args) => pause::run(args),
        Command::Resume(args) => resume::run(args),
        Command::ShowConfig(args) => show_config::run(args),
        Command::EditConfig(args) => edit_config::run(args),
        Command::DemoteCluster(args) => demote_cluster::run(args),
        Command::PromoteCluster(args) => promote_cluster::run(args),
        Command::Query(args) => query::run(args),
        Command::Dsn(args) => dsn::run(args),
        Command::Flush(args) => flush::run(args),
        Command::Remove(args) => remove::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Resolve(args) => resolve::run(&args),
        Command::Version(args) => version::run(args),
        Command::Guard(args) => guard::run(args),
        Command::Executor(args) => executor::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::Input
    })
}

/// Returns the name under which the binary was called.
fn called_as() -> Option<String> {
    let program = std::env::args_os().next()?;
    Some(std::path::Path::new(&program).file_name()?.to_string_lossy().into_owned())
}

/// Makes the runtime of a command that talks to more than one thing at a time.
///
/// # Errors
/// The operating system refused threads or an epoll descriptor.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Makes the runtime of a command whose tasks never block: they share one thread, and so wake no other.
///
/// # Errors
/// The operating system refused an epoll descriptor.
pub fn runtime_of_one() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
