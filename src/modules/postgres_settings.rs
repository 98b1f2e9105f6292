//! Keeps what `ALTER SYSTEM` has set on a Postgres server as asked: usually nothing.
//!
//! # What it manages
//! The entries of `postgresql.auto.conf`, which stand above the configuration that the agent writes.
//!
//! # Example
//! ```yaml
//! postgres_settings:
//!   socket_dir: /var/run/postgresql
//!   port: 5432
//!   altered: {}
//! ```
//!
//! # What it observes
//! `pg_file_settings` of the running server, and which settings wait for a restart.
//!
//! # What it never does
//! It restarts nothing, and touches no setting of the agent's own files.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::postgres_session::{self as session, Answer, Server};
use crate::modules::remote;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Risk, Seen};
use crate::postgres::query::{QueryError, Session, quote_identifier, quote_literal};

#[derive(Debug)]
pub struct PostgresSettings;

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
    /// What `ALTER SYSTEM` may have set; everything else there is reset.
    altered: BTreeMap<String, String>,
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

#[derive(Debug, PartialEq, Eq)]
pub struct State {
    altered: BTreeMap<String, String>,
    pending_restart: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Set { name: String, from: Option<String>, to: String },
    Reset { name: String, from: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Set { name, from: None, to } => write!(f, "alter system set {name} = '{to}'"),
            Change::Set { name, from: Some(from), to } => {
                write!(f, "alter system set {name} = '{to}' (is '{from}')")
            }
            Change::Reset { name, from } => write!(f, "alter system reset {name} (is '{from}')"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    altered: BTreeMap<String, String>,
    pending_restart: Vec<String>,
}

/// The last entry of a name is the one that counts.
const ALTERED: &str = "SELECT name, setting FROM pg_catalog.pg_file_settings \
     WHERE sourcefile LIKE '%/postgresql.auto.conf' AND name IS NOT NULL ORDER BY seqno";

async fn look(session: &Session) -> Result<State, QueryError> {
    let pair = |row: Vec<Option<String>>| {
        let mut values = row.into_iter();
        Some((values.next()??, values.next()??))
    };
    let altered = session.rows(ALTERED).await?.into_iter().filter_map(pair).collect();
    Ok(State { altered, pending_restart: session.pending_restart().await? })
}

impl Module for PostgresSettings {
    const NAME: &'static str = "postgres_settings";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, _host: &Host) -> Result<Seen<State>, Fault> {
        Ok(match params.server().ask(look)? {
            Answer::Here(state) => Seen::Now(state),
            Answer::Nobody(thing) => Seen::Blocked(thing),
        })
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let set = params.altered.iter().filter_map(|(name, to)| {
            let from = found.altered.get(name);
            let (name, to) = (name.clone(), to.clone());
            (from != Some(&to)).then(|| Change::Set { name, from: from.cloned(), to })
        });
        let reset = found.altered.iter().filter(|(name, _)| !params.altered.contains_key(*name));
        set.chain(reset.map(|(name, from)| Change::Reset { name: name.clone(), from: from.clone() }))
            .collect()
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        _found: &State,
        changes: &[Change],
        _host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        params.server().must(async |session: &Session| {
            for change in changes {
                // Alone in its statement: ALTER SYSTEM cannot run in a transaction block.
                let statement = match change {
                    Change::Set { name, to, .. } => {
                        format!("ALTER SYSTEM SET {} = {}", quote_identifier(name), quote_literal(to))
                    }
                    Change::Reset { name, .. } => format!("ALTER SYSTEM RESET {}", quote_identifier(name)),
                };
                session.execute(&statement).await?;
            }
            session.reload().await?;
            look(session).await
        })
    }

    fn output(_params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let State { altered, pending_restart } = after.unwrap_or(before);
        Output { altered: altered.clone(), pending_restart: pending_restart.clone() }
    }

    fn risk(_change: &Change) -> Risk {
        Risk::Reload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_altered_by_hand_is_reset_and_what_is_asked_for_is_set() {
        let params = Params {
            socket_dir: String::new(),
            port: 5432,
            login_user: String::new(),
            altered: BTreeMap::from([("jit".to_owned(), "off".to_owned())]),
        };
        let found = State {
            altered: BTreeMap::from([("work_mem".to_owned(), "5MB".to_owned())]),
            pending_restart: Vec::new(),
        };
        let changes: Vec<String> =
            PostgresSettings::diff(&params, &found).iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["alter system set jit = 'off'", "alter system reset work_mem (is '5MB')"]);
    }
}
