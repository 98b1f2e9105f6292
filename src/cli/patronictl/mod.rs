//! The binary called as `patronictl`: that tool's commands, flags, words and exit codes.
//!
//! Start at [`run`]. A file per part: [`show`] looks, [`members`] asks single members, [`leader`] moves the leadership,
//! [`config`] changes what the whole cluster shares.

pub mod config;
pub mod leader;
pub mod members;
pub mod show;
pub mod standby;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::cli::cluster::{Where, address_of, talk};
use crate::cli::exit::Exit;
use crate::contract::rest::ClusterView;
use crate::ctl::table::Format;
use crate::ctl::{Address, Cluster, CtlError};
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;
use crate::sys::{files, terminal};

/// Manage clusters of Patroni's members and of Keddah's.
#[derive(Debug, Parser)]
#[command(name = "patronictl", disable_version_flag = true, disable_help_subcommand = true)]
struct Tool {
    /// Configuration file
    #[arg(short = 'c', long, value_name = "FILE", env = "PATRONICTL_CONFIG_FILE")]
    config_file: Option<PathBuf>,

    /// Where etcd is: etcd3://HOST:PORT
    #[arg(short = 'd', long = "dcs-url", visible_alias = "dcs", value_name = "URL", env = "DCS_URL")]
    dcs_url: Option<String>,

    /// Do not check the members' certificates
    #[arg(short = 'k', long)]
    insecure: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Demote cluster to a standby cluster
    DemoteCluster(standby::Demote),
    /// Generate a dsn for the provided member, defaults to a dsn of the leader
    Dsn(show::Dsn),
    /// Edit cluster configuration
    EditConfig(config::EditConfig),
    /// Failover to a replica
    Failover(leader::Failover),
    /// Discard scheduled events
    Flush(members::Flush),
    /// Show the history of failovers/switchovers
    History(show::History),
    /// List the members of clusters
    List(show::List),
    /// Disable auto failover
    Pause(config::Pause),
    /// Promote cluster, make it run standalone
    PromoteCluster(standby::Promote),
    /// Query a PostgreSQL member
    Query(show::Query),
    /// Reinitialize cluster member
    Reinit(members::Reinit),
    /// Reload cluster member configuration
    Reload(members::Reload),
    /// Remove cluster from DCS
    Remove(config::Remove),
    /// Restart cluster member
    Restart(members::Restart),
    /// Resume auto failover
    Resume(config::Pause),
    /// Show cluster configuration
    ShowConfig(show::Named),
    /// Switchover to a replica
    Switchover(leader::Switchover),
    /// Print the topology of clusters
    Topology(show::Topology),
    /// Output version of this command or of running members
    Version(show::Version),
}

/// Which cluster a command is about. Looked up when a command needs it: some do not.
#[derive(Debug, Clone)]
pub enum Place {
    /// By Patroni's configuration file, the environment and the tool's flags.
    Flags {
        file: Option<PathBuf>,
        url: Option<String>,
        insecure: bool,
    },
    Known(Box<Address>),
}

impl Place {
    /// Returns the place that the flags of a command of our own name.
    ///
    /// # Errors
    /// They name none.
    pub fn of(place: &Where, named: Option<&str>) -> anyhow::Result<Place> {
        Ok(Place::Known(Box::new(place.address(named)?)))
    }

    /// Returns the cluster of this name, or the configured one.
    ///
    /// # Errors
    /// There is neither, the configuration or the certificates cannot be used.
    pub fn cluster(&self, name: Option<&str>) -> anyhow::Result<Cluster> {
        let mut address = match self {
            Place::Known(address) => Address::clone(address),
            Place::Flags { file, url, insecure } => configured(file.as_deref(), url.as_deref(), *insecure)?,
        };
        if let Some(name) = name {
            name.clone_into(&mut address.scope);
        }
        if address.scope.is_empty() {
            bail!("Missing argument 'CLUSTER_NAME'.");
        }
        Ok(Cluster::at(address)?)
    }
}

