//! One host: its root over the base image, its boot, its death.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabError;
use super::group;
use super::program::{self, output, run};
use super::state::{HostSpec, State};
use crate::sys::clock;
use crate::sys::files::{self, Attributes, FileError};

/// A host boots in one to two seconds on an idle machine; nine at once on two busy cores need more.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A killed container is gone at once; systemd-nspawn then takes its mounts and links away.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// Returns the machine name, by which the processes of a host are found.
pub(super) fn machine(state: &State, host: &HostSpec) -> String {
    format!("keddah-{}-{}", state.name, host.name)
}

fn folder(host: &HostSpec, lab: &Path) -> PathBuf {
    lab.join("hosts").join(&host.name)
}

/// Returns the console's file.
pub(super) fn console(host: &HostSpec, lab: &Path) -> PathBuf {
    folder(host, lab).join("console.log")
}

/// Boots the host unless it runs; its files are what they were.
pub(super) fn start(state: &State, host: &HostSpec, lab: &Path) -> Result<(), LabError> {
    if leader(state, host)?.is_some() {
        return Ok(());
    }
    let folder = folder(host, lab);
    let root = folder.join("root");
    if !is_mounted(&root)? {
        mount(state, host, lab, &folder)?;
    }
    let arguments = [
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--resolv-conf=off",
        "--console=pipe",
        &format!("--directory={}", root.display()),
        &format!("--machine={}", machine(state, host)),
        &format!("--network-bridge={}", state.bridge()),
    ];
    let console = console(host, lab);
    group::within(&machine(state, host), || program::detached("systemd-nspawn", &arguments, &console))
}

fn mount(state: &State, host: &HostSpec, lab: &Path, folder: &Path) -> Result<(), LabError> {
    for part in ["upper", "work", "root"] {
        files::make_folders(&folder.join(part))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        state.image.display(),
        folder.join("upper").display(),
        folder.join("work").display()
    );
    let root = folder.join("root");
    run("mount", &["-t", "overlay", "keddah-lab", "-o", &options, &root.to_string_lossy()])?;
    furnish(state, host, lab, &root)
}

/// Writes what makes this host itself: name, address, neighbours, keys.
fn furnish(state: &State, host: &HostSpec, lab: &Path, root: &Path) -> Result<(), LabError> {
    let write = |path: &str, text: &str, mode: u32| put(&root.join(path), text.as_bytes(), mode);
    let (gateway, address) = (state.gateway(), host.address);
    let neighbours: String = state.hosts.iter().map(|h| format!("{} {}\n", h.address, h.name)).collect();
    write("etc/hostname", &format!("{}\n", host.name), 0o644)?;
    write("etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{neighbours}"), 0o644)?;
    write(
        "etc/systemd/network/10-host0.network",
        &format!(
            "[Match]\nName=host0\n\n[Network]\nAddress={address}/24\nGateway={gateway}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        ),
        0o644,
    )?;
    let key = host_key(host, lab)?;
    put(&root.join("etc/ssh/ssh_host_ed25519_key"), &files::read(&key)?, 0o600)?;
    put(&root.join("etc/ssh/ssh_host_ed25519_key.pub"), &files::read(&key.with_extension("pub"))?, 0o644)?;
    let authorized = files::read(&user_key(lab)?.with_extension("pub"))?;
    for home in ["root/.ssh", "home/admin/.ssh"] {
        files::make_folders(&root.join(home))?;
        put(&root.join(home).join("authorized_keys"), &authorized, 0o600)?;
    }
    run("chroot", &[&root.to_string_lossy(), "chown", "-R", "admin:admin", "/home/admin/.ssh"])
}

pub(super) fn put(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    files::replace(path, content, Attributes { mode: Some(mode), ..Attributes::default() })
}

/// Returns the host's own key, made before its first boot so that `known_hosts` is right from the start.
pub(super) fn host_key(host: &HostSpec, lab: &Path) -> Result<PathBuf, LabError> {
    keypair(&lab.join("keys"), &host.name)
}

/// Returns the key that opens all hosts of the lab.
pub(super) fn user_key(lab: &Path) -> Result<PathBuf, LabError> {
    keypair(&lab.join("keys"), "login")
}

fn keypair(folder: &Path, name: &str) -> Result<PathBuf, LabError> {
    let path = folder.join(name);
    if !path.with_extension("pub").exists() {
        files::make_folders(folder)?;
        let comment = format!("keddah-lab-{name}");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f", &path.to_string_lossy()])?;
    }
    Ok(path)
}

fn is_mounted(path: &Path) -> Result<bool, LabError> {
    let mounts = files::read(Path::new("/proc/self/mountinfo"))?;
    Ok(String::from_utf8_lossy(&mounts)
        .lines()
        .any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path)))
}

