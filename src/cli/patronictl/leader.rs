//! `switchover` and `failover`: by the REST API of the leader, or else by the key in etcd.

use anyhow::bail;
use serde_json::{Map, Value};

use super::members::moment;
use super::{Group, Place, ask, confirm, prompt, timestamp};
use crate::cli::cluster::say;
use crate::cli::exit::Exit;
use crate::cluster::FailoverRequest;
use crate::contract::failover::{parse_time, to_text};
use crate::contract::requests::Kind;
use crate::contract::rest::ClusterView;
use crate::ctl::list;
use crate::ctl::table::Format;

#[derive(Debug, clap::Args)]
pub struct Failover {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    /// The name of the candidate
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct Switchover {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    /// The name of the current leader
    #[arg(long, visible_alias = "primary", value_name = "NAME")]
    leader: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,
    #[arg(long)]
    force: bool,
}

pub fn failover(place: &Place, args: Failover) -> anyhow::Result<Exit> {
    let Failover { cluster_name, _group, candidate, force } = args;
    let wish = Switchover { cluster_name, _group, leader: None, candidate, scheduled: None, force };
    change(place, Kind::Failover, wish)
}

pub fn switchover(place: &Place, args: Switchover) -> anyhow::Result<Exit> {
    change(place, Kind::Switchover, args)
}

fn change(place: &Place, kind: Kind, mut wish: Switchover) -> anyhow::Result<Exit> {
    let cluster = place.cluster(wish.cluster_name.as_deref())?;
    let view = super::read(place, Some(&cluster.scope))?;
    let table = list::list(&cluster.scope, &view, Format::Pretty, false);
    say!("Current cluster topology\n{}", table.trim_end());
    let leader = view.leader.clone();
    if kind == Kind::Switchover {
        let Some(leader) = &leader else { bail!("This cluster has no leader") };
        let named = match wish.leader.take() {
            Some(named) => named,
            None if wish.force => leader.clone(),
            None if view.role(leader) == "standby_leader" => prompt("Standby Leader", Some(leader))?,
            None => prompt("Primary", Some(leader))?,
        };
        if named != *leader {
            bail!("Member {named} is not the leader of cluster {}", cluster.scope);
        }
        wish.leader = Some(named);
    }
    let candidates: Vec<&str> = view
        .members
        .iter()
        .filter(|(name, member)| Some(name) != leader.as_ref() && member.tags().failover_priority() > 0)
        .map(|(name, _)| name.as_str())
        .collect();
    if candidates.is_empty() {
        bail!("No candidates found to {} to", kind.word());
    }
    if wish.candidate.is_none() && !wish.force {
        let names: Vec<String> = candidates.iter().map(|name| format!("'{name}'")).collect();
        wish.candidate = Some(prompt(&format!("Candidate [{}]", names.join(", ")), Some(""))?);
    }
    let candidate = wish.candidate.clone().filter(|name| !name.is_empty());
    match &candidate {
        None if kind == Kind::Failover => bail!("Failover could be performed only to a specific candidate"),
        Some(name) if !candidates.contains(&name.as_str()) => {
            if Some(name) == leader.as_ref() {
                bail!("Member {name} is already the leader of cluster {}", cluster.scope);
            }
            bail!("Member {name} does not exist in cluster {} or is tagged as nofailover", cluster.scope);
        }
        Some(_) | None => {}
    }
    if let (Kind::Failover, false, Some(name)) = (kind, wish.force, &candidate)
        && is_asynchronous(&view, name)
        && !confirm(&format!("Are you sure you want to failover to the asynchronous node {name}?"))?
    {
        bail!("Aborting failover");
    }
    let at = match kind {
        Kind::Failover => None,
        Kind::Switchover => moment(wish.scheduled.as_deref(), "switchover", wish.force)?,
    };
    if at.is_some() && view.is_paused() {
        bail!("Can't schedule switchover in the paused state");
    }
    approve(kind, &cluster.scope, leader.as_deref(), at.as_deref(), wish.force)?;
    let mut body = Map::new();
    body.insert("candidate".to_owned(), candidate.clone().map_or(Value::Null, Value::from));
    if let Some(leader) = &wish.leader {
        body.insert("leader".to_owned(), leader.as_str().into());
    }
    if let Some(at) = &at {
        body.insert("scheduled_at".to_owned(), at.as_str().into());
    }
    ask(async {
        let asked = leader.as_ref().or(candidate.as_ref()).cloned().unwrap_or_default();
        let path = format!("/{}", kind.word());
        let reply = cluster.ask_member(&view, &asked, "POST", &path, Some(&body)).await;
        match reply.status {
            Some(200 | 202) => say!("{} {}", timestamp(), reply.text),
            Some(status) => {
                let unknown = reply.text.to_lowercase().contains("status unknown");
                let result = if unknown { "result unknown" } else { "failed" };
                say!("{} {result}, details: {status}, {}", kind.title(), reply.text);
                return Ok(Exit::Ok);
            }
            None => {
                say!("{} Could not {} using Patroni api, falling back to DCS", timestamp(), kind.word());
                let parse = |name: &Option<String>| name.as_deref().and_then(|name| name.parse().ok());
                let request = FailoverRequest {
                    leader: parse(&wish.leader),
                    candidate: parse(&candidate),
                    scheduled_at: at.as_deref().and_then(parse_time),
                };
                cluster.client.put(&cluster.keys.failover(), &to_text(&request), None).await?;
            }
        }
        let after = cluster.read().await?;
        say!("{}", list::list(&cluster.scope, &after, Format::Pretty, false).trim_end());
        Ok(Exit::Ok)
    })
}

/// Tells whether a member may lack what was acknowledged: others are synchronous, and it is not.
fn is_asynchronous(view: &ClusterView, name: &str) -> bool {
    let nobody = view.sync.as_ref().is_none_or(|sync| sync.leader.is_none());
    view.is_synchronous() && !nobody && !view.is_in_sync(name)
}

fn approve(
    kind: Kind,
    scope: &str,
    leader: Option<&str>,
    at: Option<&str>,
    force: bool,
) -> anyhow::Result<()> {
    if force {
        return Ok(());
    }
    let demoting = leader.map_or_else(String::new, |leader| format!(", demoting current leader {leader}"));
    let (question, aborting) = match at {
        Some(at) => (
            format!("Are you sure you want to schedule switchover of cluster {scope} at {at}{demoting}?"),
            "Aborting scheduled ",
        ),
        None => (format!("Are you sure you want to {} cluster {scope}{demoting}?", kind.word()), "Aborting "),
    };
    if !confirm(&question)? {
        bail!("{aborting}{}", kind.word());
    }
    Ok(())
}
