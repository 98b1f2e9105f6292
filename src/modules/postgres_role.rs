//! Keeps a role (user) of a Postgres cluster.
//!
//! # What it manages
//! Whether the role is there; its attributes, its password, the roles it is a member of, the settings of its sessions. What
//! is not given is left alone.
//!
//! # Example
//! ```yaml
//! postgres_role:
//!   name: app
//!   password: "{{ app_password }}"
//!   connection_limit: 50
//!   member_of: [readers]
//!   settings: {statement_timeout: 30s}
//! ```
//!
//! # What it observes
//! `pg_authid`, `pg_auth_members` and `pg_db_role_setting`. Whether a password is the right one is told by the verifier that
//! the server has stored. A replica has the same catalogs as the primary: where they differ, an apply waits there until the
//! primary's change has come.
//!
//! # What it never does
//! It sends no password, only its SCRAM-SHA-256 verifier, and drops no object with a role that owns one.
//!
//! # Notes
//! `member_of` and `settings` are the whole lists: what is beside them is revoked or reset.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::lineinfile::Presence;
use crate::modules::postgres_session::{self as session, Answer, Server};
use crate::modules::postgres_setting::Setting;
use crate::modules::remote;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen};
use crate::postgres::query::{QueryError, Session, quote_identifier, quote_literal};
use crate::postgres::scram;
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::secret::Secret;

#[derive(Debug)]
pub struct PostgresRole;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The folder of the server's Unix socket.
    #[serde(default = "session::default_socket_dir")]
    socket_dir: String,
    #[serde(default = "session::default_port")]
    port: u16,
    /// The database user, who is the operating system's user of that name.
    #[serde(default = "session::default_user")]
    login_user: String,
    name: String,
    #[serde(default)]
    state: Presence,
    /// The password, or its verifier as the server would store it.
    #[schemars(with = "Option<String>")]
    password: Option<Secret>,
    /// Whether it may log in.
    login: Option<bool>,
    superuser: Option<bool>,
    createdb: Option<bool>,
    createrole: Option<bool>,
    replication: Option<bool>,
    bypassrls: Option<bool>,
    inherit: Option<bool>,
    /// Most connections at a time; -1 for any number.
    connection_limit: Option<i32>,
    /// All roles that it is a member of.
    member_of: Option<Vec<String>>,
    /// All settings of its sessions, in every database.
    settings: Option<BTreeMap<String, Setting>>,
}

impl Params {
    fn server(&self) -> Server {
        Server {
            socket_dir: self.socket_dir.clone(),
            port: self.port,
            user: self.login_user.clone(),
            database: "postgres".to_owned(),
        }
    }

    fn flags(&self) -> [Option<bool>; FLAGS.len()] {
        let Params { login, superuser, createdb, createrole, replication, bypassrls, inherit, .. } = self;
        [*login, *superuser, *createdb, *createrole, *replication, *bypassrls, *inherit]
    }
}

