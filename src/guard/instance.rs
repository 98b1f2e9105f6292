//! Which processes belong to the instance of one data directory.
//!
//! Four ways in: the postmaster that `postmaster.pid` names (program and user checked, start time remembered), whatever
//! descends from it, whatever descends from the guard itself (it is the reaper of all that its postmaster leaves
//! behind), and any process of this user that runs the configured server in the data directory. The last finds what
//! `kill -9` of a postmaster leaves behind where another process was its parent.
//!
//! Nothing here allocates after [`Instance::new`].

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Pid, geteuid, getpid};

/// Most processes of one user that a scan can hold. A host that has more has other troubles; the scan says so and what
/// it found is dealt with first.
const PROCESSES_MAX: usize = 32_768;

/// Server modes in which no client is served: single-user start, initdb, and questions to the program.
const SERVES_NOBODY: [&[u8]; 5] = [b"--single", b"--boot", b"--check", b"--describe-config", b"-C"];

/// A process and its start, which together are never used twice in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// In clock ticks since boot.
    pub(super) start_ticks: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    process: Process,
    parent: i32,
    member: bool,
}

/// The eye on one data directory.
#[derive(Debug)]
pub(super) struct Instance {
    data_dir: PathBuf,
    /// The server's program, links resolved.
    server: PathBuf,
    proc_fs: OwnedFd,
    rows: Vec<Row>,
}

/// What a scan of all processes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Living processes of the instance.
    pub(super) members: usize,
    /// False where the table was too small, so that "none" would be no proof.
    pub(super) complete: bool,
}

