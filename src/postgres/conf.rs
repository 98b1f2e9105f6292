//! The server's configuration files: what is written, what goes on the command line, and which copies are kept.
//!
//! The administrator's `postgresql.conf` is renamed once to `postgresql.base.conf` and included; what stands in its
//! place is ours, sorted, with the recovery parameters at its end. Copies named `*.backup` in the data directory
//! survive a clone, whose source may keep its configuration elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::postgres::controldata::Report;
use crate::sys::files::{self, Attributes, FileError};

const MAIN: &str = "postgresql.conf";
const BASE: &str = "postgresql.base.conf";
const AUTO: &str = "postgresql.auto.conf";

/// The files of which copies are kept.
const KEPT: [&str; 4] = [MAIN, BASE, "pg_hba.conf", "pg_ident.conf"];

/// The first line of the file, by which it is known as ours.
const HEADER: &str =
    "# Written by the node agent and overwritten by it: change the dynamic configuration instead.";

/// Parameters that must be the same on all members, given on the command line so that no file beats them, with the
/// values used where the configuration names none. Source: Patroni's documentation, "Patroni configuration".
pub const COMMAND_LINE_ONLY: [(&str, &str); 10] = [
    ("hot_standby", "on"),
    ("max_connections", "100"),
    ("max_locks_per_transaction", "64"),
    ("max_prepared_transactions", "0"),
    ("max_replication_slots", "10"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("track_commit_timestamp", "off"),
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
];

/// Those that a replica needs at least as large as its primary has them, or it pauses replay or does not start.
pub const HOT_STANDBY_FLOORS: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// Those that belong to a member and not to the cluster, on the command line too.
const MEMBERS_OWN: [&str; 3] = ["cluster_name", "listen_addresses", "port"];

/// Parameters of recovery: ours to write, and removed from `postgresql.auto.conf`.
pub const RECOVERY: [&str; 16] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "trigger_file",
];

/// Parameters by name, as text.
pub type Parameters = BTreeMap<String, String>;

/// Where the configuration lies: in the data directory, or apart from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigPlace {
    pub data_dir: PathBuf,
    pub config_dir: PathBuf,
}

impl ConfigPlace {
    /// Returns the place for data directories that hold their own configuration.
    pub fn inside(data_dir: &Path) -> ConfigPlace {
        ConfigPlace { data_dir: data_dir.to_owned(), config_dir: data_dir.to_owned() }
    }

    /// Returns the main file.
    pub fn main(&self) -> PathBuf {
        self.config_dir.join(MAIN)
    }

    pub(super) fn is_apart(&self) -> bool {
        self.data_dir != self.config_dir
    }
}

/// Takes the parameters that go on the command line out of `wanted`, with defaults for those that are missing.
///
/// The member's own three are dropped from the file too; the command line gets them from elsewhere. Names compare
/// without case, as Postgres compares them.
pub fn split(wanted: &Parameters) -> (Parameters, Parameters) {
    let mut line: Parameters =
        COMMAND_LINE_ONLY.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut file = Parameters::new();
    for (name, value) in wanted {
        let lower = name.to_ascii_lowercase();
        if let Some(default) = line.get_mut(&lower) {
            value.clone_into(default);
        } else if !MEMBERS_OWN.contains(&lower.as_str()) && !RECOVERY.contains(&lower.as_str()) {
            file.insert(name.clone(), value.clone());
        }
    }
    (line, file)
}

/// Raises the command line's parameters to what the primary had when it wrote this replica's WAL. Returns those that
/// were raised: they wait for a restart once the primary has lowered its own.
pub fn raise_to_primary(line: &mut Parameters, control: &Report) -> Vec<String> {
    let mut raised = Vec::new();
    for name in HOT_STANDBY_FLOORS {
        let (Some(value), Some(floor)) = (line.get_mut(name), control.primary_setting(name)) else {
            continue;
        };
        if value.trim().parse::<u64>().is_ok_and(|wanted| wanted < floor) {
            *value = floor.to_string();
            raised.push(name.to_owned());
        }
    }
    raised
}

/// Writes the text of the main file: defaults, which whatever comes after them beats, `include`, the parameters, and
/// those of recovery.
pub fn render(
    defaults: &Parameters,
    include: &str,
    parameters: &Parameters,
    recovery: &Parameters,
) -> String {
    let lines = |parameters: &Parameters| -> String {
        parameters.iter().map(|(name, value)| format!("{name} = {}\n", quote(value))).collect()
    };
    let (defaults, parameters, recovery) = (lines(defaults), lines(parameters), lines(recovery));
    format!("{HEADER}\n{defaults}include {}\n\n{parameters}{recovery}", quote(include))
}

