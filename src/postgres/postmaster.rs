//! The postmaster's command line and environment.

use crate::postgres::Installation;
use crate::postgres::conf::{ConfigPlace, Parameters, config_file_argument};

/// Everything on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub place: ConfigPlace,
    pub listen_addresses: String,
    pub port: u16,
    /// Shown in the process titles; the scope.
    pub cluster_name: String,
    /// What [`crate::postgres::conf::split`] put on the command line.
    pub parameters: Parameters,
}

/// Returns the command line that starts the server.
pub fn argv(installation: &Installation, launch: &Launch) -> Vec<String> {
    let mut argv = vec![
        installation.server_path().display().to_string(),
        "-D".to_owned(),
        launch.place.data_dir.display().to_string(),
    ];
    argv.extend(config_file_argument(&launch.place));
    argv.push(format!("--listen_addresses={}", launch.listen_addresses));
    argv.push(format!("--port={}", launch.port));
    argv.push(format!("--cluster_name={}", launch.cluster_name));
    argv.extend(launch.parameters.iter().map(|(name, value)| format!("--{name}={value}")));
    argv
}

/// Returns the environment for Postgres out of the agent's own: without what speaks to the agent or to its service
/// manager. An `NOTIFY_SOCKET` would let Postgres speak for the guard.
pub fn environment(own: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = Vec::new();
    for (name, value) in own {
        let ours = name.starts_with("PATRONI_") || name.starts_with("KEDDAH_");
        let managers = matches!(
            name.as_str(),
            "NOTIFY_SOCKET"
                | "WATCHDOG_USEC"
                | "WATCHDOG_PID"
                | "LISTEN_FDS"
                | "LISTEN_PID"
                | "LISTEN_FDNAMES"
        );
        if ours || managers {
            continue;
        }
        let name = if name == "PG_MALLOC_ARENA_MAX" { "MALLOC_ARENA_MAX".to_owned() } else { name };
        environment.retain(|(earlier, _)| *earlier != name);
        environment.push((name, value));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_complete() {
        let launch = Launch {
            place: ConfigPlace { data_dir: "/data".into(), config_dir: "/etc/pg".into() },
            listen_addresses: "127.0.0.1".into(),
            port: 5432,
            cluster_name: "batman".into(),
            parameters: [("max_connections".to_owned(), "100".to_owned())].into(),
        };

        assert_eq!(
            argv(&Installation::at("/pg"), &launch),
            [
                "/pg/postgres",
                "-D",
                "/data",
                "--config_file=/etc/pg/postgresql.conf",
                "--listen_addresses=127.0.0.1",
                "--port=5432",
                "--cluster_name=batman",
                "--max_connections=100",
            ]
        );
    }

    #[test]
    fn the_agents_own_variables_stay_with_the_agent() {
        let own =
            [("PATRONI_NAME", "x"), ("NOTIFY_SOCKET", "y"), ("PG_MALLOC_ARENA_MAX", "1"), ("PATH", "/bin")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));

        let given = environment(own);

        assert_eq!(
            given,
            [("MALLOC_ARENA_MAX".to_owned(), "1".to_owned()), ("PATH".to_owned(), "/bin".to_owned())]
        );
    }
}
