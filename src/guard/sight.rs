//! Looking at the data directory: pg_control, signal files, and the kernel's word when one of them changes.

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::cluster::control_file::{CONTROL_BYTES, ControlFile, ControlState};
use crate::guard::server::Stamp;

/// A writing of pg_control this long before it was read is told apart from the next one by its time.
const SETTLED: Duration = Duration::from_millis(100);

/// The paths that are looked at, made once.
#[derive(Debug)]
pub(super) struct DataDir {
    pub(super) path: PathBuf,
    pub(super) promote: PathBuf,
    control: PathBuf,
    standby_signal: PathBuf,
    recovery_signal: PathBuf,
    changes: Inotify,
    /// The pg_control that is watched, by inode; None: perhaps none.
    watched: Cell<Option<u64>>,
    /// What was read last, if a later writing has another stamp for certain.
    read: Cell<Option<(Stamp, Option<ControlState>)>>,
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
            watched: Cell::default(),
            read: Cell::default(),
        })
    }

    /// Returns what pg_control says, and which writing of it that is.
    pub(super) fn control(&self) -> (Option<ControlState>, Option<Stamp>) {
        if let (Some((stamp, state)), Ok(meta)) = (self.read.get(), self.control.metadata())
            && stamp == Stamp::of(&meta)
        {
            return (state, Some(stamp));
        }
        self.read.set(None);
        let Ok(mut file) = File::open(&self.control) else { return (None, None) };
        // The stamp is taken first: a writing in between makes the next look see another stamp, never an older state.
        let meta = file.metadata().ok();
        let mut head = [0; CONTROL_BYTES];
        let state = file
            .read_exact(&mut head)
            .ok()
            .and_then(|()| ControlFile::read(&head))
            .map(|control| control.state);
        let stamp = meta.as_ref().map(Stamp::of);
        self.read.set(meta.filter(is_settled).map(|meta| (Stamp::of(&meta), state)));
        (state, stamp)
    }

    /// Tells whether a start would lead into recovery.
    pub(super) fn is_signalled(&self) -> bool {
        self.standby_signal.exists() || self.recovery_signal.exists()
    }

    /// Asks to be told of changes. Repeated at each look: a copy or initdb puts other files there.
    pub(super) fn watch(&self) {
        let there = self.control.metadata().ok().map(|meta| meta.ino());
        if there.is_some() && self.watched.get() == there {
            return;
        }
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVE_SELF;
        // What is not there cannot be watched, and is looked at more often.
        let folder = self.changes.add_watch(&self.path, names);
        // Another file in its place: the one that is watched has lost its name.
        let writings = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
        let control = self.changes.add_watch(&self.control, writings | AddWatchFlags::IN_MOVE_SELF);
        self.watched.set(there.filter(|_| folder.is_ok() && control.is_ok()));
    }

    /// Tells whether the kernel says when something here changes.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.get().is_some()
    }

    pub(super) fn changes(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Forgets the changes that were told; a look is made anyway, and rests on nothing that was known before.
    pub(super) fn forget_changes(&self) {
        self.watched.set(None);
        self.read.set(None);
        let mut buffer = [0; 4096];
        while nix::unistd::read(self.changes.as_fd(), &mut buffer).is_ok_and(|length| length > 0) {}
    }
}

/// Tells whether a writing after this moment is bound to have another time than this one.
fn is_settled(meta: &Metadata) -> bool {
    meta.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > SETTLED)
}
