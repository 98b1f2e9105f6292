//! How the modules of Postgres reach the server of their host: its socket, as the user that the task becomes.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::{Fault, FaultKind, Thing, remote};
use crate::postgres::query::{self, Host, QueryError, Session, Target};

/// SQLSTATE `invalid_catalog_name`: there is no such database.
const NO_DATABASE: &str = "3D000";

/// SQLSTATE `read_only_sql_transaction`: what a replica answers to changes.
const READ_ONLY: &str = "25006";

/// A server to ask, and as whom.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Server {
    /// The folder of the server's Unix socket.
    pub socket_dir: String,
    pub port: u16,
    pub user: String,
    pub database: String,
}

/// What a look at a server came to.
pub(super) enum Answer<T> {
    Here(T),
    /// No server listens, or it has no such database: it is not there yet, or down.
    Nobody(Thing),
}

impl Server {
    /// Runs `ask` on a connection of its own.
    ///
    /// # Errors
    /// The server refuses the user or a statement.
    pub fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&Session) -> Result<T, QueryError>,
    ) -> Result<Answer<T>, Fault> {
        let target = Target {
            host: Host::Socket(PathBuf::from(&self.socket_dir)),
            port: self.port,
            user: self.user.clone(),
            password: None,
            database: self.database.clone(),
            options: Vec::new(),
            application_name: "keddah".to_owned(),
        };
        let answer = remote::block_on(async {
            match query::connect(&target).await {
                Ok(session) => ask(&session).await.map(Answer::Here),
                Err(QueryError::Connect { source, .. }) if source.code().is_none() => {
                    Ok(Answer::Nobody(Thing::Port(self.port)))
                }
                Err(error) if error.sqlstate() == Some(NO_DATABASE) => {
                    Ok(Answer::Nobody(Thing::Database(self.database.clone())))
                }
                Err(error) => Err(error),
            }
        })?;
        answer.map_err(|error| {
            let fault = Fault::refused(crate::sys::chain(&error));
            match error.sqlstate() {
                Some(READ_ONLY) => fault.hint("the lead has moved meanwhile; run it again"),
                _ => fault,
            }
        })
    }

    /// As [`Server::ask`], where a server must be there.
    ///
    /// # Errors
    /// As [`Server::ask`], and nobody listens.
    pub fn must<T>(&self, ask: impl AsyncFnOnce(&Session) -> Result<T, QueryError>) -> Result<T, Fault> {
        match self.ask(ask)? {
            Answer::Here(found) => Ok(found),
            Answer::Nobody(thing @ Thing::Database(_)) => Err(Fault::missing(thing)),
            Answer::Nobody(_) => Err(Fault::refused(format!(
                "no Postgres listens in {} on port {}",
                self.socket_dir, self.port
            ))
            .hint("is it running? `keddah list` tells; does the task become the database's user?")),
        }
    }
}

/// Why nothing of the catalogs is changed on a replica.
pub(super) const ON_PRIMARY: &str = "only the primary can change this, and it comes here by replication";

/// Waits on a replica until what the primary was asked for has come. `rest` tells what is still missing.
///
/// # Errors
/// It has not come within the limit.
pub(super) fn arrived<T, Change: ToString>(
    limit: Duration,
    look: impl FnMut() -> Result<T, Fault>,
    rest: impl Fn(&T) -> Vec<Change>,
) -> Result<T, Fault> {
    let last = remote::until(limit, look, |found| rest(found).is_empty())?;
    let missing = rest(&last);
    if missing.is_empty() {
        return Ok(last);
    }
    let seconds = limit.as_secs();
    let message = format!(
        "this server is a replica, and what only the primary can change is not as asked after {seconds} s"
    );
    let mut fault = Fault::new(FaultKind::TimedOut, message).hint(
        "did it fail on the primary? the primary must be among the hosts of this play, and `--forks` not below their \
         number; `keddah list` shows who leads",
    );
    fault.lines = missing.iter().map(ToString::to_string).collect();
    Err(fault)
}

pub(super) fn default_port() -> u16 {
    5432
}

pub(super) fn default_user() -> String {
    "postgres".to_owned()
}

pub(super) fn default_socket_dir() -> String {
    "/var/run/postgresql".to_owned()
}
