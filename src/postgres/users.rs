//! The roles that a new cluster needs: superuser, replication, rewind.

use crate::postgres::query::{QueryError, Session, quote_identifier, quote_literal};
use crate::sys::secret::Secret;

/// What `pg_rewind` calls on its source. Source: PostgreSQL documentation, "pg_rewind", Notes.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// What a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Superuser,
    Replication,
    /// Runs `pg_rewind` without being a superuser.
    Rewind,
}

/// A role that has to be there.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: String,
    pub password: Option<Secret>,
    pub purpose: Purpose,
}

/// Makes the role, or gives the one that is there its attributes and password.
///
/// Nothing of it is logged, and it does not wait for standbys, of which a new cluster has none.
///
/// # Errors
/// The server is in recovery, or refused.
pub async fn ensure(session: &Session, role: &Role) -> Result<(), QueryError> {
    let name = quote_literal(&role.name);
    let found = session.rows(&format!("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = {name}")).await?;
    session.execute(&statements(role, !found.is_empty())).await
}

fn statements(role: &Role, exists: bool) -> String {
    let name = quote_identifier(&role.name);
    let verb = if exists { "ALTER" } else { "CREATE" };
    let attributes = match role.purpose {
        Purpose::Superuser => "SUPERUSER LOGIN",
        Purpose::Replication => "REPLICATION LOGIN",
        Purpose::Rewind => "LOGIN",
    };
    let password = role
        .password
        .as_ref()
        .map_or_else(String::new, |password| format!(" PASSWORD {}", quote_literal(password.reveal())));
    let mut lines = vec![
        // SET LOCAL needs the transaction; it also keeps the settings from what follows on this connection.
        "BEGIN".to_owned(),
        "SET LOCAL synchronous_commit = 'local'".to_owned(),
        "SET LOCAL log_statement = 'none'".to_owned(),
        "SET LOCAL log_min_duration_statement = -1".to_owned(),
        "SET LOCAL log_min_error_statement = 'log'".to_owned(),
        "SET LOCAL pg_stat_statements.track_utility = 'off'".to_owned(),
        format!("{verb} ROLE {name} WITH {attributes}{password}"),
    ];
    if role.purpose == Purpose::Rewind {
        let grant = |function: &&str| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name}");
        lines.extend(REWIND_FUNCTIONS.iter().map(grant));
    }
    lines.push("COMMIT".to_owned());
    lines.join("; ")
}

/// Returns which functions `role` may not call although `pg_rewind` would: empty where it can work as that role.
///
/// # Errors
/// The role is not there, or the server did not answer.
pub async fn missing_rewind_grants(session: &Session, role: &str) -> Result<Vec<String>, QueryError> {
    let role = quote_literal(role);
    let mut missing = Vec::new();
    for function in REWIND_FUNCTIONS {
        let question = format!(
            "SELECT pg_catalog.has_function_privilege({role}, {}, 'EXECUTE')",
            quote_literal(&format!("pg_catalog.{function}"))
        );
        if session.rows(&question).await?.iter().flatten().flatten().next().is_some_and(|value| value == "f")
        {
            missing.push(function.to_owned());
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewind_role_gets_its_four_grants_and_no_more() {
        let role =
            Role { name: "rew\"ind".into(), password: Some(Secret::new("a'b")), purpose: Purpose::Rewind };

        let text = statements(&role, false);

        assert!(text.contains("CREATE ROLE \"rew\"\"ind\" WITH LOGIN PASSWORD 'a''b';"), "{text}");
        assert_eq!(text.matches("GRANT EXECUTE").count(), 4);
        assert!(!text.contains("SUPERUSER"));
    }

    #[test]
    fn a_role_that_is_there_is_altered() {
        let role = Role { name: "repl".into(), password: None, purpose: Purpose::Replication };
        assert!(statements(&role, true).contains("ALTER ROLE \"repl\" WITH REPLICATION LOGIN;"));
    }
}
