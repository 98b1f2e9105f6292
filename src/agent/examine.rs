//! `--check`: whether this program could run as the agent of a configuration file, without disturbing the one that runs.

use std::path::Path;
use std::time::Duration;

use crate::agent::api::access::Access;
use crate::agent::instance::Instance;
use crate::agent::start::{self, StartError};
use crate::agent::state::{self, State};
use crate::contract::config::{self, AgentConfig};
use crate::contract::keys::Keys;
use crate::guard::client::{GuardError, Link, understood};
use crate::guard::place::Place;
use crate::guard::protocol::Request;
use crate::source::{Diagnostic, Diagnostics, FileId, SourceMap};

/// How long the guard may take to answer.
const GUARD_LIMIT: Duration = Duration::from_secs(5);

/// Reads the file, etcd, and the guard's version. Returns what was found in a sentence.
///
/// # Errors
/// Something is wrong; all problems are told, each with its place, what was expected and what to do.
pub async fn examine(path: &Path) -> Result<String, StartError> {
    let bytes = crate::sys::files::read(path)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut sources = SourceMap::default();
    let file = sources.add(path, text.as_str());
    let (config, diagnostics) = AgentConfig::parse(file, &text, &|name| std::env::var(name).ok());
    let Some(config) = config else {
        return Err(StartError::Config(start::tell(&sources, &diagnostics)));
    };
    let examined = Examined { config, file, text };
    let (mut found, mut problems) = (Vec::new(), Diagnostics::default());
    for outcome in [examined.rest().await, examined.etcd().await, examined.guard().await] {
        match outcome {
            Ok(sentence) => found.push(sentence),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.has_errors() {
        return Err(StartError::Config(start::tell(&sources, &problems)));
    }
    Ok(found.join("; "))
}

struct Examined {
    config: AgentConfig,
    file: FileId,
    text: String,
}

impl Examined {
    fn problem(&self, keys: &[&str], code: &'static str, message: String, hint: &str) -> Diagnostic {
        let host = nix::unistd::gethostname()
            .map_or_else(|_| "here".into(), |name| name.to_string_lossy().into_owned());
        Diagnostic::error(code, format!("on {host}: {message}"))
            .at(config::place(self.file, &self.text, keys))
            .hint(hint.to_owned())
    }

    async fn rest(&self) -> Result<String, Diagnostic> {
        let problem = |error| {
            let message = format!(
                "the certificates were expected to serve the REST API: {}",
                crate::sys::chain(&error)
            );
            self.problem(&["restapi"], "rest-tls", message, "correct the files that `restapi` and `ctl` name")
        };
        Access::of(&self.config.restapi).await.map_err(problem)?;
        start::members_client(&self.config.ctl).map_err(problem)?;
        Ok("the file is valid".to_owned())
    }

    async fn etcd(&self) -> Result<String, Diagnostic> {
        let client = start::etcd_client(&self.config);
        if let Some(before) = State::load(&self.state_path(), &self.config.scope, &self.config.name)
            && before.cluster_id != 0
        {
            client.pin(before.cluster_id);
        }
        let keys = Keys::new(&self.config.namespace, &self.config.scope);
        match client.get_prefix(keys.prefix()).await {
            Ok(range) => Ok(format!("etcd answers at revision {}", range.revision)),
            Err(error) => {
                let hosts = self.config.etcd.hosts.join(", ");
                let message = format!(
                    "etcd at {hosts} was expected to answer a read of {}: {}",
                    keys.prefix(),
                    crate::sys::chain(&error)
                );
                Err(self.problem(
                    &["etcd3", "etcd"],
                    "etcd-silent",
                    message,
                    "see that it runs and is reached from this host",
                ))
            }
        }
    }

    /// Asks for no more than the status, which needs no hello and displaces nobody.
    async fn guard(&self) -> Result<String, Diagnostic> {
        let place = self.place();
        let asked =
            async { understood(Link::connect(&place.socket)?.ask(Request::Status, GUARD_LIMIT).await?) };
        match asked.await {
            Ok(status) => Ok(format!("the guard (pid {}) speaks version {}", status.pid, status.version)),
            Err(error @ GuardError::OtherVersion { .. }) => {
                let hint = "see docs/guard-protocol.md";
                Err(self.problem(&["postgresql.data_dir"], "guard-version", error.to_string(), hint))
            }
            Err(GuardError::Connect { .. }) if start::own_guard(&self.config) => {
                Ok("the agent will start its guard".to_owned())
            }
            Err(error) => {
                let message = format!(
                    "a guard was expected at {}: {}",
                    place.socket.display(),
                    crate::sys::chain(&error)
                );
                Err(self.problem(
                    &["postgresql.data_dir"],
                    "guard-silent",
                    message,
                    "start it: systemctl start keddah-guard",
                ))
            }
        }
    }

    fn place(&self) -> Place {
        let instance = Instance::new(&self.config, &self.config.bootstrap.dcs);
        Place::of(instance.data_dir(), &instance.socket_dir())
    }

    fn state_path(&self) -> std::path::PathBuf {
        state::path(&self.place().socket)
    }
}
