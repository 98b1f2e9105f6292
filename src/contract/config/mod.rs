//! The agent's YAML file with the environment over it.
//!
//! The whole document is kept: what is not read here may be read by others, and unknown keys harm nobody.

mod reader;

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::contract::disk::DiskSection;
use crate::contract::methods::Method;
use crate::source::{Diagnostics, FileId, Node, NodeValue, Span};
use crate::sys::secret::Secret;

use reader::Reader;

/// A name and a password for something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    pub username: String,
    pub password: Option<Secret>,
    /// How to connect as this user, in libpq's keywords: `sslmode`, `sslrootcert` and their like.
    pub options: Vec<(String, String)>,
}

/// `host:port` as written; the host may be `*` or several with commas where one listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Where etcd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSection {
    pub hosts: Vec<String>,
    pub protocol: String,
    pub username: Option<String>,
    pub password: Secret,
    /// The authority of etcd's certificates.
    pub cacert: Option<PathBuf>,
    /// This client's certificate; its key may be in the same file.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// The REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestSection {
    pub listen: Address,
    pub connect_address: Address,
    /// Asked for by every request that changes something.
    pub authentication: Option<Credentials>,
    /// None: plain HTTP.
    pub tls: Option<RestTls>,
    /// Hosts and networks that may change something; empty: all.
    pub allowlist: Vec<String>,
    /// The other members may change something.
    pub allowlist_include_members: bool,
    /// Headers of every answer.
    pub headers: Vec<(String, String)>,
    pub server_tokens: ServerTokens,
    /// How many clients may wait to be let in; None: as many as is usual.
    pub request_queue_size: Option<u16>,
}

impl RestSection {
    /// Returns `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Returns the address by which members and tools know this one's API.
    pub fn api_url(&self) -> String {
        format!("{}://{}/patroni", self.scheme(), self.connect_address)
    }
}

/// What an answer says of the program in its header `Server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerTokens {
    /// Nothing: only Patroni has the words of its HTTP library here.
    #[default]
    Original,
    /// Name and version.
    Minimal,
    ProductOnly,
}

/// The certificates of the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestTls {
    pub certfile: PathBuf,
    pub keyfile: Option<PathBuf>,
    pub keyfile_password: Option<Secret>,
    pub cafile: Option<PathBuf>,
    pub ciphers: Option<String>,
    pub verify_client: VerifyClient,
}

/// Whether a client has to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerifyClient {
    #[default]
    None,
    /// For what changes something.
    Optional,
    Required,
}

/// How the REST API of members is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CtlSection {
    pub authentication: Option<Credentials>,
    /// The members' certificates are not checked; where a certificate of this client is given, their names are not.
    pub insecure: bool,
    pub cacert: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    pub keyfile_password: Option<Secret>,
}

/// Postgres of this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSection {
    /// What Postgres binds: `*`, or addresses with commas.
    pub listen: Address,
    pub connect_address: Address,
    pub proxy_address: Option<Address>,
    pub data_dir: PathBuf,
    /// Empty: programs are looked for in PATH.
    pub bin_dir: PathBuf,
    pub pgpass: PathBuf,
    pub superuser: Credentials,
    pub replication: Credentials,
    pub rewind: Option<Credentials>,
    pub use_unix_socket: bool,
    /// Program by action (`on_start`, `on_role_change` …).
    pub callbacks: Vec<(String, String)>,
}

/// How a cluster begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootstrapSection {
    /// The first dynamic configuration.
    pub dcs: Map<String, Value>,
    /// Options of initdb, each without its dashes: `("data-checksums", None)`, `("encoding", Some("UTF8"))`.
    pub initdb: Vec<(String, Option<String>)>,
    /// The program that makes the cluster in initdb's place.
    pub method: Option<Method>,
    /// Command run after initdb with a connection string appended.
    pub post_init: Option<String>,
}

/// The watchdog device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogSection {
    /// `off`, `automatic` or `required`.
    pub mode: String,
    pub device: PathBuf,
    pub safety_margin: Option<i64>,
}

/// How lines are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    pub level: String,
    /// `plain` or `json`.
    pub kind: String,
    pub format: Option<String>,
    pub dateformat: Option<String>,
}

/// The configuration of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    pub scope: String,
    pub namespace: String,
    pub name: String,
    pub log: LogSection,
    pub etcd: EtcdSection,
    pub restapi: RestSection,
    pub ctl: CtlSection,
    pub postgresql: PostgresSection,
    pub bootstrap: BootstrapSection,
    pub watchdog: WatchdogSection,
    /// False (`guard.mode: off`): the agent itself stops a server in time and feeds the watchdog, by Patroni's rules.
    pub guard_fences: bool,
    pub disk: DiskSection,
    pub tags: Map<String, Value>,
    /// The whole document, environment included. Holds passwords: not to be shown.
    document: Map<String, Value>,
}

/// What a client of the cluster needs of the file: it may be used where no Postgres runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    pub scope: Option<String>,
    pub namespace: String,
    pub etcd: EtcdSection,
    pub ctl: CtlSection,
}

impl AgentConfig {
    /// Reads the text of a file; `look_up` returns environment variables. All problems are told, not only the first.
    pub fn parse(
        file: FileId,
        text: &str,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<AgentConfig>, Diagnostics) {
        reader::read(file, text, look_up, Reader::agent)
    }

