//! Which cluster a command is about: by the agent's file, by an inventory, or by addresses.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::{exit::Exit, flags, input};
use crate::contract::config::{ClientConfig, Credentials};
use crate::ctl::member::Reply;
use crate::ctl::{Address, Cluster, CtlError};
use crate::etcd::TlsFiles;
use crate::source::{SourceMap, render};
use crate::sys::files;
use crate::sys::secret::Secret;
use crate::sys::tls::ClientFiles;

/// The file that an agent's host has.
const DEFAULT_CONFIG: &str = "/etc/keddah/agent.yml";

/// How to find the cluster. Without a flag: the agent's file of this host.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Where {
    /// The agent's configuration file, or Patroni's
    #[arg(short = 'c', long, value_name = "FILE", env = "PATRONICTL_CONFIG_FILE")]
    config: Option<PathBuf>,

    /// An inventory with its cluster.yml; may be repeated
    #[arg(short = 'i', long, value_name = "PATH", conflicts_with = "config")]
    inventory: Vec<PathBuf>,

    /// etcd's addresses, with commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with_all = ["config", "inventory"])]
    etcd: Vec<String>,

    /// The name of the cluster, where the file says none or another one is meant
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,

    /// What etcd keys begin with
    #[arg(long, value_name = "PATH")]
    namespace: Option<String>,
}

impl Where {
    /// Returns the cluster; `named` is a name given as an argument.
    pub fn cluster(&self, named: Option<&str>) -> anyhow::Result<Cluster> {
        Ok(Cluster::at(self.address(named)?)?)
    }

    /// Returns where the cluster is.
    ///
    /// # Errors
    /// Nothing says so.
    pub fn address(&self, named: Option<&str>) -> anyhow::Result<Address> {
        let mut address = if !self.etcd.is_empty() {
            Address {
                endpoints: self.etcd.clone(),
                protocol: "http".to_owned(),
                user: None,
                password: Secret::default(),
                etcd_tls: TlsFiles::default(),
                namespace: "/service/".to_owned(),
                scope: String::new(),
                rest: None,
                rest_tls: ClientFiles::default(),
            }
        } else if self.inventory.is_empty() {
            self.by_config()?
        } else {
            self.by_inventory()?
        };
        if let Some(scope) = named.or(self.scope.as_deref()) {
            scope.clone_into(&mut address.scope);
        }
        if let Some(namespace) = &self.namespace {
            namespace.clone_into(&mut address.namespace);
        }
        if address.scope.is_empty() {
            bail!("which cluster? Give its name with --scope NAME");
        }
        Ok(address)
    }

    fn by_config(&self) -> anyhow::Result<Address> {
        let path = self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
        let bytes = files::read(&path).with_context(|| {
            "cannot tell which cluster: give -c FILE (an agent's configuration), -i INVENTORY, or --etcd HOST:PORT --scope NAME"
        })?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        address_of(&path, &text, None)
    }

