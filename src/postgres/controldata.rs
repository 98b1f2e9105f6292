//! What `pg_control` says, of a server that runs or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::control_file::{CONTROL_BYTES, ControlFile, ControlState};
use crate::cluster::{Lsn, SegmentSize, SystemId, Timeline};
use crate::postgres::{Installation, ProgramError, run};
use crate::sys::changes::{self, Stamp};

/// The control file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} is not a control file of Postgres 11 or later")]
    Foreign(PathBuf),
}

/// The fields that every version has at the same place: read without a program, 20 µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Control {
    pub system_id: SystemId,
    pub state: ControlState,
    /// Of the latest checkpoint: a promotion shows here only once its first checkpoint is done.
    pub timeline: Timeline,
    pub checkpoint: Lsn,
    pub redo: Lsn,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("global/pg_control")
}

/// Reads the control file.
///
/// # Errors
/// It is not there (None is no answer to "which state"), or not a control file.
pub fn read(data_dir: &Path) -> Result<Control, ControlError> {
    let path = path(data_dir);
    let mut head = [0; CONTROL_BYTES];
    File::open(&path)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(|source| ControlError::Read(path.clone(), source))?;
    let file = ControlFile::read(&head).ok_or(ControlError::Foreign(path))?;
    Ok(Control {
        system_id: SystemId(file.system_id),
        state: file.state,
        timeline: Timeline(file.timeline),
        checkpoint: Lsn(file.checkpoint),
        redo: Lsn(file.redo),
    })
}

/// Everything that `pg_controldata` prints, by its English labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report(BTreeMap<String, String>);

/// Asks `pg_controldata`, which knows the fields whose places differ between versions.
///
/// # Errors
/// The program is missing, or the control file is damaged.
pub fn report(installation: &Installation, data_dir: &Path) -> Result<Report, ProgramError> {
    let program = installation.program("pg_controldata").arg("-D").arg(data_dir);
    Ok(Report::parse(&run(&program.limit(Duration::from_secs(10)))?.stdout_text()))
}

/// What `pg_controldata` said last.
#[derive(Debug, Default)]
pub struct LastReport(Option<(Option<Stamp>, Report)>);

impl LastReport {
    /// Asks again where that may have changed: of a server that is down with each change of the file (how far a replica has
    /// replayed shows in no field of [`Control`]); of one that runs never, for what changes then is asked of it.
    ///
    /// # Errors
    /// As [`report`]; nothing is known then.
    pub fn refresh(
        &mut self,
        installation: &Installation,
        data_dir: &Path,
        down: bool,
    ) -> Result<(), ProgramError> {
        let stamp = changes::stamp(&path(data_dir)).ok().flatten();
        let fresh = self.0.as_ref().is_some_and(|(of, _)| !down || (stamp.is_some() && *of == stamp));
        if !fresh {
            self.0 = None;
            self.0 = Some((stamp, report(installation, data_dir)?));
        }
        Ok(())
    }

    pub fn forget(&mut self) {
        self.0 = None;
    }

    pub fn get(&self) -> Option<&Report> {
        self.0.as_ref().map(|(_, report)| report)
    }
}

impl Report {
    fn parse(text: &str) -> Report {
        let pair = |line: &str| {
            line.split_once(':').map(|(label, value)| (label.trim().to_owned(), value.trim().to_owned()))
        };
        Report(text.lines().filter_map(pair).collect())
    }

    #[cfg(test)]
    pub(super) fn from_pairs(pairs: &[(&str, &str)]) -> Report {
        Report(pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect())
    }

    /// Returns the value of a label.
    pub fn get(&self, label: &str) -> Option<&str> {
        self.0.get(label).map(String::as_str)
    }

    /// Returns the name of the WAL file that holds the latest checkpoint, a shutdown one after a clean stop.
    pub fn checkpoint_wal_file(&self) -> Option<&str> {
        self.get("Latest checkpoint's REDO WAL file")
    }

    /// Tells whether `pg_rewind` can work: page changes are logged, by checksums or by `wal_log_hints`.
    pub fn allows_rewind(&self) -> bool {
        self.get("wal_log_hints setting") == Some("on")
            || self.get("Data page checksum version").is_some_and(|version| version != "0")
    }

    /// Returns how long a WAL segment is.
    pub fn segment_size(&self) -> SegmentSize {
        let told = self.get("Bytes per WAL segment").and_then(|bytes| bytes.parse().ok());
        told.and_then(SegmentSize::new).unwrap_or_default()
    }

    /// Returns where replay had come on a replica that stopped, with its timeline; None on a primary.
    pub fn minimum_recovery_end(&self) -> Option<(Lsn, Timeline)> {
        let lsn: Lsn = self.get("Minimum recovery ending location")?.parse().ok()?;
        let timeline = self.get("Min recovery ending loc's timeline")?.parse().ok()?;
        (lsn != Lsn(0)).then_some((lsn, timeline))
    }

    /// Returns the value that the primary had of a parameter that hot standby compares, such as `max_connections`.
    pub fn primary_setting(&self, parameter: &str) -> Option<u64> {
        let label = match parameter {
            "max_prepared_transactions" => "max_prepared_xacts",
            "max_locks_per_transaction" => "max_locks_per_xact",
            other => other,
        };
        self.get(&format!("{label} setting"))?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
pg_control version number:            1300
Database system identifier:           7400000000000000001
Database cluster state:               shut down in recovery
pg_control last modified:             Mon 23 Nov 2026 09:00:00 PM UTC
Minimum recovery ending location:     0/5000060
Min recovery ending loc's timeline:   2
wal_log_hints setting:                off
max_connections setting:              100
max_prepared_xacts setting:           5
Bytes per WAL segment:                1048576
Data page checksum version:           1
";

    #[test]
    fn labels_are_read_as_printed() {
        let report = Report::parse(PRINTED);

        assert!(report.allows_rewind());
        assert_eq!(report.minimum_recovery_end(), Some((Lsn(0x0500_0060), Timeline(2))));
        assert_eq!(Some(report.segment_size()), SegmentSize::new(1 << 20));
        assert_eq!(report.primary_setting("max_connections"), Some(100));
        assert_eq!(report.primary_setting("max_prepared_transactions"), Some(5));
        assert_eq!(report.primary_setting("max_wal_senders"), None);
    }

    #[test]
    fn a_primary_has_no_minimum_and_no_hints_means_no_rewind() {
        let text =
            PRINTED.replace("0/5000060", "0/0").replace("version:           1\n", "version:           0\n");
        let report = Report::parse(&text);

        assert_eq!(report.minimum_recovery_end(), None);
        assert!(!report.allows_rewind());
    }
}
