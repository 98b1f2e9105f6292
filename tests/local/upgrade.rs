//! An agent becomes the program that lies in its place: under writes, without a leader change, or not at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use keddah::etcd::{Client, Config, TlsFiles};
use keddah::postgres::query::{self, Host, Target};
use keddah::sys::children;
use keddah::sys::secret::Secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agents::{Agents, SLOW, within};
use crate::programs;

const HANDED: &str = "the lease is handed over";

/// What must not change in an upgrade.
#[derive(Debug, PartialEq, Eq)]
struct Leadership {
    agent: i32,
    /// The parent of the postmaster.
    guard: Option<i32>,
    postmaster: Option<i32>,
    timeline: String,
    /// Of the leader key: name, lease, create revision.
    key: (String, i64, i64),
}

impl Leadership {
    fn of(agents: &Agents, name: &str) -> Leadership {
        let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
        Leadership {
            agent: agents.agent_pid(name).as_raw(),
            guard: agents.guard_pid(name).map(Pid::as_raw),
            postmaster: agents.postmaster(name),
            timeline: agents.sql(name, timeline).expect("the primary answers"),
            key: leader_key(agents),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn leader_key(agents: &Agents) -> (String, i64, i64) {
    let client = Client::new(Config {
        endpoints: vec![agents.etcd_address()],
        protocol: "http".into(),
        user: None,
        password: Secret::new(String::new()),
        tls: TlsFiles::default(),
        limit: Duration::from_secs(10),
    });
    let range = runtime().block_on(client.get_prefix("/service/demo/leader")).unwrap();
    let kv = &range.kvs[0];
    (kv.value.clone(), kv.lease, kv.create_revision)
}

/// Threads that write and ask without a pause, and count what fails.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(agents: &Agents, name: &str) -> Load {
        assert!(agents.sql(name, "CREATE TABLE IF NOT EXISTS w (t bigint)").is_some());
        let target = Target {
            host: Host::Name("127.0.0.1".into()),
            port: agents.postgres_port(name),
            user: "postgres".into(),
            password: Some(Secret::new("super".to_owned())),
            database: "postgres".into(),
            options: Vec::new(),
            application_name: "load".into(),
        };
        let port = agents.rest_port(name);
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let spawn = |mut one: Box<dyn FnMut() -> Result<(), String> + Send>| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match one() {
                        Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => failed.push(why),
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                failed
            })
        };
        let runtime = runtime();
        let session = runtime.block_on(query::connect(&target)).unwrap();
        let writer = spawn(Box::new(move || {
            runtime
                .block_on(session.execute("INSERT INTO w VALUES (1)"))
                .map_err(|error| format!("{error:?}"))
        }));
        let asker = spawn(Box::new(move || ask(port)));
        Load { stop, done, threads: vec![writer, asker] }
    }

    /// Ends the load. Returns what failed.
    fn end(self) -> Vec<String> {
        let before = self.done.load(Ordering::Relaxed);
        within(SLOW, "the load goes on", || self.done.load(Ordering::Relaxed) > before + 20);
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// Asks as a load balancer does.
fn ask(port: u16) -> Result<(), String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("connect: {error}"))?;
    let mut answer = String::new();
    stream
        .write_all(b"GET /primary HTTP/1.0\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut answer))
        .map_err(|error| format!("answer: {error}"))?;
    let status = answer.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(()) } else { Err(format!("answered {status:?}")) }
}

/// Puts another file in the place of the program.
fn install(agents: &Agents, content: &[u8]) {
    let new = agents.folder().join("keddah.new");
    programs::put(&new, content);
    std::fs::rename(&new, agents.binary()).unwrap();
}

fn is_current(agents: &Agents, name: &str) -> bool {
    let pid = u32::try_from(agents.agent_pid(name).as_raw()).unwrap();
    children::runs(pid, agents.binary()) == Some(true)
}

fn upgrade(agents: &Agents, name: &str) {
    let handed = agents.log(name).matches(HANDED).count();
    agents.signal_agent(name, Signal::SIGUSR2);
    within(SLOW, "the new program runs", || is_current(agents, name));
    within(SLOW, "it has the lease", || agents.log(name).matches(HANDED).count() > handed);
    within(SLOW, "it leads", || agents.status(name, "/primary") == Some(200));
}

