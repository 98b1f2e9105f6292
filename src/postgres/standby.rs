//! What makes a server a replica, and whom it follows.

use std::fmt::Write as _;
use std::path::Path;

use crate::postgres::conf::Parameters;
use crate::sys::files::{self, Attributes, FileError};
use crate::sys::secret::Secret;

const STANDBY_SIGNAL: &str = "standby.signal";
const RECOVERY_SIGNAL: &str = "recovery.signal";

/// A server to stream from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
    pub user: String,
    /// The file that holds the password, so that none stands in the configuration.
    pub passfile: Option<String>,
    /// This member's name: the upstream's `pg_stat_replication` shows it, and synchronous replication rests on it.
    pub application_name: String,
    /// More of libpq's keywords, such as `sslmode`.
    pub options: Vec<(String, String)>,
    pub slot: Option<String>,
}

/// The database in which Postgres 17 and later look for the slots to copy (`sync_replication_slots`); streaming has none.
const SLOT_DATABASE: &str = "postgres";

impl Upstream {
    /// Writes the value of `primary_conninfo`.
    pub fn conninfo(&self) -> String {
        let port = self.port.to_string();
        let mut pairs: Vec<(&str, &str)> = vec![("dbname", SLOT_DATABASE)];
        for (keyword, value) in [("user", self.user.as_str()), ("host", &self.host), ("port", &port)] {
            if !value.is_empty() {
                pairs.push((keyword, value));
            }
        }
        pairs.extend(self.passfile.as_deref().map(|file| ("passfile", file)));
        pairs.extend(self.options.iter().map(|(keyword, value)| (keyword.as_str(), value.as_str())));
        pairs.push(("application_name", &self.application_name));
        conninfo(&pairs)
    }
}

/// Joins libpq's keywords and values, quoted where they need it.
pub fn conninfo(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (keyword, value) in pairs {
        if !text.is_empty() {
            text.push(' ');
        }
        let plain =
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
        // Writing to a String does not fail.
        let _ = if plain {
            write!(text, "{keyword}={value}")
        } else {
            write!(text, "{keyword}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
        };
    }
    text
}

/// Reads a connection string of keywords and values; None where it is malformed.
pub fn parse_conninfo(text: &str) -> Option<Parameters> {
    let mut pairs = Parameters::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let (value, after) = conninfo_value(after.trim_start())?;
        pairs.insert(keyword.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Some(pairs)
}

fn conninfo_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted.is_some() => return Some((value, body.get(at + 1..)?)),
            c if quoted.is_none() && c.is_whitespace() => return Some((value, body.get(at..)?)),
            c => value.push(c),
        }
    }
    quoted.is_none().then_some((value, ""))
}

