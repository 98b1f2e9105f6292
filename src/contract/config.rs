//! The agent's YAML file with the environment over it.
//!
//! The whole document is kept: what is not read here may be read by others, and unknown keys harm nobody.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::contract::disk::{DiskSection, Share};
use crate::contract::document::boolean;
use crate::contract::env;
use crate::contract::methods::Method;
use crate::source::yaml;
use crate::source::{Diagnostic, Diagnostics, FileId, Node, NodeValue, Span};
use crate::sys::secret::Secret;

/// A name and a password for something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    pub username: String,
    pub password: Option<Secret>,
    /// How to connect as this user, in libpq's keywords: `sslmode`, `sslrootcert` and their like.
    pub options: Vec<(String, String)>,
}

/// More clients than this do not wait at one socket.
const REQUESTS_QUEUED_MAX: u16 = 4096;

/// The keywords of libpq that the user of a connection may have.
const CONNECTION_OPTIONS: [&str; 10] = [
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "gssencmode",
    "channel_binding",
];

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

/// A document with the places of its keys, for messages.
struct Reader {
    document: Map<String, Value>,
    root: Option<Node>,
    whole: Span,
    diagnostics: Diagnostics,
}

impl AgentConfig {
    /// Reads the text of a file; `look_up` returns environment variables. All problems are told, not only the first.
    pub fn parse(
        file: FileId,
        text: &str,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<AgentConfig>, Diagnostics) {
        let mut reader = Reader::new(file, text, look_up);
        let config = reader.agent();
        let config = (!reader.diagnostics.has_errors()).then_some(config).flatten();
        (config, reader.diagnostics)
    }

    /// Returns a section as it was written, for what has no field of its own.
    pub fn section(&self, name: &str) -> Map<String, Value> {
        self.document.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}

/// Returns the place of the first of these keys that a configuration file has; its beginning where it has none.
pub fn place(file: FileId, text: &str, keys: &[&str]) -> Span {
    let reader = Reader::new(file, text, &|_| None);
    keys.iter().find_map(|key| reader.written(key)).unwrap_or(reader.whole)
}

impl ClientConfig {
    /// Reads the same file as [`AgentConfig::parse`], asking for nothing but etcd.
    pub fn parse(
        file: FileId,
        text: &str,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<ClientConfig>, Diagnostics) {
        let mut reader = Reader::new(file, text, look_up);
        let config = ClientConfig {
            scope: reader.text("scope"),
            namespace: reader.text("namespace").unwrap_or_else(|| "/service/".to_owned()),
            etcd: reader.etcd(),
            ctl: reader.ctl(),
        };
        let config = (!reader.diagnostics.has_errors()).then_some(config);
        (config, reader.diagnostics)
    }
}

impl Reader {
    fn new(file: FileId, text: &str, look_up: &dyn Fn(&str) -> Option<String>) -> Reader {
        let (documents, mut diagnostics) = yaml::read(file, text);
        let whole = Span::new(file, 0, 0);
        let root = documents.into_iter().next();
        let mut document = match root.as_ref().map(to_json) {
            Some(Value::Object(map)) => map,
            None | Some(Value::Null) => Map::new(),
            Some(other) => {
                let found = crate::contract::document::kind(&other);
                diagnostics.push(
                    Diagnostic::error(
                        "not-a-mapping",
                        format!("the configuration must be a mapping, found {found}"),
                    )
                    .at(whole),
                );
                Map::new()
            }
        };
        env::overlay(&mut document, look_up);
        Reader { document, root, whole, diagnostics }
    }

    fn agent(&mut self) -> Option<AgentConfig> {
        let scope = self.required("scope", "the name of the cluster, e.g. `scope: demo`");
        let name = self.required("name", "this member's name, unique in the cluster, e.g. `name: db1`");
        if let Some(name) = name.as_deref().filter(|name| name.contains('/')) {
            let span = self.span("name");
            self.diagnostics.push(
                Diagnostic::error("member-name", format!("`name: {name}` must not contain a slash")).at(span),
            );
        }
        let etcd = self.etcd();
        let restapi = self.restapi();
        let postgresql = self.postgresql();
        Some(AgentConfig {
            scope: scope?,
            namespace: self.text("namespace").unwrap_or_else(|| "/service/".to_owned()),
            name: name?,
            log: LogSection {
                level: self.text("log.level").unwrap_or_else(|| "INFO".to_owned()),
                kind: self.text("log.type").unwrap_or_else(|| "plain".to_owned()),
                format: self.text("log.format"),
                dateformat: self.text("log.dateformat"),
            },
            etcd,
            restapi: restapi?,
            ctl: self.ctl(),
            postgresql: postgresql?,
            bootstrap: self.bootstrap(),
            watchdog: WatchdogSection {
                mode: self.text("watchdog.mode").unwrap_or_else(|| "automatic".to_owned()),
                device: self.text("watchdog.device").unwrap_or_else(|| "/dev/watchdog".to_owned()).into(),
                safety_margin: self.at("watchdog.safety_margin").and_then(Value::as_i64),
            },
            guard_fences: self.guard_fences(),
            disk: self.disk(),
            tags: self.object("tags"),
            document: self.document.clone(),
        })
    }

