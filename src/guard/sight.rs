//! Looking at the data directory: pg_control, signal files, and the kernel's word when one of them changes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::cluster::control_file::{CONTROL_BYTES, ControlFile, ControlState};
use crate::guard::server::Stamp;

/// The paths that are looked at, made once.
#[derive(Debug)]
pub(super) struct DataDir {
    pub(super) path: PathBuf,
    pub(super) promote: PathBuf,
    control: PathBuf,
    standby_signal: PathBuf,
    recovery_signal: PathBuf,
    changes: Inotify,
}

impl DataDir {
    /// Prepares for looking; the folder need not exist yet.
    ///
    /// # Errors
    /// The system gives no more inotify instances.
    pub(super) fn new(path: &Path) -> io::Result<DataDir> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(DataDir {
            promote: path.join("promote"),
            control: path.join("global/pg_control"),
            standby_signal: path.join("standby.signal"),
            recovery_signal: path.join("recovery.signal"),
            path,
            changes: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
        })
    }

    /// Returns what pg_control says, and which writing of it that is.
    pub(super) fn control(&self) -> (Option<ControlState>, Option<Stamp>) {
        let Ok(mut file) = File::open(&self.control) else { return (None, None) };
        // The stamp is taken first: a writing in between makes the next look see another stamp, never an older state.
        let stamp = file
            .metadata()
            .ok()
            .map(|meta| Stamp { inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) });
        let mut head = [0; CONTROL_BYTES];
        let state = file
            .read_exact(&mut head)
            .ok()
            .and_then(|()| ControlFile::read(&head))
            .map(|control| control.state);
        (state, stamp)
    }

    /// Tells whether a start would lead into recovery.
    pub(super) fn is_signalled(&self) -> bool {
        self.standby_signal.exists() || self.recovery_signal.exists()
    }

    /// Asks to be told of changes. Repeated at each calm look: a copy or initdb puts other files there.
    pub(super) fn watch(&self) {
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM;
        // What is not there cannot be watched, and is looked at once a second.
        let _absent = self.changes.add_watch(&self.path, names);
        let _absent =
            self.changes.add_watch(&self.control, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE);
    }

    pub(super) fn changes(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Forgets the changes that were told; a look is made anyway.
    pub(super) fn forget_changes(&self) {
        let mut buffer = [0; 4096];
        while nix::unistd::read(self.changes.as_fd(), &mut buffer).is_ok_and(|length| length > 0) {}
    }
}
