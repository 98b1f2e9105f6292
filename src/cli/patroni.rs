//! The binary called as `patroni`: the node agent, with that program's flags.

use std::path::PathBuf;

use clap::Parser;

use crate::cli::exit::Exit;
use crate::contract::member::SPOKEN_VERSION;
use crate::sys::files::{self, Attributes};

/// Run the node agent of one Postgres, as Patroni does.
#[derive(Debug, Parser)]
#[command(name = "patroni", disable_version_flag = true)]
struct Args {
    /// Print the version of Patroni that is spoken
    #[arg(long)]
    version: bool,

    /// Read the configuration, say what is wrong with it, and end
    #[arg(long)]
    validate_config: bool,

    /// Only tell whether this program could be the agent: read the file and etcd, ask the guard for its version
    #[arg(long, conflicts_with = "validate_config")]
    check: bool,

    /// Print a configuration to begin with, made for this host, into CONFIG or on standard output
    #[arg(long, conflicts_with = "validate_config")]
    generate_config: bool,

    /// The same without looking at a running Postgres
    #[arg(long, conflicts_with = "validate_config")]
    generate_sample_config: bool,

    /// Accepted and without effect: unused ports are not asked about
    #[arg(long, short = 'p', requires = "validate_config")]
    print: bool,

    /// Accepted and without effect: a port in use is no error of the file
    #[arg(long, short = 'i', requires = "validate_config")]
    ignore_listen_port: bool,

    /// The configuration file
    config: Option<PathBuf>,
}

/// Runs what the arguments ask for.
pub fn run() -> Exit {
    let args = Args::parse();
    if args.version {
        println!("patroni {SPOKEN_VERSION}");
        return Exit::Ok;
    }
    let done = if args.generate_config || args.generate_sample_config {
        sample(args.config.as_deref())
    } else {
        with_file(args.config, |path| match (args.validate_config, args.check) {
            (true, _) => Ok(crate::cli::agent::validate(path)),
            (false, true) => crate::cli::agent::examine(path),
            (false, false) => crate::cli::agent::start(path),
        })
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        Exit::Input
    })
}

fn with_file(
    config: Option<PathBuf>,
    work: impl FnOnce(&std::path::Path) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    match config {
        Some(path) => work(&path),
        None => anyhow::bail!("Config is empty. Give the configuration file as an argument."),
    }
}

/// Writes a configuration to begin with. What a person must fill in is said in its comments.
fn sample(path: Option<&std::path::Path>) -> anyhow::Result<Exit> {
    let name = nix::unistd::gethostname()
        .map_or_else(|_| "db1".to_owned(), |name| name.to_string_lossy().into_owned());
    let programs = crate::sys::process::folder_of("postgres");
    let programs =
        programs.map_or_else(|| "/usr/lib/postgresql/17/bin".to_owned(), |it| it.display().to_string());
    let text = SAMPLE.replace("{name}", &name).replace("{bin_dir}", &programs);
    match path {
        None => print!("{text}"),
        Some(path) => {
            files::replace(path, text.as_bytes(), Attributes::OWNER_ONLY)?;
        }
    }
    Ok(Exit::Ok)
}

const SAMPLE: &str = r"# A configuration to begin with: replace the passwords and addresses.
scope: demo
name: {name}

restapi:
  listen: 0.0.0.0:8008
  connect_address: {name}:8008
  authentication: {username: admin, password: change-me}

etcd3:
  hosts: [etcd1:2379, etcd2:2379, etcd3:2379]

bootstrap:
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      parameters:
        wal_log_hints: 'on'
  initdb:
    - encoding: UTF8
    - data-checksums

postgresql:
  listen: 0.0.0.0:5432
  connect_address: {name}:5432
  data_dir: /var/lib/postgresql/data
  bin_dir: {bin_dir}
  pgpass: /tmp/pgpass
  authentication:
    superuser: {username: postgres, password: change-me}
    replication: {username: replicator, password: change-me}
    rewind: {username: rewind_user, password: change-me}
  pg_hba:
    - local all all peer
    - host all all 0.0.0.0/0 scram-sha-256
    - host replication replicator 0.0.0.0/0 scram-sha-256

tags:
  nofailover: false
  noloadbalance: false
  clonefrom: false
  nosync: false
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::config::AgentConfig;
    use crate::source::FileId;

    #[test]
    fn the_sample_is_a_configuration() {
        let text = SAMPLE.replace("{name}", "db1").replace("{bin_dir}", "/pg/bin");
        let (config, diagnostics) = AgentConfig::parse(FileId(0), &text, &|_| None);

        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        assert_eq!(config.unwrap().name, "db1");
    }
}
