//! What is asked of single members: restart, reload, reinit, flush.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Map, Value};

use super::{Group, Place, ask, confirm, prompt, timestamp};
use crate::cli::cluster::say;
use crate::cli::exit::Exit;
use crate::cluster::PgVersion;
use crate::contract::failover::{format_time, parse_time};
use crate::contract::rest::ClusterView;
use crate::ctl::member::Reply;
use crate::ctl::table::Format;
use crate::ctl::{Cluster, CtlError, list};

/// How often a member is asked whether its new copy is made.
const POLL: Duration = Duration::from_secs(2);

/// Roles by which members are chosen.
pub const ROLES: [&str; 7] =
    ["leader", "primary", "standby_leader", "standby-leader", "replica", "standby", "any"];

#[derive(Debug, clap::Args)]
pub struct Restart {
    cluster_name: String,
    member_names: Vec<String>,
    #[command(flatten)]
    _group: Group,
    /// Restart only members with this role
    #[arg(short, long, value_parser = ROLES, default_value = "any")]
    role: String,
    /// Restart a single member only
    #[arg(long)]
    any: bool,
    /// Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 15.2)
    #[arg(long, value_name = "VERSION")]
    pg_version: Option<String>,
    /// Restart if pending
    #[arg(long)]
    pending: bool,
    /// Return error and fail over if necessary when restarting takes longer than this
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct Reload {
    cluster_name: String,
    member_names: Vec<String>,
    #[command(flatten)]
    _group: Group,
    /// Reload only members with this role
    #[arg(short, long, value_parser = ROLES, default_value = "any")]
    role: String,
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct Reinit {
    cluster_name: String,
    member_names: Vec<String>,
    #[command(flatten)]
    _group: Group,
    #[arg(long)]
    force: bool,
    /// Get basebackup from leader
    #[arg(long)]
    from_leader: bool,
    /// Wait until reinitialization completes
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
pub struct Flush {
    cluster_name: String,
    /// Members, and last what is discarded: restart or switchover
    #[arg(required = true, value_name = "[MEMBER]... TARGET")]
    words: Vec<String>,
    #[command(flatten)]
    _group: Group,
    /// Flush only members with this role
    #[arg(short, long, value_parser = ROLES, default_value = "any")]
    role: String,
    #[arg(long)]
    force: bool,
}

impl Reinit {
    pub fn of(cluster: &str, members: Vec<String>, from_leader: bool, wait: bool, force: bool) -> Reinit {
        Reinit {
            cluster_name: cluster.to_owned(),
            member_names: members,
            _group: Group::default(),
            force,
            from_leader,
            wait,
        }
    }
}

impl Flush {
    /// `words` are the members, and last what is discarded.
    pub fn of(cluster: &str, words: Vec<String>, force: bool) -> Flush {
        Flush {
            cluster_name: cluster.to_owned(),
            words,
            _group: Group::default(),
            role: "any".to_owned(),
            force,
        }
    }
}

/// Tells whether a member has the role.
pub fn has_role(view: &ClusterView, name: &str, role: &str) -> bool {
    let leads = view.leader.as_deref() == Some(name);
    match role {
        "any" => true,
        "leader" => leads,
        "replica" | "standby" => !leads,
        "primary" => leads && view.role(name) != "standby_leader",
        _ => leads && view.role(name) == "standby_leader",
    }
}

/// Chooses members, and asks whether it is meant.
fn choose(
    cluster: &Cluster,
    view: &ClusterView,
    names: &[String],
    role: &str,
    force: bool,
    action: &str,
) -> anyhow::Result<Vec<String>> {
    let candidates: Vec<String> =
        view.members.iter().map(|(name, _)| name.clone()).filter(|name| has_role(view, name, role)).collect();
    if names.is_empty() && candidates.is_empty() {
        bail!("{} cluster doesn't have any members", cluster.scope);
    }
    say!("{}", list::list(&cluster.scope, view, Format::Pretty, false).trim_end());
    let mut chosen: Vec<String> = if names.is_empty() {
        if action == "reinitialize" { Vec::new() } else { candidates.clone() }
    } else {
        let known: Vec<String> = candidates.iter().filter(|name| names.contains(name)).cloned().collect();
        if known.is_empty() {
            bail!("No {role} among provided members");
        }
        known
    };
    if chosen.is_empty() && !force {
        let question = format!("Which member do you want to {action} [{}]?", candidates.join(", "));
        chosen = vec![prompt(&question, Some(""))?];
    }
    if let Some(stranger) = chosen.iter().find(|name| !candidates.contains(name)) {
        bail!("{stranger} is not a member of cluster");
    }
    Ok(chosen)
}

fn approve(members: &[String], action: &str, force: bool) -> anyhow::Result<()> {
    let question = format!("Are you sure you want to {action} members {}?", members.join(", "));
    if !force && !confirm(&question)? {
        bail!("Aborted {action}");
    }
    Ok(())
}

/// Tells what a member answered; returns whether it was not a refusal.
fn told(reply: &Reply, action: &str) -> bool {
    let done = reply.status.is_some_and(|status| status < 400);
    if done {
        say!("Success: {action} for member {}", reply.member);
    } else {
        failed(reply, action);
    }
    done
}

fn failed(reply: &Reply, action: &str) {
    let status = reply.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
    say!("Failed: {action} for member {}, status code={status}, ({})", reply.member, reply.text);
}

pub fn restart(place: &Place, args: &Restart) -> anyhow::Result<Exit> {
    let cluster = place.cluster(Some(&args.cluster_name))?;
    let view = super::read(place, Some(&cluster.scope))?;
    let mut members = choose(&cluster, &view, &args.member_names, &args.role, args.force, "restart")?;
    let at = moment(args.scheduled.as_deref(), "restart", args.force)?;
    let mut content = Map::new();
    if args.pending {
        content.insert("restart_pending".to_owned(), true.into());
        if at.is_none() {
            members.retain(|name| view.member_named(name).is_some_and(|member| member.pending_restart()));
        }
    }
    if args.any {
        members.truncate(1);
    }
    approve(&members, "restart", args.force)?;
    let version = match &args.pg_version {
        None if !args.force => {
            prompt("Restart if the PostgreSQL version is less than provided (e.g. 15.2) ", Some(""))?
        }
        version => version.clone().unwrap_or_default(),
    };
    if !version.is_empty() {
        if version.parse::<PgVersion>().is_err() {
            bail!("Invalid PostgreSQL version: {version}");
        }
        content.insert("postgres_version".to_owned(), version.into());
    }
    if let Some(at) = &at {
        if view.is_paused() {
            bail!("Can't schedule restart in the paused state");
        }
        content.insert("schedule".to_owned(), at.as_str().into());
    }
    if let Some(timeout) = &args.timeout {
        content.insert("timeout".to_owned(), timeout.as_str().into());
    }
    ask(async {
        for member in members {
            let scheduled =
                view.member_named(&member).is_some_and(|it| it.document().get("scheduled_restart").is_some());
            if at.is_some() && args.force && scheduled {
                cluster.ask_member(&view, &member, "DELETE", "/restart", None).await;
            }
            let reply = cluster.ask_member(&view, &member, "POST", "/restart", Some(&content)).await;
            match reply.status {
                Some(200) => say!("Success: restart on member {member}"),
                Some(202) => say!("Success: restart scheduled on member {member}"),
                Some(409) => say!("Failed: another restart is already scheduled on member {member}"),
                _ => failed(&reply, "restart"),
            }
        }
        Ok(Exit::Ok)
    })
}

/// Reads the time at which something is to happen; None: at once. Without an offset it is this host's time.
pub fn moment(text: Option<&str>, what: &str, force: bool) -> anyhow::Result<Option<String>> {
    let asked;
    let text = match text {
        None if !force => {
            asked =
                prompt(&format!("When should the {what} take place (e.g. 2026-01-31T12:00) "), Some("now"))?;
            Some(asked.as_str())
        }
        text => text,
    };
    let Some(text) = text.filter(|text| !text.is_empty() && *text != "now") else { return Ok(None) };
    if let Some(at) = parse_time(text) {
        return Ok(Some(format_time(at)));
    }
    let local: Option<jiff::civil::DateTime> = text.parse().ok();
    let zoned = local.and_then(|local| local.to_zoned(jiff::tz::TimeZone::system()).ok());
    match zoned {
        Some(zoned) => Ok(Some(zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())),
        None => bail!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        ),
    }
}

pub fn reload(place: &Place, args: &Reload) -> anyhow::Result<Exit> {
    let cluster = place.cluster(Some(&args.cluster_name))?;
    let view = super::read(place, Some(&cluster.scope))?;
    let members = choose(&cluster, &view, &args.member_names, &args.role, args.force, "reload")?;
    approve(&members, "reload", args.force)?;
    let loop_wait = view.config.get("loop_wait").and_then(Value::as_u64).unwrap_or(10);
    ask(async {
        for member in members {
            let reply = cluster.ask_member(&view, &member, "POST", "/reload", Some(&Map::new())).await;
            match reply.status {
                Some(200) => say!("No changes to apply on member {member}"),
                Some(202) => say!(
                    "Reload request received for member {member} and will be processed within {loop_wait} seconds"
                ),
                _ => failed(&reply, "reload"),
            }
        }
        Ok(Exit::Ok)
    })
}

pub fn reinit(place: &Place, args: &Reinit) -> anyhow::Result<Exit> {
    let cluster = place.cluster(Some(&args.cluster_name))?;
    let view = super::read(place, Some(&cluster.scope))?;
    let members = choose(&cluster, &view, &args.member_names, "replica", args.force, "reinitialize")?;
    approve(&members, "reinitialize", args.force)?;
    ask(async {
        let mut waiting = Vec::new();
        for member in members {
            let mut body = Map::new();
            body.insert("force".to_owned(), args.force.into());
            body.insert("from_leader".to_owned(), args.from_leader.into());
            let mut reply = cluster.ask_member(&view, &member, "POST", "/reinitialize", Some(&body)).await;
            if reply.text.ends_with(" already in progress") && !args.force {
                failed(&reply, "reinitialize");
                let again = confirm("Do you want to cancel it and reinitialize anyway?");
                if !again.map_err(|error| CtlError::Refused(error.to_string()))? {
                    continue;
                }
                body.insert("force".to_owned(), true.into());
                reply = cluster.ask_member(&view, &member, "POST", "/reinitialize", Some(&body)).await;
            }
            if told(&reply, "reinitialize") && args.wait {
                waiting.push(member);
            }
        }
        if !waiting.is_empty() {
            say!("Waiting for reinitialize to complete on: {}", waiting.join(", "));
        }
        while !waiting.is_empty() {
            tokio::time::sleep(POLL).await;
            let mut left = Vec::new();
            for member in waiting {
                let reply = cluster.ask_member(&view, &member, "GET", "/patroni", None).await;
                let document: Option<Value> = serde_json::from_str(&reply.text).ok();
                let state = document.as_ref().and_then(|document| document.get("state")?.as_str());
                match state {
                    Some("running") => say!("Reinitialize is completed on: {member}"),
                    _ => left.push(member),
                }
            }
            waiting = left;
        }
        Ok(Exit::Ok)
    })
}

pub fn flush(place: &Place, args: &Flush) -> anyhow::Result<Exit> {
    let cluster = place.cluster(Some(&args.cluster_name))?;
    let view = super::read(place, Some(&cluster.scope))?;
    let Some((target, names)) = args.words.split_last() else { bail!("Missing argument 'TARGET'.") };
    match target.as_str() {
        "restart" => {
            let members = choose(&cluster, &view, names, &args.role, args.force, "flush")?;
            approve(&members, "flush", args.force)?;
            ask(async {
                for member in members {
                    let known = view.member_named(&member);
                    if known.is_some_and(|member| member.document().get("scheduled_restart").is_some()) {
                        let reply = cluster.ask_member(&view, &member, "DELETE", "/restart", None).await;
                        told(&reply, "flush scheduled restart");
                    } else {
                        say!("No scheduled restart for member {member}");
                    }
                }
                Ok(Exit::Ok)
            })
        }
        "switchover" => {
            if view.failover.as_ref().is_none_or(|request| request.scheduled_at.is_none()) {
                say!("No pending scheduled switchover");
                return Ok(Exit::Ok);
            }
            ask(async {
                let mut names: Vec<&String> = view.members.iter().map(|(name, _)| name).collect();
                names.sort_by_key(|name| view.leader.as_ref() != Some(name));
                for member in names {
                    let reply = cluster.ask_member(&view, member, "DELETE", "/switchover", None).await;
                    match reply.status {
                        Some(200) => say!("Success: {}", reply.text),
                        Some(404) => say!("Failed: {}", reply.text),
                        Some(status) => {
                            say!("Failed: member={member}, status_code={status}, ({})", reply.text);
                            continue;
                        }
                        None => continue,
                    }
                    return Ok(Exit::Ok);
                }
                say!("{} Could not find any accessible member of cluster {}", timestamp(), cluster.scope);
                cluster.client.put(&cluster.keys.failover(), crate::contract::failover::SPENT, None).await?;
                Ok(Exit::Ok)
            })
        }
        other => bail!("Invalid value for 'TARGET': '{other}' is not one of 'restart', 'switchover'."),
    }
}
