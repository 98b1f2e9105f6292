//! Taking a server that was left behind back: its recovery alone, and `pg_rewind`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{Lsn, PgVersion, Timeline};
use crate::postgres::basebackup::Source;
use crate::postgres::conf::ConfigPlace;
use crate::postgres::{Installation, ProgramError, controldata, judge, run, standby};
use crate::sys::files::{self, FileError};
use crate::sys::process::Output;

/// A single-user start replays at most what lies in `pg_wal`.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60 * 60);
/// No rewind takes longer.
const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A crashed server could not be brought to a clean end.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{0} holds a backup_label: its recovery needs the archive; copy it again instead")]
    BackupLabel(String),
    #[error("the WAL file {0}, up to which the data must be recovered, is not there")]
    NoWal(String),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Replays a crashed server's own WAL in single-user mode, so that `pg_rewind` finds a clean end.
///
/// `arguments` are those of its last start after `-D DIR`, so that limits which its WAL asks for are met. Archiving is on
/// with a command that fails: nothing of a timeline that may be given up reaches the archive.
///
/// # Errors
/// There is a `backup_label`, the server cannot recover, or it does nothing for as long as `idle`.
pub fn recover(
    installation: &Installation,
    data_dir: &Path,
    arguments: &[String],
    idle: Duration,
) -> Result<(), RecoveryError> {
    if data_dir.join("backup_label").exists() {
        return Err(RecoveryError::BackupLabel(data_dir.display().to_string()));
    }
    // Alone a server takes the end of what it finds for the end of its WAL.
    let report = controldata::report(installation, data_dir)?;
    if let Some((end, timeline)) = report.minimum_recovery_end() {
        let name = report.segment_size().name(timeline, Lsn(end.0.saturating_sub(1)));
        if files::stat(&data_dir.join("pg_wal").join(&name))?.is_none() {
            return Err(RecoveryError::NoWal(name));
        }
    }
    standby::unsignal(data_dir)?;
    let program = installation
        .program(&installation.server)
        .arg("--single")
        .arg("-D")
        .arg(data_dir)
        .args(arguments)
        .arg("--archive_mode=on")
        .arg("--archive_command=false")
        .arg("template1")
        .limit(RECOVERY_LIMIT)
        .idle_limit(idle);
    run(&program)?;
    forget_archive_status(data_dir)?;
    Ok(())
}

/// Removes the marks of segments to be archived: `pg_rewind` may take the segments away.
fn forget_archive_status(data_dir: &Path) -> Result<(), FileError> {
    let folder = data_dir.join("pg_wal/archive_status");
    for name in files::list(&folder)? {
        files::remove(&folder.join(name))?;
    }
    Ok(())
}

/// The beginning of the name of the mark that data has while a rewind is at work on it; the source's timeline follows.
const MARK: &str = "keddah.rewind-";

fn mark(data_dir: &Path, timeline: Timeline) -> PathBuf {
    data_dir.join(format!("{MARK}{}", timeline.0))
}

/// Marks data that a rewind from this timeline is about to write. Half written, it must never be started.
///
/// The mark is a pipe: pg_rewind removes every file, folder and link that its source lacks, and sees nothing else.
///
/// # Errors
/// The folder may not be written.
pub fn begin(data_dir: &Path, timeline: Timeline) -> Result<(), FileError> {
    files::make_pipe(&mark(data_dir, timeline))
}

/// Takes the mark away: the rewind has ended well.
///
/// # Errors
/// The folder may not be written.
pub fn finish(data_dir: &Path, timeline: Timeline) -> Result<(), FileError> {
    files::remove(&mark(data_dir, timeline))
}

/// Returns the timeline from which a rewind was begun on this data and not ended; the highest of several.
pub fn half_done(data_dir: &Path) -> Option<Timeline> {
    let names = files::list(data_dir).unwrap_or_default();
    names.iter().filter_map(|name| name.to_str()?.strip_prefix(MARK)?.parse().ok()).map(Timeline).max()
}

