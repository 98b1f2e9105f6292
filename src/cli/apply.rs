//! `keddah apply`: converge.

use std::io::{BufRead, IsTerminal, Write};

use crate::cli::converge;
use crate::cli::exit::Exit;
use crate::executor::wire::Mode;
use crate::run::event::Risk;

/// Converge the hosts of playbooks: change what differs, and nothing else
///
/// Exits 0 when all is converged, 2 when a host failed, 4 when one could not be reached, 1 when the input is wrong. On a
/// terminal it asks once before a run that restarts a server or moves the leader.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah apply -i inventory/lab playbooks/site.yml")]
pub struct Args {
    #[command(flatten)]
    flags: converge::Flags,

    /// Change nothing, as `plan` does, and exit 0 unless a host fails
    #[arg(short = 'C', long)]
    check: bool,

    /// Do not ask, even if a server is going to be restarted
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Runs `keddah apply`.
///
/// # Errors
/// The run cannot begin or go on.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let prepared = match converge::prepare(&args.flags, mode, false)? {
        Ok(prepared) => prepared,
        Err(exit) => return Ok(exit),
    };
    if args.flags.list_hosts || args.flags.list_tasks {
        converge::list(&prepared, args.flags.list_tasks)?;
        return Ok(Exit::Ok);
    }
    let asks = mode == Mode::Apply
        && !args.yes
        && std::io::stdin().is_terminal()
        && std::io::stderr().is_terminal()
        && converge::worst_interruption(&prepared)?.is_some_and(|risk| risk >= Risk::Restart);
    if asks && !agreed()? {
        eprintln!("nothing was changed");
        return Ok(Exit::Input);
    }
    let summary = converge::run(&prepared, args.flags.output.form)?;
    Ok(converge::exit_of_apply(&summary))
}

fn agreed() -> std::io::Result<bool> {
    eprint!("this run restarts servers or moves a leader (`keddah plan` shows which); go on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