    fn etcd(&mut self) -> EtcdSection {
        let section = if self.at("etcd3").is_some() { "etcd3" } else { "etcd" };
        let key = |name: &str| format!("{section}.{name}");
        let hosts =
            [self.list(&key("hosts")), self.list(&key("host"))].into_iter().find(|list| !list.is_empty());
        let hosts = hosts.unwrap_or_default();
        if hosts.is_empty() {
            let span = self.span(section);
            self.diagnostics.push(
                Diagnostic::error("etcd-hosts", "no etcd is configured")
                    .at(span)
                    .hint("set `etcd3: {hosts: [etcd1:2379, etcd2:2379, etcd3:2379]}`"),
            );
        }
        EtcdSection {
            hosts,
            protocol: self.text(&key("protocol")).unwrap_or_else(|| "http".to_owned()),
            username: self.text(&key("username")),
            password: Secret::new(self.text(&key("password")).unwrap_or_default()),
            cacert: self.path(&key("cacert")),
            cert: self.path(&key("cert")),
            key: self.path(&key("key")),
        }
    }

    fn restapi(&mut self) -> Option<RestSection> {
        let listen = self.text("restapi.listen").unwrap_or_else(|| "0.0.0.0:8008".to_owned());
        let listen = self.address("restapi.listen", &listen, 8008)?;
        let connect = self.text("restapi.connect_address").unwrap_or_else(|| listen.to_string());
        let connect_address = self.address("restapi.connect_address", &connect, listen.port)?;
        self.refuse_wildcard("restapi.connect_address", &connect_address);
        let tls = self.path("restapi.certfile").map(|certfile| RestTls {
            certfile,
            keyfile: self.path("restapi.keyfile"),
            keyfile_password: self.text("restapi.keyfile_password").map(Secret::new),
            cafile: self.path("restapi.cafile"),
            ciphers: self.text("restapi.ciphers"),
            verify_client: self.verify_client(),
        });
        let mut headers = self.headers("restapi.http_extra_headers");
        if tls.is_some() {
            for (name, value) in self.headers("restapi.https_extra_headers") {
                headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
                headers.push((name, value));
            }
        }
        Some(RestSection {
            listen,
            connect_address,
            authentication: self.credentials("restapi.authentication"),
            tls,
            allowlist: self.list("restapi.allowlist"),
            allowlist_include_members: self
                .at("restapi.allowlist_include_members")
                .and_then(boolean)
                .unwrap_or(false),
            headers,
            server_tokens: self.server_tokens(),
            request_queue_size: self.request_queue_size(),
        })
    }

    /// Reads the word; one that means nothing hides nothing, as with Patroni, and is told.
    fn server_tokens(&mut self) -> ServerTokens {
        let path = "restapi.server_tokens";
        match self.text(path).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "original" => ServerTokens::Original,
            "minimal" => ServerTokens::Minimal,
            "productonly" => ServerTokens::ProductOnly,
            other => {
                let message = format!("`{path}: {other}` is not Original, Minimal or ProductOnly");
                let span = self.span(path);
                self.diagnostics.push(Diagnostic::warning("server-tokens", message).at(span));
                ServerTokens::Original
            }
        }
    }

    fn request_queue_size(&mut self) -> Option<u16> {
        let path = "restapi.request_queue_size";
        let text = self.text(path)?;
        let size = text.parse().ok().filter(|size| *size <= REQUESTS_QUEUED_MAX);
        if size.is_none() {
            let message = format!("`{path}: {text}` is no number from 0 to {REQUESTS_QUEUED_MAX}");
            let span = self.span(path);
            self.diagnostics.push(Diagnostic::error("request-queue-size", message).at(span));
        }
        size
    }

    fn guard_fences(&mut self) -> bool {
        let path = "guard.mode";
        match self.text(path).unwrap_or_default().as_str() {
            "" | "on" | "true" => true,
            "off" | "false" => false,
            other => {
                let span = self.span(path);
                self.diagnostics.push(
                    Diagnostic::error("guard-mode", format!("`{path}: {other}` is not on or off")).at(span),
                );
                true
            }
        }
    }

