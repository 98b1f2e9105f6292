//! Timeline history files: where each ancestor of a timeline ended.

use std::path::Path;

use crate::cluster::{History, HistoryEntry, Lsn, MemberName, Timeline};
use crate::sys::changes::LastRead;
use crate::sys::files::{self, Attributes, FileError};

/// Reads the text of a history file. Lines that are none (comments, blank ones) are passed over, as Postgres does.
pub fn parse(text: &str) -> History {
    History(text.lines().filter_map(entry).collect())
}

fn entry(line: &str) -> Option<HistoryEntry> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let mut words = line.splitn(3, |c: char| c.is_ascii_whitespace()).map(str::trim);
    let timeline: Timeline = words.next()?.parse().ok()?;
    let switch_point: Lsn = words.next()?.parse().ok()?;
    let reason = words.next().unwrap_or("").to_owned();
    Some(HistoryEntry { timeline, switch_point, reason, leader: None })
}

/// Returns the name of a timeline's history file.
pub fn file_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Reads the history of `timeline` from the data directory; empty for timeline 1, None where the file is not here.
pub fn read(data_dir: &Path, timeline: Timeline) -> Option<History> {
    Reader::default().read(data_dir, timeline)
}

/// Reads histories again and again, and a file only where it has changed: whoever writes them (the server, the agent, a
/// copy, a rewind, a program of the user's).
#[derive(Debug, Default)]
pub struct Reader {
    history: LastRead,
    signature: LastRead,
}

impl Reader {
    /// Returns what [`read`] does.
    pub fn read(&mut self, data_dir: &Path, timeline: Timeline) -> Option<History> {
        if timeline == Timeline::FIRST {
            return Some(History::default());
        }
        let text = self.history.read(&data_dir.join("pg_wal").join(file_name(timeline))).ok()??;
        let mut history = parse(std::str::from_utf8(text).ok()?);
        if let Some(last) = history.0.last_mut() {
            let signature = self.signature.read(&data_dir.join(SIGNATURE)).ok().flatten();
            let signed = signature.and_then(signed).filter(|(of, _)| *of == timeline);
            last.leader = signed.map(|(_, leader)| leader);
        }
        Some(history)
    }
}

/// In a data directory: the timeline that was begun by its primary, and who that was. It goes with each copy of the
/// data and with a rewind, as the timeline does, and not with a stream of WAL.
const SIGNATURE: &str = "keddah.timeline";

/// Notes that `leader` has begun `timeline` on this data: where a leader that nobody heard of has begun one of the same
/// number at the same point, nothing else tells them apart.
///
/// # Errors
/// The data directory may not be written.
pub fn sign(data_dir: &Path, timeline: Timeline, leader: &MemberName) -> Result<(), FileError> {
    let text = format!("{timeline} {leader}\n");
    files::replace(&data_dir.join(SIGNATURE), text.as_bytes(), Attributes::OWNER_ONLY)
}

fn signed(signature: &[u8]) -> Option<(Timeline, MemberName)> {
    let (timeline, leader) = std::str::from_utf8(signature).ok()?.trim_end().split_once(' ')?;
    Some((timeline.parse().ok()?, leader.parse().ok()?))
}

/// Returns the newest timeline whose history lies in the data directory: a start in recovery goes on to it.
pub fn newest(data_dir: &Path) -> Option<(Timeline, History)> {
    let names = files::list(&data_dir.join("pg_wal")).unwrap_or_default();
    let timelines = names.iter().filter_map(|name| {
        u32::from_str_radix(name.to_str()?.strip_suffix(".history")?, 16).ok().map(Timeline)
    });
    let newest = timelines.max()?;
    Some((newest, read(data_dir, newest)?))
}

/// Removes all WAL of a timeline, its history last: until then the timeline is known to be there.
///
/// # Errors
/// The folder may not be written.
pub fn forget(data_dir: &Path, timeline: Timeline) -> Result<(), FileError> {
    let folder = data_dir.join("pg_wal");
    let (number, last) = (format!("{:08X}", timeline.0), file_name(timeline));
    for folder in [folder.join("archive_status"), folder.clone()] {
        let names = files::list(&folder)?;
        let of_it =
            |name: &&std::ffi::OsString| name.to_string_lossy().starts_with(&number) && **name != *last;
        for name in names.iter().filter(of_it) {
            files::remove(&folder.join(name))?;
        }
    }
    files::remove(&folder.join(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_timeline_only() {
        let data = tempfile::tempdir().unwrap();
        let wal = data.path().join("pg_wal");
        std::fs::create_dir(&wal).unwrap();
        let text = b"1\t0/100\tno recovery target specified\n";
        files::replace(&wal.join(file_name(Timeline(2))), text, Attributes::default()).unwrap();
        let mut reader = Reader::default();
        let mut leader = || {
            let history = reader.read(data.path(), Timeline(2));
            assert_eq!(history, read(data.path(), Timeline(2)), "whatever was read before");
            history.unwrap().last().unwrap().leader.clone()
        };
        let name: MemberName = "db 1".parse().unwrap();

        assert_eq!(leader(), None);
        sign(data.path(), Timeline(2), &name).unwrap();
        assert_eq!(leader(), Some(name.clone()));
        sign(data.path(), Timeline(3), &name).unwrap();
        assert_eq!(leader(), None);
    }

    #[test]
    fn lines_are_read_as_postgres_writes_them() {
        let text = "1\t0/5000148\tno recovery target specified\n\n2\t0/6000000\tbefore 2026-11-23\n# end\n";

        let history = parse(text);

        assert_eq!(history.switch_point(Timeline(1)), Some(Lsn(0x0500_0148)));
        assert_eq!(history.last().unwrap().reason, "before 2026-11-23");
        assert_eq!(history.0.len(), 2);
    }

    #[test]
    fn a_timeline_is_forgotten_and_the_others_stay() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("pg_wal");
        std::fs::create_dir_all(folder.join("archive_status")).unwrap();
        let kept = ["000000010000000000000004", "0000000200000000000000A1", "00000002.history"];
        let forgotten = ["000000030000000000000005", "000000030000000000000006.partial", "00000003.history"];
        for name in kept.iter().chain(&forgotten) {
            files::replace(&folder.join(name), b"2\t0/6000000\tx\n", files::Attributes::default()).unwrap();
        }
        files::touch(&folder.join("archive_status/000000030000000000000005.ready")).unwrap();
        assert_eq!(newest(temp.path()).map(|(timeline, _)| timeline), Some(Timeline(3)));

        forget(temp.path(), Timeline(3)).unwrap();

        assert_eq!(newest(temp.path()).map(|(timeline, _)| timeline), Some(Timeline(2)));
        assert!(kept.iter().all(|name| folder.join(name).exists()));
        assert!(!forgotten.iter().any(|name| folder.join(name).exists()));
        assert_eq!(files::list(&folder.join("archive_status")).unwrap().len(), 0);
    }

    #[test]
    fn files_are_named_in_upper_case_hexadecimal() {
        assert_eq!(file_name(Timeline(26)), "0000001A.history");
    }
}
