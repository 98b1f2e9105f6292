//! Where this member's Postgres is, and what its configuration should say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::agent::view::Local;
use crate::cluster::{MemberName, SyncNames};
use crate::contract::config::{AgentConfig, Credentials};
use crate::contract::dynamic::{effective_postgresql, parameter_text};
use crate::contract::methods::{self, Method};
use crate::postgres::conf::{ConfigPlace, Parameters};
use crate::postgres::query::{Host, Target};
use crate::postgres::{Installation, refusal, standby};
use crate::settings::{Settings, StandbyCluster};
use crate::sys::process;

/// The parameter that says which standbys commits wait for.
pub const SYNC_PARAMETER: &str = "synchronous_standby_names";

/// What nobody answers to: commits wait until a standby comes. The word is Patroni's, whose members may share a cluster.
const NOBODY: &str = "__patroni_strict_sync_replica_placeholder__";

/// One server of this host, with the configuration that counts for it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub config: AgentConfig,
    /// The `postgresql` section: the dynamic one with the file's over it.
    section: Map<String, Value>,
    /// What a standby cluster's section says about all of its members.
    standby: Map<String, Value>,
    /// The cluster that this member's cluster follows.
    follows: Option<StandbyCluster>,
    pub installation: Installation,
    pub place: ConfigPlace,
    /// Whether `hot_standby_feedback` is needed, whatever the configuration says.
    pub feeds_back: bool,
    /// Parameters that the server does not take, and why.
    refused: BTreeMap<String, String>,
    /// How many bytes of WAL slots may keep where nobody says otherwise; None: the volume is not known yet.
    pub slot_wal_cap: Option<u64>,
    /// How long a start of a primary may take.
    pub primary_start_timeout: Duration,
}

impl Instance {
    /// Joins the file and the dynamic configuration.
    pub fn new(config: &AgentConfig, dynamic: &Map<String, Value>) -> Instance {
        let section = effective_postgresql(&Value::Object(dynamic.clone()), &config.section("postgresql"));
        let mut installation = Installation::at(config.postgresql.bin_dir.clone());
        let names = section.get("bin_name").and_then(Value::as_object);
        if let Some(server) = names.and_then(|names| names.get("postgres")).and_then(Value::as_str) {
            server.clone_into(&mut installation.server);
        }
        // The guard may be started with another PATH, so it is given the folder.
        if installation.bin_dir.as_os_str().is_empty()
            && let Some(folder) = process::folder_of(&installation.server)
        {
            installation.bin_dir = folder;
        }
        let mut place = ConfigPlace::inside(&config.postgresql.data_dir);
        if let Some(folder) =
            section.get("config_dir").and_then(Value::as_str).filter(|text| !text.is_empty())
        {
            place.config_dir = PathBuf::from(folder);
        }
        let (settings, _) = Settings::from_dynamic(&Value::Object(dynamic.clone()));
        let standby = dynamic.get("standby_cluster").and_then(Value::as_object);
        let standby = standby.filter(|_| settings.standby_cluster.is_some()).cloned().unwrap_or_default();
        let follows = settings.standby_cluster;
        Instance {
            config: config.clone(),
            section,
            standby,
            follows,
            installation,
            place,
            feeds_back: false,
            refused: BTreeMap::new(),
            slot_wal_cap: None,
            primary_start_timeout: settings.primary_start_timeout,
        }
    }

    /// Leaves out the parameters that this release of the server does not take: with one of them it would neither start
    /// nor read its files again. `before` is what counted until here.
    pub fn weigh(&mut self, before: Option<&Instance>) {
        let same = |before: &&Instance| {
            before.installation == self.installation
                && before.section.get("parameters") == self.section.get("parameters")
        };
        if let Some(before) = before.filter(same) {
            self.refused = before.refused.clone();
            return;
        }
        match refusal::refused(&self.installation, &self.parameters()) {
            Ok(refused) => self.refused = refused,
            Err(error) => {
                tracing::warn!(error = %crate::sys::chain(&error), "the parameters are not judged by the server");
            }
        }
        for (name, why) in &self.refused {
            tracing::error!(parameter = name, why, "a parameter is left out: the server does not take it");
        }
    }

    pub fn data_dir(&self) -> &Path {
        &self.place.data_dir
    }

