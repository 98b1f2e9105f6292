//! Other processes of this host that concern the agent: its children, strays of an earlier one, and what they run.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpid};

/// One process of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub pid: i32,
    pub parent: i32,
    pub argv: Vec<String>,
}

impl Seen {
    /// Returns the file name of its program.
    pub fn program(&self) -> Option<&str> {
        self.argv.first().and_then(|program| program.rsplit('/').next())
    }
}

/// Lists the processes of this host. One that ends meanwhile is left out.
pub fn list() -> Vec<Seen> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

fn read(folder: &Path) -> Option<Seen> {
    let pid: i32 = folder.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // The name in parentheses may hold anything; what follows its last one is numbers.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    let line = std::fs::read(folder.join("cmdline")).ok()?;
    let argv = line
        .split(|byte| *byte == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned());
    Some(Seen { pid, parent, argv: argv.collect() })
}

/// Returns what changes while a child that calls itself so is at work: its title, and the CPU time that it and its own
/// children have used. None: there is no such child.
pub fn work_of(parent: u32, title: &str) -> Option<(String, u64)> {
    let parent = i32::try_from(parent).ok()?;
    let mut children = list().into_iter().filter(|seen| seen.parent == parent);
    let child = children.find(|seen| seen.argv.first().is_some_and(|line| line.contains(title)))?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).ok()?;
    let times = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    Some((child.argv.join(" "), times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()))
}

/// Kills the children of this process that run one of `programs`, with their process groups.
pub fn end_children(programs: &[&str]) {
    let me = getpid().as_raw();
    for seen in list() {
        if seen.parent == me && seen.program().is_some_and(|name| programs.contains(&name)) {
            let _gone = killpg(Pid::from_raw(seen.pid), Signal::SIGKILL);
            let _gone = kill(Pid::from_raw(seen.pid), Signal::SIGKILL);
        }
    }
}

/// Kills what an earlier process of ours left at work on `folder`: `programs` with it in an argument.
pub fn end_strays(programs: &[&str], folder: &Path) -> Vec<String> {
    let folder = PathBuf::from(folder);
    let text = folder.display().to_string();
    let mut ended = Vec::new();
    for seen in list() {
        let names_it = seen.argv.iter().any(|argument| argument.ends_with(&text));
        if names_it && let Some(program) = seen.program().filter(|name| programs.contains(name)) {
            let _gone = kill(Pid::from_raw(seen.pid), Signal::SIGKILL);
            ended.push(format!("{program} (pid {})", seen.pid));
        }
    }
    ended
}

/// Tells whether a process runs the very file that lies at `program`; None where that cannot be seen.
pub fn runs(pid: u32, program: &Path) -> Option<bool> {
    let running = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let there = std::fs::metadata(program).ok()?;
    Some((running.dev(), running.ino()) == (there.dev(), there.ino()))
}

/// Returns the file that this process would be made of if it were started again: that which its name leads to, so that
/// a link that was moved to another version is followed, else that which it runs or its successor at the same path.
pub fn own_program() -> std::io::Result<PathBuf> {
    let named = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if named.is_absolute() {
        return Ok(named);
    }
    // The kernel marks a file that was replaced; its path is that of the new one.
    let path = std::env::current_exe()?;
    Ok(path.to_string_lossy().strip_suffix(" (deleted)").map_or(path.clone(), PathBuf::from))
}

/// Returns the identifier of this boot of the host; empty where the kernel gives none.
pub fn boot_id() -> String {
    static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    });
    BOOT_ID.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_that_run() {
        let me = getpid().as_raw();

        assert!(list().iter().any(|seen| seen.pid == me && !seen.argv.is_empty()));
        let own = std::env::current_exe().unwrap();
        assert_eq!(runs(std::process::id(), &own), Some(true));
        assert_eq!(runs(std::process::id(), Path::new("/bin/sh")), Some(false));
        assert_eq!(runs(std::process::id(), Path::new("/nowhere")), None);
    }

    #[test]
    fn the_work_of_a_child_is_seen_by_what_it_calls_itself() {
        let title = std::env::args().next().unwrap();
        let parent = std::os::unix::process::parent_id();

        assert!(work_of(parent, &title).is_some_and(|(found, _)| found.starts_with(&title)));
        assert_eq!(work_of(parent, "no process calls itself so"), None);
    }
}
