//! Whether a server that was left behind has WAL that the cluster does not have, and taking it back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{History, Lsn, PgVersion, SegmentSize, Timeline};
use crate::postgres::basebackup::Source;
use crate::postgres::conf::ConfigPlace;
use crate::postgres::{Installation, ProgramError, controldata, judge, run, standby};
use crate::sys::files::{self, FileError};
use crate::sys::process::Output;

/// Bytes of a WAL page and of its header; the first page of a segment has the longer one.
const PAGE: u64 = 8_192;
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// A single-user start replays at most what lies in `pg_wal`.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60 * 60);
/// No rewind takes longer.
const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Where a stopped server's own WAL ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A replica: this was replayed; what was only received is replaced by streaming.
    Replayed(Lsn),
    /// A primary that stopped in order: its shutdown checkpoint ends here.
    Stopped(Lsn),
}

/// Whether `pg_rewind` is needed before this server can follow that primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    No,
    Yes,
}

/// Judges by the primary's timeline and its ancestors.
pub fn need(local: Timeline, end: End, primary: Timeline, history: &History) -> Need {
    if local == primary {
        return Need::No;
    }
    if local > primary {
        return Need::Yes;
    }
    let diverged = match (history.switch_point(local), end) {
        (None, _) => true,
        (Some(switch_point), End::Replayed(lsn)) => lsn > switch_point,
        // Its last record is the checkpoint: the same end means the primary has exactly that WAL.
        (Some(switch_point), End::Stopped(lsn)) => lsn != switch_point,
    };
    if diverged { Need::Yes } else { Need::No }
}

/// Returns where a record ends that begins at `lsn`: aligned to 8 bytes, with the page headers in between.
fn record_end(lsn: Lsn, length: u64, segment: SegmentSize) -> Lsn {
    let mut at = lsn.0;
    let mut left = length.next_multiple_of(8);
    while left > 0 {
        let step = left.min(PAGE - at % PAGE);
        at += step;
        left -= step;
        if left > 0 {
            at += if at.is_multiple_of(segment.bytes()) { SEGMENT_HEADER } else { PAGE_HEADER };
        }
    }
    Lsn(at)
}

/// Finds where the checkpoint record at `checkpoint` ends.
///
/// # Errors
/// The WAL segment is gone, or the record is not a checkpoint.
pub fn checkpoint_end(
    installation: &Installation,
    data_dir: &Path,
    timeline: Timeline,
    checkpoint: Lsn,
) -> Result<Lsn, ProgramError> {
    let program = installation
        .program("pg_waldump")
        .arg("--path")
        .arg(data_dir.join("pg_wal"))
        .arg(format!("--timeline={}", timeline.0))
        .arg(format!("--start={checkpoint}"))
        .arg("--limit=1")
        .limit(Duration::from_secs(60));
    let answer = run(&program)?.stdout_text();
    let length = checkpoint_length(&answer)
        .ok_or_else(|| ProgramError::Unreadable { program: "pg_waldump".into(), answer: answer.clone() })?;
    let segment = controldata::report(installation, data_dir)?.segment_size();
    Ok(record_end(checkpoint, length, segment))
}

/// Reads the total length out of `rmgr: XLOG len (rec/tot): 114/ 114, … desc: CHECKPOINT_SHUTDOWN …`.
fn checkpoint_length(line: &str) -> Option<u64> {
    if !line.contains("CHECKPOINT_") {
        return None;
    }
    let after = line.split_once("len (rec/tot):")?.1;
    after.split_once('/')?.1.split_once(',')?.0.trim().parse().ok()
}

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
    use crate::cluster::HistoryEntry;
    use crate::sys::process::{ProcessError, Program};

    fn history(lines: &[(u32, u64)]) -> History {
        let entry = |(timeline, lsn): &(u32, u64)| HistoryEntry {
            timeline: Timeline(*timeline),
            switch_point: Lsn(*lsn),
            reason: String::new(),
        };
        History(lines.iter().map(entry).collect())
    }

    #[test]
    fn only_wal_that_the_primary_lacks_asks_for_a_rewind() {
        let two = history(&[(1, 100)]);
        let cases = [
            (1, End::Replayed(Lsn(100)), 1, Need::No, "the same timeline"),
            (2, End::Replayed(Lsn(100)), 1, Need::Yes, "ahead of the primary's timeline"),
            (1, End::Replayed(Lsn(100)), 2, Need::No, "replayed up to the switch"),
            (1, End::Replayed(Lsn(101)), 2, Need::Yes, "replayed past the switch"),
            (1, End::Stopped(Lsn(100)), 2, Need::No, "its checkpoint was the last record that both have"),
            (1, End::Stopped(Lsn(160)), 2, Need::Yes, "its checkpoint lies past the switch"),
            (1, End::Stopped(Lsn(60)), 2, Need::Yes, "its checkpoint is not in the primary's WAL"),
        ];
        for (local, end, primary, expected, why) in cases {
            assert_eq!(need(Timeline(local), end, Timeline(primary), &two), expected, "{why}");
        }
        let gap = history(&[(2, 100)]);
        assert_eq!(need(Timeline(1), End::Replayed(Lsn(1)), Timeline(3), &gap), Need::Yes, "no ancestor");
    }

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

    #[test]
    fn records_end_aligned_and_past_the_headers_of_pages_they_cross() {
        let segment = SegmentSize::default();
        let end = segment.bytes();
        assert_eq!(record_end(Lsn(0x0300_0028), 114, segment), Lsn(0x0300_00A0));
        assert_eq!(record_end(Lsn(PAGE * 3 - 16), 114, segment), Lsn(PAGE * 3 + 24 + 104));
        assert_eq!(record_end(Lsn(end - 16), 114, segment), Lsn(end + 40 + 104));
        assert_eq!(
            record_end(Lsn(PAGE * 3 - 120), 114, segment),
            Lsn(PAGE * 3),
            "up to the very end of a page"
        );
    }

    #[test]
    fn the_length_is_read_from_the_dump() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, \
                    prev 0/02000100, desc: CHECKPOINT_SHUTDOWN redo 0/3000028; tli 1";
        assert_eq!(checkpoint_length(line), Some(114));
        assert_eq!(checkpoint_length("rmgr: Standby len (rec/tot): 50/ 50, desc: RUNNING_XACTS"), None);
    }
}
