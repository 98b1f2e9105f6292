//! Timeline history files: where each ancestor of a timeline ended.

use std::path::Path;

use crate::cluster::{History, HistoryEntry, Lsn, Timeline};

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
    Some(HistoryEntry { timeline, switch_point, reason: words.next().unwrap_or("").to_owned() })
}

/// Returns the name of a timeline's history file.
pub fn file_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Reads the history of `timeline` from the data directory; empty for timeline 1, None where the file is not here.
pub fn read(data_dir: &Path, timeline: Timeline) -> Option<History> {
    if timeline == Timeline::FIRST {
        return Some(History::default());
    }
    let text = std::fs::read_to_string(data_dir.join("pg_wal").join(file_name(timeline))).ok()?;
    Some(parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_postgres_writes_them() {
        let text = "1\t0/5000148\tno recovery target specified\n\n2\t0/6000000\tbefore 2026-11-23\n# end\n";

        let history = parse(text);

        assert_eq!(history.switch_point(Timeline(1)), Some(Lsn(0x0500_0148)));
        assert_eq!(history.last().unwrap().reason, "before 2026-11-23");
        assert_eq!(history.0.len(), 2);
    }

    #[test]
    fn files_are_named_in_upper_case_hexadecimal() {
        assert_eq!(file_name(Timeline(26)), "0000001A.history");
    }
}