    /// Returns the parameters as the configuration wants them, those of synchronous replication left out.
    pub fn parameters(&self) -> Parameters {
        let mut parameters: Parameters = self
            .section
            .get("parameters")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), parameter_text(value)?)))
            .filter(|(name, _)| {
                !name.eq_ignore_ascii_case(SYNC_PARAMETER) && !self.refused.contains_key(name)
            })
            .collect();
        // The setting in bytes has taken the place of the one in segments, which are 16 MB here as they are to Patroni.
        if let Some(segments) = parameters.remove("wal_keep_segments")
            && let Ok(segments) = segments.parse::<u64>()
        {
            parameters.entry("wal_keep_size".to_owned()).or_insert_with(|| format!("{}MB", segments * 16));
        }
        // A replica whose leader has moved looks for it again after this; Postgres's own 5 s are most of a failover.
        parameters.entry("wal_retrieve_retry_interval".to_owned()).or_insert_with(|| "500ms".to_owned());
        if self.feeds_back {
            parameters.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        parameters
    }

    /// Returns the parameters that count only where neither the configuration nor the administrator's file has them.
    pub fn defaults(&self) -> Parameters {
        let cap = self.slot_wal_cap.map(|bytes| format!("{}MB", bytes >> 20));
        cap.into_iter().map(|cap| ("max_slot_wal_keep_size".to_owned(), cap)).collect()
    }

    /// Returns the user's own value of `synchronous_standby_names`.
    pub fn own_sync_names(&self) -> String {
        let parameters = self.section.get("parameters").and_then(Value::as_object);
        parameters
            .and_then(|parameters| parameters.get(SYNC_PARAMETER))
            .and_then(parameter_text)
            .unwrap_or_default()
    }

    /// Returns the lines of pg_hba.conf; None: the file is the administrator's.
    pub fn hba(&self) -> Option<Vec<String>> {
        lines(self.section.get("pg_hba")?)
    }

    pub fn ident(&self) -> Option<Vec<String>> {
        lines(self.section.get("pg_ident")?)
    }

    /// Returns the connection to the cluster that this standby cluster follows; None: it has none.
    pub fn remote(&self) -> Option<standby::Upstream> {
        let (host, port) = self.follows.as_ref()?.place.clone()?;
        let replication = &self.config.postgresql.replication;
        let mut options = replication.options.clone();
        if host.contains(',') {
            options.push(("target_session_attrs".to_owned(), "read-write".to_owned()));
        }
        Some(standby::Upstream {
            host,
            port,
            user: replication.username.clone(),
            passfile: Some(self.passfile()),
            application_name: self.config.name.clone(),
            options,
            slot: None,
        })
    }

    /// Returns where each server of that cluster listens.
    pub fn remote_places(&self) -> Vec<(String, u16)> {
        let place = self.follows.as_ref().and_then(|cluster| cluster.place.as_ref());
        let hosts = |(hosts, port): &(String, u16)| {
            let names = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
            names.map(|host| (host.to_owned(), *port)).collect()
        };
        place.map(hosts).unwrap_or_default()
    }

    /// Returns `restore_command` and its like. A delay is the standby leader's alone: its replicas have it from there.
    pub fn recovery_extra(&self, follows_remote: bool) -> Parameters {
        let from = |key: &str| self.section.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut extra = Parameters::new();
        for (name, value) in from("recovery_conf").into_iter().chain(from("parameters")) {
            if matches!(
                name.as_str(),
                "restore_command"
                    | "archive_cleanup_command"
                    | "recovery_end_command"
                    | "recovery_min_apply_delay"
            ) && let Some(text) = parameter_text(&value)
            {
                extra.insert(name, text);
            }
        }
        for (name, value) in &self.standby {
            let counts = matches!(name.as_str(), "restore_command" | "archive_cleanup_command")
                || (name == "recovery_min_apply_delay" && follows_remote);
            if counts && let Some(text) = parameter_text(value) {
                extra.insert(name.clone(), text);
            }
        }
        extra
    }

    /// Returns the command that archives a WAL file, if the server archives.
    pub fn archive_command(&self) -> Option<String> {
        let parameters = self.parameters();
        let archives = matches!(parameters.get("archive_mode").map(String::as_str), Some("on" | "always"));
        parameters.get("archive_command").filter(|command| archives && !command.trim().is_empty()).cloned()
    }

    pub fn has_restore_command(&self) -> bool {
        self.recovery_extra(false).get("restore_command").is_some_and(|command| !command.is_empty())
    }

    /// Returns the options of pg_basebackup.
    pub fn basebackup_options(&self) -> Vec<(String, Option<String>)> {
        let mut options = Vec::new();
        match self.section.get("basebackup") {
            Some(Value::Object(map)) => {
                options.extend(map.iter().map(|(name, value)| (name.clone(), parameter_text(value))));
            }
            Some(Value::Array(items)) => {
                for item in items {
                    match item {
                        Value::String(name) => options.push((name.clone(), None)),
                        Value::Object(map) => {
                            options.extend(
                                map.iter().map(|(name, value)| (name.clone(), parameter_text(value))),
                            );
                        }
                        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
                    }
                }
            }
            _ => {}
        }
        if !options.iter().any(|(name, _)| name == "checkpoint") {
            options.push(("checkpoint".to_owned(), Some("fast".to_owned())));
        }
        options
    }

    /// Returns how this member's data is made from another's, in the order in which it is tried.
    pub fn replica_methods(&self) -> Vec<Method> {
        methods::of_replicas(self.standby.get("create_replica_methods"), &self.section)
    }

    /// Returns what of the own configuration decisions rest on.
    pub fn local(&self) -> Local {
        Local {
            joins_only: self.config.section("bootstrap").is_empty(),
            custom_bootstrap: self.config.bootstrap.method.is_some(),
            copies_without_leader: self.replica_methods().iter().any(|method| method.no_leader),
            pre_promote: self.pre_promote().is_some(),
        }
    }

    /// Returns the command that must end well before a promotion.
    pub fn pre_promote(&self) -> Option<String> {
        self.command("pre_promote")
    }

    /// Returns the command that is run before a stop.
    pub fn before_stop(&self) -> Option<String> {
        self.command("before_stop")
    }

    fn command(&self, key: &str) -> Option<String> {
        let text = self.section.get(key).and_then(Value::as_str)?;
        (!text.trim().is_empty()).then(|| text.to_owned())
    }

    /// Returns where the server listens for this agent.
    pub fn host(&self) -> Host {
        let postgresql = &self.config.postgresql;
        let sockets = self.parameters().get("unix_socket_directories").cloned();
        if postgresql.use_unix_socket {
            let folder = sockets.unwrap_or_else(|| "/var/run/postgresql".to_owned());
            let first = folder.split(',').next().unwrap_or_default().trim().to_owned();
            if first.starts_with('/') {
                return Host::Socket(first.into());
            }
        }
        let local = postgresql
            .listen
            .host
            .split(',')
            .any(|host| matches!(host.trim(), "*" | "0.0.0.0" | "::" | "localhost" | "127.0.0.1"));
        Host::Name(if local { "127.0.0.1".to_owned() } else { postgresql.connect_address.host.clone() })
    }

    /// Returns the folder of the server's socket, for what needs a folder of the host.
    pub fn socket_dir(&self) -> PathBuf {
        let folder = self.parameters().get("unix_socket_directories").cloned();
        let folder = folder.unwrap_or_else(|| "/var/run/postgresql".to_owned());
        folder.split(',').next().unwrap_or_default().trim().into()
    }

    /// Returns a connection as the superuser.
    pub fn target(&self, application_name: &str) -> Target {
        let superuser = &self.config.postgresql.superuser;
        Target {
            host: self.host(),
            port: self.config.postgresql.listen.port,
            user: superuser.username.clone(),
            password: superuser.password.clone(),
            database: "postgres".to_owned(),
            application_name: application_name.to_owned(),
            options: superuser.options.clone(),
        }
    }

    /// Returns a connection to the server of another member, as this user.
    pub fn target_at(
        &self,
        (host, port): (String, u16),
        user: &Credentials,
        application_name: &str,
    ) -> Target {
        Target {
            host: Host::Name(host),
            port,
            user: user.username.clone(),
            password: user.password.clone(),
            options: user.options.clone(),
            ..self.target(application_name)
        }
    }

    /// Returns the user and password by which replicas stream and copy.
    pub fn passfile(&self) -> String {
        self.config.postgresql.pgpass.display().to_string()
    }
}

