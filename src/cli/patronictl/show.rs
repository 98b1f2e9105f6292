//! What only looks: list, topology, history, show-config, dsn, query, version.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::Value;

use super::members::{ROLES, has_role};
use super::{Group, Output, Place, Watching, timestamp};
use crate::cli::cluster::say;
use crate::cli::exit::Exit;
use crate::contract::member::SPOKEN_VERSION;
use crate::contract::rest::ClusterView;
use crate::ctl::table::{self, Format};
use crate::ctl::{list as lists, topology as trees};
use crate::postgres::query::{Host, Target, connect};
use crate::sys::files;
use crate::sys::secret::Secret;

#[derive(Debug, clap::Args)]
pub struct Named {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
}

#[derive(Debug, clap::Args)]
pub struct List {
    cluster_names: Vec<String>,
    #[command(flatten)]
    _group: Group,
    /// Show some extra information
    #[arg(short, long)]
    extended: bool,
    /// Print timestamp
    #[arg(short, long)]
    timestamp: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    watching: Watching,
}

#[derive(Debug, clap::Args)]
pub struct Topology {
    cluster_names: Vec<String>,
    #[command(flatten)]
    _group: Group,
    #[command(flatten)]
    watching: Watching,
}

#[derive(Debug, clap::Args)]
pub struct History {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct Dsn {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    /// Give a dsn of any member with this role
    #[arg(short, long, value_parser = ROLES)]
    role: Option<String>,
    /// Generate a dsn for this member
    #[arg(short, long, conflicts_with = "role")]
    member: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Query {
    cluster_name: Option<String>,
    #[command(flatten)]
    _group: Group,
    /// The SQL commands to execute
    #[arg(short, long, conflicts_with = "file")]
    command: Option<String>,
    /// Database user name
    #[arg(short = 'U', long)]
    username: Option<String>,
    /// Database name to connect to
    #[arg(short, long)]
    dbname: Option<String>,
    #[command(flatten)]
    how: Asking,
    #[command(flatten)]
    watching: Watching,
}

/// What is asked of a member's Postgres, in flags that do not stand in the way of ours.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// The SQL commands to execute
    #[arg(long, conflicts_with = "file")]
    command: Option<String>,
    /// Database user name
    #[arg(short = 'U', long)]
    username: Option<String>,
    /// Database name to connect to
    #[arg(short, long)]
    dbname: Option<String>,
    #[command(flatten)]
    how: Asking,
}

/// How a question is asked.
#[derive(Debug, clap::Args)]
pub struct Asking {
    /// Output format (pretty, tsv, json, yaml)
    #[arg(long, default_value = "tsv")]
    format: Format,
    /// Execute the SQL commands from this file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ask for the password
    #[arg(long)]
    password: bool,
    /// The role of the queried member
    #[arg(short, long, value_parser = ROLES)]
    role: Option<String>,
    /// Query a specific member
    #[arg(short, long, conflicts_with = "role")]
    member: Option<String>,
    /// The column delimiter
    #[arg(long, default_value = "\t")]
    delimiter: String,
}

#[derive(Debug, clap::Args)]
pub struct Version {
    cluster_name: Option<String>,
    member_names: Vec<String>,
    #[command(flatten)]
    _group: Group,
}

/// Repeats `look` as often as asked for.
fn watch(watching: Watching, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Exit> {
    let Some(every) = watching.every() else {
        look()?;
        return Ok(Exit::Ok);
    };
    loop {
        // Clears the screen, as a terminal understands it.
        print!("\x1b[2J\x1b[H");
        look()?;
        std::thread::sleep(every);
    }
}

fn each(names: &[String], mut look: impl FnMut(Option<&str>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if names.is_empty() {
        return look(None);
    }
    names.iter().try_for_each(|name| look(Some(name)))
}

pub fn list(place: &Place, args: &List) -> anyhow::Result<Exit> {
    watch(args.watching, || {
        if args.timestamp {
            say!("{}", timestamp());
        }
        each(&args.cluster_names, |name| {
            let scope = place.cluster(name)?.scope;
            let view = super::read(place, name)?;
            say!("{}", lists::list(&scope, &view, args.output.format, args.extended).trim_end());
            Ok(())
        })
    })
}

pub fn topology(place: &Place, args: &Topology) -> anyhow::Result<Exit> {
    tree(place, &args.cluster_names, args.watching)
}

/// Writes members below whom they follow.
pub fn tree(place: &Place, names: &[String], watching: Watching) -> anyhow::Result<Exit> {
    watch(watching, || {
        each(names, |name| {
            let scope = place.cluster(name)?.scope;
            let view = super::read(place, name)?;
            say!("{}", trees::topology(&scope, &view).trim_end());
            Ok(())
        })
    })
}

pub fn history(place: &Place, args: &History) -> anyhow::Result<Exit> {
    let view = super::read(place, args.cluster_name.as_deref())?;
    say!("{}", lists::history(&view, args.output.format).trim_end());
    Ok(Exit::Ok)
}

pub fn config(place: &Place, args: &Named) -> anyhow::Result<Exit> {
    let view = super::read(place, args.cluster_name.as_deref())?;
    say!("{}", table::yaml(&Value::Object(view.config)));
    Ok(Exit::Ok)
}

/// Chooses a member by name or role; the leader where neither is given.
fn member<'a>(view: &'a ClusterView, role: Option<&str>, name: Option<&str>) -> anyhow::Result<&'a str> {
    let role = role.unwrap_or(if name.is_some() { "any" } else { "leader" });
    let found = view
        .members
        .iter()
        .map(|(name, _)| name.as_str())
        .find(|found| name.is_none_or(|name| name == *found) && has_role(view, found, role));
    found.context("Can not find a suitable member")
}

pub fn dsn(place: &Place, args: &Dsn) -> anyhow::Result<Exit> {
    let view = super::read(place, args.cluster_name.as_deref())?;
    tell_address(&view, args.role.as_deref(), args.member.as_deref())
}

/// Writes host and port of a member of the configured cluster.
pub fn address(place: &Place, role: Option<&str>, name: Option<&str>) -> anyhow::Result<Exit> {
    tell_address(&super::read(place, None)?, role, name)
}

fn tell_address(view: &ClusterView, role: Option<&str>, name: Option<&str>) -> anyhow::Result<Exit> {
    let name = member(view, role, name)?;
    let address = view.member_named(name).and_then(|member| member.host_port());
    let (host, port) = address.context("Can not find a suitable member")?;
    say!("host={host} port={port}");
    Ok(Exit::Ok)
}

pub fn query(place: &Place, args: Query) -> anyhow::Result<Exit> {
    let Query { cluster_name, _group, command, username, dbname, how, watching } = args;
    let question = Question { command, username, dbname, how };
    let password = question.password()?;
    watch(watching, || question.ask(place, cluster_name.as_deref(), password.as_ref()))
}

/// Asks once.
pub fn ask(place: &Place, name: Option<&str>, question: &Question) -> anyhow::Result<Exit> {
    question.ask(place, name, question.password()?.as_ref())?;
    Ok(Exit::Ok)
}

impl Question {
    fn text(&self) -> anyhow::Result<String> {
        match (&self.command, &self.how.file) {
            (Some(command), _) => Ok(command.clone()),
            (None, Some(path)) => Ok(String::from_utf8_lossy(&files::read(path)?).into_owned()),
            (None, None) => bail!("You need to specify either --command or --file"),
        }
    }

