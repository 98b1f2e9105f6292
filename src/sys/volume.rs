//! How much room a volume has.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::sys::files::{self, FileError};

/// A mounted file system, as it is at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Two paths on one volume have the same.
    pub device: u64,
    pub size: u64,
    /// What is left for those who are not root.
    pub free: u64,
}

/// Looks at the volume that `path` is on; links are followed. None: there is no such path.
///
/// # Errors
/// The file system does not answer.
pub fn of(path: &Path) -> Result<Option<Volume>, FileError> {
    let Some(stat) = files::stat_followed(path)? else { return Ok(None) };
    let told = statvfs(path).map_err(|errno| FileError {
        operation: "look at the volume of",
        path: path.to_owned(),
        source: errno.into(),
    })?;
    let block = told.fragment_size();
    Ok(Some(Volume {
        device: stat.device,
        size: told.blocks().saturating_mul(block),
        free: told.blocks_available().saturating_mul(block),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_volume_and_nothing_has_none() {
        let temp = tempfile::tempdir().unwrap();

        let volume = of(temp.path()).unwrap().expect("it is there");

        assert!(volume.free <= volume.size, "{volume:?}");
        assert_eq!(of(&temp.path().join("none")).unwrap(), None);
    }
}
