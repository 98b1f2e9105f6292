//! Questions to a running server over named connections. The one that each look asks is [`monitor`].

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::config::SslMode;
use tokio_postgres::{NoTls, SimpleQueryMessage, Statement};

use crate::cluster::{History, Lsn, SegmentSize, SystemId, Timeline};
use crate::postgres::{history, tls};
use crate::sys::names::{self, NameError};
use crate::sys::secret::Secret;
use crate::sys::tls::TlsError;

mod monitor;

pub use monitor::Monitored;

/// The server ends a statement of ours after so long.
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);

/// A connection that takes longer counts as failed.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The client gives up this much later than the server should have: a stopped process ends no statement.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How often, and how many times, a reload is looked for in the session.
const RELOAD_LOOK: Duration = Duration::from_millis(4);
const RELOAD_LOOKS: u32 = 25;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The folder of its Unix socket.
    Socket(PathBuf),
    /// A name or an address.
    Name(String),
}

/// A connection to make.
#[derive(Debug, Clone)]
pub struct Target {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    /// Shown in `pg_stat_activity`: `Patroni heartbeat`, `Patroni restapi`.
    pub application_name: String,
    /// libpq's keywords of TLS: `sslmode`, `sslrootcert` and their like. A socket has none.
    pub options: Vec<(String, String)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("cannot find the server's address")]
    Name(#[from] NameError),
    #[error("cannot connect to Postgres at {address}")]
    Connect {
        address: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("TLS cannot be spoken with Postgres")]
    Tls(#[from] TlsError),
    #[error("Postgres did not answer within {0:?}")]
    Silent(Duration),
    #[error("Postgres refused the statement")]
    Statement(#[source] tokio_postgres::Error),
    #[error("Postgres answered {0} in a form that cannot be read")]
    Unreadable(&'static str),
    #[error(
        "the server that answers serves {}, not {}: another instance has this port and socket folder",
        found.display(),
        expected.display()
    )]
    OtherServer { found: PathBuf, expected: PathBuf },
}

impl QueryError {
    /// Returns the SQLSTATE where the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            QueryError::Connect { source, .. } | QueryError::Statement(source) => {
                source.code().map(tokio_postgres::error::SqlState::code)
            }
            _ => None,
        }
    }
}

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    client: tokio_postgres::Client,
    /// The monitoring query, parsed once.
    monitor: OnceCell<Statement>,
}

/// Opens a connection. Statements on it are ended by the server after 2 s, and are not counted by
/// `pg_stat_statements`.
///
/// # Errors
/// The name has no address, nobody listens, the server is starting or stopping, or it refuses this user.
pub async fn connect(target: &Target) -> Result<Session, QueryError> {
    let mut config = tokio_postgres::Config::new();
    let address = match &target.host {
        Host::Socket(folder) => {
            config.host_path(folder).port(target.port);
            format!("{}:{}", folder.display(), target.port)
        }
        Host::Name(name) => {
            for address in names::resolve(name, target.port).await? {
                config.host(name).hostaddr(address.ip()).port(address.port());
            }
            format!("{name}:{}", target.port)
        }
    };
    config
        .user(&target.user)
        .dbname(&target.database)
        .application_name(&target.application_name)
        .connect_timeout(CONNECT_LIMIT)
        .options(format!(
            "-c statement_timeout={} -c pg_stat_statements.track=none",
            STATEMENT_LIMIT.as_millis()
        ));
    if let Some(password) = &target.password {
        config.password(password.reveal());
    }
    let wish = match target.host {
        Host::Socket(_) => tls::wish(&[("sslmode".to_owned(), "disable".to_owned())]),
        Host::Name(_) => tls::wish(&target.options),
    };
    let opening = async {
        if wish.mode != SslMode::Disable {
            match open_encrypted(config.clone(), wish.mode, &target.options).await {
                Ok(client) => return Ok(client),
                Err(_) if wish.plain_will_do => {}
                Err(error) => return Err(error),
            }
        }
        let (client, connection) =
            config.ssl_mode(SslMode::Disable).connect(NoTls).await.map_err(Opening::Connect)?;
        // Ends with the client; what goes wrong on the wire is told to each statement.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    };
    match tokio::time::timeout(CONNECT_LIMIT + ANSWER_GRACE, opening).await {
        Err(_) => Err(QueryError::Silent(CONNECT_LIMIT)),
        Ok(Ok(client)) => Ok(Session { client, monitor: OnceCell::new() }),
        Ok(Err(Opening::Connect(source))) => Err(QueryError::Connect { address, source }),
        Ok(Err(Opening::Tls(error))) => Err(QueryError::Tls(error)),
    }
}

/// Why a connection is not open.
enum Opening {
    Connect(tokio_postgres::Error),
    Tls(TlsError),
}

async fn open_encrypted(
    mut config: tokio_postgres::Config,
    mode: SslMode,
    options: &[(String, String)],
) -> Result<tokio_postgres::Client, Opening> {
    let connector = tls::Connector::new(options).map_err(Opening::Tls)?;
    let (client, connection) = config.ssl_mode(mode).connect(connector).await.map_err(Opening::Connect)?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn answered<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueryError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(QueryError::Statement),
        Err(_) => Err(QueryError::Silent(limit)),
    }
}

