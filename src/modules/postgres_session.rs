//! How the modules of Postgres reach the server of their host: its socket, as the user that the task becomes.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::{Fault, Thing, remote};
use crate::postgres::query::{self, Host, QueryError, Session, Target};

/// The parameters that every module of Postgres takes.
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
    /// No server listens: it is not there yet, or down.
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
                Err(error) => Err(error),
            }
        })?;
        answer.map_err(|error| Fault::refused(crate::sys::chain(&error)))
    }

    /// As [`Server::ask`], where a server must be there.
    ///
    /// # Errors
    /// As [`Server::ask`], and nobody listens.
    pub fn must<T>(&self, ask: impl AsyncFnOnce(&Session) -> Result<T, QueryError>) -> Result<T, Fault> {
        match self.ask(ask)? {
            Answer::Here(found) => Ok(found),
            Answer::Nobody(_) => Err(Fault::refused(format!(
                "no Postgres listens in {} on port {}",
                self.socket_dir, self.port
            ))
            .hint("is it running? `keddah list` tells; does the task become the database's user?")),
        }
    }
}

/// Quotes a name for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL, whatever standard_conforming_strings says.
pub(super) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(identifier("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; drop"), " E'\\\\''; drop'");
    }
}