/// Runs the command that the arguments name.
pub fn run() -> Exit {
    let Tool { config_file, dcs_url, insecure, command } = Tool::parse();
    let place = Place::Flags { file: config_file, url: dcs_url, insecure };
    dispatch(&place, command).unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        Exit::Input
    })
}

fn dispatch(place: &Place, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::DemoteCluster(args) => standby::demote(place, args),
        Command::Dsn(args) => show::dsn(place, &args),
        Command::EditConfig(args) => config::edit(place, &args),
        Command::Failover(args) => leader::failover(place, args),
        Command::Flush(args) => members::flush(place, &args),
        Command::History(args) => show::history(place, &args),
        Command::List(args) => show::list(place, &args),
        Command::Pause(args) => config::pause(place, &args, true),
        Command::PromoteCluster(args) => standby::promote(place, &args),
        Command::Query(args) => show::query(place, args),
        Command::Reinit(args) => members::reinit(place, &args),
        Command::Reload(args) => members::reload(place, &args),
        Command::Remove(args) => config::remove(place, &args),
        Command::Restart(args) => members::restart(place, &args),
        Command::Resume(args) => config::pause(place, &args, false),
        Command::ShowConfig(args) => show::config(place, &args),
        Command::Switchover(args) => leader::switchover(place, args),
        Command::Topology(args) => show::topology(place, &args),
        Command::Version(args) => show::version(place, &args),
    }
}

/// Reads the configuration; the environment alone may be enough.
fn configured(file: Option<&Path>, url: Option<&str>, insecure: bool) -> anyhow::Result<Address> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let usual = home.map(|home| home.join(".config/patroni/patronictl.yaml"));
    let path = file.map(Path::to_owned).or(usual).unwrap_or_default();
    let text = match files::read_if_there(&path).with_context(|| format!("cannot read {}", path.display()))? {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None if file.is_some() => {
            bail!("Provided config file {} not existing or no read rights.", path.display())
        }
        None => String::new(),
    };
    let (endpoint, namespace) = url.map(etcd_of).unzip();
    let mut address = address_of(&path, &text, endpoint.as_deref())?;
    if let Some(namespace) = namespace.flatten() {
        address.namespace = namespace;
    }
    if insecure {
        let ClientFiles { anchors, certificate, key, key_password, check: _ } = address.rest_tls;
        address.rest_tls = ClientFiles {
            key_password,
            ..ClientFiles::for_members(anchors.as_ref(), certificate.as_ref(), key.as_ref(), true)
        };
    }
    Ok(address)
}

/// Reads `etcd3://HOST:PORT/NAMESPACE`: only what it says differs from Patroni's defaults.
fn etcd_of(url: &str) -> (String, Option<String>) {
    let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
    let (place, namespace) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        Some(_) | None => (place, ""),
    };
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let namespace = Some(namespace.trim()).filter(|text| !text.trim_matches('/').is_empty());
    (format!("{}:{}", or(host, "localhost"), or(port, "2379")), namespace.map(str::to_owned))
}

/// How output is written.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Output {
    /// Output format (pretty, tsv, json, yaml)
    #[arg(short, long = "format", value_name = "FORMAT", default_value = "pretty")]
    pub format: Format,
}

/// How often output is repeated.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Watching {
    /// Auto update the screen every SECONDS
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    watch: Option<Duration>,

    /// Auto update the screen every 2 seconds
    #[arg(short = 'W')]
    watch_2: bool,
}

impl Watching {
    /// Returns the time between two looks; None: one look is enough.
    pub fn every(self) -> Option<Duration> {
        self.watch.or(self.watch_2.then_some(Duration::from_secs(2)))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|it| !it.is_zero()).ok_or_else(|| "expected seconds, e.g. 2 or 0.5".to_owned())
}

/// Which citus group; there are none here.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Group {
    /// Citus group
    #[arg(long = "group", value_name = "NUMBER", hide = true)]
    _group: Option<u32>,
}