fn lines(value: &Value) -> Option<Vec<String>> {
    let items = value.as_array()?;
    let lines: Vec<String> = items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (!lines.is_empty()).then_some(lines)
}

/// Writes `synchronous_standby_names`: names sorted, quoted, no blanks, as Patroni writes them; None: the user's own.
pub fn sync_names_text(names: &SyncNames) -> Option<String> {
    match names {
        SyncNames::Off => None,
        SyncNames::Nobody => Some(NOBODY.to_owned()),
        SyncNames::Foreign(text) => Some(text.clone()),
        SyncNames::All(standbys) => Some(match quoted(standbys).as_slice() {
            [] => NOBODY.to_owned(),
            [one] => one.clone(),
            several => format!("{} ({})", several.len(), several.join(",")),
        }),
        SyncNames::Any { count, names } => Some(match quoted(names).as_slice() {
            [] => format!("ANY 1 ({NOBODY})"),
            names => format!("ANY {count} ({})", names.join(",")),
        }),
    }
}

fn quoted(names: &BTreeSet<MemberName>) -> Vec<String> {
    names.iter().map(|name| format!("\"{}\"", name.as_str().replace('"', "\"\""))).collect()
}

/// Reads `synchronous_standby_names`; `own` is the user's value.
pub fn read_sync_names(text: &str, own: &str) -> SyncNames {
    let text = text.trim();
    if text.is_empty() || text == own.trim() {
        return SyncNames::Off;
    }
    if text == NOBODY {
        return SyncNames::Nobody;
    }
    let names = |list: &str| -> Option<BTreeSet<MemberName>> {
        list.split(',')
            .map(|name| {
                let name = name.trim();
                let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                let name = inner.map_or_else(|| name.to_owned(), |inner| inner.replace("\"\"", "\""));
                name.parse::<MemberName>().ok().filter(|_| name != "*")
            })
            .collect()
    };
    if let Some((count, list)) = text.split_once('(') {
        let any = count.trim().strip_prefix("ANY");
        let count = any.unwrap_or_else(|| count.trim().trim_start_matches("FIRST")).trim().parse::<usize>();
        let list = list.trim_end().strip_suffix(')').unwrap_or(list);
        return match (any, count, names(list)) {
            (Some(_), Ok(1), Some(_)) if list.trim() == NOBODY => {
                SyncNames::Any { count: 1, names: BTreeSet::new() }
            }
            (Some(_), Ok(count), Some(names)) if (1..=names.len()).contains(&count) => {
                SyncNames::Any { count, names }
            }
            (None, Ok(count), Some(names)) if count == names.len() => SyncNames::All(names),
            _ => SyncNames::Foreign(text.to_owned()),
        };
    }
    match names(text) {
        Some(names) if names.len() == 1 => SyncNames::All(names),
        Some(_) | None => SyncNames::Foreign(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> SyncNames {
        SyncNames::All(list.iter().map(|name| name.parse().unwrap()).collect())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let any = |count, list: &[&str]| SyncNames::Any { count, names: names(list).standbys() };
        for set in [
            SyncNames::Nobody,
            names(&["postgres-1"]),
            names(&["b", "a\"x"]),
            any(1, &[]),
            any(1, &["a", "b"]),
        ] {
            let text = sync_names_text(&set).unwrap();
            assert_eq!(read_sync_names(&text, ""), set, "{text}");
        }
    }

    #[test]
    fn names_are_written_as_patroni_does() {
        assert_eq!(sync_names_text(&names(&["postgres-1"])).unwrap(), "\"postgres-1\"");
        assert_eq!(sync_names_text(&names(&["b", "a"])).unwrap(), "2 (\"a\",\"b\")");
        let any = SyncNames::Any { count: 1, names: names(&["b", "a"]).standbys() };
        assert_eq!(sync_names_text(&any).unwrap(), "ANY 1 (\"a\",\"b\")");
    }

    #[test]
    fn what_nobody_of_us_wrote_is_foreign() {
        for text in ["*", "ANY 3 (a,b)", "a,b", "FIRST 1 (a,b)"] {
            assert_eq!(read_sync_names(text, ""), SyncNames::Foreign(text.to_owned()), "{text}");
        }
        assert_eq!(read_sync_names("mine", "mine"), SyncNames::Off);
    }
}
