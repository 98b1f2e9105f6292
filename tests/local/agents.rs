//! Three agents with their guards and Postgres servers, and the etcd they agree through; all of it goes when the test
//! ends.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use keddah::sys::clock;
use keddah::sys::tls::{Client, ClientFiles};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

use crate::device::Device;
use crate::patronictl;
use crate::ports;
use crate::programs;

/// Names 127.0.0.1, and is an authority.
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sys/tls/fixtures/self-signed-ca.pem");

/// The same with its key encrypted by the password `open sesame`.
const SEALED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sys/tls/fixtures/encrypted-ca.pem");

pub const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";

pub const NAMES: [&str; 3] = ["a", "b", "c"];

pub struct Agents {
    folder: TempDir,
    root: PathBuf,
    user: User,
    binary: PathBuf,
    base_port: u16,
    /// The REST API speaks TLS, and asks for a certificate.
    encrypted: bool,
    /// The watchdog of the first member.
    pub device: Option<Device>,
    etcd: Child,
    agents: Vec<(String, Child)>,
}

/// Waits up to `limit` for something that other processes do.
pub fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let began = clock::now();
    while !done() {
        assert!(clock::now().since(began) < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A start, a clone or a rewind on a busy machine.
pub const SLOW: Duration = Duration::from_secs(120);

impl Agents {
    /// Starts etcd and three agents with this dynamic configuration beside ttl 6, loop_wait 1 and retry_timeout 3.
    pub fn start(dynamic: &str) -> Agents {
        Agents::prepare(dynamic, false).run()
    }

    /// The same with one self-signed certificate as authority, server and client of the REST API.
    pub fn start_encrypted() -> Agents {
        Agents::prepare("", true).run()
    }

    /// The same with a watchdog that the first member must have.
    pub fn start_watched() -> Agents {
        Agents::prepare_watched().run()
    }

    /// Starts the agents that [`Agents::prepare`] has prepared.
    pub fn run(mut self) -> Agents {
        self.start_agent("a");
        within(SLOW, "the first agent makes the cluster", || self.status("a", "/primary") == Some(200));
        self.start_agent("b");
        self.start_agent("c");
        self.settle();
        self
    }

    /// Waits until two members follow the third one, and say so where commands look.
    pub fn settle(&self) {
        within(SLOW, "two replicas stream", || self.streaming() == 2);
        // Members answer from memory; commands read what they have written to etcd.
        within(SLOW, "two replicas have said so", || {
            let cluster = self.get("a", "/cluster");
            let members = cluster["members"].as_array().into_iter().flatten();
            members.filter(|member| member["state"] == "streaming").count() == 2
        });
    }

    /// Starts etcd, and writes the configuration of three agents that are not started yet.
    pub fn prepare(dynamic: &str, encrypted: bool) -> Agents {
        Agents::make(dynamic, encrypted, false)
    }

    /// The same with a watchdog that the first member must have.
    pub fn prepare_watched() -> Agents {
        Agents::make("", false, true)
    }

    fn make(dynamic: &str, encrypted: bool, watched: bool) -> Agents {
        assert!(
            nix::unistd::geteuid().is_root(),
            "Postgres runs as its own user here: run these tests as root"
        );
        let user = User::from_name("postgres").unwrap().expect("the package makes the user postgres");
        let folder = tempfile::Builder::new().prefix("keddah-agents-").tempdir_in("/tmp").unwrap();
        let root = folder.path().to_owned();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let base_port = ports::free(20);
        let binary = root.join("keddah");
        // The tree that was built may be out of the user's reach.
        programs::copy(Path::new(env!("CARGO_BIN_EXE_keddah")), &binary);
        for name in NAMES.iter().chain(&["etcd"]) {
            std::fs::create_dir(root.join(name)).unwrap();
            chown(root.join(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let etcd = start_etcd(&root, &user, base_port);
        std::fs::copy(CERTIFICATE, root.join("pair.pem")).unwrap();
        std::fs::copy(SEALED, root.join("sealed.pem")).unwrap();
        let device = watched.then(|| Device::make(&root.join("a/device"), &user));
        let agents =
            Agents { folder, root, user, binary, base_port, encrypted, device, etcd, agents: Vec::new() };
        for (number, name) in NAMES.iter().enumerate() {
            agents.write_config(name, u16::try_from(number).unwrap(), dynamic);
        }
        agents
    }

    /// Changes a part of an agent's configuration.
    pub fn edit_config(&self, name: &str, part: &str, by: &str) {
        let text = std::fs::read_to_string(self.config(name)).unwrap();
        assert!(text.contains(part), "{text}");
        std::fs::write(self.config(name), text.replacen(part, by, 1)).unwrap();
    }

    /// Writes a shell script and returns the command that runs it.
    pub fn script(&self, file: &str, text: &str) -> String {
        let path = self.root.join(file);
        std::fs::write(&path, text).unwrap();
        format!("/bin/sh {}", path.display())
    }

    fn write_config(&self, name: &str, number: u16, dynamic: &str) {
        let (root, etcd) = (self.root.join(name).display().to_string(), self.base_port);
        let (rest, postgres) = (self.rest_port(name), self.postgres_port(name));
        let pair = self.pair().display().to_string();
        let (server, client) = if self.encrypted {
            let sealed =
                format!("certfile: {}/sealed.pem, keyfile_password: open sesame", self.root.display());
            (
                format!("\n  {}\n  cafile: {pair}\n  verify_client: required", sealed.replace(", ", "\n  ")),
                format!("ctl: {{cacert: {pair}, {sealed}}}\n"),
            )
        } else {
            (String::new(), String::new())
        };
        let watchdog = match &self.device {
            Some(_) if name == "a" => format!("{{mode: required, driver: testing, device: {root}/device}}"),
            Some(_) | None => "{mode: 'off'}".to_owned(),
        };
        let text = format!(
            "scope: demo
name: {name}
restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}
  authentication: {{username: admin, password: admin-{number}}}{server}
{client}etcd3: {{hosts: ['127.0.0.1:{etcd}']}}
bootstrap:
  dcs: {{ttl: 6, loop_wait: 1, retry_timeout: 3, maximum_lag_on_failover: 10485760, postgresql: {{use_pg_rewind: true}}{dynamic}}}
  initdb: [encoding: UTF8, data-checksums, no-sync]
postgresql:
  listen: 127.0.0.1:{postgres}
  connect_address: 127.0.0.1:{postgres}
  data_dir: {root}/data
  bin_dir: {BIN_DIR}
  pgpass: {root}/pgpass
  use_unix_socket: true
  authentication:
    superuser: {{username: postgres, password: super}}
    replication: {{username: replicator, password: repl}}
    rewind: {{username: rewinder, password: rew}}
  parameters: {{unix_socket_directories: {root}, shared_buffers: 16MB}}
  pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 md5', 'host replication all 127.0.0.1/32 md5']
watchdog: {watchdog}
disk: {{warn: 'off'}}
"
        );
        std::fs::write(self.config(name), text).unwrap();
    }

    /// The certificate of all members with its key.
    pub fn pair(&self) -> PathBuf {
        self.root.join("pair.pem")
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.root.join(name).join("agent.yml")
    }

    fn number(name: &str) -> u16 {
        u16::try_from(NAMES.iter().position(|known| *known == name).expect("a, b or c")).unwrap()
    }

    pub fn rest_port(&self, name: &str) -> u16 {
        self.base_port + 4 + Self::number(name)
    }

    pub fn postgres_port(&self, name: &str) -> u16 {
        self.base_port + 8 + Self::number(name)
    }

    pub fn etcd_address(&self) -> String {
        format!("127.0.0.1:{}", self.base_port)
    }

    /// Prepares a program to run as the user postgres.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
        command.current_dir(&self.root).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn start_agent(&mut self, name: &str) {
        self.start_agent_by(&self.binary.clone(), &[], name);
    }

    /// Starts `program` with arguments that come before those of the agent.
    pub fn start_agent_by(&mut self, program: &Path, before: &[&str], name: &str) {
        let mut command = self.command(program);
        command.args(before).arg("agent").arg(self.config(name));
        command.env("RUNTIME_DIRECTORY", self.root.join(name));
        self.spawn(name, command);
    }

    /// Has Patroni run the member, by the same file.
    pub fn start_patroni(&mut self, name: &str) {
        let mut command = self.command(Path::new(&patronictl::fetched("patroni")));
        command.arg(self.config(name));
        self.spawn(name, command);
    }

    fn spawn(&mut self, name: &str, mut command: Command) {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.root.join(name).join("log"))
            .unwrap();
        command.env_remove("INVOCATION_ID").stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        self.agents.push((name.to_owned(), child));
    }

    pub fn agent_pid(&self, name: &str) -> Pid {
        let child = self.agents.iter().rev().find(|(known, _)| known == name).expect("it was started");
        Pid::from_raw(child.1.id().cast_signed())
    }

    pub fn signal_agent(&self, name: &str, signal: Signal) {
        kill(self.agent_pid(name), signal).unwrap();
    }

    /// Stops a process where it is, and waits until it does nothing any more.
    pub fn freeze(&self, process: Pid) {
        kill(process, Signal::SIGSTOP).unwrap();
        let threads = || std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
        let stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        within(SLOW, "all of its threads stand still", || {
            threads().all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped))
        });
    }

    /// Ends the agent, or Patroni, and Postgres with it.
    pub fn stop_agent(&mut self, name: &str) {
        let at = self.agents.iter().rposition(|(known, _)| known == name).expect("it was started");
        let (_, mut child) = self.agents.remove(at);
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        within(SLOW, "it ends", || child.try_wait().unwrap().is_some());
    }

    /// Kills the agent, and collects it.
    pub fn kill_agent(&mut self, name: &str) {
        let at = self.agents.iter().rposition(|(known, _)| known == name).expect("it was started");
        let (_, mut child) = self.agents.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn postmaster(&self, name: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.root.join(name).join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Returns the parent of the postmaster.
    pub fn guard_pid(&self, name: &str) -> Option<Pid> {
        let postmaster = self.postmaster(name);
        let parent = keddah::sys::children::list().into_iter().find(|seen| Some(seen.pid) == postmaster);
        parent.map(|seen| Pid::from_raw(seen.parent))
    }

    /// Returns a process of the server by what it calls itself, such as `checkpointer`.
    pub fn server_process(&self, name: &str, title: &str) -> Option<Pid> {
        let postmaster = self.postmaster(name)?;
        let seen = keddah::sys::children::list().into_iter();
        let mut children = seen.filter(|seen| seen.parent == postmaster);
        let found = children.find(|seen| seen.argv.first().is_some_and(|line| line.contains(title)))?;
        Some(Pid::from_raw(found.pid))
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.root.join(name).join("data")
    }

    /// Does what the death of the host does: agent, guard and all of Postgres are gone at once.
    pub fn kill_host(&mut self, name: &str) {
        let folder = self.root.join(name).display().to_string();
        self.signal_agent(name, Signal::SIGSTOP);
        let postmaster = self.postmaster(name);
        for seen in keddah::sys::children::list() {
            let guard =
                seen.argv.iter().any(|word| word == "guard") && seen.argv.iter().any(|w| w.contains(&folder));
            if guard || Some(seen.pid) == postmaster || Some(seen.parent) == postmaster {
                let _gone = kill(Pid::from_raw(seen.pid), Signal::SIGKILL);
            }
        }
        self.kill_agent(name);
    }

    pub fn freeze_etcd(&self) {
        kill(Pid::from_raw(self.etcd.id().cast_signed()), Signal::SIGSTOP).unwrap();
    }

    pub fn thaw_etcd(&self) {
        kill(Pid::from_raw(self.etcd.id().cast_signed()), Signal::SIGCONT).unwrap();
    }

    /// Returns where the program lies that the agents run.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn http(&self, name: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let scheme = if self.encrypted { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}{path}", self.rest_port(name));
        let tls = self.encrypted.then(|| {
            let pair = self.pair();
            Client::load(&ClientFiles::for_members(Some(&pair), Some(&pair), None, false)).unwrap()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let password = keddah::sys::secret::Secret::new(format!("admin-{}", Self::number(name)));
        let request = keddah::sys::http::Request {
            tls: tls.as_ref(),
            method,
            url: &url,
            body: (!body.is_empty()).then(|| body.to_owned()),
            user: Some(("admin", &password)),
            limit: Duration::from_secs(60),
        };
        let reply = runtime.block_on(keddah::sys::http::send(&request)).ok()?;
        Some((reply.status, reply.body))
    }

    /// Returns the status of a health check; None where nobody answers.
    pub fn status(&self, name: &str, path: &str) -> Option<u16> {
        Some(self.http(name, "GET", path, "")?.0)
    }

    pub fn get(&self, name: &str, path: &str) -> serde_json::Value {
        let (_, body) = self.http(name, "GET", path, "").expect("an answer");
        serde_json::from_str(&body).unwrap_or(serde_json::Value::Null)
    }

    /// Posts a document; returns the status and the text of the answer.
    pub fn post(&self, name: &str, path: &str, body: &str) -> (u16, String) {
        self.http(name, "POST", path, body).expect("an answer")
    }

    pub fn patch_config(&self, name: &str, body: &str) {
        let (status, body) = self.http(name, "PATCH", "/config", body).expect("an answer");
        assert_eq!(status, 200, "{body}");
    }

    /// Returns who says that it is primary, if exactly one does.
    pub fn primary(&self) -> Option<&'static str> {
        let mut found = NAMES.iter().filter(|name| self.status(name, "/primary") == Some(200));
        let first = found.next().copied()?;
        found.next().is_none().then_some(first)
    }

    /// Returns how many replicas stream.
    pub fn streaming(&self) -> usize {
        NAMES
            .iter()
            .filter(|name| self.status(name, "/replica?replication_state=streaming") == Some(200))
            .count()
    }

    /// Runs SQL by TCP; None where it fails.
    pub fn sql(&self, name: &str, statement: &str) -> Option<String> {
        let output = self.psql(name, statement).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Prepares a client that runs SQL by TCP.
    pub fn psql(&self, name: &str, statement: &str) -> Command {
        let mut command = self.command(&PathBuf::from(BIN_DIR).join("psql"));
        let url = format!(
            "postgres://postgres:super@127.0.0.1:{}/postgres?connect_timeout=2",
            self.postgres_port(name)
        );
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement, &url]);
        command
    }

    /// Runs a command of the product against this cluster.
    pub fn keddah(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(&self.binary);
        command.args(arguments).args(["--etcd", &self.etcd_address(), "--scope", "demo"]).output().unwrap()
    }

    /// Runs the binary under the name of Patroni's tool, with the configuration of a member.
    pub fn patronictl(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.as_patronictl(name, arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Prepares the binary under the name of Patroni's tool.
    pub fn as_patronictl(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.binary);
        command.arg0("patronictl").arg("-c").arg(self.config(name)).args(arguments);
        command.env("PGPASSWORD", "super");
        command
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.join(name).join("log")).unwrap_or_default()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn start_etcd(root: &Path, user: &User, port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", port + 1));
    let log = std::fs::File::create(root.join("etcd.log")).unwrap();
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(root.join("etcd/data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let child = command.spawn().expect("etcd is installed by `make setup`");
    within(SLOW, "etcd answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
}

impl Drop for Agents {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in NAMES {
                eprintln!("── log of {name} ──\n{}", self.log(name));
            }
        }
        let folder = self.root.display().to_string();
        for (_, child) in &mut self.agents {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        // Guards and servers are nobody's children here; all of them name this test's folder.
        for _ in 0..3 {
            for seen in keddah::sys::children::list() {
                let postgres = seen.argv.first().is_some_and(|name| name.starts_with("postgres: demo"));
                let ours = seen.argv.iter().any(|word| word.contains(&folder));
                if ours || (postgres && NAMES.iter().any(|name| self.postmaster(name) == Some(seen.parent))) {
                    let _gone = kill(Pid::from_raw(seen.pid), Signal::SIGKILL);
                }
            }
        }
        let _gone = self.etcd.kill();
        let _gone = self.etcd.wait();
    }
}
