//! An sshd of its own port, host key and users for each test; all of it goes when the test ends.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keddah::transport::options::{Defaults, Target};
use tempfile::TempDir;

use crate::ports;

/// Runs a program that must succeed, and returns what it said.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a condition holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited 30 s until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until no other test changes this machine, and keeps others waiting: a host is changed by one run at a time, and all
/// tests have the same host.
pub fn turn() -> std::fs::File {
    let file = std::fs::File::open(std::env::temp_dir()).unwrap();
    file.lock().unwrap();
    file
}

/// Says what is missing where these tests cannot run.
pub fn demand_root_and_packages() {
    assert!(nix::unistd::geteuid().is_root(), "these tests make users and an sshd: run them as root");
    for (program, package) in [
        ("/usr/sbin/sshd", "openssh-server"),
        ("/usr/bin/sudo", "sudo"),
        ("/usr/bin/ssh-keygen", "openssh-client"),
    ] {
        assert!(Path::new(program).exists(), "{program} is missing: `make setup` installs {package}");
    }
    // sshd refuses to start without its separation folder, which the service otherwise makes.
    std::fs::create_dir_all("/run/sshd").unwrap();
}

/// An sshd that listens on loopback.
pub struct Sshd {
    folder: TempDir,
    pub port: u16,
    child: Child,
}

impl Sshd {
    pub fn start() -> Sshd {
        Sshd::start_with("")
    }

    /// Starts one whose configuration has more lines.
    pub fn start_with(lines: &str) -> Sshd {
        demand_root_and_packages();
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for key in ["host", "user"] {
            let file = path(key);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", file.to_str().unwrap()]);
        }
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(path("user.pub"), path("authorized_keys")).unwrap();
        let port = ports::free(1);
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nLogLevel ERROR\n{lines}\n",
            folder.path().display()
        );
        std::fs::write(path("config"), config).unwrap();
        let child = spawn(&path("config"));
        let server = Sshd { folder, port, child };
        until("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    /// Cuts every connection at once, as a network that goes away does.
    pub fn cut_connections(&self) {
        for pid in children_of(self.child.id()) {
            for session in children_of(pid) {
                run("kill", &["-9", &session.to_string()]);
            }
            Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the host show another key, as one that was made anew does.
    pub fn change_host_key(&mut self) {
        for name in ["host", "host.pub"] {
            std::fs::remove_file(self.path(name)).unwrap();
        }
        let file = self.path("host");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()]);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.path("config"));
        let port = self.port;
        until("sshd listens again", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Returns how this sshd is reached as `user`, with more variables of the host.
    pub fn target(&self, user: &str, more: &[(&str, &str)]) -> Target {
        let base = [
            ("ansible_host".to_owned(), "127.0.0.1".to_owned()),
            ("ansible_port".to_owned(), self.port.to_string()),
            ("ansible_user".to_owned(), user.to_owned()),
            ("ansible_ssh_private_key_file".to_owned(), self.path("user").display().to_string()),
            (
                "ansible_ssh_common_args".to_owned(),
                format!(
                    "-o UserKnownHostsFile={} -o GlobalKnownHostsFile=/dev/null -o IdentitiesOnly=yes \
                     -o StrictHostKeyChecking=accept-new",
                    self.path("known_hosts").display()
                ),
            ),
        ];
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let vars: Vec<(String, String)> = more.chain(base).collect();
        let lookup =
            |name: &str| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        Target::from_vars("host", &lookup, &Defaults::default()).unwrap()
    }
}

/// Returns the sshd processes that `parent` started.
fn children_of(parent: u32) -> Vec<u32> {
    let list = run("ps", &["-eo", "pid=,ppid=,comm="]);
    let rows = list.lines().filter(|line| line.contains("sshd")).filter_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    });
    rows.filter(|(_, of)| *of == parent).map(|(pid, _)| pid).collect()
}

/// Returns how many processes of this machine have `text` in their command line.
pub fn processes_with(text: &str) -> usize {
    let list = run("ps", &["-eo", "args="]);
    list.lines().filter(|line| line.contains(text)).count()
}

fn spawn(config: &Path) -> Child {
    Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(config).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A user of this machine with a home of its own.
pub struct TestUser {
    pub name: String,
    pub home: PathBuf,
    sudoers: PathBuf,
    _folder: TempDir,
}

/// The password of every test user.
pub const PASSWORD: &str = "correct horse";

impl TestUser {
    pub fn new(tag: &str) -> TestUser {
        demand_root_and_packages();
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let home = folder.path().join("home");
        let name = format!("keddah-{tag}-{}", std::process::id());
        run("useradd", &["--no-user-group", "-M", "-d", home.to_str().unwrap(), "-s", "/bin/bash", &name]);
        let user = TestUser { sudoers: Path::new("/etc/sudoers.d").join(&name), name, home, _folder: folder };
        let hash = run("openssl", &["passwd", "-6", PASSWORD]);
        run("usermod", &["-p", hash.trim(), &user.name]);
        std::fs::create_dir(&user.home).unwrap();
        user.own(&user.home);
        user
    }

    /// Gives a file to the user.
    pub fn own(&self, path: &Path) {
        let user = nix::unistd::User::from_name(&self.name).unwrap().unwrap();
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }

    /// Allows what `rule` says: the part of a sudoers line after the user's name.
    pub fn sudo(self, rule: &str) -> TestUser {
        // Delays after a wrong password are PAM's; the line keeps the test from depending on the machine's other rules.
        std::fs::write(&self.sudoers, format!("Defaults:{0} !lecture\n{0} {rule}\n", self.name)).unwrap();
        std::fs::set_permissions(&self.sudoers, Permissions::from_mode(0o440)).unwrap();
        self
    }

    pub fn uid(&self) -> u32 {
        nix::unistd::User::from_name(&self.name).unwrap().unwrap().uid.as_raw()
    }
}

impl Drop for TestUser {
    fn drop(&mut self) {
        std::fs::remove_file(&self.sudoers).ok();
        std::fs::remove_dir_all(format!("/var/tmp/keddah-{}", self.uid())).ok();
        // Its sessions may still be ending: removing the name does not wait for them.
        Command::new("userdel").args(["-f", &self.name]).stderr(Stdio::null()).status().ok();
    }
}