/// Asks a person, or whoever feeds standard input.
///
/// # Errors
/// Nobody answers.
pub fn prompt(question: &str, default: Option<&str>) -> anyhow::Result<String> {
    match default {
        Some(default) => answer(&format!("{question} [{default}]"), Some(default)),
        None => answer(question, None),
    }
}

fn answer(question: &str, default: Option<&str>) -> anyhow::Result<String> {
    use std::io::{BufRead, Write};
    print!("{question}: ");
    std::io::stdout().flush().ok();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer).context("no answer could be read")?;
    let answer = answer.trim();
    match (read, answer, default) {
        (0, _, _) | (_, "", None) => bail!("Aborted!"),
        (_, "", Some(default)) => Ok(default.to_owned()),
        (_, answer, _) => Ok(answer.to_owned()),
    }
}

/// Asks for what nobody shall see.
///
/// # Errors
/// Nobody answers.
pub fn prompt_unseen(question: &str) -> anyhow::Result<Secret> {
    use std::io::Write;
    print!("{question}: ");
    std::io::stdout().flush().ok();
    let answer = terminal::read_unseen_line().context("no answer could be read")?;
    Ok(Secret::new(answer.trim_end_matches(['\n', '\r'])))
}

/// Asks for yes or no.
///
/// # Errors
/// Nobody answers.
pub fn confirm(question: &str) -> anyhow::Result<bool> {
    let answer = answer(&format!("{question} [y/N]"), Some(""))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Reads a cluster's keys, over a connection of its own: one belongs to the runtime that made it.
///
/// # Errors
/// etcd did not answer.
pub fn read(place: &Place, name: Option<&str>) -> anyhow::Result<ClusterView> {
    let cluster = place.cluster(name)?;
    let runtime = crate::cli::runtime().context("the runtime could not be made")?;
    runtime.block_on(cluster.read()).map_err(|error| anyhow::anyhow!(crate::sys::chain(&error)))
}

/// Runs a request that may be refused.
///
/// # Errors
/// etcd did not answer, or it is refused.
pub fn ask<F>(work: F) -> anyhow::Result<Exit>
where
    F: Future<Output = Result<Exit, CtlError>>,
{
    talk(work)
}

/// Writes the time as the tool does in front of what has happened.
pub fn timestamp() -> String {
    let now = crate::sys::clock::wall().to_zoned(jiff::tz::TimeZone::system());
    now.strftime("%Y-%m-%d %H:%M:%S.%5f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn what_an_address_does_not_say_is_as_usual() {
        for (url, endpoint, namespace) in [
            ("etcd3://random.com:2399/custom", "random.com:2399", Some("/custom")),
            ("etcd://test", "test:2379", None),
            ("10.0.0.1:2379/", "10.0.0.1:2379", None),
            ("//:2399", "localhost:2399", None),
            ("etcd3://[::1]", "[::1]:2379", None),
        ] {
            assert_eq!(etcd_of(url), (endpoint.to_owned(), namespace.map(str::to_owned)), "{url}");
        }
    }

    #[test]
    fn the_commands_are_patronis() {
        Tool::command().debug_assert();
        for line in [
            "patronictl pause batman",
            "patronictl switchover batman --primary a --candidate b --scheduled now --force",
            "patronictl restart batman a --force",
            "patronictl reinit batman a --force --from-leader --wait",
            "patronictl edit-config batman -s ttl=20 -p work_mem=5MB --force",
            "patronictl edit-config -p 'x=6' --force batman",
            "patronictl -c f.yml -k list -e -t -f json a b",
            "patronictl flush batman a b restart --force",
            "patronictl flush batman switchover",
            "patronictl edit-config batman",
            "patronictl query batman -c 'select 1' -r standby -w 0.5",
            "patronictl version",
        ] {
            let words = crate::contract::methods::split_words(line);
            Tool::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