impl Session {
    /// Refuses a server of another data directory: where two instances are given one port, the one that came first
    /// answers for both. Where this user may not know the directory nothing is refused.
    ///
    /// # Errors
    /// It serves another directory, or did not answer.
    pub async fn serves(&self, data_dir: &Path) -> Result<(), QueryError> {
        let shown = match self.rows("SHOW data_directory").await {
            Ok(rows) => rows.into_iter().flatten().flatten().next(),
            Err(error) if error.sqlstate() == Some("42501") => None,
            Err(error) => return Err(error),
        };
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match shown.map(PathBuf::from) {
            Some(found) if real(&found) != real(data_dir) => {
                Err(QueryError::OtherServer { found, expected: data_dir.to_owned() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Runs a person's statements, which take as long as the person waits; returns the titles and rows of the last one
    /// that has any.
    ///
    /// # Errors
    /// The server refused one.
    pub async fn answer_to(&self, text: &str) -> Result<(Vec<String>, Vec<Vec<Option<String>>>), QueryError> {
        self.execute("SET statement_timeout = 0").await?;
        let messages = self.client.simple_query(text).await.map_err(QueryError::Statement)?;
        let (mut titles, mut rows) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    titles = columns.iter().map(|column| column.name().to_owned()).collect();
                    rows = Vec::new();
                }
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok((titles, rows))
    }

    /// Tells whether the server is in recovery, and so whether it answers at all.
    ///
    /// # Errors
    /// It did not answer within 3 s.
    pub async fn is_in_recovery(&self) -> Result<bool, QueryError> {
        let question = self.client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]);
        let row = answered(STATEMENT_LIMIT + ANSWER_GRACE, question).await?;
        row.try_get(0).map_err(QueryError::Statement)
    }

    /// Returns the identifier of the database cluster.
    ///
    /// # Errors
    /// It did not answer within 3 s.
    pub async fn system_id(&self) -> Result<SystemId, QueryError> {
        let rows = self.rows("SELECT system_identifier FROM pg_catalog.pg_control_system()").await?;
        let text = rows.into_iter().flatten().flatten().next();
        text.and_then(|text| text.parse().ok()).ok_or(QueryError::Unreadable("the system identifier"))
    }

    /// Runs statements that answer nothing of interest; several are separated by `;`.
    ///
    /// # Errors
    /// One of them was refused; those before it are done unless in a transaction.
    pub async fn execute(&self, statements: &str) -> Result<(), QueryError> {
        answered(STATEMENT_LIMIT + ANSWER_GRACE, self.client.batch_execute(statements)).await
    }

    /// Runs one statement that may take up to `limit`, such as `CHECKPOINT`. It is sent alone: some statements cannot
    /// share a transaction.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn execute_within(&self, statement: &str, limit: Duration) -> Result<(), QueryError> {
        self.execute(&format!("SET statement_timeout = {}", limit.as_millis())).await?;
        let done = answered(limit + ANSWER_GRACE, self.client.batch_execute(statement)).await;
        let reset = format!("SET statement_timeout = {}", STATEMENT_LIMIT.as_millis());
        done.and(self.execute(&reset).await)
    }

    /// Asks for rows, each value as text.
    ///
    /// # Errors
    /// The statement was refused or took more than 2 s.
    pub async fn rows(&self, statement: &str) -> Result<Vec<Vec<Option<String>>>, QueryError> {
        let messages = answered(STATEMENT_LIMIT + ANSWER_GRACE, self.client.simple_query(statement)).await?;
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.iter().filter_map(row).collect())
    }

