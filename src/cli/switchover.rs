//! `keddah switchover`: another member leads, by plan.

use std::time::Duration;

use crate::cli::cluster::{Where, confirm, say, talk};
use crate::cli::exit::Exit;
use crate::contract::requests::Kind;
use crate::ctl::change::{Outcome, Wish};
use crate::ctl::table::Format;
use crate::ctl::{Cluster, CtlError, list};

/// Make another member lead, by plan: nothing acknowledged is lost
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  keddah switchover --candidate db2 --force")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// The member that must lead at present
    #[arg(long, alias = "primary", value_name = "NAME")]
    leader: Option<String>,

    /// The member that shall lead; without it the best one
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,

    /// When, with its offset: 2026-01-31T12:00:00+01:00
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,

    /// Do not ask
    #[arg(long)]
    force: bool,

    /// How many seconds to wait for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    let scheduled_at = args.scheduled.filter(|time| time != "now");
    let wish = Wish { leader: args.leader, candidate: args.candidate, scheduled_at };
    change(&cluster, Kind::Switchover, &wish, args.force, Duration::from_secs(args.timeout))
}

/// Asks for another leader, waits, and tells the outcome with the command to type next.
pub fn change(
    cluster: &Cluster,
    kind: Kind,
    wish: &Wish,
    force: bool,
    limit: Duration,
) -> anyhow::Result<Exit> {
    let question = format!(
        "Are you sure you want to {} cluster {}{}?",
        kind.word(),
        cluster.scope,
        wish.candidate.as_ref().map_or_else(String::new, |name| format!(" to {name}"))
    );
    if !confirm(&question, force)? {
        eprintln!("nothing was done");
        return Ok(Exit::Input);
    }
    talk(async {
        let outcome = cluster.change_leader(kind, wish, limit).await?;
        let exit = tell(kind, &outcome);
        show(cluster).await?;
        Ok(exit)
    })
}

fn tell(kind: Kind, outcome: &Outcome) -> Exit {
    match outcome {
        Outcome::Done { leader, gap, hazards } => {
            if let Some(hazards) = hazards {
                eprintln!("note: {hazards}");
            }
            say!("Successfully {}ed over to \"{leader}\"", kind.stem());
            if let Some(gap) = gap {
                say!("time without a primary: {:.2} s (as seen by REST checks)", gap.as_secs_f64());
            }
            Exit::Ok
        }
        Outcome::Scheduled => {
            say!("{} scheduled", kind.title());
            Exit::Ok
        }
        Outcome::Refused { why } => {
            eprintln!("{} refused, nothing was touched: {why}", kind.title());
            Exit::Input
        }
        Outcome::PutBack { why } => {
            eprintln!("{} failed and was put back: {why}", kind.title());
            Exit::PutBack
        }
        Outcome::Unknown { waited } => {
            eprintln!(
                "{} status unknown after {} s; it may still happen. Look with: keddah list; keddah explain",
                kind.title(),
                waited.as_secs()
            );
            Exit::Unknown
        }
    }
}

async fn show(cluster: &Cluster) -> Result<(), CtlError> {
    let view = cluster.read().await?;
    say!("{}", list::list(&cluster.scope, &view, Format::Pretty, false));
    Ok(())
}