/// Writes an `archive_command` out for one file, as the server does: `%p` its path, `%f` its name, `%%` a per cent sign.
pub fn archiver_line(command: &str, file: &str) -> String {
    let mut line = String::with_capacity(command.len() + 64);
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match (c, characters.clone().next()) {
            ('%', Some('p')) => line.push_str(&format!("pg_wal/{file}")),
            ('%', Some('f')) => line.push_str(file),
            ('%', Some('%')) => line.push('%'),
            (c, _) => {
                line.push(c);
                continue;
            }
        }
        characters.next();
    }
    line
}

/// Quotes a value as `postgresql.conf` wants it.
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n"))
}

/// Puts the administrator's file aside, once. Returns what ours has to include: `custom`, or the base file.
///
/// # Errors
/// There is neither a main nor a base file, or the folder may not be written.
pub fn settle_base(place: &ConfigPlace, custom: Option<&Path>) -> Result<String, FileError> {
    if let Some(custom) = custom {
        return Ok(custom.display().to_string());
    }
    let (main, base) = (place.main(), place.config_dir.join(BASE));
    if files::stat(&base)?.is_none() {
        let text = files::read_if_there(&main)?.unwrap_or_default();
        files::replace(&base, &text, Attributes::OWNER_ONLY)?;
    }
    Ok(BASE.to_owned())
}

/// Writes the main file if it differs, and its copy. Returns whether it differed.
///
/// # Errors
/// The folder may not be written.
pub fn write(place: &ConfigPlace, text: &str) -> Result<bool, FileError> {
    replace_if_different(&place.main(), text.as_bytes())
}

/// Writes a configuration file if its content differs. Returns whether it did.
pub(super) fn replace_if_different(path: &Path, content: &[u8]) -> Result<bool, FileError> {
    if files::read_if_there(path)?.as_deref() == Some(content) {
        return Ok(false);
    }
    files::replace(path, content, Attributes::OWNER_ONLY)?;
    Ok(true)
}

/// Copies the configuration files to `*.backup` in the data directory.
///
/// # Errors
/// A file cannot be read, or the data directory not written.
pub fn keep_copies(place: &ConfigPlace) -> Result<(), FileError> {
    for name in KEPT {
        if let Some(text) = files::read_if_there(&place.config_dir.join(name))? {
            replace_if_different(&place.data_dir.join(format!("{name}.backup")), &text)?;
        }
    }
    Ok(())
}

/// Puts the copies where the configuration is to lie, after a clone: all that is missing there.
///
/// # Errors
/// A copy cannot be read, or the folder not written.
pub fn restore_copies(place: &ConfigPlace) -> Result<(), FileError> {
    for name in KEPT {
        let target = place.config_dir.join(name);
        if files::stat(&target)?.is_none()
            && let Some(text) = files::read_if_there(&place.data_dir.join(format!("{name}.backup")))?
        {
            files::replace(&target, &text, Attributes::OWNER_ONLY)?;
        }
    }
    Ok(())
}

/// Puts one file's copy back over what stands in its place.
///
/// # Errors
/// The copy cannot be read, or the folder not written.
pub fn restore_copy(place: &ConfigPlace, name: &str) -> Result<(), FileError> {
    if let Some(text) = files::read_if_there(&place.data_dir.join(format!("{name}.backup")))? {
        replace_if_different(&place.config_dir.join(name), &text)?;
    }
    Ok(())
}

/// Removes recovery parameters from `postgresql.auto.conf`: `pg_basebackup` and `ALTER SYSTEM` may have put some there,
/// and that file beats ours. Returns whether one was there.
///
/// # Errors
/// The data directory may not be written.
pub fn clean_auto(data_dir: &Path) -> Result<bool, FileError> {
    let path = data_dir.join(AUTO);
    let Some(bytes) = files::read_if_there(&path)? else { return Ok(false) };
    let text = String::from_utf8_lossy(&bytes);
    let kept: String = text.split_inclusive('\n').filter(|line| !sets_recovery(line)).collect();
    if kept == text {
        return Ok(false);
    }
    files::replace(&path, kept.as_bytes(), Attributes::OWNER_ONLY)?;
    Ok(true)
}

