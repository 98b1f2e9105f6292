//! The lock of a host: one run at a time changes it. Held by the executor's process, so it goes when that does.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::sys::clock;

/// Every file that can be opened is locked, and one is enough: some systems let only root into the first folder, and a
/// run as root must meet a run as somebody else.
const FILES: [&str; 2] = ["/run/lock/keddah.lock", "/tmp/keddah.lock"];

/// Most bytes of what a holder says about itself.
const HOLDER_BYTES: u64 = 300;

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another run is changing this host: {0}; wait until it has ended, or stop it")]
    Held(String),
    #[error("this host cannot be locked for the run: neither {} can be opened", FILES.join(" nor "))]
    NoFile(#[source] io::Error),
}

/// The lock, held as long as this value lives.
#[derive(Debug)]
pub struct HostLock(#[expect(dead_code, reason = "the lock is in the open files")] Vec<Flock<File>>);

impl HostLock {
    /// Takes the lock if it is free, and writes down who has it since when. Never waits.
    ///
    /// # Errors
    /// Somebody else holds it, or no file can hold it.
    pub fn take(holder: &str) -> Result<HostLock, LockError> {
        HostLock::take_in(&FILES.map(PathBuf::from), holder)
    }

    fn take_in(files: &[PathBuf], holder: &str) -> Result<HostLock, LockError> {
        let mut held = Vec::new();
        let mut refused = None;
        for path in files {
            let file = match open(path) {
                Ok(file) => file,
                Err(error) => {
                    refused = Some(error);
                    continue;
                }
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut lock) => {
                    // Who it is is for people only; the lock holds without it.
                    sign(&mut lock, holder).ok();
                    held.push(lock);
                }
                Err((mut file, Errno::EWOULDBLOCK)) => return Err(LockError::Held(signature(&mut file))),
                Err((_, errno)) => refused = Some(errno.into()),
            }
        }
        match refused {
            Some(error) if held.is_empty() => Err(LockError::NoFile(error)),
            _ => Ok(HostLock(held)),
        }
    }
}

/// Opens the file for locking, and makes it usable by every user: the lock must be one for all.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits());
    // Without O_CREAT first: the kernel refuses that flag on another user's file in a shared folder, even to root.
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o666))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

fn sign(file: &mut File, holder: &str) -> io::Result<()> {
    let since = clock::wall().strftime("%Y-%m-%d %H:%M:%S UTC");
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{holder}, since {since}\n").as_bytes())
}

/// Reads who holds the lock; any user may have written it, so it is cleaned before it is shown.
fn signature(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(HOLDER_BYTES).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "its holder did not say who it is".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_hears_who_has_it_and_may_have_it_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("missing/lock"), folder.path().join("lock")];

        let first = HostLock::take_in(&files, "anna on build-1").unwrap();
        let refused = HostLock::take_in(&files, "bert on build-2").unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("anna on build-1, since 2") && !text.contains("bert"), "{text}");

        drop(first);
        assert!(HostLock::take_in(&files, "bert on build-2").is_ok());
    }

    #[test]
    fn a_run_that_shares_only_one_file_is_met_too() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let _root = HostLock::take_in(&[one, two.clone()], "root's run").unwrap();

        assert!(matches!(HostLock::take_in(&[two], "a user's run"), Err(LockError::Held(_))));
    }

    #[test]
    fn a_host_without_any_place_for_it_is_not_taken_for_locked() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = [folder.path().join("missing/lock")];
        assert!(matches!(HostLock::take_in(&nowhere, "x"), Err(LockError::NoFile(_))));
    }
}