    fn password(&self) -> anyhow::Result<Option<Secret>> {
        match self.how.password {
            true => super::prompt_unseen("Password").map(Some),
            false => Ok(std::env::var("PGPASSWORD").ok().map(Secret::new)),
        }
    }

    fn ask(&self, place: &Place, name: Option<&str>, password: Option<&Secret>) -> anyhow::Result<()> {
        let text = self.text()?;
        let view = super::read(place, name)?;
        let member = member(&view, self.how.role.as_deref(), self.how.member.as_deref())?;
        let address = view.member_named(member).and_then(|member| member.host_port());
        let (host, port) = address.context("Can not find a suitable member")?;
        let user = self.username.clone().or_else(|| std::env::var("PGUSER").ok());
        let target = Target {
            host: Host::Name(host),
            port,
            user: user.unwrap_or_else(|| "postgres".to_owned()),
            password: password.cloned(),
            database: self.dbname.clone().unwrap_or_else(|| "postgres".to_owned()),
            options: Vec::new(),
            application_name: "patronictl".to_owned(),
        };
        let runtime = crate::cli::runtime()?;
        let answered = runtime.block_on(async { connect(&target).await?.answer_to(&text).await });
        let (titles, rows) = answered.map_err(|error| anyhow::anyhow!(crate::sys::chain(&error)))?;
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let answer = table::answer(&titles, &rows, self.how.format, &self.how.delimiter);
        if !answer.is_empty() {
            say!("{}", answer.trim_end());
        }
        Ok(())
    }
}

pub fn version(place: &Place, args: &Version) -> anyhow::Result<Exit> {
    say!("patronictl version {SPOKEN_VERSION}");
    let Some(name) = args.cluster_name.as_deref() else { return Ok(Exit::Ok) };
    say!("");
    let view = super::read(place, Some(name))?;
    let cluster = place.cluster(Some(name))?;
    super::ask(async {
        for (member, _) in &view.members {
            if !args.member_names.is_empty() && !args.member_names.contains(member) {
                continue;
            }
            let reply = cluster.ask_member(&view, member, "GET", "/patroni", None).await;
            let document: Value = serde_json::from_str(&reply.text).unwrap_or_default();
            let Some(version) = document.pointer("/patroni/version").and_then(Value::as_str) else {
                say!("{member}: failed to get version: {}", reply.text);
                continue;
            };
            let server = document.get("server_version").and_then(Value::as_u64).filter(|number| *number > 0);
            let server =
                server.map_or_else(String::new, |n| format!(" PostgreSQL {}.{}", n / 10_000, n % 10_000));
            say!("{member}: Patroni {version}{server}");
        }
        Ok(Exit::Ok)
    })
}
