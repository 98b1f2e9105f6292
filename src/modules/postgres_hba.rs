//! Keeps the rules by which a Postgres server lets clients in.
//!
//! # What it manages
//! All rules of `pg_hba.conf`, in their order, and that the server has read them.
//!
//! # Example
//! ```yaml
//! postgres_hba:
//!   rules:
//!     - local all all peer
//!     - host all all 10.0.0.0/8 scram-sha-256
//! ```
//!
//! # What it observes
//! The file that the running server names, the errors that the server finds in it (`pg_hba_file_rules`), and whether it
//! was changed after the server read it.
//!
//! # What it never does
//! It keeps no rule that is not asked for, and replaces no file by one that the server cannot read.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similar::TextDiff;

use crate::modules::postgres_session::{self as session, Answer, Server};
use crate::modules::remote;
use crate::modules::{Diff, Fault, Host, HostMut, Kind, Module, Risk, Seen};
use crate::postgres::query::{QueryError, Session};
use crate::sys::files::Attributes;

#[derive(Debug)]
pub struct PostgresHba;

const HEADER: &str =
    "# Written by the node agent and overwritten by it: change `postgresql.pg_hba` or `pg_ident` instead.";

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
    /// Lines of pg_hba.conf, the first that matches counts.
    rules: Vec<String>,
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
    file: String,
    rules: Vec<String>,
    /// What the server cannot read.
    errors: Vec<String>,
    /// Whether the file is newer than what the server read.
    is_unread: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Add(String),
    Remove(String),
    Order,
    Unread,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add(rule) => write!(f, "add the rule `{rule}`"),
            Change::Remove(rule) => write!(f, "remove the rule `{rule}`"),
            Change::Order => write!(f, "put the rules in their order"),
            Change::Unread => write!(f, "let the server read its rules again"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    file: String,
    rules: Vec<String>,
}

/// One rule with single blanks and without a comment; `None` for lines that hold none.
fn rule(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn wanted(params: &Params) -> Vec<String> {
    params.rules.iter().filter_map(|line| rule(line)).collect()
}

/// Where the file is, when the server read it (seconds since 1970), and what it cannot read in it.
async fn ask(session: &Session) -> Result<(String, f64, Vec<String>), QueryError> {
    let first = |rows: Vec<Vec<Option<String>>>| rows.into_iter().flatten().flatten().next();
    let file = first(session.rows("SHOW hba_file").await?).ok_or(QueryError::Unreadable("hba_file"))?;
    let read = "SELECT extract(epoch FROM pg_catalog.pg_conf_load_time())";
    let read = first(session.rows(read).await?).and_then(|text| text.parse().ok());
    let errors =
        "SELECT line_number || ': ' || error FROM pg_catalog.pg_hba_file_rules WHERE error IS NOT NULL";
    let errors = session.rows(errors).await?.into_iter().flatten().flatten().collect();
    Ok((file, read.ok_or(QueryError::Unreadable("pg_conf_load_time"))?, errors))
}

fn look(host: &Host, (file, read_at, errors): (String, f64, Vec<String>)) -> Result<State, Fault> {
    let text = host.read(&file)?;
    let changed_at = host.stat_followed(&file)?.map_or(0.0, |stat| stat.modified);
    let rules = String::from_utf8_lossy(&text).lines().filter_map(rule).collect();
    Ok(State { file, rules, errors, is_unread: changed_at > read_at })
}

impl Module for PostgresHba {
    const NAME: &'static str = "postgres_hba";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        Ok(match params.server().ask(ask)? {
            Answer::Here(said) => Seen::Now(look(host, said)?),
            Answer::Nobody(thing) => Seen::Blocked(thing),
        })
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let wanted = wanted(params);
        let add = wanted.iter().filter(|rule| !found.rules.contains(rule)).cloned().map(Change::Add);
        let remove = found.rules.iter().filter(|rule| !wanted.contains(rule)).cloned().map(Change::Remove);
        let mut changes: Vec<Change> = add.chain(remove).collect();
        if changes.is_empty() && wanted != found.rules {
            changes.push(Change::Order);
        }
        if changes.is_empty() && found.is_unread {
            changes.push(Change::Unread);
        }
        changes
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let old = host.read(&found.file)?;
        if changes != [Change::Unread] {
            let text = format!("{HEADER}\n{}\n", params.rules.join("\n"));
            host.replace(&found.file, text.as_bytes(), Attributes::default())?;
        }
        let (file, _, errors) = params.server().must(ask)?;
        if !errors.is_empty() && changes != [Change::Unread] {
            host.replace(&found.file, &old, Attributes::default())?;
            let mut fault = Fault::refused("the server cannot read the new rules; the old file is back")
                .hint("correct the lines in `postgres.hba` of cluster.yml");
            fault.lines = errors;
            return Err(fault);
        }
        params.server().must(async |session: &Session| session.reload().await)?;
        let state = look(host, (file, f64::MAX, errors))?;
        Ok(state)
    }

    fn output(_params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let State { file, rules, .. } = after.unwrap_or(before);
        Output { file: file.clone(), rules: rules.clone() }
    }

    fn risk(_change: &Change) -> Risk {
        Risk::Reload
    }

    fn texts(params: &Params, found: &State, _host: &Host) -> Option<Diff> {
        let (before, after) = (found.rules.join("\n") + "\n", wanted(params).join("\n") + "\n");
        let differs = TextDiff::from_lines(&before, &after).ratio() < 1.0;
        differs.then(|| Diff { header: found.file.clone(), before, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(rules: &[&str]) -> Params {
        Params {
            socket_dir: String::new(),
            port: 5432,
            login_user: String::new(),
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        }
    }

    fn state(rules: &[&str]) -> State {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        State { file: String::new(), rules, errors: Vec::new(), is_unread: false }
    }

    #[test]
    fn blanks_and_comments_are_no_difference() {
        assert_eq!(
            PostgresHba::diff(&params(&["local  all\tall peer # us"]), &state(&["local all all peer"])),
            []
        );
    }

    #[test]
    fn added_removed_and_moved_rules_are_told_apart() {
        let found = state(&["host all all 0.0.0.0/0 trust", "local all all peer"]);
        let removed = Change::Remove("host all all 0.0.0.0/0 trust".to_owned());
        assert_eq!(PostgresHba::diff(&params(&["local all all peer"]), &found), [removed]);
        let moved = params(&["local all all peer", "host all all 0.0.0.0/0 trust"]);
        assert_eq!(PostgresHba::diff(&moved, &found), [Change::Order]);
    }
}