fn sets_recovery(line: &str) -> bool {
    let name = line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or("");
    RECOVERY.contains(&name.to_ascii_lowercase().as_str())
}

/// Returns the arguments that a server needs whose configuration lies apart from its data.
pub(super) fn config_file_argument(place: &ConfigPlace) -> Option<String> {
    place.is_apart().then(|| format!("--config_file={}", place.main().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_all_members_share_goes_on_the_command_line() {
        let wanted = parameters(&[
            ("Max_Connections", "200"),
            ("port", "1"),
            ("work_mem", "4MB"),
            ("primary_conninfo", "host=evil"),
        ]);

        let (line, file) = split(&wanted);

        assert_eq!(line.get("max_connections").map(String::as_str), Some("200"));
        assert_eq!(line.get("wal_level").map(String::as_str), Some("replica"));
        assert_eq!(file, parameters(&[("work_mem", "4MB")]));
    }

    #[test]
    fn a_replica_never_starts_below_its_primary() {
        let mut line = parameters(&[("max_connections", "50"), ("max_worker_processes", "16")]);
        let control = crate::postgres::controldata::Report::from_pairs(&[
            ("max_connections setting", "100"),
            ("max_worker_processes setting", "8"),
        ]);

        let raised = raise_to_primary(&mut line, &control);

        assert_eq!(raised, ["max_connections"]);
        assert_eq!(line, parameters(&[("max_connections", "100"), ("max_worker_processes", "16")]));
    }

    #[test]
    fn the_file_is_sorted_and_quoted_with_recovery_last() {
        let text = render(
            &parameters(&[("max_slot_wal_keep_size", "512MB")]),
            BASE,
            &parameters(&[("work_mem", "4MB"), ("archive_command", "cp '%p' C:\\x")]),
            &parameters(&[("recovery_target_timeline", "latest")]),
        );

        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "max_slot_wal_keep_size = '512MB'",
                "include 'postgresql.base.conf'",
                "",
                "archive_command = 'cp ''%p'' C:\\\\x'",
                "work_mem = '4MB'",
                "recovery_target_timeline = 'latest'",
            ]
        );
    }

    #[test]
    fn an_archive_command_is_written_out_for_one_file() {
        let line = archiver_line("cp %p /x/%f && echo 5%% %d", "0000000100000000000000AB");

        assert_eq!(line, "cp pg_wal/0000000100000000000000AB /x/0000000100000000000000AB && echo 5% %d");
    }

    #[test]
    fn the_administrators_file_is_put_aside_once() {
        let temp = tempfile::tempdir().unwrap();
        let place = ConfigPlace::inside(temp.path());
        files::replace(&place.main(), b"theirs = 1\n", Attributes::OWNER_ONLY).unwrap();

        assert_eq!(settle_base(&place, None).unwrap(), BASE);
        assert!(write(&place, "ours = 1\n").unwrap());
        assert_eq!(settle_base(&place, None).unwrap(), BASE);
        assert!(!write(&place, "ours = 1\n").unwrap(), "nothing differs the second time");

        assert_eq!(std::fs::read_to_string(temp.path().join(BASE)).unwrap(), "theirs = 1\n");
    }

    #[test]
    fn copies_come_back_where_a_clone_left_nothing() {
        let (data, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = ConfigPlace { data_dir: data.path().to_owned(), config_dir: config.path().to_owned() };
        files::replace(&place.main(), b"a", Attributes::OWNER_ONLY).unwrap();
        keep_copies(&place).unwrap();
        files::remove(&place.main()).unwrap();

        restore_copies(&place).unwrap();

        assert_eq!(std::fs::read(place.main()).unwrap(), b"a");
    }

    #[test]
    fn recovery_parameters_leave_the_auto_file_and_others_stay() {
        let temp = tempfile::tempdir().unwrap();
        let text = b"# Do not edit\nwork_mem = '8MB'\nprimary_conninfo = 'host=x'\nRestore_Command='y'\n";
        files::replace(&temp.path().join(AUTO), text, Attributes::OWNER_ONLY).unwrap();

        assert!(clean_auto(temp.path()).unwrap());
        assert!(!clean_auto(temp.path()).unwrap());

        let left = std::fs::read_to_string(temp.path().join(AUTO)).unwrap();
        assert_eq!(left, "# Do not edit\nwork_mem = '8MB'\n");
    }
}
