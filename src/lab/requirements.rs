//! What this machine must have to make hosts; what can be installed is installed.

use super::LabError;
use super::program::{self, run};

/// Programs that the lab calls, and the Debian packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("systemd-nspawn", "systemd-container"),
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ssh-keygen", "openssh-client"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("sysctl", "procps"),
];

/// Returns what is missing and what to do about it; empty when hosts can be made.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root: run the command through sudo".to_owned());
        return missing;
    }
    let absent: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| !program::exists(name)).map(|(_, package)| *package).collect();
    if !absent.is_empty() {
        missing.push(format!("the packages {0}: `apt-get install {0}`", absent.join(" ")));
        return missing;
    }
    let namespaces = run("unshare", &["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"]);
    if namespaces.is_err() {
        missing.push(
            "namespaces: this is a container that may not make them; use a virtual machine, or start the container \
             privileged"
                .to_owned(),
        );
    }
    missing
}

/// Installs the packages that are missing, then looks again.
pub(super) fn install(say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
    let absent: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| !program::exists(name)).map(|(_, package)| *package).collect();
    if nix::unistd::geteuid().is_root() && !absent.is_empty() && program::exists("apt-get") {
        say(&format!("installing {}", absent.join(" ")));
        run("apt-get", &["update", "-qq"])?;
        run("apt-get", &[&["install", "-y", "-qq", "--no-install-recommends"], absent.as_slice()].concat())?;
    }
    match missing() {
        missing if missing.is_empty() => Ok(()),
        missing => Err(LabError::Impossible { missing: missing.join("; ") }),
    }
}
