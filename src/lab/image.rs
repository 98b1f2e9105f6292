//! What the hosts boot from: a Debian base with systemd and sshd, and the packages of the roles downloaded, not installed.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::LabError;
use super::program::{self, output, run};
use crate::sys::files::{self, Attributes};

/// Where base images are kept between labs; safe to delete while no lab is up.
const CACHE: &str = "/var/cache/keddah/lab";
const RELEASE: &str = "trixie";
const INCLUDE: &str = "systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2,ca-certificates";

/// Packages that the shipped roles install, and Patroni, from which one migrates: downloaded once, so that hosts install
/// them without a network.
const CACHED: &[&str] = &[
    "etcd-server",
    "etcd-client",
    "postgresql-17",
    "postgresql-client-17",
    "postgresql-common",
    "haproxy",
    "patroni",
    "python3-etcd",
];

/// Runs inside the new base, without a network of its own being needed afterwards.
const PREPARE: &str = "set -e
systemctl -q enable systemd-networkd ssh
useradd --create-home --shell /bin/bash admin
: > /home/admin/.bashrc
printf 'admin ALL=(ALL) NOPASSWD: ALL\\n' > /etc/sudoers.d/admin
chmod 0440 /etc/sudoers.d/admin
install -d -m 0700 -o admin -g admin /home/admin/.ssh
rm -f /etc/ssh/ssh_host_* /etc/machine-id
: > /etc/machine-id
printf 'HostKey /etc/ssh/ssh_host_ed25519_key\\nUseDNS no\\n' > /etc/ssh/sshd_config.d/lab.conf
printf 'force-unsafe-io\\n' > /etc/dpkg/dpkg.cfg.d/lab
printf 'APT::Keep-Downloaded-Packages \"true\";\\n' > /etc/apt/apt.conf.d/lab
systemctl -q mask systemd-resolved apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer 2>/dev/null || true
apt-get clean
apt-get -qq update
";

/// Returns the folder of the base image, making it when it is not there; a half-made one is made anew.
pub(super) fn ensure(say: &mut dyn FnMut(&str)) -> Result<PathBuf, LabError> {
    let folder = folder();
    if folder.join("complete").exists() {
        return Ok(folder.join("root"));
    }
    say("making the base image (once, about a minute)");
    if folder.exists() {
        files::remove(&folder)?;
    }
    let root = folder.join("root");
    files::make_folders(&root)?;
    let root_text = root.to_string_lossy().into_owned();
    let mirror = mirror()?;
    run(
        "debootstrap",
        &["--variant=minbase", &format!("--include={INCLUDE}"), RELEASE, &root_text, &mirror],
    )?;
    let resolver = files::read(Path::new("/etc/resolv.conf"))?;
    files::replace(
        &root.join("etc/resolv.conf"),
        &resolver,
        Attributes { mode: Some(0o644), ..Attributes::default() },
    )?;
    let download = format!(
        "{PREPARE}apt-get -qq -y --download-only --no-install-recommends install {}\n",
        CACHED.join(" ")
    );
    run("chroot", &[&root_text, "/bin/sh", "-c", &download])?;
    files::replace(&folder.join("complete"), b"", Attributes::default())?;
    Ok(root)
}

/// The image's folder is named by the recipe, so a changed recipe is another image.
fn folder() -> PathBuf {
    let mut hash = Sha256::new();
    for part in [RELEASE, INCLUDE, PREPARE, &CACHED.join(" ")] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let name: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Path::new(CACHE).join(format!("{RELEASE}-{name}"))
}

/// Returns the Debian mirror that this machine itself uses, or KEDDAH_LAB_MIRROR.
fn mirror() -> Result<String, LabError> {
    if let Ok(mirror) = std::env::var("KEDDAH_LAB_MIRROR") {
        return Ok(mirror);
    }
    let none = || LabError::Impossible {
        missing: "no Debian mirror among this machine's package sources; set KEDDAH_LAB_MIRROR to one"
            .to_owned(),
    };
    if !program::exists("apt-get") {
        return Err(none());
    }
    let targets = output(
        "apt-get",
        &["indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"],
    )?;
    let debian = targets.lines().find_map(|line| line.strip_prefix("Debian main "));
    debian.map(str::to_owned).ok_or_else(none)
}
