//! The mark in a data directory whose cluster is in the making: it has not got its roles yet.

use std::path::{Path, PathBuf};

use crate::sys::files::{self, Attributes, FileError};

/// The mark's name in the data directory.
const MARK: &str = "keddah.bootstrap";

/// What the mark holds where the user's program made the cluster; it is empty else.
const RESTORED: &[u8] = b"restored\n";

/// How a cluster in the making has come by its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// By initdb, or restored and past its first start.
    Plain,
    /// By the user's program, and not past its first start.
    Restored,
}

/// Reads the mark; None: the cluster has its roles. One that cannot be read is there, and says no more.
pub fn read(data_dir: &Path) -> Option<Birth> {
    match files::read_if_there(&mark(data_dir)) {
        Ok(None) => None,
        Ok(Some(content)) if content == RESTORED => Some(Birth::Restored),
        Ok(Some(_)) | Err(_) => Some(Birth::Plain),
    }
}

/// Marks the data as that of a cluster in the making.
///
/// # Errors
/// The data directory may not be written.
pub fn begin(data_dir: &Path, birth: Birth) -> Result<(), FileError> {
    let content: &[u8] = match birth {
        Birth::Plain => b"",
        Birth::Restored => RESTORED,
    };
    files::replace(&mark(data_dir), content, Attributes::OWNER_ONLY)
}

/// Takes the mark away: the data is the cluster's.
///
/// # Errors
/// The data directory may not be written.
pub fn end(data_dir: &Path) -> Result<(), FileError> {
    files::remove(&mark(data_dir))
}

fn mark(data_dir: &Path) -> PathBuf {
    data_dir.join(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_tells_how_the_cluster_was_made_until_it_is_taken_away() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(read(temp.path()), None);

        for birth in [Birth::Restored, Birth::Plain] {
            begin(temp.path(), birth).unwrap();
            assert_eq!(read(temp.path()), Some(birth));
        }
        end(temp.path()).unwrap();
        assert_eq!(read(temp.path()), None);
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_there() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(mark(temp.path())).unwrap();

        assert_eq!(read(temp.path()), Some(Birth::Plain));
    }
}