    fn disk(&mut self) -> DiskSection {
        let DiskSection { warn, brake } = DiskSection::default();
        DiskSection { warn: self.share("disk.warn", warn), brake: self.share("disk.brake", brake) }
    }

    fn share(&mut self, path: &str, default: Share) -> Share {
        let Some(text) = self.text(path) else { return default };
        Share::parse(&text).unwrap_or_else(|| {
            let span = self.span(path);
            self.diagnostics.push(
                Diagnostic::error("disk-share", format!("`{path}: {text}` is no size, per cent or off"))
                    .at(span)
                    .hint("write `10%`, `2GB` or `off`"),
            );
            default
        })
    }

    fn verify_client(&mut self) -> VerifyClient {
        let path = "restapi.verify_client";
        match self.text(path).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "none" | "false" => VerifyClient::None,
            "optional" => VerifyClient::Optional,
            "required" => VerifyClient::Required,
            other => {
                let span = self.span(path);
                self.diagnostics.push(
                    Diagnostic::error(
                        "verify-client",
                        format!("`{path}: {other}` is not none, optional or required"),
                    )
                    .at(span),
                );
                VerifyClient::None
            }
        }
    }

    fn ctl(&self) -> CtlSection {
        CtlSection {
            authentication: self
                .credentials("ctl.authentication")
                .or_else(|| self.credentials("restapi.authentication")),
            insecure: self.at("ctl.insecure").and_then(boolean).unwrap_or(false),
            cacert: self.path("ctl.cacert").or_else(|| self.path("restapi.cafile")),
            certfile: self.path("ctl.certfile"),
            keyfile: self.path("ctl.keyfile"),
            keyfile_password: self.text("ctl.keyfile_password").map(Secret::new),
        }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        self.text(path).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// Reads a list; an environment variable has its items with commas between them.
    fn list(&self, path: &str) -> Vec<String> {
        let items: Vec<String> = match self.at(path) {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(text)) => text
                .trim_start_matches('[')
                .trim_end_matches(']')
                .split(',')
                .map(|item| item.trim().trim_matches(['\'', '"']).to_owned())
                .collect(),
            _ => Vec::new(),
        };
        items.into_iter().filter(|item| !item.is_empty()).collect()
    }

    /// Reads headers; an environment variable holds them as YAML.
    fn headers(&self, path: &str) -> Vec<(String, String)> {
        let map = match self.at(path) {
            Some(Value::Object(map)) => map.clone(),
            Some(Value::String(text)) => match yaml::read(self.whole.file, text).0.first().map(to_json) {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            },
            _ => Map::new(),
        };
        map.iter()
            .filter_map(|(name, value)| {
                Some((name.clone(), crate::contract::dynamic::parameter_text(value)?))
            })
            .collect()
    }

    fn postgresql(&mut self) -> Option<PostgresSection> {
        let data_dir = self.required("postgresql.data_dir", "the folder of the database");
        let listen = self.text("postgresql.listen").unwrap_or_else(|| "*:5432".to_owned());
        let listen = self.address("postgresql.listen", &listen, 5432)?;
        let connect = self.text("postgresql.connect_address").unwrap_or_else(|| listen.to_string());
        let connect_address = self.address("postgresql.connect_address", &connect, listen.port)?;
        self.refuse_wildcard("postgresql.connect_address", &connect_address);
        let proxy = self.text("postgresql.proxy_address");
        let proxy_address =
            proxy.and_then(|text| self.address("postgresql.proxy_address", &text, listen.port));
        let data_dir = PathBuf::from(data_dir?);
        let user = |found: Option<Credentials>, default: &str| {
            let mut found = found.unwrap_or_default();
            if found.username.is_empty() {
                default.clone_into(&mut found.username);
            }
            found
        };
        let callbacks = self.object("postgresql.callbacks");
        Some(PostgresSection {
            listen,
            connect_address,
            proxy_address,
            bin_dir: self.text("postgresql.bin_dir").unwrap_or_default().into(),
            pgpass: self.text("postgresql.pgpass").map_or_else(
                || {
                    data_dir
                        .parent()
                        .unwrap_or(&data_dir)
                        .join(format!("pgpass_{}", member_or_product(&self.document)))
                },
                PathBuf::from,
            ),
            superuser: user(self.credentials("postgresql.authentication.superuser"), "postgres"),
            replication: user(self.credentials("postgresql.authentication.replication"), "replicator"),
            rewind: self.credentials("postgresql.authentication.rewind"),
            use_unix_socket: self.at("postgresql.use_unix_socket").and_then(boolean).unwrap_or(false),
            callbacks: callbacks
                .iter()
                .filter_map(|(action, program)| Some((action.clone(), program.as_str()?.to_owned())))
                .collect(),
            data_dir,
        })
    }

    fn bootstrap(&mut self) -> BootstrapSection {
        let text = |value: &Value| crate::contract::dynamic::parameter_text(value);
        let mut initdb = Vec::new();
        let pairs = |map: &Map<String, Value>| -> Vec<(String, Option<String>)> {
            map.iter().map(|(option, value)| (option.clone(), text(value))).collect()
        };
        match self.at("bootstrap.initdb") {
            Some(Value::Object(map)) => initdb.extend(pairs(map)),
            Some(Value::Array(items)) => {
                for item in items {
                    match item {
                        Value::String(option) => initdb.push((option.clone(), None)),
                        Value::Object(map) => initdb.extend(pairs(map)),
                        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
                    }
                }
            }
            _ => {}
        }
        BootstrapSection {
            dcs: self.object("bootstrap.dcs"),
            initdb,
            method: self.bootstrap_method(),
            post_init: self.text("bootstrap.post_bootstrap").or_else(|| self.text("bootstrap.post_init")),
        }
    }

    /// Reads the method that is chosen; initdb where it is named, or where the one named has no command.
    fn bootstrap_method(&self) -> Option<Method> {
        let name = self.text("bootstrap.method").filter(|name| name != "initdb")?;
        let section = self.object(&format!("bootstrap.{name}"));
        section.contains_key("command").then(|| Method::read(&name, &section))
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let mut value = self.document.get(keys.next()?)?;
        for key in keys {
            value = value.as_object()?.get(key)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// Reads a text; numbers and booleans are taken as they are written (`name: 1`).
    fn text(&self, path: &str) -> Option<String> {
        match self.at(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn object(&self, path: &str) -> Map<String, Value> {
        self.at(path).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    fn credentials(&self, path: &str) -> Option<Credentials> {
        self.at(path)?;
        Some(Credentials {
            username: self.text(&format!("{path}.username")).unwrap_or_default(),
            password: self.text(&format!("{path}.password")).map(Secret::new),
            options: CONNECTION_OPTIONS
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), self.text(&format!("{path}.{key}"))?)))
                .collect(),
        })
    }

    fn required(&mut self, path: &str, hint: &'static str) -> Option<String> {
        let found = self.text(path).filter(|text| !text.is_empty());
        if found.is_none() {
            let span = self.span(path);
            self.diagnostics
                .push(Diagnostic::error("missing-key", format!("`{path}` is missing")).at(span).hint(hint));
        }
        found
    }

    fn address(&mut self, path: &str, text: &str, default_port: u16) -> Option<Address> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (text, Some(default_port)),
        };
        let Some(port) = port else {
            let span = self.span(path);
            self.diagnostics
                .push(Diagnostic::error("address", format!("`{path}: {text}` is not HOST:PORT")).at(span));
            return None;
        };
        Some(Address { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port })
    }

    fn refuse_wildcard(&mut self, path: &str, address: &Address) {
        if matches!(address.host.as_str(), "" | "*" | "0.0.0.0" | "::") || address.host.contains(',') {
            let span = self.span(path);
            self.diagnostics.push(
                Diagnostic::error(
                    "address",
                    format!("`{path}` is `{address}`, which others cannot connect to"),
                )
                .at(span)
                .hint("give the address by which the other members reach this host"),
            );
        }
    }

    /// Returns the place of a key where it is written.
    fn written(&self, path: &str) -> Option<Span> {
        let mut at = self.root.as_ref();
        let mut span = None;
        for key in path.split('.') {
            let (key_node, value) = at?.entry(key)?;
            span = Some(key_node.span);
            at = Some(value);
        }
        span
    }

    /// Returns the place of a key, or of the nearest mapping around it.
    fn span(&self, path: &str) -> Span {
        let mut at = self.root.as_ref();
        let mut span = self.whole;
        for key in path.split('.') {
            let Some((key_node, value)) = at.and_then(|node| node.entry(key)) else {
                break;
            };
            span = key_node.span;
            at = Some(value);
        }
        span
    }
}

/// Names the password file after the member, so that several on one host do not share it.
fn member_or_product(document: &Map<String, Value>) -> String {
    document.get("name").and_then(Value::as_str).unwrap_or("keddah").to_owned()
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
