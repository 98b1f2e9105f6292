//! Where a guard's lock and socket lie: never inside the data directory, and named after it.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Kept of the data directory's path in the names, so that a person sees which is which.
const TAIL_CHARACTERS: usize = 32;

/// The folder for guards of hosts without `$RUNTIME_DIRECTORY`.
const RUN_FOLDER: &str = "/run/keddah";

/// The files of one guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub socket: PathBuf,
    pub lock: PathBuf,
}

impl Place {
    /// Returns the place of the guard of `data_dir` in the first folder of these that is there or can be made, and can
    /// be written: the first of `$RUNTIME_DIRECTORY`, `/run/keddah`, `socket_dir` (where Postgres has its sockets).
    pub fn of(data_dir: &Path, socket_dir: &Path) -> Place {
        let runtime = std::env::var_os("RUNTIME_DIRECTORY")
            .and_then(|value| std::env::split_paths(&value).next())
            .filter(|folder| folder.is_absolute());
        match runtime {
            Some(folder) => Place::within(&folder, data_dir),
            None if is_usable(Path::new(RUN_FOLDER)) => Place::within(Path::new(RUN_FOLDER), data_dir),
            None => Place::within(socket_dir, data_dir),
        }
    }

    /// Returns the place of the guard of `data_dir` in `folder`.
    pub fn within(folder: &Path, data_dir: &Path) -> Place {
        let name = name_of(&settled(data_dir));
        Place {
            socket: folder.join(format!("guard-{name}.sock")),
            lock: folder.join(format!("guard-{name}.lock")),
        }
    }

    /// Returns the place whose socket was named by the user; the lock lies beside it.
    pub fn at(socket: &Path) -> Place {
        Place { socket: socket.to_owned(), lock: socket.with_extension("lock") }
    }
}

/// Follows symbolic links of the part of the path that exists, so that two spellings of one folder share a guard.
fn settled(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => settled(parent).join(name),
        _ => path,
    }
}

fn name_of(path: &Path) -> String {
    let text = path.to_string_lossy();
    let readable: Vec<char> =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let tail: String = readable.iter().skip(readable.len().saturating_sub(TAIL_CHARACTERS)).collect();
    format!("{:016x}{}{}", fnv(text.as_bytes()), if tail.starts_with('-') { "" } else { "-" }, tail)
}

/// The 64-bit FNV-1a hash: the same in every build, which the names of durable files need.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn is_usable(folder: &Path) -> bool {
    let made = std::fs::DirBuilder::new().mode(0o755).create(folder);
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return false;
    }
    // Owned by this user, not merely writable: agent and guard must come to the same answer.
    std::fs::metadata(folder).is_ok_and(|meta| meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_data_directories_apart_and_can_be_read() {
        let folder = Path::new("/run/keddah");
        let one = Place::within(folder, Path::new("/var/lib/postgresql/15/main"));
        let other = Place::within(folder, Path::new("/var/lib/postgresql/15/main2"));

        assert_ne!(one, other);
        assert!(one.socket.to_string_lossy().ends_with("-var-lib-postgresql-15-main.sock"), "{one:?}");
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c, "the published value for this input");
    }

    #[test]
    fn two_spellings_of_a_folder_share_a_place() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("real")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("real"), temp.path().join("link")).unwrap();
        let folder = Path::new("/run/keddah");

        let real = Place::within(folder, &temp.path().join("real/data"));
        assert_eq!(real, Place::within(folder, &temp.path().join("link/data")));
        assert_eq!(real, Place::within(folder, &temp.path().join("link/../real/data")));
    }

    #[test]
    fn a_long_path_still_fits_a_socket_address() {
        let deep = PathBuf::from(format!("/srv/{}", "very-long-folder-name/".repeat(20)));
        assert!(Place::within(Path::new("/run/keddah"), &deep).socket.as_os_str().len() < 108);
    }
}
