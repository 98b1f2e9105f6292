//! What dpkg has installed, read from its status file: a query program per package would cost more than all the rest.

use std::collections::BTreeMap;
use std::path::Path;

use crate::sys::files::{self, FileError};

/// One package that dpkg knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub source: String,
    /// Whether its files are there and configured; otherwise removed with its configuration left, or half installed.
    pub is_installed: bool,
    /// Whether an upgrade is forbidden.
    pub is_held: bool,
}

/// The package database at one moment.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    /// By name; several where more than one architecture is installed.
    by_name: BTreeMap<String, Vec<Package>>,
    /// Names that packages stand in for.
    provided: BTreeMap<String, Vec<String>>,
    identity: Option<(u64, u64, u64)>,
}

const STATUS: &str = "var/lib/dpkg/status";

impl Packages {
    /// Reads the status file under `root`; a host without dpkg has no packages.
    ///
    /// # Errors
    /// The file is there and may not be read.
    pub fn read(root: &Path) -> Result<Packages, FileError> {
        let identity = identity(root)?;
        let text = files::read_if_there(&root.join(STATUS))?.unwrap_or_default();
        let mut packages = Packages { identity, ..Packages::default() };
        for paragraph in String::from_utf8_lossy(&text).split("\n\n") {
            packages.add(paragraph);
        }
        Ok(packages)
    }

    fn add(&mut self, paragraph: &str) {
        let mut package = Package {
            name: String::new(),
            version: String::new(),
            architecture: String::new(),
            source: String::new(),
            is_installed: false,
            is_held: false,
        };
        let mut provides = Vec::new();
        for line in paragraph.lines().filter(|l| !l.starts_with([' ', '\t'])) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key {
                "Package" => package.name = value.to_owned(),
                "Version" => package.version = value.to_owned(),
                "Architecture" => package.architecture = value.to_owned(),
                "Source" => package.source = value.split(' ').next().unwrap_or_default().to_owned(),
                "Status" => {
                    package.is_installed = value.ends_with(" ok installed");
                    package.is_held = value.starts_with("hold ");
                }
                "Provides" => {
                    provides = value
                        .split(',')
                        .filter_map(|p| p.split_whitespace().next())
                        .map(str::to_owned)
                        .collect();
                }
                _ => {}
            }
        }
        if package.name.is_empty() {
            return;
        }
        if package.source.is_empty() {
            package.source.clone_from(&package.name);
        }
        if package.is_installed {
            for name in provides {
                self.provided.entry(name).or_default().push(package.name.clone());
            }
        }
        self.by_name.entry(package.name.clone()).or_default().push(package);
    }

    /// Returns whether the status file is still the one that was read.
    pub fn is_current(&self, root: &Path) -> bool {
        identity(root).is_ok_and(|i| i == self.identity)
    }

    /// Returns whether this host has a dpkg database at all.
    pub fn has_dpkg(&self) -> bool {
        self.identity.is_some()
    }

    /// Returns the installed package of that name, or `name:architecture`.
    pub fn installed(&self, name: &str) -> Option<&Package> {
        let (name, architecture) = name.split_once(':').map_or((name, None), |(n, a)| (n, Some(a)));
        let mut all = self.by_name.get(name)?.iter().filter(|p| p.is_installed);
        all.find(|p| architecture.is_none_or(|a| p.architecture == a))
    }

    /// Returns an installed package that stands in for a virtual one.
    pub fn provider(&self, name: &str) -> Option<&str> {
        self.provided.get(name)?.first().map(String::as_str)
    }
}

/// Inode, size and time of change: dpkg replaces the file by rename.
fn identity(root: &Path) -> Result<Option<(u64, u64, u64)>, FileError> {
    let found = files::stat(&root.join(STATUS))?;
    Ok(found.map(|s| (s.inode, s.size, s.modified.to_bits())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_removed_and_virtual_packages_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        let text = "Package: etcd-server\nStatus: install ok installed\nArchitecture: amd64\nProvides: etcd (= 3), x\n\
                    Version: 3.4.23\nDescription: a\n b: c\n\nPackage: old\nStatus: deinstall ok config-files\nVersion: 1\n";
        files::replace(&root.path().join(STATUS), text.as_bytes(), files::Attributes::default()).unwrap();

        let packages = Packages::read(root.path()).unwrap();

        assert_eq!(packages.installed("etcd-server").unwrap().version, "3.4.23");
        assert!(packages.installed("etcd-server:arm64").is_none());
        assert!(packages.installed("old").is_none());
        assert_eq!(packages.provider("etcd"), Some("etcd-server"));
        assert!(packages.is_current(root.path()));
    }
}
