//! Reading and changing files, natively: every write is whole or not at all, also over a loss of power.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What was tried with which path, and the system's answer as the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    pub operation: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

fn refused(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
    move |source| FileError { operation, path: path.to_owned(), source }
}

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FileKind {
    File,
    Directory,
    Link,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

/// What `stat` says of a path; times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Stat {
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub modified: f64,
    pub accessed: f64,
    pub changed: f64,
    pub inode: u64,
    pub device: u64,
    pub links: u64,
    /// Where a link points, as it is written in it.
    pub target: Option<PathBuf>,
}

/// Owner and mode to give; `None` keeps what is there, or takes the process's own for what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Attributes {
    /// Only the owner reads and writes it: passwords, and what nobody else has to know.
    pub const OWNER_ONLY: Attributes = Attributes { mode: Some(0o600), uid: None, gid: None };
}

/// Reads a whole file.
///
/// # Errors
/// It is not there or may not be read.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(refused("read", path))
}

/// Reads a whole file; `None` if there is none.
///
/// # Errors
/// It is there and may not be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(refused("read", path)(error)),
    }
}

/// Reads the first bytes of a file, as many as it has and `most` at most.
///
/// # Errors
/// It is not there or may not be read.
pub fn read_start(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(refused("read", path))?;
    file.take(most).read_to_end(&mut bytes).map_err(refused("read", path))?;
    Ok(bytes)
}

/// Describes a path without following a link at its end; `None` if nothing is there.
///
/// # Errors
/// A folder on the way may not be searched.
pub fn stat(path: &Path) -> Result<Option<Stat>, FileError> {
    describe(path, std::fs::symlink_metadata(path))
}

/// Describes what a path leads to, through links; `None` if nothing is there.
///
/// # Errors
/// A folder on the way may not be searched, or links go in a circle.
pub fn stat_followed(path: &Path) -> Result<Option<Stat>, FileError> {
    describe(path, std::fs::metadata(path))
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double with microseconds to spare")]
fn describe(path: &Path, metadata: std::io::Result<std::fs::Metadata>) -> Result<Option<Stat>, FileError> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(refused("look at", path)(error)),
    };
    let kind = match metadata.file_type() {
        t if t.is_symlink() => FileKind::Link,
        t if t.is_dir() => FileKind::Directory,
        t if t.is_block_device() => FileKind::BlockDevice,
        t if t.is_char_device() => FileKind::CharDevice,
        t if t.is_fifo() => FileKind::Fifo,
        t if t.is_socket() => FileKind::Socket,
        _ => FileKind::File,
    };
    let seconds = |whole: i64, nanos: i64| whole as f64 + nanos as f64 / 1e9;
    let target = match kind {
        FileKind::Link => Some(std::fs::read_link(path).map_err(refused("read the link", path))?),
        _ => None,
    };
    Ok(Some(Stat {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.size(),
        modified: seconds(metadata.mtime(), metadata.mtime_nsec()),
        accessed: seconds(metadata.atime(), metadata.atime_nsec()),
        changed: seconds(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
        links: metadata.nlink(),
        target,
    }))
}

/// Lists the names in a folder, sorted.
///
/// # Errors
/// It is no folder or may not be read.
pub fn list(folder: &Path) -> Result<Vec<std::ffi::OsString>, FileError> {
    let entries = std::fs::read_dir(folder).map_err(refused("list", folder))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(refused("list", folder))?.file_name());
    }
    names.sort();
    Ok(names)
}

/// A text that is written beside its destination, and not in its place before [`Replacement::commit`].
#[derive(Debug)]
pub struct Replacement {
    temporary: PathBuf,
    destination: PathBuf,
    committed: bool,
}