    /// Writes a checkpoint, which may take up to `limit`.
    ///
    /// # Errors
    /// It took longer, or this user may not.
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), QueryError> {
        self.execute_within("CHECKPOINT", limit).await
    }

    /// Makes the server read its configuration again, and waits until this session has done so, which all processes
    /// are told at once. Hardly longer than 0.1 s: nobody takes over files in which there is an error.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn reload(&self) -> Result<(), QueryError> {
        const LOADED: &str = "SELECT pg_catalog.pg_conf_load_time()";
        let before = self.rows(LOADED).await?;
        self.execute("SELECT pg_catalog.pg_reload_conf()").await?;
        for _ in 0..RELOAD_LOOKS {
            if self.rows(LOADED).await? != before {
                break;
            }
            tokio::time::sleep(RELOAD_LOOK).await;
        }
        Ok(())
    }

    /// Returns the parameters that have changed in the files and wait for a restart.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn pending_restart(&self) -> Result<Vec<String>, QueryError> {
        let statement = "SELECT name FROM pg_catalog.pg_settings WHERE pending_restart ORDER BY name";
        Ok(self.rows(statement).await?.into_iter().flatten().flatten().collect())
    }

    /// Returns name and value of the parameters that only a restart changes, and whether one is waiting for it.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn restart_settings(&self) -> Result<Vec<(String, String, bool)>, QueryError> {
        let statement =
            "SELECT name, setting, pending_restart FROM pg_catalog.pg_settings WHERE context = 'postmaster'";
        let triple = |row: Vec<Option<String>>| {
            let mut values = row.into_iter();
            Some((values.next()??, values.next()??, values.next()?? == "t"))
        };
        Ok(self.rows(statement).await?.into_iter().filter_map(triple).collect())
    }

    /// Returns the timeline that the server writes on, and that of its latest checkpoint; None where it is in recovery.
    ///
    /// # Errors
    /// It did not answer within 3 s.
    pub async fn timelines(&self) -> Result<Option<(Timeline, Timeline)>, QueryError> {
        let statement = "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
                ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
                )::pg_catalog.bit(32)::pg_catalog.int4 END, timeline_id FROM pg_catalog.pg_control_checkpoint()";
        let row = self.rows(statement).await?.into_iter().next().unwrap_or_default();
        let timelines: Vec<Option<Timeline>> =
            row.iter().map(|value| value.as_deref()?.parse().ok()).collect();
        match timelines.as_slice() {
            [None, Some(_)] => Ok(None),
            [Some(writes), Some(checkpoint)] => Ok(Some((*writes, *checkpoint))),
            _ => Err(QueryError::Unreadable("its timelines")),
        }
    }

    /// Reads the history of a timeline from the server's own files; empty for timeline 1.
    ///
    /// # Errors
    /// The file is not there, or this user may not read server files.
    pub async fn history(&self, timeline: Timeline) -> Result<History, QueryError> {
        if timeline == Timeline::FIRST {
            return Ok(History::default());
        }
        let name = history::file_name(timeline);
        let statement =
            format!("SELECT pg_catalog.encode(pg_catalog.pg_read_binary_file('pg_wal/{name}'), 'escape')");
        let text = self.rows(&statement).await?.into_iter().flatten().flatten().next();
        Ok(history::parse(&text.ok_or(QueryError::Unreadable("a timeline's history"))?))
    }

    /// Returns from where on the server has WAL.
    ///
    /// # Errors
    /// It did not answer, or this user may not list its files.
    pub async fn oldest_wal(&self) -> Result<Lsn, QueryError> {
        // The same position has a name on each timeline.
        let statement = "SELECT pg_catalog.min('00000000' || pg_catalog.substr(name, 9)),
                pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
            FROM pg_catalog.pg_ls_dir('pg_wal', true, false) AS name WHERE name ~ '^[0-9A-F]{24}$'";
        let row = self.rows(statement).await?.into_iter().next().unwrap_or_default();
        let mut values = row.into_iter().flatten();
        let oldest = values.next().zip(values.next()).and_then(|(name, bytes)| {
            let (_, start) = SegmentSize::new(bytes.parse().ok()?)?.parse(&name)?;
            Some(start)
        });
        oldest.ok_or(QueryError::Unreadable("the names of WAL files"))
    }

    /// Tells whether the connection is still there, without asking the server.
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }
}

/// Quotes a name for SQL.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'"), "E'a\\\\'''");
    }
}
