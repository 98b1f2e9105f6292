//! Starting a postmaster as a child, and holding on to one.

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2};

use crate::guard::gate::Origin;
use crate::guard::instance::Process;
use crate::sys::clock::{self, Tick};

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) pidfd: OwnedFd,
    pub(super) child: bool,
    pub(super) origin: Origin,
    /// When pg_control had last been written before this server was started.
    pub(super) baseline: Option<Stamp>,
    /// This guard has told it to stop.
    pub(super) told: bool,
}

/// Tells one writing of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Stamp {
        Stamp { inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

impl Server {
    /// Sends a signal to this very process, even if its pid is used again meanwhile.
    #[expect(unsafe_code, reason = "pidfd_send_signal has no wrapper")]
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: the descriptor is open and owned by self; no memory is passed.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Opens a descriptor that becomes readable when the process ends.
#[expect(unsafe_code, reason = "pidfd_open has no wrapper")]
pub(super) fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; the answer is a new descriptor that nobody else owns, or −1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match i32::try_from(fd) {
        // SAFETY: as above.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Everything that a start needs, made before the fork: the child allocates nothing.
#[derive(Debug)]
pub(super) struct Order {
    argv: Vec<CString>,
    env: Vec<CString>,
    output: Option<File>,
    /// Writing `0` there puts the writer into the instance's control group.
    group: Option<OwnedFd>,
    /// What `/proc/self/oom_score_adj` said before the guard protected itself.
    oom_score: Option<CString>,
    /// The child does not become a server at or after this moment.
    not_at: Option<Tick>,
}

impl Order {
    /// Prepares a start. An argument or variable with a zero byte is refused.
    ///
    /// # Errors
    /// The output file cannot be opened.
    pub(super) fn new(
        argv: &[String],
        env: &[(String, String)],
        output: Option<&Path>,
        group: Option<OwnedFd>,
        oom_score: Option<CString>,
        not_at: Option<Tick>,
    ) -> io::Result<Order> {
        let text =
            |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        if argv.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let output = match output {
            Some(path) => {
                let mut options = OpenOptions::new();
                Some(options.append(true).create(true).mode(0o600).open(path)?)
            }
            None => None,
        };
        Ok(Order {
            argv: argv.iter().map(|argument| text(argument.as_bytes())).collect::<io::Result<_>>()?,
            env: env
                .iter()
                .map(|(name, value)| text(format!("{name}={value}").as_bytes()))
                .collect::<io::Result<_>>()?,
            output,
            group,
            oom_score,
            not_at,
        })
    }

    /// Forks and becomes the server. Returns once the program is running.
    ///
    /// # Errors
    /// `TimedOut` where its moment has passed; otherwise what the system said of fork or exec.
    #[expect(
        unsafe_code,
        reason = "std's Command runs code of its own between fork and exec and cannot check a clock"
    )]
    pub(super) fn start(&self) -> io::Result<Pid> {
        let pointers = |texts: &[CString]| {
            let mut list: Vec<*const libc::c_char> = texts.iter().map(|text| text.as_ptr()).collect();
            list.push(std::ptr::null());
            list
        };
        let (argv, env) = (pointers(&self.argv), pointers(&self.env));
        let (report, failed) = pipe2(OFlag::O_CLOEXEC)?;
        let parent = getpid();
        // SAFETY: the guard has one thread; the child makes system calls only, on memory made before the fork.
        match unsafe { fork() }? {
            ForkResult::Child => {
                // SAFETY: this is the child of the fork, and the pointers live in this frame.
                unsafe { self.become_server(parent, &argv, &env, failed.as_fd()) }
            }
            ForkResult::Parent { child } => {
                drop(failed);
                let mut answer = [0; 4];
                match File::from(report).read_exact(&mut answer) {
                    // The pipe was closed by exec.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(child),
                    Err(error) => Err(error),
                    Ok(()) => {
                        let _status = nix::sys::wait::waitpid(child, None);
                        Err(io::Error::from_raw_os_error(i32::from_ne_bytes(answer)))
                    }
                }
            }
        }
    }

    /// What the child does; never returns.
    ///
    /// # Safety
    /// Only in a freshly forked child of a process with one thread; `argv` and `env` end in null and point to texts.
    #[expect(unsafe_code, reason = "system calls between fork and exec")]
    unsafe fn become_server(
        &self,
        parent: Pid,
        argv: &[*const libc::c_char],
        env: &[*const libc::c_char],
        failed: BorrowedFd<'_>,
    ) -> ! {
        // SAFETY: every call below takes numbers or memory that was made before the fork.
        unsafe {
            libc::setsid();
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT, 0, 0, 0);
            if libc::getppid() != parent.as_raw() {
                libc::_exit(125);
            }
            for signal in 1..=64 {
                // Refused for SIGKILL, SIGSTOP and the two that libc keeps.
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if null >= 0 {
                libc::dup2(null, 0);
            }
            if let Some(output) = &self.output {
                libc::dup2(output.as_raw_fd(), 1);
                libc::dup2(output.as_raw_fd(), 2);
            }
            if let Some(group) = &self.group {
                libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1);
            }
            if let Some(score) = &self.oom_score {
                let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if file >= 0 {
                    libc::write(file, score.as_ptr().cast(), score.as_bytes().len());
                }
            }
            let error = if self.not_at.is_some_and(|moment| clock::now() >= moment) {
                libc::ETIMEDOUT
            } else {
                if let Some(program) = argv.first() {
                    libc::execve(*program, argv.as_ptr(), env.as_ptr());
                }
                Errno::last_raw()
            };
            let answer = error.to_ne_bytes();
            libc::write(failed.as_raw_fd(), answer.as_ptr().cast(), answer.len());
            libc::_exit(126);
        }
    }
}

/// Writes the file whose appearance, with SIGUSR1, ends recovery.
///
/// # Errors
/// The data directory may not be written.
pub(super) fn write_promote_file(path: &Path) -> io::Result<()> {
    debug_assert!(path.as_os_str().as_bytes().ends_with(b"/promote"));
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map(drop)
}
