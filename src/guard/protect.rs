//! What the guard asks of the kernel for itself: memory that is not paged out, time before others, and not being the
//! one that is killed when memory is short. Each is used where it is allowed, and its absence is told.

use std::ffi::CString;
use std::io;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What came of it.
#[derive(Debug)]
pub(super) struct Protection {
    /// What was refused, in words.
    pub(super) lacking: Vec<String>,
    /// The score that children have to get back.
    pub(super) oom_score: Option<CString>,
}

/// Protects this process. Its children inherit none of it: locks and priority are reset by the kernel at fork, and the
/// score is put back by the child itself.
pub(super) fn protect() -> Protection {
    let mut lacking = Vec::new();
    let mut note = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            lacking.push(format!("{what}: {error}"));
        }
    };
    note("reaper of orphans", prctl::set_child_subreaper(true).map_err(io::Error::from));
    note("locked memory", lock_memory());
    note("real-time priority", raise_priority());
    let before = std::fs::read_to_string(OOM_SCORE).ok();
    note("protection from the out-of-memory killer", lower_oom_score());
    Protection { lacking, oom_score: before.and_then(|text| CString::new(text.trim()).ok()) }
}

/// Locks pages as they are touched: the whole binary would otherwise count as resident.
#[expect(unsafe_code, reason = "nix lacks MCL_ONFAULT")]
fn lock_memory() -> io::Result<()> {
    // Below an unlimited limit every later allocation could fail, which is worse than being paged out.
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft != libc::RLIM_INFINITY {
        return Err(io::Error::other("LimitMEMLOCK is not infinity"));
    }
    // SAFETY: numbers only.
    let done = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "sched_setscheduler has no wrapper")]
fn raise_priority() -> io::Result<()> {
    // SAFETY: the structure is plain numbers, and the kernel only reads it.
    let done = unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = 1;
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lower_oom_score() -> io::Result<()> {
    use std::io::Write;
    std::fs::File::options().write(true).open(OOM_SCORE)?.write_all(b"-1000")
}