/// Tells temporary files of one process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl Replacement {
    /// Writes `content` to a temporary file in the destination's folder, durably, with the attributes it is to have: those
    /// given, else those of the file that it will replace, else `0666 & ~umask` and the process's own user.
    ///
    /// # Errors
    /// The folder is not there, is full, or may not be written; or the owner may not be given away.
    pub fn prepare(
        destination: &Path,
        content: &[u8],
        attributes: Attributes,
    ) -> Result<Replacement, FileError> {
        // Through a link: its target is replaced and the link stays.
        let destination = std::fs::canonicalize(destination).unwrap_or_else(|_absent| destination.to_owned());
        let old = stat(&destination)?;
        let folder = parent(&destination);
        let name = destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{name}.keddah-{}-{number}", std::process::id()));
        let replacement = Replacement { temporary, destination, committed: false };
        match replacement.write(content, attributes, old.as_ref()) {
            Ok(()) => Ok(replacement),
            // Nobody knows the temporary file, which is gone when this is read.
            Err(error) => Err(FileError { path: replacement.destination.clone(), ..error }),
        }
    }

    /// Writes the temporary file; `old` is what it will replace.
    fn write(&self, content: &[u8], attributes: Attributes, old: Option<&Stat>) -> Result<(), FileError> {
        let path = &self.temporary;
        let created_mode = if old.is_some() || attributes.mode.is_some() { 0o600 } else { 0o666 };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(created_mode)
            .open(path)
            .map_err(refused("write", path))?;
        file.write_all(content).map_err(refused("write", path))?;
        let uid = attributes.uid.or(old.map(|o| o.uid));
        let gid = attributes.gid.or(old.map(|o| o.gid));
        set_owner(path, uid, gid)?;
        // After the owner: a change of owner takes setuid and setgid away.
        if let Some(mode) = attributes.mode.or(old.map(|o| o.mode)) {
            set_mode(path, mode)?;
        }
        if old.is_some() {
            copy_attributes(&self.destination, path);
        }
        file.sync_all().map_err(refused("write", path))
    }

    /// Returns where the text lies, for a program that validates it.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the text in its place in one step, and makes that durable.
    ///
    /// # Errors
    /// The destination has become a folder, or the file system refuses.
    pub fn commit(mut self) -> Result<(), FileError> {
        std::fs::rename(&self.temporary, &self.destination).map_err(refused("replace", &self.destination))?;
        self.committed = true;
        sync_folder(&parent(&self.destination))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing can be done about a temporary file that cannot be removed.
            let _left = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces a file's content in one step; see [`Replacement`].
///
/// # Errors
/// As [`Replacement::prepare`] and [`Replacement::commit`].
pub fn replace(path: &Path, content: &[u8], attributes: Attributes) -> Result<(), FileError> {
    Replacement::prepare(path, content, attributes)?.commit()
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// The folder is not there or cannot be opened.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(refused("write", folder))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Sets the permission bits.
///
/// # Errors
/// Not the owner, or not there.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(refused("change the mode of", path))
}

/// Sets owner and group where they are given and differ, of a link itself.
///
/// # Errors
/// Only root may give a file away.
pub fn set_owner(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), FileError> {
    let found = stat(path)?;
    let (old_uid, old_gid) = (found.as_ref().map(|s| s.uid), found.as_ref().map(|s| s.gid));
    let (uid, gid) = (uid.filter(|u| Some(*u) != old_uid), gid.filter(|g| Some(*g) != old_gid));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, uid, gid).map_err(refused("change the owner of", path))
}

/// Makes a folder and those above it that are missing; what is there stays as it is. Returns those made, outermost first.
///
/// # Errors
/// Something on the way is not a folder, or may not be written.
pub fn make_folders(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut missing = Vec::new();
    let mut at = Some(path);
    while let Some(folder) = at.filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
        missing.push(folder.to_owned());
        at = folder.parent();
    }
    missing.reverse();
    for folder in &missing {
        std::fs::create_dir(folder).map_err(refused("make the folder", folder))?;
    }
    if let Some(first) = missing.first() {
        sync_folder(&parent(first))?;
    }
    Ok(missing)
}

/// Removes a file, a link, or a folder with all that is in it; never what a link points at. Nothing there is success.
///
/// # Errors
/// The system refuses, or it is a mount point.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let Some(found) = stat(path)? else { return Ok(()) };
    match found.kind {
        FileKind::Directory => std::fs::remove_dir_all(path),
        _ => std::fs::remove_file(path),
    }
    .map_err(refused("remove", path))?;
    sync_folder(&parent(path))
}

/// Makes a symbolic link, in place of an older one in one step.
///
/// # Errors
/// Something else than a link is there, or the folder may not be written.
pub fn link(target: &Path, path: &Path) -> Result<(), FileError> {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = parent(path).join(format!(".{name}.keddah-{}-{number}", std::process::id()));
    std::os::unix::fs::symlink(target, &temporary).map_err(refused("make the link", path))?;
    let done = std::fs::rename(&temporary, path).map_err(refused("make the link", path));
    if done.is_err() {
        let _left = std::fs::remove_file(&temporary);
    }
    done?;
    sync_folder(&parent(path))
}