    /// Returns a section as it was written, for what has no field of its own.
    pub fn section(&self, name: &str) -> Map<String, Value> {
        self.document.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}

/// Returns the place of the first of these keys that a configuration file has; its beginning where it has none.
pub fn place(file: FileId, text: &str, keys: &[&str]) -> Span {
    reader::place(file, text, keys)
}

impl ClientConfig {
    /// Reads the same file as [`AgentConfig::parse`], asking for nothing but etcd.
    pub fn parse(
        file: FileId,
        text: &str,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<ClientConfig>, Diagnostics) {
        reader::read(file, text, look_up, Reader::client)
    }
}

/// Returns a YAML value as JSON. Keys become texts, a float that JSON cannot hold becomes null.
pub fn to_json(node: &Node) -> Value {
    match &node.value {
        NodeValue::Null => Value::Null,
        NodeValue::Bool(flag) => Value::Bool(*flag),
        NodeValue::Int(number) => Value::from(*number),
        NodeValue::Float(number) => Value::from(*number),
        NodeValue::String(text) => Value::from(text.as_ref()),
        NodeValue::List(items) => Value::Array(items.iter().map(to_json).collect()),
        NodeValue::Map(entries) => Value::Object(
            entries
                .iter()
                .filter_map(|(key, value)| Some((key.key_text()?.as_ref().to_owned(), to_json(value))))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::disk::Share;

    const FILE: &str = "
scope: demo
name: db1
restapi: {listen: 0.0.0.0:8008, connect_address: 10.0.0.1:8008, authentication: {username: a, password: b}}
etcd3: {hosts: [10.0.0.5:2379, '10.0.0.6:2379']}
bootstrap:
  dcs: {ttl: 30}
  initdb: [encoding: UTF8, data-checksums]
postgresql:
  listen: 0.0.0.0:5432
  connect_address: 10.0.0.1:5432
  data_dir: /data/db1
  authentication:
    superuser: {username: postgres, password: secret-word}
    replication: {username: replicator, password: rep}
tags: {nofailover: false}
";

    fn parse(text: &str) -> (Option<AgentConfig>, Diagnostics) {
        AgentConfig::parse(FileId(0), text, &|_| None)
    }

    #[test]
    fn a_plain_file_is_read() {
        let (config, diagnostics) = parse(FILE);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let config = config.unwrap();

        assert_eq!(config.etcd.hosts, ["10.0.0.5:2379", "10.0.0.6:2379"]);
        assert_eq!(
            config.bootstrap.initdb,
            [("encoding".to_owned(), Some("UTF8".to_owned())), ("data-checksums".to_owned(), None)]
        );
        assert_eq!(config.postgresql.superuser.username, "postgres");
        assert_eq!(config.postgresql.connect_address.to_string(), "10.0.0.1:5432");
    }

    #[test]
    fn limits_of_the_volumes_are_read_and_checked() {
        let (config, _) = parse(&format!("{FILE}disk: {{warn: 20GB, brake: 2%}}\n"));
        let (none, diagnostics) = parse(&format!("{FILE}disk: {{brake: little}}\n"));

        assert_eq!(
            config.unwrap().disk,
            DiskSection { warn: Share::Bytes(20 << 30), brake: Share::Percent(2) }
        );
        assert!(none.is_none());
        assert_eq!(diagnostics.sorted().first().map(|d| d.code), Some("disk-share"));
    }

    #[test]
    fn words_and_numbers_of_the_rest_api_are_checked_and_passwords_are_not_shown() {
        let with =
            |more: &str| {
                parse(&FILE.replace(
                    "restapi: {",
                    &format!("ctl: {{keyfile_password: word-1}}\nrestapi: {{{more}, "),
                ))
            };

        let (config, diagnostics) =
            with("certfile: /c, keyfile_password: word-2, server_tokens: Minimal, request_queue_size: 20");
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let config = config.unwrap();
        assert_eq!(config.restapi.server_tokens, ServerTokens::Minimal);
        assert_eq!(config.restapi.request_queue_size, Some(20));
        assert_eq!(config.ctl.keyfile_password, Some(Secret::new("word-1")));
        let tls = config.restapi.tls.clone().unwrap();
        assert_eq!(tls.keyfile_password, Some(Secret::new("word-2")));
        assert!(!format!("{:?}{:?}", config.restapi, config.ctl).contains("word-"));

        let (config, diagnostics) = with("server_tokens: full");
        assert_eq!(diagnostics.sorted().first().map(|d| d.code), Some("server-tokens"));
        assert_eq!(config.unwrap().restapi.server_tokens, ServerTokens::Original);
        let (none, diagnostics) = with("request_queue_size: 5000");
        assert!(none.is_none());
        assert_eq!(diagnostics.sorted().first().map(|d| d.code), Some("request-queue-size"));
    }

    #[test]
    fn options_of_initdb_may_be_a_mapping_and_a_method_needs_its_command() {
        let text = FILE.replace(
            "  initdb: [encoding: UTF8, data-checksums]",
            "  initdb: {locale: C, wal-segsize: 64}\n  method: backup\n  backup: {command: restore}\n",
        );
        let config = parse(&text).0.unwrap().bootstrap;
        let without = parse(&text.replace("{command: restore}", "{}")).0.unwrap().bootstrap;

        let option = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(config.initdb, [option("locale", "C"), option("wal-segsize", "64")]);
        assert_eq!(config.method.map(|method| method.command).as_deref(), Some("restore"));
        assert_eq!(without.method, None, "initdb it is");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let (config, diagnostics) =
            parse("restapi: {connect_address: 0.0.0.0}\npostgresql: {listen: 'x:y'}\n");

        assert!(config.is_none());
        let codes: Vec<_> = diagnostics.sorted().iter().map(|d| d.code).collect();
        assert_eq!(codes.len(), 6, "{codes:?}");
    }
}