/// Waits until the host's sshd says its banner.
pub(super) fn wait_for_sshd(host: &HostSpec, lab: &Path) -> Result<(), LabError> {
    let address = SocketAddr::from((host.address, 22));
    let greets = || {
        use std::io::Read;
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
            return false;
        };
        let mut banner = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && stream.read_exact(&mut banner).is_ok()
            && banner == *b"SSH-"
    };
    if program::until(BOOT_LIMIT, greets) {
        return Ok(());
    }
    let console = std::fs::read_to_string(console(host, lab)).unwrap_or_else(|error| error.to_string());
    let tail: Vec<&str> = console.lines().rev().take(15).collect();
    Err(LabError::NoAnswer {
        host: host.name.clone(),
        seconds: BOOT_LIMIT.as_secs(),
        console: tail.into_iter().rev().collect::<Vec<_>>().join("\n"),
    })
}

/// Returns the pid of the systemd-nspawn process that runs the host.
fn supervisor(state: &State, host: &HostSpec) -> Result<Option<Pid>, LabError> {
    let wanted = format!("--machine={}", machine(state, host));
    for entry in files::list(Path::new("/proc"))? {
        let Some(pid) = entry.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that ends meanwhile has no command line: not ours.
        let Ok(line) = files::read(&Path::new("/proc").join(entry).join("cmdline")) else { continue };
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().is_some_and(|word| word.ends_with(b"systemd-nspawn"));
        if program && words.any(|word| word == wanted.as_bytes()) {
            return Ok(Some(Pid::from_raw(pid)));
        }
    }
    Ok(None)
}

/// Returns the pid, as seen from this machine, of the host's PID 1.
pub(super) fn leader(state: &State, host: &HostSpec) -> Result<Option<Pid>, LabError> {
    let Some(supervisor) = supervisor(state, host)? else { return Ok(None) };
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    Ok(children.split_whitespace().find_map(|pid| pid.parse().ok()).map(Pid::from_raw))
}

/// Ends the host as a power cut does: its network goes first, so that no peer hears a goodbye.
pub(super) fn die(state: &State, host: &HostSpec) -> Result<(), LabError> {
    let Some(leader) = leader(state, host)? else { return Ok(()) };
    let inside = ["-t", &leader.to_string(), "-n", "ip", "-o", "link", "show", "host0"];
    if let Some(link) =
        output("nsenter", &inside)?.split("@if").nth(1).and_then(|rest| rest.split(':').next())
    {
        let links = output("ip", &["-o", "link", "show", "master", &state.bridge()])?;
        let prefix = format!("{link}: ");
        let name =
            links.lines().find_map(|line| line.strip_prefix(&prefix)).and_then(|rest| rest.split('@').next());
        if let Some(name) = name {
            run("ip", &["link", "set", name, "down"])?;
        }
    }
    stop(state, host)
}

/// Kills the host's PID 1, and with it all of the host; does not wait.
pub(super) fn shoot(state: &State, host: &HostSpec) -> Result<(), LabError> {
    if let Some(supervisor) = supervisor(state, host)? {
        // A process that is gone already is what is wanted.
        let _gone = kill(leader(state, host)?.unwrap_or(supervisor), Signal::SIGKILL);
    }
    Ok(())
}

/// Kills the host and waits until its container, with mounts and links, is gone.
pub(super) fn stop(state: &State, host: &HostSpec) -> Result<(), LabError> {
    let Some(supervisor) = supervisor(state, host)? else { return Ok(()) };
    shoot(state, host)?;
    if program::until(DEATH_LIMIT, || kill(supervisor, None).is_err()) {
        return Ok(());
    }
    Err(LabError::Program {
        command: format!("systemd-nspawn --machine={}", machine(state, host)),
        status: format!("pid {supervisor}"),
        said: format!("still there {} s after its host was killed", DEATH_LIMIT.as_secs()),
    })
}

/// Takes the host's root file system away.
pub(super) fn unmount(host: &HostSpec, lab: &Path) -> Result<(), LabError> {
    let root = folder(host, lab).join("root");
    if is_mounted(&root)? { run("umount", &[&root.to_string_lossy()]) } else { Ok(()) }
}

/// Returns how many seconds the host has been up, or `None` if it is not running.
pub(super) fn uptime(state: &State, host: &HostSpec) -> Result<Option<u64>, LabError> {
    let Some(leader) = leader(state, host)? else { return Ok(None) };
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{leader}/stat")) else { return Ok(None) };
    // Field 22, counted after the name in parentheses: start in clock ticks (100 a second on Linux) since boot.
    let started = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)?.parse::<u64>().ok());
    Ok(started.map(|ticks| (clock::now().0 / 1000).saturating_sub(ticks / 100)))
}