/// Makes a second name for a file, in place of what has that name.
///
/// # Errors
/// Another file system, or the folder may not be written.
pub fn hard_link(target: &Path, path: &Path) -> Result<(), FileError> {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = parent(path).join(format!(".{name}.keddah-{}-{number}", std::process::id()));
    std::fs::hard_link(target, &temporary).map_err(refused("make the link", path))?;
    let done = std::fs::rename(&temporary, path).map_err(refused("make the link", path));
    if done.is_err() {
        let _left = std::fs::remove_file(&temporary);
    }
    done?;
    sync_folder(&parent(path))
}

/// Makes a named pipe that only its owner may use; one that is there is left.
///
/// # Errors
/// Something else is there, or the folder may not be written.
pub fn make_pipe(path: &Path) -> Result<(), FileError> {
    if stat(path)?.is_some_and(|found| found.kind == FileKind::Fifo) {
        return Ok(());
    }
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::unistd::mkfifo(path, mode).map_err(|errno| refused("make the pipe", path)(errno.into()))?;
    sync_folder(&parent(path))
}

/// Sets the times of a file to the present, and makes it empty if it is not there.
///
/// # Errors
/// It may not be written.
pub fn touch(path: &Path) -> Result<(), FileError> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    if stat_followed(path)?.is_none() {
        return replace(path, b"", Attributes::default());
    }
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &TimeSpec::UTIME_NOW,
        &TimeSpec::UTIME_NOW,
        UtimensatFlags::FollowSymlink,
    )
    .map_err(|errno| refused("touch", path)(errno.into()))
}

/// Writes a number or word to a file of the kernel's (`/proc/sys`, `/sys`), which cannot be replaced by rename.
///
/// # Errors
/// The kernel refuses the value, or this namespace may not change it.
pub fn write_kernel_file(path: &Path, text: &str) -> Result<(), FileError> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(refused("write", path))?;
    file.write_all(text.as_bytes()).map_err(refused("write", path))
}

/// Copies extended attributes (the SELinux context, capabilities, ACLs) as far as the file system and the process may.
#[expect(unsafe_code, reason = "extended attributes have no binding in nix or std")]
fn copy_attributes(from: &Path, to: &Path) {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let (Ok(from), Ok(to)) =
        (CString::new(from.as_os_str().as_bytes()), CString::new(to.as_os_str().as_bytes()))
    else {
        return;
    };
    let mut names = vec![0_u8; 64 * 1024];
    // SAFETY: both pointers are to live buffers, and the length given is the buffer's.
    let length = unsafe { nix::libc::listxattr(from.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else { return };
    let mut value = vec![0_u8; 64 * 1024];
    for name in names.get(..length).unwrap_or_default().split_inclusive(|b| *b == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        // SAFETY: as above; `name` ends with a zero byte.
        let size = unsafe {
            nix::libc::getxattr(from.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        let Ok(size) = usize::try_from(size) else { continue };
        // SAFETY: as above; `size` is what getxattr wrote, at most the buffer's length. A refusal (a foreign file system,
        // no right to set this attribute) leaves the file with the folder's default, which is what a new file has.
        let _refused =
            unsafe { nix::libc::setxattr(to.as_ptr(), name.as_ptr(), value.as_ptr().cast(), size, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        replace(&path, b"one", Attributes { mode: Some(0o640), ..Attributes::default() }).unwrap();

        replace(&path, b"two", Attributes::default()).unwrap();

        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(stat(&path).unwrap().unwrap().mode, 0o640);
        assert_eq!(list(folder.path()).unwrap(), ["a.conf"]);
    }

    #[test]
    fn a_prepared_text_that_is_not_committed_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        replace(&path, b"one", Attributes::default()).unwrap();

        drop(Replacement::prepare(&path, b"two", Attributes::default()).unwrap());

        assert_eq!(read(&path).unwrap(), b"one");
        assert_eq!(list(folder.path()).unwrap(), ["a.conf"]);
    }

    #[test]
    fn a_link_stays_when_its_target_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, name) = (folder.path().join("file"), folder.path().join("name"));
        replace(&file, b"one", Attributes::default()).unwrap();
        link(Path::new("file"), &name).unwrap();

        replace(&name, b"two", Attributes::default()).unwrap();

        assert_eq!(read(&file).unwrap(), b"two");
        assert_eq!(stat(&name).unwrap().unwrap().target.unwrap(), Path::new("file"));
    }

    #[test]
    fn an_error_names_the_path_and_what_was_tried() {
        let error = replace(Path::new("/no/such/folder/a"), b"", Attributes::default()).unwrap_err();

        assert_eq!(error.to_string(), "cannot write /no/such/folder/a");
    }
}