/// A rewind did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error("the data is as it was")]
    Untouched(#[source] ProgramError),
    #[error("the data may be half written")]
    HalfWritten(#[source] ProgramError),
    #[error("pg_rewind found nothing to rewind; the data is as it was, and cannot follow the source")]
    Needless,
}

/// Tells whether `pg_rewind` has got beyond its questions, by what it says in every version before it writes.
fn wrote(said: &str) -> bool {
    said.contains("rewinding from last common checkpoint")
}

/// Tells whether `pg_rewind` has ended well without having done anything.
fn found_nothing(output: &Output) -> bool {
    [output.stdout_text(), output.stderr_text()].iter().any(|said| said.contains("no rewind required"))
}

/// Takes back what diverged. Blocks: run it on a thread of its own.
///
/// With `restore_command` set, missing segments of the own WAL are fetched by it; before Postgres 15 not where the
/// configuration lies apart from the data, since pg_rewind does not find it there.
///
/// # Errors
/// The source does not answer, is in recovery, or lacks a grant; own WAL since the divergence is gone; nothing was done
/// for as long as `idle`.
pub fn rewind(
    installation: &Installation,
    place: &ConfigPlace,
    source: &Source,
    database: &str,
    has_restore_command: bool,
    idle: Duration,
) -> Result<(), RewindError> {
    let mut program = installation
        .program("pg_rewind")
        .arg("-D")
        .arg(&place.data_dir)
        .arg(format!("--source-server={}", source.conninfo(Some(database))))
        .limit(REWIND_LIMIT)
        .idle_limit(idle);
    if has_restore_command {
        program = program.args(by_archive(place, installation.version().map_err(RewindError::Untouched)?));
    }
    let output = program
        .run()
        .map_err(|source| RewindError::HalfWritten(ProgramError::Run(program.name(), source)))?;
    if output.exit.is_success() && found_nothing(&output) {
        return Err(RewindError::Needless);
    }
    let half_written = wrote(&output.stderr_text()) || wrote(&output.stdout_text());
    judge(&program, output).map(drop).map_err(match half_written {
        true => RewindError::HalfWritten,
        false => RewindError::Untouched,
    })
}

/// Returns the options by which pg_rewind runs `restore_command`, which it asks the server's configuration for.
fn by_archive(place: &ConfigPlace, version: PgVersion) -> Vec<String> {
    let wanted = "--restore-target-wal".to_owned();
    match (place.is_apart(), version.major() >= 15) {
        (false, _) => vec![wanted],
        (true, true) => vec![wanted, format!("--config-file={}", place.main().display())],
        (true, false) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{ProcessError, Program};

    #[test]
    fn a_rewind_leaves_its_mark_until_it_has_ended() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(half_done(temp.path()), None);

        begin(temp.path(), Timeline(7)).unwrap();
        begin(temp.path(), Timeline(7)).unwrap();
        assert_eq!(half_done(temp.path()), Some(Timeline(7)));

        finish(temp.path(), Timeline(7)).unwrap();
        assert_eq!(half_done(temp.path()), None);
    }

    #[test]
    fn a_rewind_that_hangs_is_ended_and_its_data_taken_for_half_written() {
        let temp = tempfile::tempdir().unwrap();
        let line = "printf '#!/bin/sh\necho connected to server >&2; sleep 600 & wait' > $0 && chmod +x $0";
        let stand_in = temp.path().join("pg_rewind");
        assert!(Program::new("sh").args(["-c", line]).arg(stand_in).run().unwrap().exit.is_success());
        let source = Source {
            host: "/nowhere".to_owned(),
            port: 1,
            user: "rewinder".to_owned(),
            passfile: None,
            options: Vec::default(),
        };
        let place = ConfigPlace::inside(Path::new("/nowhere"));

        let idle = Duration::from_secs(1);
        let ended = rewind(&Installation::at(temp.path()), &place, &source, "postgres", false, idle);

        let Err(RewindError::HalfWritten(ProgramError::Run(_, hung))) = ended else { panic!("{ended:?}") };
        let ProcessError::Hung { last_words, .. } = hung else { panic!("{hung}") };
        assert_eq!(last_words, "connected to server");
    }

    #[test]
    fn the_archive_is_read_where_pg_rewind_finds_its_command() {
        let inside = ConfigPlace::inside(Path::new("/data"));
        let apart = ConfigPlace { config_dir: "/etc/pg".into(), ..inside.clone() };
        let options = |place, version: u32| by_archive(place, PgVersion(version * 10_000)).join(" ");

        assert_eq!(options(&inside, 13), "--restore-target-wal");
        assert_eq!(options(&apart, 14), "");
        assert_eq!(options(&apart, 15), "--restore-target-wal --config-file=/etc/pg/postgresql.conf");
    }
}
