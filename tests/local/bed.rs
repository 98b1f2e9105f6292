//! A guard and a data directory of a real Postgres for each test; all of it goes when the test ends.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keddah::guard::client::{Guard, GuardError, hello};
use keddah::guard::place::Place;
use keddah::guard::protocol::{
    Hold, Margins, Refusal, Request, ServerStatus, StartAs, Status, WatchdogDriver, WatchdogMode,
    WatchdogSettings,
};
use keddah::postgres::query::{self, Host, Session, Target};
use keddah::sys::clock::{self, Tick};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

use crate::device::Device;
use crate::ports;
use crate::programs;
use crate::sshd::until;

const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";

/// How long an ask may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);

/// Seconds without food after which the watchdog of a bed would reset the host.
pub const TIMEOUT_S: u32 = 3;

pub struct Bed {
    folder: TempDir,
    pub data: PathBuf,
    pub place: Place,
    pub port: u16,
    user: User,
    guard: Option<Child>,
}

impl Bed {
    /// Makes a database cluster that nobody guards yet.
    pub fn new() -> Bed {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests run Postgres as its own user: run them as root"
        );
        assert!(Path::new(BIN_DIR).exists(), "{BIN_DIR} is missing: `make setup` installs postgresql-15");
        let user = User::from_name("postgres").unwrap().expect("the package makes the user postgres");
        let folder = tempfile::Builder::new().prefix("keddah-guard-").tempdir().unwrap();
        let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        chown(folder.path(), uid, gid).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let run = folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        chown(&run, uid, gid).unwrap();
        let data = folder.path().canonicalize().unwrap().join("data");
        let place = Place::within(&run, &data);
        let port = ports::free(1);
        let bed = Bed { folder, data, place, port, user, guard: None };
        bed.succeeds(&[
            &format!("{BIN_DIR}/initdb"),
            "-D",
            &bed.data.display().to_string(),
            "--auth=trust",
            "--no-sync",
            "--username=postgres",
        ]);
        bed
    }

    /// Runs a program as the user that owns the data.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    pub fn succeeds(&self, argv: &[&str]) {
        let output = self.command(argv).output().unwrap();
        assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns the binary under test at a place where the user postgres can reach it.
    pub fn binary(&self) -> PathBuf {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_keddah"));
        let reachable = self.command(&["/usr/bin/test", "-x", &built.display().to_string()]).status();
        if reachable.unwrap().success() {
            return built;
        }
        let copy = self.folder.path().join("keddah");
        if !copy.exists() {
            programs::copy(&built, &copy);
        }
        copy
    }

    /// Puts a changed copy of the binary into the test's folder.
    pub fn install(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = std::fs::read(self.binary()).unwrap();
        change(&mut bytes);
        let path = self.folder.path().join(name);
        programs::put(&path, &bytes);
        path
    }

    /// Makes the pipe of a testing watchdog, and what the guard is told of it.
    pub fn watchdog(&self) -> (Device, Request) {
        let path = self.folder.path().join("device");
        let device = Device::make(&path, &self.user);
        let settings = WatchdogSettings {
            mode: WatchdogMode::Required,
            device: path.display().to_string(),
            driver: WatchdogDriver::Testing,
            timeout_s: TIMEOUT_S,
            timeout_s_max: TIMEOUT_S + 1,
        };
        (device, Request::Watchdog(settings))
    }

    pub fn guard_command(&self, more: &[&str]) -> Command {
        let binary = self.binary().display().to_string();
        let data = self.data.display().to_string();
        let mut argv = vec![binary.as_str(), "guard", "--data-dir", &data, "--bin-dir", BIN_DIR];
        argv.extend(more);
        let mut command = self.command(&argv);
        command.env("RUNTIME_DIRECTORY", self.folder.path().join("run")).env_remove("NOTIFY_SOCKET");
        command
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("guard.log")
    }

    /// Returns what the guards of this test have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the guard and waits until it listens.
    pub fn start_guard(&mut self) -> u32 {
        let log = std::fs::File::options().append(true).create(true).open(self.log_path()).unwrap();
        let child = self.guard_command(&[]).stderr(log).spawn().unwrap();
        let pid = child.id();
        self.guard = Some(child);
        until("the guard listens", || Guard::connect(&self.place.socket).is_ok());
        pid
    }

    /// Starts the guard in a control group that is its user's, as systemd does with `Delegate=yes`.
    pub fn start_guard_in_a_group(&mut self) -> ControlGroup {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a version 2 hierarchy");
        let mount = PathBuf::from(mount.split(' ').nth(4).unwrap());
        let group = ControlGroup(mount.join(format!("keddah-test-{}-{}", std::process::id(), self.port)));
        std::fs::create_dir(&group.0).unwrap();
        let (uid, gid) = (Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw()));
        for path in [group.0.clone(), group.0.join("cgroup.procs"), group.0.join("cgroup.subtree_control")] {
            chown(path, uid, gid).unwrap();
        }
        let inner = self.guard_command(&[]);
        let log = std::fs::File::options().append(true).create(true).open(self.log_path()).unwrap();
        let script = "echo $$ > \"$0/cgroup.procs\" && exec setpriv --reuid=postgres --regid=postgres --clear-groups \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&group.0).arg(inner.get_program()).args(inner.get_args());
        command.env("RUNTIME_DIRECTORY", self.folder.path().join("run")).env_remove("NOTIFY_SOCKET");
        self.guard = Some(command.current_dir(self.folder.path()).stderr(log).spawn().unwrap());
        until("the guard listens", || Guard::connect(&self.place.socket).is_ok());
        group
    }

    pub fn guard_pid(&self) -> Pid {
        Pid::from_raw(self.guard.as_ref().expect("a guard runs").id().cast_signed())
    }

    /// Waits until the guard has ended by itself.
    pub fn guard_ends(&mut self) {
        let mut child = self.guard.take().expect("a guard runs");
        until("the guard ends", || child.try_wait().unwrap().is_some());
    }

    pub fn kill_guard(&mut self) {
        let mut child = self.guard.take().expect("a guard runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Connects as an agent that holds no lock.
    pub fn agent(&self) -> Agent {
        let mut agent = self.visitor();
        agent.ask(hello(None)).unwrap();
        agent
    }

    pub fn agent_with(&self, create_revision: i64) -> Result<Agent, Refusal> {
        let mut agent = self.visitor();
        agent.ask(hello(Some(Hold { lease: 1, create_revision }))).map(|_| agent)
    }

    /// Connects without saying hello.
    pub fn visitor(&self) -> Agent {
        Agent { guard: Guard::connect(&self.place.socket).unwrap() }
    }

    pub fn argv(&self, more: &[&str]) -> Vec<String> {
        let mut argv = vec![
            format!("{BIN_DIR}/postgres"),
            "-D".to_owned(),
            self.data.display().to_string(),
            format!("--port={}", self.port),
            "--listen_addresses=127.0.0.1".to_owned(),
            format!("--unix_socket_directories={}", self.folder.path().display()),
            "--logging_collector=off".to_owned(),
        ];
        argv.extend(more.iter().map(|argument| (*argument).to_owned()));
        argv
    }

    pub fn start_request(&self, start_as: StartAs, more: &[&str]) -> Request {
        Request::Start {
            start_as,
            argv: self.argv(more),
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("LC_ALL".into(), "C".into())],
            output: Some(self.folder.path().join("postgres.log").display().to_string()),
        }
    }

    /// Starts a server as somebody does who does not know of the guard.
    pub fn start_by_hand(&self) {
        let options = self.argv(&[])[3..].join(" ");
        let (data, log) = (self.data.display().to_string(), self.folder.path().join("hand.log"));
        let pg_ctl = format!("{BIN_DIR}/pg_ctl");
        let argv = [&pg_ctl, "-D", &data, "-W", "-o", &options, "-l", &log.display().to_string(), "start"];
        let status = self.command(&argv).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
    }

    pub fn make_standby(&self) {
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        chown(&signal, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw())).unwrap();
    }

    fn target(&self) -> Target {
        Target {
            host: Host::Socket(self.folder.path().to_owned()),
            port: self.port,
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            options: Vec::new(),
            application_name: "test".into(),
        }
    }

    pub async fn session(&self) -> Session {
        query::connect(&self.target()).await.unwrap()
    }

    /// Waits until the server accepts connections.
    pub fn accepts(&self) {
        let runtime = runtime();
        until("the server accepts connections", || runtime.block_on(query::connect(&self.target())).is_ok());
    }

    /// Tells whether the server is in recovery; None where it does not answer.
    pub fn is_in_recovery(&self) -> Option<bool> {
        runtime().block_on(async { query::connect(&self.target()).await.ok()?.is_in_recovery().await.ok() })
    }

    /// Lists the processes of the instance, by their working folder.
    pub fn processes(&self) -> Vec<Pid> {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        pids.filter(|entry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| folder == self.data)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .collect()
    }

    /// Returns what a process calls itself; empty once it has gone.
    pub fn title(&self, pid: Pid) -> String {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
    }

    /// Returns the backends that serve clients of this test.
    pub fn backends(&self) -> Vec<Pid> {
        let is_client = |pid: &Pid| self.title(*pid).contains("postgres postgres [local]");
        self.processes().into_iter().filter(is_client).collect()
    }

    /// Prepares a client that runs one statement.
    pub fn psql(&self, statement: &str) -> Command {
        let (folder, port) = (self.folder.path().display().to_string(), self.port.to_string());
        let program = format!("{BIN_DIR}/psql");
        let mut command =
            self.command(&[&program, "-h", &folder, "-p", &port, "-U", "postgres", "-c", statement]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts clients that write without a pause, and waits until each has been told of a commit.
    pub fn writers(&self, count: usize) -> Writers {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let sessions: Vec<Session> = (0..count).map(|_| runtime.block_on(self.session())).collect();
        runtime.block_on(sessions[0].execute("CREATE TABLE IF NOT EXISTS w (t bigint)")).unwrap();
        let (stop, commits, last) = (Arc::default(), Arc::<AtomicU64>::default(), Arc::default());
        let mut writers = Writers { runtime, stop, commits, last };
        for session in sessions {
            writers.add(session);
        }
        until("clients write", || writers.commits.load(Ordering::SeqCst) > 50);
        writers
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- guard ---\n{}", self.log());
            let server = std::fs::read_to_string(self.folder.path().join("postgres.log"));
            eprintln!("--- postgres ---\n{}", server.unwrap_or_default());
        }
        if let Some(child) = &mut self.guard {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        for pid in self.processes() {
            let _gone = kill(pid, Signal::SIGKILL);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A control group that goes when the test ends.
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    pub fn members(&self, below: &str) -> Vec<Pid> {
        let text = std::fs::read_to_string(self.0.join(below).join("cgroup.procs")).unwrap();
        text.lines().map(|line| Pid::from_raw(line.parse().unwrap())).collect()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _gone = std::fs::write(self.0.join("cgroup.kill"), "1");
        // A group can be removed once the kernel has buried the last process.
        until("the control group can be removed", || {
            let _absent = std::fs::remove_dir(self.0.join("instance"));
            std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

/// A connection to the guard.
pub struct Agent {
    pub guard: Guard,
}

impl Agent {
    pub fn ask(&mut self, request: Request) -> Result<Status, Refusal> {
        match self.guard.ask(request, ANSWER) {
            Ok(status) => Ok(status),
            Err(GuardError::Refused { refusal, .. }) => Err(refusal),
            Err(error) => panic!("the guard does not answer: {error:?}"),
        }
    }

    pub fn status(&mut self) -> Status {
        self.ask(Request::Status).unwrap()
    }

    pub fn server(&mut self) -> ServerStatus {
        self.status().server.expect("a server runs")
    }

    /// Arms for `ms` milliseconds from this moment. Returns the deadline.
    pub fn arm(&mut self, lease: i64, ms: u64) -> Tick {
        let sent = clock::now();
        let deadline = sent + Duration::from_millis(ms);
        self.ask(Request::Arm { deadline, margins: Margins::SHORTEST, lease, sent }).unwrap();
        deadline
    }

    /// Arms, starts a primary and waits until it accepts connections.
    pub fn start_primary(&mut self, bed: &Bed, more: &[&str]) -> ServerStatus {
        self.arm(1, 60_000);
        let status = self.ask(bed.start_request(StartAs::Primary, more)).unwrap();
        bed.accepts();
        status.server.unwrap()
    }

    pub fn nobody_is_left(&mut self) -> Status {
        until("nobody is left", || self.status().nobody_left);
        self.status()
    }
}

/// Clients that write, and when the last of them was told of a commit.
pub struct Writers {
    runtime: tokio::runtime::Runtime,
    stop: Arc<AtomicBool>,
    pub commits: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
}

impl Writers {
    fn add(&mut self, session: Session) {
        let (stop, commits, last) = (self.stop.clone(), self.commits.clone(), self.last.clone());
        self.runtime.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                if session.execute("INSERT INTO w VALUES (1)").await.is_err() {
                    return;
                }
                last.fetch_max(clock::now().0, Ordering::SeqCst);
                commits.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    /// Returns when the last commit was acknowledged.
    pub fn last(&self) -> Tick {
        Tick(self.last.load(Ordering::SeqCst))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Waits until a moment has passed.
pub fn past(moment: Tick) {
    until("the moment has passed", || clock::now() > moment);
}
