//! Reads the sections out of the document, each problem with its place.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{
    Address, AgentConfig, BootstrapSection, ClientConfig, Credentials, CtlSection, EtcdSection, LogSection,
    PostgresSection, RestSection, RestTls, ServerTokens, VerifyClient, WatchdogSection, to_json,
};
use crate::contract::disk::{DiskSection, Share};
use crate::contract::document::boolean;
use crate::contract::env;
use crate::contract::methods::Method;
use crate::source::yaml;
use crate::source::{Diagnostic, Diagnostics, FileId, Node, Span};
use crate::sys::secret::Secret;

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

/// A document with the places of its keys, for messages.
pub(super) struct Reader {
    document: Map<String, Value>,
    root: Option<Node>,
    whole: Span,
    diagnostics: Diagnostics,
}

/// Reads a part of the file; all problems are told, and with an error among them there is no answer.
pub(super) fn read<T>(
    file: FileId,
    text: &str,
    look_up: &dyn Fn(&str) -> Option<String>,
    part: impl FnOnce(&mut Reader) -> Option<T>,
) -> (Option<T>, Diagnostics) {
    let mut reader = Reader::new(file, text, look_up);
    let found = part(&mut reader);
    (found.filter(|_| !reader.diagnostics.has_errors()), reader.diagnostics)
}

/// Returns the place of the first of these keys that the file has; its beginning where it has none.
pub(super) fn place(file: FileId, text: &str, keys: &[&str]) -> Span {
    let reader = Reader::new(file, text, &|_| None);
    keys.iter().find_map(|key| reader.written(key)).unwrap_or(reader.whole)
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

    pub(super) fn client(&mut self) -> Option<ClientConfig> {
        Some(ClientConfig {
            scope: self.text("scope"),
            namespace: self.text("namespace").unwrap_or_else(|| "/service/".to_owned()),
            etcd: self.etcd(),
            ctl: self.ctl(),
        })
    }

    pub(super) fn agent(&mut self) -> Option<AgentConfig> {
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
