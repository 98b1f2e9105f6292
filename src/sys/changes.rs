//! Whether a file has changed since it was looked at: what it held is not read, or judged, again.

use std::path::Path;

use crate::sys::files::{self, FileError};

/// What changes with each change of a file: device, inode, size, time of the change. (But for one in place, to the same
/// size, within a tick of the kernel's clock after the one before.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stamp(u64, u64, u64, f64);

/// Returns the stamp of what a path leads to; `None` if nothing is there.
///
/// # Errors
/// A folder on the way may not be searched.
pub fn stamp(path: &Path) -> Result<Option<Stamp>, FileError> {
    let stat = files::stat_followed(path)?;
    Ok(stat.map(|stat| Stamp(stat.device, stat.inode, stat.size, stat.changed)))
}

/// A file as it was read last.
#[derive(Debug, Default)]
pub struct LastRead(Option<(Stamp, Vec<u8>)>);

impl LastRead {
    /// Returns what the file holds, which is read where it is another one or has changed since; `None` if there is none.
    ///
    /// # Errors
    /// It is there and may not be read; that is tried again the next time.
    pub fn read(&mut self, path: &Path) -> Result<Option<&[u8]>, FileError> {
        // Taken first: what changes between the two has another stamp the next time, and is read once more.
        let Some(stamp) = stamp(path)? else {
            self.0 = None;
            return Ok(None);
        };
        if self.0.as_ref().is_none_or(|(of, _)| *of != stamp) {
            self.0 = files::read_if_there(path)?.map(|content| (stamp, content));
        }
        Ok(self.0.as_ref().map(|(_, content)| content.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::sys::files::Attributes;

    #[test]
    fn what_a_file_holds_is_told_through_every_kind_of_change() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let put = |path: &Path, text: &[u8]| files::replace(path, text, Attributes::default()).unwrap();
        let mut last = LastRead::default();
        let mut held = |path: &Path| last.read(path).unwrap().map(<[u8]>::to_vec);

        assert_eq!(held(&a), None);
        put(&a, b"one");
        put(&b, b"two");
        assert_eq!(held(&a).as_deref(), Some(&b"one"[..]));
        assert_eq!(held(&b).as_deref(), Some(&b"two"[..]), "another file");
        put(&b, b"six");
        assert_eq!(held(&b).as_deref(), Some(&b"six"[..]), "replaced by one of the same size");
        std::fs::OpenOptions::new().append(true).open(&b).unwrap().write_all(b"ty").unwrap();
        assert_eq!(held(&b).as_deref(), Some(&b"sixty"[..]), "written to");
        files::remove(&b).unwrap();
        assert_eq!(held(&b), None);
        assert!(last.read(folder.path()).is_err(), "a folder is none");
    }

    #[test]
    fn a_file_that_has_not_changed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        files::replace(&path, b"one", Attributes::default()).unwrap();
        let mut last = LastRead::default();
        let mut place = || last.read(&path).unwrap().unwrap().as_ptr();

        let first = place();
        assert_eq!(place(), first);

        // What is read anew lies elsewhere: the former content is there until then.
        files::replace(&path, b"one", Attributes::default()).unwrap();
        assert_ne!(place(), first);
    }
}