/// The attributes that a role has or has not: the word of SQL and the column of `pg_authid`.
const FLAGS: [(&str, &str); 7] = [
    ("LOGIN", "rolcanlogin"),
    ("SUPERUSER", "rolsuper"),
    ("CREATEDB", "rolcreatedb"),
    ("CREATEROLE", "rolcreaterole"),
    ("REPLICATION", "rolreplication"),
    ("BYPASSRLS", "rolbypassrls"),
    ("INHERIT", "rolinherit"),
];

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    is_replica: bool,
    version: u32,
    role: Option<Role>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    flags: [bool; FLAGS.len()],
    connection_limit: i32,
    /// Whether the stored verifier is that of the password; `None` where none is asked for.
    has_password: Option<bool>,
    /// The roles it is a member of, each with those who granted it.
    member_of: BTreeMap<String, BTreeSet<String>>,
    settings: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Create(String),
    Drop(String),
    Flag { word: &'static str, to: bool },
    ConnectionLimit { from: i32, to: i32 },
    Password,
    Grant(String),
    Revoke { role: String, granted_by: BTreeSet<String> },
    Set { name: String, from: Option<String>, to: Setting },
    Reset { name: String, from: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create(name) => write!(f, "create role {name}"),
            Change::Drop(name) => write!(f, "drop role {name}"),
            Change::Flag { word, to: true } => write!(f, "{}", word.to_lowercase()),
            Change::Flag { word, to: false } => write!(f, "no{}", word.to_lowercase()),
            Change::ConnectionLimit { from, to } => write!(f, "connection limit {to} (is {from})"),
            Change::Password => write!(f, "set the password"),
            Change::Grant(role) => write!(f, "grant membership of {role}"),
            Change::Revoke { role, .. } => write!(f, "revoke membership of {role}"),
            Change::Set { name, from: None, to } => write!(f, "set {name} = '{to}'"),
            Change::Set { name, from: Some(from), to } => write!(f, "set {name} = '{to}' (is '{from}')"),
            Change::Reset { name, from } => write!(f, "reset {name} (is '{from}')"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
    exists: bool,
    member_of: Vec<String>,
    settings: BTreeMap<String, String>,
}

async fn look(session: &Session, params: &Params) -> Result<State, QueryError> {
    let name = quote_literal(&params.name);
    let columns: Vec<&str> = FLAGS.iter().map(|(_, column)| *column).collect();
    // One statement, one snapshot: on a replica, half of the primary's transaction is never seen.
    let statement = format!(
        "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('server_version_num'),
                r.oid, {}, r.rolconnlimit, COALESCE(r.rolpassword, ''),
                (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_array(
                            pg_catalog.pg_get_userbyid(m.roleid), pg_catalog.pg_get_userbyid(m.grantor))), '[]')
                   FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid),
                (SELECT COALESCE(pg_catalog.json_agg(s.setting), '[]')
                   FROM pg_catalog.pg_db_role_setting d, pg_catalog.unnest(d.setconfig) s(setting)
                  WHERE d.setrole = r.oid AND d.setdatabase = 0)
           FROM (SELECT) one LEFT JOIN pg_catalog.pg_authid r ON r.rolname = {name}",
        columns.iter().map(|column| format!("r.{column}")).collect::<Vec<_>>().join(", ")
    );
    let rows = session.rows(&statement).await?;
    rows.first().and_then(|row| read(row, params)).ok_or(QueryError::Unreadable("a role"))
}

fn read(row: &[Option<String>], params: &Params) -> Option<State> {
    let mut values = row.iter().map(Option::as_deref);
    let mut next = || values.next().flatten();
    let is_replica = next()? == "t";
    let version = next()?.parse().ok()?;
    if next().is_none() {
        return Some(State { is_replica, version, role: None });
    }
    let mut flags = [false; FLAGS.len()];
    for flag in &mut flags {
        *flag = next()? == "t";
    }
    let connection_limit = next()?.parse().ok()?;
    let stored = next()?;
    let has_password = params.password.as_ref().map(|password| scram::is_of(stored, password));
    let granted: Vec<(String, String)> = serde_json::from_str(next()?).ok()?;
    let mut member_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (role, grantor) in granted {
        member_of.entry(role).or_default().insert(grantor);
    }
    let settings: Vec<String> = serde_json::from_str(next()?).ok()?;
    // The server keeps some names with capitals, such as TimeZone, and takes them in any.
    let pair =
        |text: String| text.split_once('=').map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let settings = settings.into_iter().filter_map(pair).collect();
    let role = Role { flags, connection_limit, has_password, member_of, settings };
    Some(State { is_replica, version, role: Some(role) })
}

