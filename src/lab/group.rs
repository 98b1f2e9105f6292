//! A control group of its own for each host: containers that share one tree share the groups of equal names in it.

use std::path::{Path, PathBuf};

use crate::sys::files::{self, FileError};

/// Where a machine with both versions of control groups keeps version 2, and the hierarchy that systemd names.
/// A machine with version 2 alone needs none of this: there systemd-nspawn makes a group for its container.
const TREES: &[(&str, &str)] =
    &[("/sys/fs/cgroup/unified", "0::"), ("/sys/fs/cgroup/systemd", ":name=systemd:")];

fn groups(machine: &str) -> Vec<PathBuf> {
    let trees = TREES.iter().filter(|(tree, _)| Path::new(tree).join("cgroup.procs").exists());
    trees.map(|(tree, _)| Path::new(tree).join(machine)).collect()
}

/// Runs `start` with this process in the host's groups, so that what it starts is in them, and returns afterwards.
pub(super) fn within<E: From<FileError>>(
    machine: &str,
    start: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let own = files::read(Path::new("/proc/self/cgroup"))?;
    let own = String::from_utf8_lossy(&own).into_owned();
    let home = |(tree, key): &(&str, &str)| {
        let line = own.lines().find(|line| line.contains(key))?;
        let path = line.split_once(key)?.1.trim_start_matches('/');
        Some(Path::new(tree).join(path))
    };
    let groups = groups(machine);
    for group in &groups {
        // Not by files::make_folders: a kernel's folder cannot be made durable.
        std::fs::create_dir_all(group).map_err(|source| FileError {
            operation: "make",
            path: group.clone(),
            source,
        })?;
        files::write_kernel_file(&group.join("cgroup.procs"), "0")?;
    }
    let started = start();
    if !groups.is_empty() {
        for home in TREES.iter().filter_map(home) {
            files::write_kernel_file(&home.join("cgroup.procs"), "0")?;
        }
    }
    started
}

/// Takes the groups of a dead host away; one that is busy for a moment longer is left to the next `up`.
pub(super) fn remove(machine: &str) {
    for group in groups(machine) {
        remove_tree(&group);
    }
}

fn remove_tree(group: &Path) {
    for entry in files::list(group).unwrap_or_default() {
        let child = group.join(entry);
        if child.is_dir() {
            remove_tree(&child);
        }
    }
    // Groups vanish by rmdir alone, from the leaves up.
    let _left_to_the_next_up = std::fs::remove_dir(group);
}
