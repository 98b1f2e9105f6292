//! `keddah plan`: what apply would change.

use crate::cli::converge;
use crate::cli::exit::Exit;
use crate::executor::wire::Mode;

/// Show what `apply` would change, with texts before and after; changes nothing
///
/// Each pending step is known, blocked by a step that makes what it looks at, or unknown with the reason. Exits 0 when
/// all is converged, 2 when something is pending, unknown or failed, 4 when a host could not be reached, 1 when the input
/// is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah plan -i inventory/lab playbooks/site.yml")]
pub struct Args {
    #[command(flatten)]
    flags: converge::Flags,
}

/// Runs `keddah plan`.
///
/// # Errors
/// The run cannot begin or go on.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    checked(&args.flags, true)
}

/// Runs playbooks in check mode.
pub(crate) fn checked(flags: &converge::Flags, diff: bool) -> anyhow::Result<Exit> {
    let prepared = match converge::prepare(flags, Mode::Check, diff)? {
        Ok(prepared) => prepared,
        Err(exit) => return Ok(exit),
    };
    if flags.list_hosts || flags.list_tasks {
        converge::list(&prepared, flags.list_tasks)?;
        return Ok(Exit::Ok);
    }
    let summary = converge::run(&prepared, flags.output.form)?;
    Ok(converge::exit_of_check(&summary))
}
