//! The instance's own control group (version 2), where the guard's has been delegated to it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A group below the guard's own. Its files are open, so that using it needs no path.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
    procs: File,
    freeze: File,
    kill: File,
}

impl Group {
    /// Makes the group, or takes over the one that an earlier guard in the same place made.
    ///
    /// # Errors
    /// There is no version 2 hierarchy, it is not delegated to this user, the kernel is older than 5.14, or the group
    /// holds processes that this guard cannot see.
    pub(super) fn make(name: &str) -> io::Result<Group> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = own_folder(&mounts, &own).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let folder = own.join(name);
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let open = |file: &str| File::options().write(true).open(folder.join(file));
        let procs = File::open(folder.join("cgroup.procs"))?;
        let group = Group { procs, freeze: open("cgroup.freeze")?, kill: open("cgroup.kill")?, folder };
        if group.holds_strangers()? {
            return Err(io::Error::other("the control group holds processes of another pid namespace"));
        }
        // A guard that died in the middle of a kill left it frozen.
        group.thaw();
        Ok(group)
    }

    /// Opens the file through which a process enters the group.
    ///
    /// # Errors
    /// The group is gone.
    pub(super) fn entrance(&self) -> io::Result<OwnedFd> {
        Ok(File::options().write(true).open(self.folder.join("cgroup.procs"))?.into())
    }

    /// Freezes the group and kills all that is in it, at one stroke. What it cannot do, the pass over processes does.
    ///
    /// Containers that share one hierarchy without a view of their own name the same group: then it is left alone.
    pub(super) fn kill(&self) {
        if self.holds_strangers().unwrap_or(true) {
            return;
        }
        let _refused = (&self.freeze).write_all(b"1");
        let _refused = (&self.kill).write_all(b"1");
    }

    fn holds_strangers(&self) -> io::Result<bool> {
        let mut members = String::new();
        let mut procs = &self.procs;
        procs.rewind()?;
        procs.read_to_string(&mut members)?;
        Ok(names_strangers(&members))
    }

    /// Lets the next server in this group run.
    pub(super) fn thaw(&self) {
        let _refused = (&self.freeze).write_all(b"0");
    }
}

/// Tells whether a list of members names one that has no number here: the kernel writes 0 for it.
fn names_strangers(members: &str) -> bool {
    members.lines().any(|pid| pid == "0")
}

/// Finds the folder of this process's own group in what the kernel says of mounts and groups.
fn own_folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(mount).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_pid_namespace_is_a_stranger() {
        assert!(!names_strangers("") && !names_strangers("10\n200\n"));
        assert!(names_strangers("10\n0\n"));
    }

    #[test]
    fn the_folder_is_found_in_unified_and_hybrid_layouts() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      42 30 0:39 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            own_folder(hybrid, "3:cpu:/\n0::/system.slice/guard.service\n"),
            Some(PathBuf::from("/sys/fs/cgroup/unified/system.slice/guard.service"))
        );
        let container = "42 30 0:39 /machine/db1 /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            own_folder(container, "0::/machine/db1/system.slice\n"),
            Some(PathBuf::from("/sys/fs/cgroup/system.slice"))
        );
        assert_eq!(own_folder("", "0::/\n"), None);
        assert_eq!(own_folder(hybrid, "3:cpu:/\n"), None, "version 1 only");
    }
}
