//! Keeps a database of a Postgres cluster.
//!
//! # What it manages
//! Whether the database is there, and who owns it. Encoding, locale and template count when it is made.
//!
//! # Example
//! ```yaml
//! postgres_database:
//!   name: orders
//!   owner: app
//!   encoding: UTF8
//!   locale: C.UTF-8
//! ```
//!
//! # What it observes
//! `pg_database`. A replica has the same catalogs as the primary: where they differ, an apply waits there until the primary's
//! change has come.
//!
//! # What it never does
//! It changes no encoding or locale of a database that is there, since Postgres cannot, and says so; it ends no client's
//! session to drop a database.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::lineinfile::Presence;
use crate::modules::postgres_session::{self as session, Answer, Server};
use crate::modules::remote;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Risk, Seen, Thing};
use crate::postgres::query::{QueryError, Session, quote_identifier, quote_literal};

#[derive(Debug)]
pub struct PostgresDatabase;

/// A database is made by copying another one, and a checkpoint comes before and after.
const COPY_LIMIT: Duration = Duration::from_secs(120);

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
    /// The role that owns it; `login_user` owns a new one when it is not given.
    owner: Option<String>,
    encoding: Option<String>,
    locale: Option<String>,
    /// The database that a new one is copied from.
    template: Option<String>,
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
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    is_replica: bool,
    /// The encoding that is asked for, as the server spells it.
    asked_encoding: Option<String>,
    database: Option<Database>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Database {
    owner: String,
    encoding: String,
    collate: String,
    ctype: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Create(String),
    Drop(String),
    Owner { from: String, to: String },
    Encoding { from: String, to: String },
    Locale { from: String, to: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create(name) => write!(f, "create database {name}"),
            Change::Drop(name) => write!(f, "drop database {name}"),
            Change::Owner { from, to } => write!(f, "owner {to} (is {from})"),
            Change::Encoding { from, to } => write!(f, "encoding {to} (is {from})"),
            Change::Locale { from, to } => write!(f, "locale {to} (is {from})"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
    database: Option<Database>,
}

async fn look(session: &Session, params: &Params) -> Result<State, QueryError> {
    let asked = params.encoding.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
    let statement = format!(
        "SELECT pg_catalog.pg_is_in_recovery(),
                pg_catalog.pg_encoding_to_char(pg_catalog.pg_char_to_encoding({asked})),
                pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding),
                d.datcollate, d.datctype
           FROM (SELECT) one LEFT JOIN pg_catalog.pg_database d ON d.datname = {}",
        quote_literal(&params.name)
    );
    let rows = session.rows(&statement).await?;
    rows.into_iter().next().and_then(|row| read(row, params)).ok_or(QueryError::Unreadable("a database"))
}

fn read(row: Vec<Option<String>>, params: &Params) -> Option<State> {
    let mut values = row.into_iter();
    let is_replica = values.next()?? == "t";
    // An encoding that the server does not know has no name; it is refused when the database is made.
    let known = values.next()?.filter(|name| !name.is_empty());
    let asked_encoding = params.encoding.as_ref().map(|asked| known.unwrap_or_else(|| asked.clone()));
    let [owner, encoding, collate, ctype] = std::array::from_fn(|_| values.next().flatten());
    let database = owner.zip(encoding).zip(collate.zip(ctype));
    let database =
        database.map(|((owner, encoding), (collate, ctype))| Database { owner, encoding, collate, ctype });
    Some(State { is_replica, asked_encoding, database })
}

/// Two spellings of a locale are one where only capitals and hyphens of the code set differ: C.UTF-8, C.utf8.
fn is_same_locale(a: &str, b: &str) -> bool {
    let spelled = |text: &str| match text.split_once('.') {
        Some((language, code_set)) => format!("{language}.{}", code_set.to_lowercase().replace('-', "")),
        None => text.to_owned(),
    };
    spelled(a) == spelled(b)
}

fn create(params: &Params) -> String {
    let mut statement = format!("CREATE DATABASE {}", quote_identifier(&params.name));
    if let Some(owner) = &params.owner {
        statement.push_str(&format!(" OWNER {}", quote_identifier(owner)));
    }
    if let Some(encoding) = &params.encoding {
        statement.push_str(&format!(" ENCODING {}", quote_literal(encoding)));
    }
    if let Some(locale) = &params.locale {
        let locale = quote_literal(locale);
        statement.push_str(&format!(" LC_COLLATE {locale} LC_CTYPE {locale}"));
    }
    // Only this template may be copied in another encoding or locale than its own.
    let is_other = params.encoding.is_some() || params.locale.is_some();
    let template = params.template.as_deref().or(is_other.then_some("template0"));
    if let Some(template) = template {
        statement.push_str(&format!(" TEMPLATE {}", quote_identifier(template)));
    }
    statement
}

impl Module for PostgresDatabase {
    const NAME: &'static str = "postgres_database";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        Ok(match params.server().ask(async |session: &Session| look(session, params).await)? {
            Answer::Here(state) => Seen::Now(state),
            Answer::Nobody(thing) => Seen::Blocked(thing),
        })
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let database = match (&found.database, params.state) {
            (None, Presence::Absent) => return Vec::new(),
            (Some(_), Presence::Absent) => return vec![Change::Drop(params.name.clone())],
            (None, Presence::Present) => return vec![Change::Create(params.name.clone())],
            (Some(database), Presence::Present) => database,
        };
        let mut changes = Vec::new();
        let Database { owner, encoding, collate, ctype } = database;
        if let Some(to) = params.owner.clone().filter(|to| to != owner) {
            changes.push(Change::Owner { from: owner.clone(), to });
        }
        if let Some(to) = found.asked_encoding.clone().filter(|to| to != encoding) {
            changes.push(Change::Encoding { from: encoding.clone(), to });
        }
        if let Some(to) = &params.locale {
            let other = [collate, ctype].into_iter().find(|from| !is_same_locale(from, to));
            changes.extend(other.map(|from| Change::Locale { from: from.clone(), to: to.clone() }));
        }
        changes
    }

    fn elsewhere(found: &State) -> Option<&'static str> {
        found.is_replica.then_some(session::ON_PRIMARY)
    }

    fn patience(_params: &Params) -> Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let fixed = changes.iter().find(|c| matches!(c, Change::Encoding { .. } | Change::Locale { .. }));
        if let Some(fixed) = fixed {
            let message = format!("the database `{}` cannot be given {fixed} while it exists", params.name);
            return Err(Fault::refused(message).hint(
                "dump it and restore it into a new database, or ask for what it has: cluster.yml, `postgres.databases`",
            ));
        }
        let server = params.server();
        if found.is_replica {
            let look = || server.must(async |session: &Session| look(session, params).await);
            let limit = COPY_LIMIT + remote::RETURN_LIMIT;
            return session::arrived(limit, look, |found| PostgresDatabase::diff(params, found));
        }
        let name = quote_identifier(&params.name);
        server.must(async |session: &Session| {
            for change in changes {
                let statement = match change {
                    Change::Create(_) => create(params),
                    Change::Drop(_) => format!("DROP DATABASE {name}"),
                    Change::Owner { to, .. } => {
                        format!("ALTER DATABASE {name} OWNER TO {}", quote_identifier(to))
                    }
                    Change::Encoding { .. } | Change::Locale { .. } => continue,
                };
                session.execute_within(&statement, COPY_LIMIT).await?;
            }
            look(session, params).await
        })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        Output { name: params.name.clone(), database: after.unwrap_or(before).database.clone() }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            Change::Drop(_) => Risk::DataLoss,
            Change::Create(_) | Change::Owner { .. } | Change::Encoding { .. } | Change::Locale { .. } => {
                Risk::None
            }
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        match params.state {
            Presence::Present => vec![Thing::Database(params.name.clone())],
            Presence::Absent => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: serde_json::Value) -> Params {
        serde_json::from_value(json).unwrap()
    }

    fn orders() -> State {
        let text = ToOwned::to_owned;
        let database = Database {
            owner: text("app"),
            encoding: text("UTF8"),
            collate: text("C.utf8"),
            ctype: text("C.UTF-8"),
        };
        State { is_replica: false, asked_encoding: None, database: Some(database) }
    }

    #[test]
    fn a_database_that_is_as_asked_needs_nothing() {
        let wanted = params(serde_json::json!({"name": "orders", "owner": "app", "locale": "C.UTF-8"}));
        assert_eq!(PostgresDatabase::diff(&wanted, &orders()), []);
        assert_eq!(PostgresDatabase::diff(&params(serde_json::json!({"name": "orders"})), &orders()), []);
    }

    #[test]
    fn every_difference_is_told() {
        let wanted = params(serde_json::json!({"name": "orders", "owner": "bob", "locale": "C"}));
        let found = State { asked_encoding: Some("LATIN1".into()), ..orders() };
        let changes: Vec<String> =
            PostgresDatabase::diff(&wanted, &found).iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["owner bob (is app)", "encoding LATIN1 (is UTF8)", "locale C (is C.utf8)"]);
    }

    #[test]
    fn names_and_values_stay_in_their_quotes() {
        let all = serde_json::json!({"name": "a\"b", "owner": "c d", "encoding": "it's", "locale": "C"});
        assert_eq!(
            create(&params(all)),
            "CREATE DATABASE \"a\"\"b\" OWNER \"c d\" ENCODING 'it''s' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE \"template0\""
        );
        assert_eq!(create(&params(serde_json::json!({"name": "a"}))), "CREATE DATABASE \"a\"");
    }
}
