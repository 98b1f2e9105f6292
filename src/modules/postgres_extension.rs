//! Keeps an extension of a Postgres database.
//!
//! # What it manages
//! Whether the extension is in the database, its version and schema where they are given. A schema that is missing is made
//! with it.
//!
//! # Example
//! ```yaml
//! postgres_extension:
//!   name: pg_stat_statements
//!   database: orders
//!   schema: public
//! ```
//!
//! # What it observes
//! `pg_extension` of that database, and which extensions the host's packages bring. A replica has the same catalogs as the
//! primary: where they differ, an apply waits there until the primary's change has come.
//!
//! # What it never does
//! It installs no package, updates no version that is not named, and drops no object that depends on the extension.

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
pub struct PostgresExtension;

/// The scripts of large extensions make thousands of objects.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

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
    /// The database that it is in.
    database: String,
    #[serde(default)]
    state: Presence,
    /// Its version; when it is not given, a new one has the packages' own, and an old one keeps its.
    version: Option<String>,
    /// The schema of its objects.
    schema: Option<String>,
}

impl Params {
    fn server(&self) -> Server {
        Server {
            socket_dir: self.socket_dir.clone(),
            port: self.port,
            user: self.login_user.clone(),
            database: self.database.clone(),
        }
    }
}

/// What the server says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    is_replica: bool,
    /// The file that must be on the host before the extension can be made; `None` where it is there.
    missing_file: Option<String>,
    extension: Option<Extension>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extension {
    version: String,
    schema: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Create { name: String, database: String },
    Drop { name: String, database: String },
    Version { from: String, to: String },
    Schema { from: String, to: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create { name, database } => write!(f, "create extension {name} in {database}"),
            Change::Drop { name, database } => write!(f, "drop extension {name} from {database}"),
            Change::Version { from, to } => write!(f, "version {to} (is {from})"),
            Change::Schema { from, to } => write!(f, "schema {to} (is {from})"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
    database: String,
    extension: Option<Extension>,
}

async fn look(session: &Session, params: &Params) -> Result<State, QueryError> {
    let name = quote_literal(&params.name);
    let statement = format!(
        "SELECT pg_catalog.pg_is_in_recovery(), e.extversion, n.nspname,
                CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions() a WHERE a.name = {name})
                     THEN (SELECT setting FROM pg_catalog.pg_config() WHERE name = 'SHAREDIR') END
           FROM (SELECT) one
           LEFT JOIN pg_catalog.pg_extension e ON e.extname = {name}
           LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
    );
    let rows = session.rows(&statement).await?;
    rows.into_iter().next().and_then(|row| read(row, params)).ok_or(QueryError::Unreadable("an extension"))
}

fn read(row: Vec<Option<String>>, params: &Params) -> Option<State> {
    let mut values = row.into_iter();
    let is_replica = values.next()?? == "t";
    let (version, schema, share) = (values.next()?, values.next()?, values.next()?);
    let missing_file = share.map(|share| format!("{share}/extension/{}.control", params.name));
    let extension = version.zip(schema).map(|(version, schema)| Extension { version, schema });
    Some(State { is_replica, missing_file, extension })
}

fn statements(params: &Params, change: &Change) -> Vec<String> {
    let name = quote_identifier(&params.name);
    let schema = params.schema.as_deref().map(quote_identifier);
    let make_schema = schema.as_ref().map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
    match change {
        Change::Create { .. } => {
            let mut create = format!("CREATE EXTENSION {name}");
            if let Some(schema) = &schema {
                create.push_str(&format!(" SCHEMA {schema}"));
            }
            if let Some(version) = &params.version {
                create.push_str(&format!(" VERSION {}", quote_literal(version)));
            }
            make_schema.into_iter().chain([create]).collect()
        }
        Change::Drop { .. } => vec![format!("DROP EXTENSION {name}")],
        Change::Version { to, .. } => {
            vec![format!("ALTER EXTENSION {name} UPDATE TO {}", quote_literal(to))]
        }
        Change::Schema { to, .. } => {
            let to = quote_identifier(to);
            make_schema.into_iter().chain([format!("ALTER EXTENSION {name} SET SCHEMA {to}")]).collect()
        }
    }
}

impl Module for PostgresExtension {
    const NAME: &'static str = "postgres_extension";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        let answer = params.server().ask(async |session: &Session| look(session, params).await)?;
        Ok(match (answer, params.state) {
            (Answer::Here(State { missing_file: Some(file), extension: None, .. }), Presence::Present) => {
                Seen::Blocked(Thing::Path(file))
            }
            (Answer::Here(state), _) => Seen::Now(state),
            (Answer::Nobody(Thing::Database(_)), Presence::Absent) => Seen::Now(State::default()),
            (Answer::Nobody(thing), _) => Seen::Blocked(thing),
        })
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let (name, database) = (params.name.clone(), params.database.clone());
        let extension = match (&found.extension, params.state) {
            (None, Presence::Absent) => return Vec::new(),
            (Some(_), Presence::Absent) => return vec![Change::Drop { name, database }],
            (None, Presence::Present) => return vec![Change::Create { name, database }],
            (Some(extension), Presence::Present) => extension,
        };
        let mut changes = Vec::new();
        let Extension { version, schema } = extension;
        if let Some(to) = params.version.clone().filter(|to| to != version) {
            changes.push(Change::Version { from: version.clone(), to });
        }
        if let Some(to) = params.schema.clone().filter(|to| to != schema) {
            changes.push(Change::Schema { from: schema.clone(), to });
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
        let server = params.server();
        if found.is_replica {
            let look = || server.must(async |session: &Session| look(session, params).await);
            let limit = SCRIPT_LIMIT + remote::RETURN_LIMIT;
            return session::arrived(limit, look, |found| PostgresExtension::diff(params, found));
        }
        server.must(async |session: &Session| {
            for statement in changes.iter().flat_map(|change| statements(params, change)) {
                session.execute_within(&statement, SCRIPT_LIMIT).await?;
            }
            look(session, params).await
        })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        Output {
            name: params.name.clone(),
            database: params.database.clone(),
            extension: after.unwrap_or(before).extension.clone(),
        }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            Change::Drop { .. } => Risk::DataLoss,
            Change::Create { .. } | Change::Version { .. } | Change::Schema { .. } => Risk::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: serde_json::Value) -> Params {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn names_and_values_stay_in_their_quotes() {
        let params = params(
            serde_json::json!({"name": "uuid-ossp", "database": "d", "schema": "a\"b", "version": "1'"}),
        );
        let change = Change::Create { name: String::new(), database: String::new() };
        assert_eq!(
            statements(&params, &change),
            [
                "CREATE SCHEMA IF NOT EXISTS \"a\"\"b\"",
                "CREATE EXTENSION \"uuid-ossp\" SCHEMA \"a\"\"b\" VERSION '1'''"
            ]
        );
    }

    #[test]
    fn a_version_that_is_not_given_is_left_alone() {
        let extension = Extension { version: "1.0".into(), schema: "public".into() };
        let found = State { extension: Some(extension), ..State::default() };
        let diff = |json| -> Vec<String> {
            PostgresExtension::diff(&params(json), &found).iter().map(ToString::to_string).collect()
        };
        assert!(diff(serde_json::json!({"name": "x", "database": "d"})).is_empty());
        assert_eq!(
            diff(serde_json::json!({"name": "x", "database": "d", "version": "1.1", "schema": "s"})),
            ["version 1.1 (is 1.0)", "schema s (is public)"]
        );
    }
}