/// Returns the recovery parameters of a replica of `upstream`; without one it replays its archive only.
///
/// `extra` are the configuration's own (`restore_command` and its like); what decides where recovery ends, and whom it
/// follows, is not taken from there.
pub fn recovery_parameters(upstream: Option<&Upstream>, extra: &Parameters) -> Parameters {
    let mut parameters: Parameters = extra
        .iter()
        .filter(|(name, _)| !name.starts_with("recovery_target") && !name.starts_with("primary_"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    parameters.insert("recovery_target_timeline".into(), "latest".into());
    for emptied in ["", "_lsn", "_name", "_time", "_xid"] {
        parameters.insert(format!("recovery_target{emptied}"), String::new());
    }
    parameters.insert("primary_conninfo".into(), upstream.map(Upstream::conninfo).unwrap_or_default());
    parameters.insert("primary_slot_name".into(), upstream.and_then(|u| u.slot.clone()).unwrap_or_default());
    parameters
}

/// Tells whether a start would lead into recovery by a signal file.
pub fn is_signalled(data_dir: &Path) -> bool {
    data_dir.join(STANDBY_SIGNAL).exists() || data_dir.join(RECOVERY_SIGNAL).exists()
}

/// Makes the next start that of a replica.
///
/// # Errors
/// The data directory may not be written.
pub fn signal(data_dir: &Path) -> Result<(), FileError> {
    files::replace(&data_dir.join(STANDBY_SIGNAL), b"", Attributes::OWNER_ONLY)?;
    files::remove(&data_dir.join(RECOVERY_SIGNAL))
}

/// Makes the next start one into a recovery that ends by itself at its target.
///
/// # Errors
/// The data directory may not be written.
pub fn signal_recovery(data_dir: &Path) -> Result<(), FileError> {
    files::replace(&data_dir.join(RECOVERY_SIGNAL), b"", Attributes::OWNER_ONLY)?;
    files::remove(&data_dir.join(STANDBY_SIGNAL))
}

/// Makes the next start that of a primary.
///
/// # Errors
/// The data directory may not be written.
pub fn unsignal(data_dir: &Path) -> Result<(), FileError> {
    files::remove(&data_dir.join(STANDBY_SIGNAL))?;
    files::remove(&data_dir.join(RECOVERY_SIGNAL))
}

/// One line of a password file.
#[derive(Debug, Clone)]
pub struct Password {
    pub host: String,
    /// None for every port.
    pub port: Option<u16>,
    pub user: String,
    pub password: Secret,
}

/// Writes libpq's password file.
///
/// # Errors
/// Its folder may not be written.
pub fn write_passfile(path: &Path, entries: &[Password]) -> Result<(), FileError> {
    let mut text = String::new();
    for entry in entries {
        let port = entry.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{}:{port}:*:{}:{}",
            escape(&entry.host),
            escape(&entry.user),
            escape(entry.password.reveal())
        );
    }
    files::replace(path, text.as_bytes(), Attributes::OWNER_ONLY)
}

fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> Upstream {
        Upstream {
            host: "10.0.0.1".into(),
            port: 5432,
            user: "replicator".into(),
            passfile: Some("/tmp/pg pass".into()),
            application_name: "db2".into(),
            options: vec![("sslmode".into(), "prefer".into())],
            slot: Some("db2".into()),
        }
    }

    #[test]
    fn conninfo_is_quoted_where_it_must_be_and_reads_back() {
        let text = upstream().conninfo();

        assert_eq!(
            text,
            "dbname=postgres user=replicator host=10.0.0.1 port=5432 passfile='/tmp/pg pass' sslmode=prefer application_name=db2"
        );
        let read = parse_conninfo(&text).unwrap();
        assert_eq!(read.get("passfile").map(String::as_str), Some("/tmp/pg pass"));
        assert_eq!(read.len(), 7);
    }

    #[test]
    fn odd_values_survive_the_way_there_and_back() {
        for value in ["", "it's", "back\\slash", "a b", "'", "x=y"] {
            let text = conninfo(&[("password", value), ("host", "h")]);
            assert_eq!(
                parse_conninfo(&text).unwrap().get("password").map(String::as_str),
                Some(value),
                "{text}"
            );
        }
        assert_eq!(parse_conninfo("host='open"), None);
    }

    #[test]
    fn the_configuration_cannot_say_where_recovery_ends() {
        let extra: Parameters = [
            ("restore_command".to_owned(), "cp x".to_owned()),
            ("recovery_target_time".to_owned(), "2020-01-01".to_owned()),
            ("primary_conninfo".to_owned(), "host=evil".to_owned()),
        ]
        .into();

        let parameters = recovery_parameters(Some(&upstream()), &extra);

        let value = |name: &str| parameters.get(name).map(String::as_str);
        assert_eq!(value("restore_command"), Some("cp x"));
        assert_eq!(value("recovery_target_time"), Some(""));
        assert_eq!(value("recovery_target_timeline"), Some("latest"));
        assert_eq!(value("primary_slot_name"), Some("db2"));
        assert_eq!(value("primary_conninfo"), Some(upstream().conninfo().as_str()));
    }

    #[test]
    fn signal_files_come_and_go() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!is_signalled(temp.path()));
        signal(temp.path()).unwrap();
        assert!(is_signalled(temp.path()));
        unsignal(temp.path()).unwrap();
        assert!(!is_signalled(temp.path()));
    }

    #[test]
    fn a_password_file_escapes_its_separators() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pgpass");
        let entry =
            Password { host: "::1".into(), port: None, user: "a".into(), password: Secret::new("p:w\\d") };

        write_passfile(&path, &[entry]).unwrap();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "\\:\\:1:*:*:a:p\\:w\\\\d\n");
        assert_eq!(files::stat(&path).unwrap().unwrap().mode, 0o600);
    }
}
