//! `keddah restart`: restart Postgres of members.

use serde_json::Map;

use crate::cli::cluster::{Where, confirm, say, say_refused, talk};
use crate::cli::exit::Exit;

/// Restart Postgres of members, replicas first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  keddah restart --member db2 --force\n  keddah restart --pending --force"
)]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Only this member; may be repeated
    #[arg(short, long, value_name = "NAME")]
    member: Vec<String>,

    /// Only members with this role: primary or replica
    #[arg(short, long, value_name = "ROLE", value_parser = ["primary", "replica"])]
    role: Option<String>,

    /// Only members on which a changed parameter waits for it
    #[arg(long)]
    pending: bool,

    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    if !confirm("Are you sure you want to restart these members?", args.force)? {
        eprintln!("nothing was done");
        return Ok(Exit::Input);
    }
    talk(async {
        let view = cluster.read().await?;
        let wanted = |name: &str| {
            let is_leader = view.leader.as_deref() == Some(name);
            let role = args.role.as_deref().is_none_or(|role| (role == "primary") == is_leader);
            let pending = !args.pending || view.member_named(name).is_some_and(|m| m.pending_restart());
            role && pending
        };
        let mut failed = false;
        for member in cluster.choose(&view, &args.member, wanted)? {
            let reply = cluster.post(&view, &member, "/restart", &Map::new()).await;
            match reply.status {
                Some(200) => say!("Success: restart on member {member}"),
                _ => {
                    failed = true;
                    say_refused("restart", &reply);
                    // One that does not come back is reason enough to leave the next one alone.
                    break;
                }
            }
        }
        Ok(if failed { Exit::PutBack } else { Exit::Ok })
    })
}
