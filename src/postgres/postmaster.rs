//! The postmaster's command line and environment, and the file that tells its pid.

use std::path::{Path, PathBuf};

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

/// What `postmaster.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    pub pid: u32,
    /// True for a single-user server, which serves nobody.
    pub standalone: bool,
    /// Seconds since 1970.
    pub started: i64,
    pub port: Option<u16>,
    /// The first folder with a socket.
    pub socket_dir: Option<PathBuf>,
    /// `starting`, `stopping`, `ready` or `standby`.
    pub status: Option<String>,
}

/// Reads `postmaster.pid`; None where there is none, or one that is being written. Its process may be gone.
pub fn pid_file(data_dir: &Path) -> Option<PidFile> {
    parse_pid_file(&std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
}

fn parse_pid_file(text: &str) -> Option<PidFile> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let line = |number: usize| lines.get(number).copied().filter(|line| !line.is_empty());
    let pid: i64 = line(0)?.parse().ok()?;
    Some(PidFile {
        pid: u32::try_from(pid.unsigned_abs()).ok().filter(|pid| *pid > 0)?,
        standalone: pid < 0,
        started: line(2)?.parse().ok()?,
        port: line(3).and_then(|port| port.parse().ok()),
        socket_dir: line(4).map(PathBuf::from),
        status: line(7).map(str::to_owned),
    })
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

    #[test]
    fn the_pid_file_is_read_as_postgres_writes_it() {
        let text = "4711\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  1234 5\nready   \n";
        let read = parse_pid_file(text).unwrap();
        assert_eq!((read.pid, read.standalone, read.port), (4711, false, Some(5432)));
        assert_eq!(read.status.as_deref(), Some("ready"));

        let single = parse_pid_file("-99\n/data\n1700000000\n").unwrap();
        assert!(single.standalone);
        assert_eq!(parse_pid_file(""), None);
        assert_eq!(parse_pid_file("12"), None);
    }
}