impl Instance {
    /// Prepares for looking; all memory is taken here.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub(super) fn new(data_dir: &Path, server: &Path) -> std::io::Result<Instance> {
        Ok(Instance {
            data_dir: data_dir.to_owned(),
            server: server.canonicalize().unwrap_or_else(|_| server.to_owned()),
            proc_fs: File::open("/proc")?.into(),
            rows: Vec::with_capacity(PROCESSES_MAX),
        })
    }

    /// Returns the postmaster that `postmaster.pid` names, if it lives and is one: this user's, the configured program.
    /// A single-user server is none.
    pub(super) fn postmaster(&self) -> Option<Process> {
        let mut buffer = [0; 64];
        let mut path = PathBuffer::new();
        write!(path, "{}/postmaster.pid\0", self.data_dir.display()).ok()?;
        let text = read_small(&self.proc_fs, path.as_str()?, &mut buffer)?;
        let line = text.split(|byte| *byte == b'\n').next()?;
        let pid: i32 = std::str::from_utf8(line).ok()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        let process = self.living(Pid::from_raw(pid))?;
        (self.is_ours(pid) && self.runs_server(pid)).then_some(process)
    }

    /// Returns the process of this pid if it lives; a zombie does not.
    pub(super) fn living(&self, pid: Pid) -> Option<Process> {
        let (row, alive) = self.stat(pid.as_raw())?;
        alive.then_some(row.process)
    }

    /// Tells whether the very process still lives.
    pub(super) fn lives(&self, process: Process) -> bool {
        self.living(process.pid) == Some(process)
    }

    /// Looks at all processes of this user and marks the instance's. `postmaster` may be gone.
    pub(super) fn scan(&mut self, postmaster: Option<Process>) -> Found {
        let complete = self.list();
        let own = getpid().as_raw();
        for index in 0..self.rows.len() {
            let Some(row) = self.rows.get(index).copied() else { continue };
            let pid = row.process.pid.as_raw();
            let member = postmaster == Some(row.process)
                || row.parent == own
                || (self.is_in_data_dir(pid) && self.runs_server(pid) && !self.serves_nobody(pid));
            if let Some(row) = self.rows.get_mut(index) {
                row.member = member;
            }
        }
        self.mark_descendants();
        Found { members: self.members().count(), complete }
    }

    /// Returns what the last scan found.
    pub(super) fn members(&self) -> impl Iterator<Item = Process> {
        self.rows.iter().filter(|row| row.member).map(|row| row.process)
    }

    /// Children of members are members; the list is in no order, so this is repeated until nothing changes.
    fn mark_descendants(&mut self) {
        loop {
            let mut changed = false;
            for index in 0..self.rows.len() {
                let Some(row) = self.rows.get(index).copied() else { continue };
                if row.member {
                    continue;
                }
                let parent_is_member =
                    self.rows.iter().any(|other| other.member && other.process.pid.as_raw() == row.parent);
                if parent_is_member && let Some(row) = self.rows.get_mut(index) {
                    row.member = true;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Fills the table with this user's living processes, the guard left out. False where it did not hold them all.
    #[expect(unsafe_code, reason = "readdir of std and nix allocates; getdents64 has no wrapper")]
    fn list(&mut self) -> bool {
        self.rows.clear();
        let mut buffer = [0_u8; 16 * 1024];
        let own = getpid().as_raw();
        // SAFETY: the descriptor is open and owned by self; lseek takes numbers only.
        unsafe { libc::lseek(self.proc_fs.as_raw_fd(), 0, libc::SEEK_SET) };
        loop {
            // SAFETY: the kernel writes at most the given length into the buffer, which lives until after the call.
            let length = unsafe {
                libc::syscall(
                    libc::SYS_getdents64,
                    self.proc_fs.as_raw_fd(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                )
            };
            let Ok(length) = usize::try_from(length) else { return false };
            if length == 0 {
                return true;
            }
            let mut entries = buffer.get(..length).unwrap_or_default();
            while let Some((pid, rest)) = next_entry(entries) {
                entries = rest;
                let Some(pid) = pid.filter(|pid| *pid != own && self.is_ours(*pid)) else { continue };
                let Some((row, true)) = self.stat(pid) else { continue };
                if self.rows.len() == self.rows.capacity() {
                    return false;
                }
                self.rows.push(row);
            }
        }
    }

    fn is_ours(&self, pid: i32) -> bool {
        let mut path = PathBuffer::new();
        if write!(path, "{pid}\0").is_err() {
            return false;
        }
        path.as_str().is_some_and(|path| {
            fstatat(&self.proc_fs, path, AtFlags::empty()).is_ok_and(|stat| stat.st_uid == geteuid().as_raw())
        })
    }

    /// Reads `/proc/PID/stat`: the row, and whether the process can still run code.
    fn stat(&self, pid: i32) -> Option<(Row, bool)> {
        let mut buffer = [0; 1024];
        let mut path = PathBuffer::new();
        write!(path, "{pid}/stat\0").ok()?;
        let text = read_small(&self.proc_fs, path.as_str()?, &mut buffer)?;
        let (state, parent, start_ticks) = parse_stat(text)?;
        let process = Process { pid: Pid::from_raw(pid), start_ticks };
        Some((Row { process, parent, member: false }, !matches!(state, b'Z' | b'X' | b'x')))
    }

    fn is_in_data_dir(&self, pid: i32) -> bool {
        let mut buffer = [0; 4096];
        self.link(pid, "cwd", &mut buffer).is_some_and(|target| {
            use std::os::unix::ffi::OsStrExt;
            target == self.data_dir.as_os_str().as_bytes()
        })
    }

    fn runs_server(&self, pid: i32) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let mut buffer = [0; 4096];
        self.link(pid, "exe", &mut buffer).is_some_and(|target| {
            // A package upgrade unlinks the program under the running server.
            let target = target.strip_suffix(b" (deleted)").unwrap_or(target);
            target == self.server.as_os_str().as_bytes()
        })
    }

    fn serves_nobody(&self, pid: i32) -> bool {
        let mut buffer = [0; 1024];
        let mut path = PathBuffer::new();
        if write!(path, "{pid}/cmdline\0").is_err() {
            return false;
        }
        let Some(text) = path.as_str().and_then(|path| read_small(&self.proc_fs, path, &mut buffer)) else {
            return false;
        };
        text.split(|byte| *byte == 0).nth(1).is_some_and(|argument| SERVES_NOBODY.contains(&argument))
    }

    #[expect(unsafe_code, reason = "readlinkat of nix allocates its answer")]
    fn link<'b>(&self, pid: i32, name: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut path = PathBuffer::new();
        write!(path, "{pid}/{name}\0").ok()?;
        // SAFETY: the path ends in a zero byte, and the kernel writes at most the given length into the buffer.
        let length = unsafe {
            libc::readlinkat(
                self.proc_fs.as_raw_fd(),
                path.bytes.as_ptr().cast(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        buffer.get(..usize::try_from(length).ok()?)
    }
}

/// A path on the stack. Written with a zero byte at its end, which [`PathBuffer::as_str`] leaves out.
struct PathBuffer {
    bytes: [u8; 1024],
    length: usize,
}

impl PathBuffer {
    fn new() -> PathBuffer {
        PathBuffer { bytes: [0; 1024], length: 0 }
    }

    fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes.get(..self.length.checked_sub(1)?)?).ok()
    }
}

impl Write for PathBuffer {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let space = self.bytes.get_mut(self.length..self.length + text.len());
        let Some(space) = space else { return Err(std::io::ErrorKind::StorageFull.into()) };
        space.copy_from_slice(text);
        self.length += text.len();
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads the beginning of a small file, as much as fits.
fn read_small<'b>(folder: &OwnedFd, path: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let file = openat(folder.as_fd(), path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    loop {
        match nix::unistd::read(&file, buffer) {
            Ok(length) => return buffer.get(..length),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Takes one entry off what `getdents64` wrote: its name as a number, where it is one, and the rest.
fn next_entry(entries: &[u8]) -> Option<(Option<i32>, &[u8])> {
    // struct linux_dirent64: inode 8, offset 8, length 2, type 1, name until a zero byte.
    let length = usize::from(u16::from_ne_bytes(entries.get(16..18)?.try_into().ok()?));
    let entry = entries.get(..length)?;
    let name = entry.get(19..)?.split(|byte| *byte == 0).next()?;
    let pid = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    Some((pid, entries.get(length..)?))
}

/// Reads state, parent and start time. The program's name, in parentheses, may hold anything.
fn parse_stat(text: &[u8]) -> Option<(u8, i32, u64)> {
    let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end_of_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of the line; state is field 3, so 17 lie between the parent and it.
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some((state, parent, start_ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_shift_the_fields() {
        let line = b"42 (a) R 1 (b) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 1";
        assert_eq!(parse_stat(line), Some((b'S', 7, 123_456)));
        assert_eq!(parse_stat(b"42 (a"), None);
    }

    #[test]
    fn this_process_is_seen_by_its_own_numbers() {
        let instance = Instance::new(Path::new("/nowhere"), &std::env::current_exe().unwrap()).unwrap();
        let own = instance.living(getpid()).unwrap();

        assert!(instance.lives(own));
        assert!(!instance.lives(Process { start_ticks: own.start_ticks + 1, ..own }), "a pid used again");
        assert!(instance.is_ours(getpid().as_raw()));
        assert!(instance.runs_server(getpid().as_raw()));
        assert_eq!(instance.postmaster(), None);
    }

    #[test]
    fn a_scan_holds_this_users_processes_and_none_of_a_strange_folder() {
        let mut instance = Instance::new(Path::new("/nowhere"), Path::new("/nowhere/postgres")).unwrap();
        let found = instance.scan(None);
        assert!(found.complete);
        assert_eq!(found.members, instance.members().count());
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_and_not_cut() {
        let mut path = PathBuffer::new();
        assert!(write!(path, "{}", "x".repeat(1025)).is_err());
    }
}