#[test]
fn a_leader_is_upgraded_under_load_and_a_broken_program_is_refused() {
    let agents = Agents::prepare("", false);
    agents.edit_config("a", "ttl: 6", "ttl: 5");
    let mut agents = agents.run();
    let good = std::fs::read(agents.binary()).unwrap();
    let before = Leadership::of(&agents, "a");
    let load = Load::on(&agents, "a");

    install(&agents, b"#!/bin/sh\necho 'this one is broken' >&2\nexit 1\n");
    agents.signal_agent("a", Signal::SIGUSR2);
    within(SLOW, "a script that fails is refused", || agents.log("a").contains("this one is broken"));
    install(&agents, &good[..good.len() / 3]);
    let (status, reason) = agents.http("a", "POST", "/upgrade", "").expect("an answer");
    assert_eq!(status, 412, "half a program: {reason}");
    within(SLOW, "the reason is shown", || agents.get("a", "/upgrade")["refused"] == reason.as_str());
    assert!(!is_current(&agents, "a") && !agents.log("a").contains(HANDED));
    assert_eq!(Leadership::of(&agents, "a"), before);

    install(&agents, &good);
    upgrade(&agents, "a");
    assert_eq!(agents.get("a", "/upgrade")["agent"]["current"], true);
    within(SLOW, "the guard comes along", || agents.get("a", "/upgrade")["guard"]["current"] == true);
    install(&agents, &good);
    assert_eq!(agents.get("a", "/upgrade")["agent"]["current"], false);
    assert_eq!(agents.http("a", "POST", "/upgrade", "").expect("an answer").0, 202);
    within(SLOW, "the new program runs", || is_current(&agents, "a"));
    within(SLOW, "it leads", || agents.status("a", "/primary") == Some(200));
    within(SLOW, "the guard comes along", || agents.get("a", "/upgrade")["guard"]["current"] == true);
    assert_eq!(load.end(), Vec::<String>::new());
    assert_eq!(Leadership::of(&agents, "a"), before);

    // Killed while the new program is checked: the next one goes on as after any crash.
    install(&agents, b"#!/bin/sh\nexec sleep 60\n");
    agents.signal_agent("a", Signal::SIGUSR2);
    let sleeping = |seen: &children::Seen| seen.parent == before.agent && seen.program() == Some("sleep");
    let check = || children::list().into_iter().find(sleeping);
    within(SLOW, "the check runs", || check().is_some());
    let check = Pid::from_raw(check().expect("it runs").pid);
    agents.kill_agent("a");
    kill(check, Signal::SIGKILL).unwrap();
    install(&agents, &good);
    agents.start_agent("a");
    within(SLOW, "the next agent leads", || agents.status("a", "/primary") == Some(200));
    let after = Leadership::of(&agents, "a");
    assert_eq!(
        (after.postmaster, after.timeline, after.key),
        (before.postmaster, before.timeline, before.key)
    );

    // The guard that was upgraded twice still ends what nobody leads.
    agents.kill_agent("a");
    within(SLOW, "another member leads", || {
        ["b", "c"].iter().any(|name| agents.status(name, "/primary") == Some(200))
    });
    assert_eq!(agents.sql("a", "INSERT INTO w VALUES (2)"), None, "the old primary takes no write");
}

/// Executes an agent with a hand-over of a version that nobody knows, and the listening socket in it.
const STRANGER: &str = "
import fcntl, json, os, socket, sys
door = socket.socket()
door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
door.bind(('127.0.0.1', int(sys.argv[1])))
door.listen()
os.set_inheritable(door.fileno(), True)
memory = os.memfd_create('handover', os.MFD_ALLOW_SEALING)
os.write(memory, json.dumps({'version': 99, 'fds': [door.fileno()], 'body': [1]}).encode())
fcntl.fcntl(memory, 1033, 15)
os.environ['KEDDAH_HANDOVER'] = '%d:%d' % (os.getpid(), memory)
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn a_long_lease_goes_along_and_a_hand_over_of_another_version_is_a_crash_that_costs_nothing() {
    let mut agents = Agents::prepare("", false);
    agents.edit_config(
        "a",
        "ttl: 6, loop_wait: 1, retry_timeout: 3",
        "ttl: 20, loop_wait: 5, retry_timeout: 5",
    );
    agents.start_agent("a");
    within(SLOW, "the agent makes the cluster", || agents.status("a", "/primary") == Some(200));
    let good = std::fs::read(agents.binary()).unwrap();
    let before = Leadership::of(&agents, "a");

    let load = Load::on(&agents, "a");
    install(&agents, &good);
    upgrade(&agents, "a");
    assert_eq!(load.end(), Vec::<String>::new());
    assert_eq!(Leadership::of(&agents, "a"), before);

    agents.kill_agent("a");
    let (port, binary) = (agents.rest_port("a").to_string(), agents.binary().display().to_string());
    agents.start_agent_by("/usr/bin/python3".as_ref(), &["-c", STRANGER, &port, &binary], "a");
    within(SLOW, "the next agent leads", || agents.status("a", "/primary") == Some(200));
    let log = agents.log("a");
    assert!(log.contains("version=99") && log.contains("is taken over"), "{log}");
    let after = Leadership::of(&agents, "a");
    assert_eq!(
        (after.postmaster, after.timeline, after.key),
        (before.postmaster, before.timeline, before.key)
    );
}

#[test]
fn an_upgrade_in_a_pause_leaves_the_gate_open() {
    let mut agents = Agents::prepare("", false);
    agents.start_agent("a");
    within(SLOW, "the agent makes the cluster", || agents.status("a", "/primary") == Some(200));
    let good = std::fs::read(agents.binary()).unwrap();
    assert!(agents.keddah(&["pause", "--wait"]).status.success());
    let before = Leadership::of(&agents, "a");

    let load = Load::on(&agents, "a");
    install(&agents, &good);
    upgrade(&agents, "a");
    within(SLOW, "the guard comes along", || agents.get("a", "/upgrade")["guard"]["current"] == true);
    assert_eq!(load.end(), Vec::<String>::new());
    assert_eq!(Leadership::of(&agents, "a"), before);
    assert_eq!(agents.get("a", "/patroni")["pause"], true);

    // Longer than the lease lasts: what is not released would be stopped.
    agents.freeze_etcd();
    std::thread::sleep(Duration::from_secs(8));
    assert!(
        agents.sql("a", "INSERT INTO w VALUES (2)").is_some(),
        "a paused primary goes on without a lease"
    );
    agents.thaw_etcd();
}