/// Writes the statements of all changes, one transaction.
fn statements(params: &Params, changes: &[Change], version: u32) -> String {
    let name = quote_identifier(&params.name);
    // The verifier is no password, but whoever reads it may guess at one: it goes into no log.
    let mut lines = vec![
        "BEGIN".to_owned(),
        "SET LOCAL log_statement = 'none'".to_owned(),
        "SET LOCAL log_min_duration_statement = -1".to_owned(),
        "SET LOCAL log_min_error_statement = 'panic'".to_owned(),
    ];
    for change in changes {
        match change {
            Change::Create(_) => lines.push(format!("CREATE ROLE {name}")),
            Change::Drop(_) => lines.push(format!("DROP ROLE {name}")),
            Change::Flag { word, to } => {
                lines.push(format!("ALTER ROLE {name} {}{word}", if *to { "" } else { "NO" }));
            }
            Change::ConnectionLimit { to, .. } => {
                lines.push(format!("ALTER ROLE {name} CONNECTION LIMIT {to}"));
            }
            Change::Password => lines.extend(params.password.as_ref().map(|password| {
                let stored = scram::stored_form(password);
                format!("ALTER ROLE {name} PASSWORD {}", quote_literal(stored.reveal()))
            })),
            Change::Grant(role) => lines.push(format!("GRANT {} TO {name}", quote_identifier(role))),
            // Since 16 a grant is its grantor's, and so is its end.
            Change::Revoke { role, granted_by } if version >= 160_000 => {
                lines.extend(granted_by.iter().map(|grantor| {
                    let (role, grantor) = (quote_identifier(role), quote_identifier(grantor));
                    format!("REVOKE {role} FROM {name} GRANTED BY {grantor}")
                }));
            }
            Change::Revoke { role, .. } => {
                lines.push(format!("REVOKE {} FROM {name}", quote_identifier(role)));
            }
            Change::Set { name: setting, to, .. } => lines.push(format!(
                "ALTER ROLE {name} SET {} = {}",
                quote_identifier(setting),
                to.quoted(setting)
            )),
            Change::Reset { name: setting, .. } => {
                lines.push(format!("ALTER ROLE {name} RESET {}", quote_identifier(setting)));
            }
        }
    }
    lines.push("COMMIT".to_owned());
    lines.join("; ")
}