    fn by_inventory(&self) -> anyhow::Result<Address> {
        let input_flags = flags::Input { inventory: self.inventory.clone(), ..flags::Input::default() };
        let (deployment, diagnostics) = input::read(&input_flags, &[]);
        if diagnostics.has_errors() {
            for diagnostic in diagnostics.sorted() {
                eprint!("{}", render::one(diagnostic, &deployment.sources));
            }
            bail!("the inventory cannot be used");
        }
        let Some(keddah) = &deployment.keddah else {
            bail!("there is no cluster.yml beside the inventory, which would name the cluster and its etcd");
        };
        let keddah = keddah.to_json();
        let text = |path: &str| keddah.pointer(path).and_then(serde_json::Value::as_str).map(str::to_owned);
        let hosts = keddah.pointer("/etcd/hosts").and_then(serde_json::Value::as_array);
        let endpoints: Vec<String> =
            hosts.into_iter().flatten().filter_map(serde_json::Value::as_str).map(str::to_owned).collect();
        if endpoints.is_empty() {
            bail!("cluster.yml and the inventory name no etcd member");
        }
        let member = deployment.hosts_of("postgres").ok().and_then(|matched| matched.hosts.first().cloned());
        let variable = |name: &str| {
            let vars = deployment.vars_of(member.as_deref()?, None);
            vars.get(name).and_then(|value| value.to_json().as_str().map(str::to_owned))
        };
        let password = variable("keddah_restapi_password").map(Secret::new);
        let username = crate::input::desired::variable::RESTAPI_USER.to_owned();
        Ok(Address {
            endpoints,
            protocol: "http".to_owned(),
            user: None,
            password: Secret::default(),
            etcd_tls: TlsFiles::default(),
            rest_tls: ClientFiles::default(),
            namespace: text("/namespace").unwrap_or_else(|| "/service/".to_owned()),
            scope: text("/scope").unwrap_or_default(),
            rest: password.map(|password| Credentials {
                username,
                password: Some(password),
                options: Vec::new(),
            }),
        })
    }
}

/// Reads the text of an agent's configuration file, with the environment over it; `endpoint` takes the place of its
/// etcd.
///
/// # Errors
/// It does not say how to reach etcd.
pub fn address_of(path: &Path, text: &str, endpoint: Option<&str>) -> anyhow::Result<Address> {
    let mut sources = SourceMap::default();
    let file = sources.add(path, text);
    let variable = |name: &str| match (name, endpoint) {
        ("KEDDAH_ETCD3_HOSTS", Some(endpoint)) => Some(endpoint.to_owned()),
        (name, _) => std::env::var(name).ok(),
    };
    let (config, diagnostics) = ClientConfig::parse(file, text, &variable);
    for diagnostic in diagnostics.sorted() {
        eprint!("{}", render::one(diagnostic, &sources));
    }
    let Some(config) = config else {
        bail!("{} does not say how to reach etcd", path.display());
    };
    Ok(Address {
        endpoints: config.etcd.hosts,
        protocol: config.etcd.protocol,
        user: config.etcd.username,
        password: config.etcd.password,
        etcd_tls: TlsFiles {
            anchors: config.etcd.cacert,
            certificate: config.etcd.cert,
            key: config.etcd.key,
        },
        namespace: config.namespace,
        scope: config.scope.unwrap_or_default(),
        rest_tls: ClientFiles {
            key_password: config.ctl.keyfile_password,
            ..ClientFiles::for_members(
                config.ctl.cacert.as_ref(),
                config.ctl.certfile.as_ref(),
                config.ctl.keyfile.as_ref(),
                config.ctl.insecure,
            )
        },
        rest: config.ctl.authentication,
    })
}

/// Prints a line; whoever reads may have gone, which is no error of the command's.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _gone = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

/// Runs the asynchronous part of a cluster command. A refusal is told and ends with 1.
pub fn talk<F>(work: F) -> anyhow::Result<Exit>
where
    F: Future<Output = Result<Exit, CtlError>>,
{
    let runtime = crate::cli::runtime().context("the runtime could not be made")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done.map_err(|error| anyhow::anyhow!(crate::sys::chain(&error)))
}

/// Says that a member did not do what it was asked for, and what it answered.
pub fn say_refused(asked: &str, reply: &Reply) {
    let Reply { member, status, text } = reply;
    let status = status.map_or("no answer".to_owned(), |status| format!("status code={status}"));
    eprintln!("Failed: {asked} for member {member}, {status}, ({text})");
}

/// Asks a person on a terminal; `force` answers yes. Without a terminal nothing is asked.
pub fn confirm(question: &str, force: bool) -> anyhow::Result<bool> {
    use std::io::{BufRead, IsTerminal, Write};
    if force {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody can be asked here: give --force to go on");
    }
    print!("{question} [y/N]: ");
    std::io::stdout().flush().ok();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("no answer could be read")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
