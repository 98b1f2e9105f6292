//! `keddah explain`: what is wrong, and why each member did what it did.

use crate::cli::cluster::{Where, say, talk};
use crate::cli::exit::Exit;
use crate::ctl::explain;

/// Tell what is wrong, the cause first, and why each member does what it does, also of one that is gone
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  keddah explain\n  keddah explain --member db1 --all")]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    /// Only this member
    #[arg(short, long, value_name = "NAME")]
    member: Option<String>,

    /// All reasons that are kept, not only the last three
    #[arg(short, long)]
    all: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let cluster = args.place.cluster(args.cluster.as_deref())?;
    talk(async {
        let view = cluster.read().await?;
        if args.member.is_none() {
            let heard = cluster.hear(&view).await;
            say!("{}\n", explain::causes(&view, &heard));
        }
        say!("{}", explain::explain(&view, args.member.as_deref(), args.all));
        Ok(Exit::Ok)
    })
}

#[cfg(test)]
mod tests {
    use crate::agent::decide::Reason;
    use crate::ctl::causes::{BLOCKING, CONSEQUENCES, FAULTS, LEADING, LEAVING, TAKING};

    #[test]
    fn every_code_that_is_looked_for_is_a_reason() {
        let known = |code: &&str| Reason::ALL.iter().any(|(name, _)| name == code);
        let lists = [LEADING, TAKING, LEAVING, BLOCKING, FAULTS, CONSEQUENCES];
        let strange: Vec<&str> = lists.concat().into_iter().filter(|code| !known(code)).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
}