impl Module for PostgresRole {
    const NAME: &'static str = "postgres_role";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut out = Diagnostics::default();
        let is_own = params.name == params.login_user;
        if is_own && (params.state == Presence::Absent || params.superuser == Some(false)) {
            let message = format!("`{}` is the superuser that this step itself logs in as", params.name);
            let hint = "leave it out, or name another superuser as `login_user`";
            out.push(Diagnostic::error("parameter-value", message).hint(hint));
        }
        out
    }

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        Ok(match params.server().ask(async |session: &Session| look(session, params).await)? {
            Answer::Here(state) => Seen::Now(state),
            Answer::Nobody(thing) => Seen::Blocked(thing),
        })
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        let new = Role { connection_limit: -1, ..Role::default() };
        let role = match (&found.role, params.state) {
            (None, Presence::Absent) => return changes,
            (Some(_), Presence::Absent) => return vec![Change::Drop(params.name.clone())],
            (Some(role), Presence::Present) => role,
            (None, Presence::Present) => {
                changes.push(Change::Create(params.name.clone()));
                // CREATE ROLE gives every role INHERIT, and nothing else.
                &Role { flags: FLAGS.map(|(word, _)| word == "INHERIT"), ..new }
            }
        };
        for ((word, _), (is, wanted)) in FLAGS.iter().zip(role.flags.iter().zip(params.flags())) {
            changes.extend(wanted.filter(|to| to != is).map(|to| Change::Flag { word, to }));
        }
        if let Some(to) = params.connection_limit.filter(|to| *to != role.connection_limit) {
            changes.push(Change::ConnectionLimit { from: role.connection_limit, to });
        }
        if params.password.is_some() && role.has_password != Some(true) {
            changes.push(Change::Password);
        }
        if let Some(wanted) = &params.member_of {
            let missing = wanted.iter().filter(|parent| !role.member_of.contains_key(*parent));
            changes.extend(missing.cloned().map(Change::Grant));
            let more = role.member_of.iter().filter(|(parent, _)| !wanted.contains(parent));
            changes.extend(more.map(|(parent, granted_by)| Change::Revoke {
                role: parent.clone(),
                granted_by: granted_by.clone(),
            }));
        }
        if let Some(wanted) = &params.settings {
            let differs = wanted.iter().filter_map(|(name, to)| {
                let from = role.settings.get(&name.to_lowercase());
                let is_equal = from.is_some_and(|from| to.is_stored_as(name, from));
                (!is_equal).then(|| Change::Set { name: name.clone(), from: from.cloned(), to: to.clone() })
            });
            changes.extend(differs);
            let is_wanted = |name: &str| wanted.keys().any(|other| other.to_lowercase() == name);
            let more = role.settings.iter().filter(|(name, _)| !is_wanted(name));
            changes.extend(more.map(|(name, from)| Change::Reset { name: name.clone(), from: from.clone() }));
        }
        changes
    }

    fn elsewhere(found: &State) -> Option<&'static str> {
        found.is_replica.then_some(session::ON_PRIMARY)
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let server = params.server();
        if found.is_replica {
            let look = || server.must(async |session: &Session| look(session, params).await);
            return session::arrived(remote::RETURN_LIMIT, look, |found| PostgresRole::diff(params, found));
        }
        let done = server.must(async |session: &Session| {
            session.execute(&statements(params, changes, found.version)).await?;
            look(session, params).await
        });
        done.map_err(|fault| match (params.state, &fault.hint) {
            (Presence::Absent, None) => fault.hint(
                "what it owns and its grants must go first: `REASSIGN OWNED`, then `DROP OWNED` in each database",
            ),
            _ => fault,
        })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let role = after.unwrap_or(before).role.clone();
        let exists = role.is_some();
        let Role { member_of, settings, .. } = role.unwrap_or_default();
        Output { name: params.name.clone(), exists, member_of: member_of.into_keys().collect(), settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: serde_json::Value) -> Params {
        serde_json::from_value(json).unwrap()
    }

    fn found(role: Option<Role>) -> State {
        State { is_replica: false, version: 170_000, role }
    }

    fn diff(json: serde_json::Value, role: Option<Role>) -> Vec<String> {
        PostgresRole::diff(&params(json), &found(role)).iter().map(ToString::to_string).collect()
    }

    fn plain() -> Role {
        Role { flags: FLAGS.map(|(word, _)| word == "INHERIT"), connection_limit: -1, ..Role::default() }
    }

    #[test]
    fn a_role_that_is_not_there_is_made_with_all_that_is_asked_for() {
        let wanted = serde_json::json!({"name": "app", "password": "x", "login": true, "inherit": true,
            "connection_limit": 5, "member_of": ["readers"], "settings": {"jit": false}});
        assert_eq!(
            diff(wanted, None),
            [
                "create role app",
                "login",
                "connection limit 5 (is -1)",
                "set the password",
                "grant membership of readers",
                "set jit = 'off'"
            ]
        );
    }

    #[test]
    fn what_is_not_given_is_left_alone_and_lists_are_whole() {
        let mut role = plain();
        role.member_of.insert("writers".into(), BTreeSet::from(["postgres".into()]));
        role.settings.insert("timezone".into(), "UTC".into());
        role.settings.insert("work_mem".into(), "1GB".into());
        assert!(diff(serde_json::json!({"name": "app"}), Some(role.clone())).is_empty());
        let wanted = serde_json::json!({"name": "app", "member_of": [], "settings": {"TimeZone": "UTC"}});
        assert_eq!(diff(wanted, Some(role)), ["revoke membership of writers", "reset work_mem (is '1GB')"]);
    }

    #[test]
    fn names_and_values_stay_in_their_quotes_and_the_password_is_not_sent() {
        let params = params(serde_json::json!({"name": "a\"b", "password": "it's me",
            "member_of": ["c; d"], "settings": {"application_name": "it's"}}));
        let mut changes = PostgresRole::diff(&params, &found(None));
        let granted_by = BTreeSet::from(["bo ss".into()]);
        changes.push(Change::Revoke { role: "e".into(), granted_by });

        let text = statements(&params, &changes, 160_000);

        assert!(text.contains("; CREATE ROLE \"a\"\"b\";"), "{text}");
        assert!(text.contains("GRANT \"c; d\" TO \"a\"\"b\""), "{text}");
        assert!(text.contains("SET \"application_name\" = 'it''s'"), "{text}");
        assert!(text.contains("REVOKE \"e\" FROM \"a\"\"b\" GRANTED BY \"bo ss\""), "{text}");
        assert!(text.contains("PASSWORD 'SCRAM-SHA-256$4096:") && !text.contains("it's me"), "{text}");
        assert!(text.ends_with("; COMMIT"), "{text}");
    }
}
