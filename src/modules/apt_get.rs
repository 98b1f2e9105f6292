//! apt-get as every task runs it, and what its lists of packages say.

use std::time::Duration;

use crate::modules::{Fault, FaultKind, Host, HostMut};
use crate::sys::clock;
use crate::sys::process::Program;

/// How long another package manager is waited for unless the task says otherwise.
pub(super) const LOCK_LIMIT_S: u32 = 180;

/// How long one transaction may take: a slow mirror and a large package.
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

const LISTS: &str = "/var/lib/apt/lists";
const STAMP: &str = "/var/lib/apt/periodic/update-success-stamp";

/// Returns apt-get as every task runs it: it asks nothing, and waits `limit` seconds for dpkg's lock.
pub(super) fn program(limit: u32) -> Program {
    Program::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBIAN_PRIORITY", "critical")
        .env("NEEDRESTART_MODE", "l")
        .limit(INSTALL_LIMIT)
        .args(["-y", "-q", "-o", &format!("DPkg::Lock::Timeout={limit}")])
}

/// Reads the lists of packages again.
///
/// # Errors
/// A repository does not answer or is not trusted, or another package manager holds the lock for too long.
pub(super) fn read_lists(host: &mut HostMut<'_>) -> Result<String, Fault> {
    update(program(LOCK_LIMIT_S), LOCK_LIMIT_S, host)
}

/// Reads the lists of packages again with apt-get as a task asks for it.
///
/// # Errors
/// As [`read_lists`].
pub(super) fn update(apt_get: Program, limit: u32, host: &mut HostMut<'_>) -> Result<String, Fault> {
    // A mirror that does not answer must not read as success.
    let program = apt_get.args(["-o", "APT::Update::Error-Mode=any", "update"]);
    run(&program, limit, "the lists of packages could not be read", host)
}

/// Runs apt-get, waiting for the lists' lock, for which apt itself does not wait.
pub(super) fn run(
    program: &Program,
    limit: u32,
    tried: &str,
    host: &mut HostMut<'_>,
) -> Result<String, Fault> {
    let until = clock::now() + Duration::from_secs(u64::from(limit));
    loop {
        let output = host.run(program.clone())?;
        if output.exit.is_success() {
            return Ok(output.stdout_text());
        }
        let words = output.stderr_text();
        let is_locked = words.contains("Could not get lock")
            || words.contains("Unable to acquire the dpkg frontend lock");
        if is_locked && clock::now() < until {
            std::thread::sleep(Duration::from_secs(1));
            continue;
        }
        let mut fault = Fault::program(program, &output, tried);
        if is_locked {
            fault.kind = FaultKind::TimedOut;
            fault =
                fault.hint("another package manager runs on this host; `lock_timeout` waits longer for it");
        } else if words.contains("Unable to locate package")
            || words.contains("has no installation candidate")
        {
            fault = fault.hint("is the name right, and is its repository configured? `update_cache: true` reads the lists again");
        } else if words.contains("dpkg was interrupted") {
            fault = fault.hint("`dpkg --configure -a` on the host puts it right");
        }
        return Err(fault);
    }
}

/// Returns when the lists were last read; `None` if there are none.
pub(super) fn lists_time(host: &Host) -> Result<Option<f64>, Fault> {
    let has_lists = match host.stat_followed(LISTS)? {
        Some(_) => host
            .list(LISTS)?
            .iter()
            .any(|n| n.to_string_lossy().contains("_Packages") || n.to_string_lossy().ends_with("Release")),
        None => false,
    };
    if !has_lists {
        return Ok(None);
    }
    if let Some(stamp) = host.stat(STAMP)? {
        return Ok(Some(stamp.modified));
    }
    Ok(host.stat(LISTS)?.map(|s| s.modified))
}

/// Whether a list of repositories is newer than what was read of them.
pub(super) fn sources_newer(host: &Host, time: f64) -> bool {
    let mut paths = vec!["/etc/apt/sources.list".to_owned()];
    if let Ok(names) = host.list("/etc/apt/sources.list.d") {
        paths.extend(names.iter().map(|n| format!("/etc/apt/sources.list.d/{}", n.to_string_lossy())));
    }
    paths.iter().any(|path| matches!(host.stat(path), Ok(Some(stat)) if stat.modified > time))
}

/// A number that is another one when the lists are.
pub(super) fn fingerprint(host: &Host) -> u64 {
    let Ok(names) = host.list(LISTS) else { return 0 };
    names.iter().fold(0, |sum, name| match host.stat(format!("{LISTS}/{}", name.to_string_lossy())) {
        Ok(Some(stat)) if !name.to_string_lossy().starts_with("lock") => {
            sum ^ stat.inode.wrapping_mul(31) ^ stat.modified.to_bits().rotate_left(17)
        }
        _ => sum,
    })
}

/// Reads `apt-cache policy`: each package's candidate.
pub(super) fn candidates(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut name = String::new();
    for line in text.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end_matches(':').to_owned();
        } else if let Some(version) = line.trim().strip_prefix("Candidate:")
            && version.trim() != "(none)"
        {
            all.push((name.clone(), version.trim().to_owned()));
        }
    }
    all
}
