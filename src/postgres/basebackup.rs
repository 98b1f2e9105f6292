//! Copying a cluster from a running server.

use std::path::Path;
use std::time::Duration;

use crate::cluster::SegmentSize;
use crate::postgres::query::{QueryError, Session};
use crate::postgres::standby::conninfo;
use crate::postgres::{Installation, ProgramError, long_options, run};
use crate::sys::process::Program;

/// The server to copy from.
#[derive(Debug, Clone)]
pub struct Source {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub passfile: Option<String>,
    /// More of libpq's keywords, such as `sslmode`.
    pub options: Vec<(String, String)>,
}

impl Source {
    /// Writes the connection string for a program of the user's.
    pub fn as_text(&self) -> String {
        self.conninfo(Some("postgres"))
    }

    /// Writes the connection string, with a database where the program wants one.
    pub(super) fn conninfo(&self, database: Option<&str>) -> String {
        let port = self.port.to_string();
        let mut pairs: Vec<(&str, &str)> = vec![("host", &self.host), ("port", &port), ("user", &self.user)];
        pairs.extend(database.map(|database| ("dbname", database)));
        pairs.extend(self.passfile.as_deref().map(|file| ("passfile", file)));
        pairs.extend(self.options.iter().map(|(keyword, value)| (keyword.as_str(), value.as_str())));
        conninfo(&pairs)
    }
}

/// How large the source is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sizes {
    pub tablespaces: Vec<TablespaceSize>,
    pub segment: SegmentSize,
}

/// How large a tablespace of the source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceSize {
    /// The folder; None: it is inside the data directory.
    pub location: Option<String>,
    pub bytes: u64,
}

/// Asks how large the tablespaces are; what else a data directory holds is small beside them, but for WAL.
///
/// # Errors
/// The server did not answer, or this user may not know.
pub async fn sizes(session: &Session) -> Result<Sizes, QueryError> {
    let statement = "SELECT pg_catalog.pg_tablespace_location(oid), pg_catalog.pg_tablespace_size(oid),
            pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
        FROM pg_catalog.pg_tablespace";
    read_sizes(session.rows(statement).await?).ok_or(QueryError::Unreadable("the sizes of tablespaces"))
}

fn read_sizes(rows: Vec<Vec<Option<String>>>) -> Option<Sizes> {
    let mut sizes = Sizes::default();
    for row in rows {
        let mut values = row.into_iter();
        let location = values.next()?.filter(|location| !location.is_empty());
        let mut number = || values.next()??.parse().ok();
        sizes.tablespaces.push(TablespaceSize { location, bytes: number()? });
        sizes.segment = SegmentSize::new(number()?)?;
    }
    Some(sizes)
}

/// Options that are the agent's business.
const RESERVED: [&str; 9] = [
    "pgdata",
    "format",
    "wal-method",
    "dbname",
    "host",
    "port",
    "username",
    "no-password",
    "write-recovery-conf",
];

/// Copies the source's cluster into a vacant folder; it may take up to `limit`. Blocks: run it on a thread of its own.
///
/// `options` are the configuration's, without dashes; None for a bare flag.
///
/// # Errors
/// The source does not answer or refuses, the folder is not vacant, the disk is full.
pub fn copy(
    installation: &Installation,
    data_dir: &Path,
    source: &Source,
    options: &[(String, Option<String>)],
    limit: Duration,
) -> Result<(), ProgramError> {
    run(&program(installation, data_dir, source, options).limit(limit)).map(drop)
}

fn program(
    installation: &Installation,
    data_dir: &Path,
    source: &Source,
    options: &[(String, Option<String>)],
) -> Program {
    let program = installation
        .program("pg_basebackup")
        .arg(format!("--pgdata={}", data_dir.display()))
        .arg("--wal-method=stream")
        .arg("--no-password")
        .arg(format!("--dbname={}", source.conninfo(None)));
    let allowed = options.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
    program.args(long_options(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_tells_its_tablespaces_and_its_segments() {
        let row = |values: [&str; 3]| values.map(|value| Some(value.to_owned())).to_vec();
        let rows = vec![row(["", "7000000", "1048576"]), row(["/s/a", "9", "1048576"])];

        let sizes = read_sizes(rows).unwrap();

        let place =
            |location: Option<&str>, bytes| TablespaceSize { location: location.map(str::to_owned), bytes };
        assert_eq!(sizes.tablespaces, [place(None, 7_000_000), place(Some("/s/a"), 9)]);
        assert_eq!(Some(sizes.segment), SegmentSize::new(1 << 20));
        assert_eq!(read_sizes(vec![row(["", "7000000", "many"])]), None);
    }

    #[test]
    fn the_command_never_asks_and_never_writes_elsewhere() {
        let source = Source {
            host: "10.0.0.1".into(),
            port: 5432,
            user: "repl".into(),
            passfile: Some("/tmp/pgpass".into()),
            options: Vec::new(),
        };
        let options = [
            ("checkpoint".into(), Some("fast".into())),
            ("pgdata".into(), Some("/etc".into())),
            ("verbose".into(), None),
        ];

        let argv = program(&Installation::at("/pg"), Path::new("/data"), &source, &options).argv();

        assert_eq!(
            argv,
            [
                "/pg/pg_basebackup",
                "--pgdata=/data",
                "--wal-method=stream",
                "--no-password",
                "--dbname=host=10.0.0.1 port=5432 user=repl passfile=/tmp/pgpass",
                "--checkpoint=fast",
                "--verbose",
            ]
        );
    }
}
