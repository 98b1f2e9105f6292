//! No stop, start or restart without a limit: what hangs ends, and writes return on a member that can serve.

use std::fs::File;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keddah::sys::clock;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::agents::{Agents, NAMES, SLOW, within};

/// A stop of 3 s and a start of 5 s are the limits; an immediate stop takes 5 s where a process is stopped, and the
/// machine is busy.
const LIMITED: Duration = Duration::from_secs(60);

/// A file of the server that gives nothing to read and no end, as a disk that does not answer.
struct Silent {
    path: PathBuf,
    pipe: PathBuf,
}

impl Silent {
    /// Puts a pipe in the place of a file.
    fn instead_of(path: PathBuf) -> Silent {
        let pipe = path.with_extension("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let owner = nix::sys::stat::stat(path.parent().unwrap()).unwrap();
        chown(&pipe, Some(owner.st_uid), Some(owner.st_gid)).unwrap();
        std::fs::rename(&pipe, &path).unwrap();
        Silent { path, pipe }
    }

    /// Nobody finds it any more.
    fn remove(&self) {
        std::fs::rename(&self.path, &self.pipe).unwrap();
    }

    /// Whoever still waits for an answer reads the end of the file.
    fn let_go(&self) {
        let _nobody_reads = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&self.pipe);
    }
}

#[test]
fn a_restart_that_hangs_ends_and_one_that_cannot_end_makes_another_member_lead() {
    let agents = Agents::start(", primary_start_timeout: 5, primary_stop_timeout: 3");
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());

    // A stop waits for the checkpointer, whatever happens to it.
    let checkpointer = agents.server_process("a", "checkpointer").expect("a checkpointer");
    kill(checkpointer, Signal::SIGSTOP).unwrap();
    let (status, text) = agents.post("a", "/restart", "{}");
    assert_eq!(status, 200, "{text}");
    within(LIMITED, "the restarted member takes writes", || {
        agents.sql("a", "INSERT INTO t VALUES (1)").is_some()
    });
    assert!(agents.log("a").contains("did not end within its limit"), "the stop was hurried");
    within(SLOW, "both others stream", || agents.streaming() == 2);

    // A server that recovers from a crash and is told to stop then waits for ever; so does its next start.
    let silent = Silent::instead_of(agents.data_dir("a").join("pg_logical/replorigin_checkpoint"));
    kill(agents.server_process("a", "background writer").expect("a writer"), Signal::SIGKILL).unwrap();
    within(SLOW, "the recovery hangs", || {
        agents.server_process("a", "startup").is_some() && agents.sql("a", "SELECT 1").is_none()
    });
    let (status, text) = agents.post("a", "/restart", r#"{"timeout": 1}"#);
    assert_eq!(status, 503, "{text}");
    within(LIMITED, "another member takes writes", || {
        ["b", "c"].iter().any(|name| agents.sql(name, "INSERT INTO t VALUES (2)").is_some())
    });
    assert!(
        agents.log("a").contains("did not come up within primary_start_timeout"),
        "the lock was given up"
    );

    silent.remove();
    within(SLOW, "the old primary streams by itself", || {
        silent.let_go();
        agents.streaming() == 2
    });
    assert!(agents.primary().is_some_and(|name| name != "a"));
}

/// Waits until the standbys have replayed all that the primary wrote.
fn caught_up(agents: &Agents, primary: &str) {
    let count = "SELECT count(*) FROM pg_stat_replication
        WHERE state = 'streaming' AND replay_lsn = pg_current_wal_flush_lsn()";
    within(SLOW, "both standbys have everything", || agents.sql(primary, count).as_deref() == Some("2"));
}

/// Asks for a switchover; returns the exit code and all that was said.
fn switchover(agents: &Agents, candidate: &str) -> (Option<i32>, String) {
    let done = agents.keddah(&["switchover", "--candidate", candidate, "--force"]);
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (done.status.code(), said.concat())
}

#[test]
fn a_switchover_names_what_stands_in_its_way_and_touches_nothing() {
    let agents = Agents::start("");
    let postmaster = agents.postmaster("a");
    // The copies have made the primary switch to another segment.
    caught_up(&agents, "a");

    let receiver = agents.server_process("b", "walreceiver").expect("it streams");
    kill(receiver, Signal::SIGSTOP).unwrap();
    let (code, said) = switchover(&agents, "b");
    kill(receiver, Signal::SIGCONT).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not confirm"), "{said}");
    caught_up(&agents, "a");

    assert!(agents.sql("b", "SELECT pg_wal_replay_pause()").is_some());
    let (code, said) = switchover(&agents, "b");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not replay"), "{said}");
    assert!(agents.sql("b", "SELECT pg_wal_replay_resume()").is_some());

    // As with gigabytes to write on a slow disk.
    let checkpointer = agents.server_process("a", "checkpointer").expect("a checkpointer");
    kill(checkpointer, Signal::SIGSTOP).unwrap();
    let (code, said) = switchover(&agents, "b");
    kill(checkpointer, Signal::SIGCONT).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("checkpoints take long"), "{said}");

    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some(), "the leader serves as before");
    assert_eq!(agents.postmaster("a"), postmaster, "it was not touched");
}

#[test]
fn a_switchover_does_not_wait_for_the_archive_and_is_undone_where_the_stop_hangs() {
    let agents = Agents::prepare("", false);
    let (held, script) = (agents.folder().join("held"), "archive.sh");
    let command = agents.script(script, &format!("while test -e {}; do sleep 0.2; done\n", held.display()));
    let parameters = format!("parameters: {{archive_mode: 'on', archive_command: '{command}'}}");
    for name in NAMES {
        let section = format!("use_pg_rewind: true, {parameters}");
        agents.edit_config(name, "use_pg_rewind: true", &section);
    }
    let agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    // Enough that a stop without a checkpoint before it would be felt.
    let many = "INSERT INTO t SELECT generate_series(1, 1000000)";
    assert!(agents.sql("a", many).is_some());
    caught_up(&agents, "a");

    std::fs::write(&held, "").unwrap();
    assert!(agents.sql("a", "SELECT pg_switch_wal()").is_some());
    caught_up(&agents, "a");
    let waits = "SELECT count(*) FROM pg_ls_archive_statusdir()
        WHERE name LIKE '%.ready' AND modification < now() - interval '6 s'";
    within(SLOW, "WAL waits for its archive", || agents.sql("a", waits).is_some_and(|count| count != "0"));
    let (code, said) = switchover(&agents, "b");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("archive_command lags"), "{said}");
    assert!(agents.sql("b", "INSERT INTO t VALUES (2)").is_some());
    assert!(agents.postmaster("a").is_some(), "the old primary waits for its archiver");
    std::fs::remove_file(&held).unwrap();
    within(SLOW, "the old primary follows", || agents.streaming() == 2);

    // A client that cannot be ended keeps the server from its shutdown checkpoint.
    caught_up(&agents, "b");
    let mut client = agents.psql("b", "SELECT pg_sleep(600)").spawn().unwrap();
    within(SLOW, "the client sleeps", || agents.server_process("b", "SELECT").is_some());
    let backend = agents.server_process("b", "SELECT").expect("a backend");
    kill(backend, Signal::SIGSTOP).unwrap();
    let ((code, said), unwritable) = while_writing(&agents, "b", || switchover(&agents, "c"));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("did not stop in time"), "{said}");
    assert!(unwritable < STOP_FOR_HAND_OVER + Duration::from_secs(5), "no write for {unwritable:?}");
    let _gone = client.wait();
}

/// How long a stop for a hand-over may take before it is undone.
const STOP_FOR_HAND_OVER: Duration = Duration::from_secs(5);

/// Writes without a pause while something is done; returns the longest time without a write that was taken.
fn while_writing<T>(agents: &Agents, name: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut last, mut longest) = (clock::now(), Duration::ZERO);
            loop {
                // Whatever was done, the last word is a write.
                let enough = done.load(Ordering::SeqCst);
                if agents.sql(name, "INSERT INTO t VALUES (0)").is_some() {
                    let at = clock::now();
                    longest = longest.max(at.since(last));
                    last = at;
                    if enough {
                        return longest;
                    }
                }
                assert!(clock::now().since(last) < SLOW, "{name} takes no writes any more");
            }
        });
        let outcome = work();
        done.store(true, Ordering::SeqCst);
        (outcome, writer.join().unwrap())
    })
}

/// A process that is let run for a small part of the time, as one whose disk is slow.
struct Slowed {
    process: Pid,
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Slowed {
    fn down(process: Pid) -> Slowed {
        let done = Arc::<AtomicBool>::default();
        let until = done.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                let _gone = kill(process, Signal::SIGCONT);
                std::thread::sleep(Duration::from_millis(1));
                let _gone = kill(process, Signal::SIGSTOP);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Slowed { process, done, thread: Some(thread) }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        let _ended = self.thread.take().map(std::thread::JoinHandle::join);
        let _gone = kill(self.process, Signal::SIGCONT);
    }
}

#[test]
fn a_switchover_with_a_gigabyte_to_write_is_refused_on_a_slow_disk_and_done_on_a_fast_one() {
    let agents = Agents::prepare("", false);
    // Nothing writes them but a checkpoint that is asked for.
    let kept = "shared_buffers: 1200MB, checkpoint_timeout: 1d, max_wal_size: 8GB, bgwriter_lru_maxpages: 0";
    agents.edit_config("a", "shared_buffers: 16MB", kept);
    let agents = agents.run();
    let postmaster = agents.postmaster("a");
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    // One small row on each page: much to write, and little WAL of it.
    let wide = "CREATE TABLE wide (v text) WITH (fillfactor = 10)";
    assert!(agents.sql("a", wide).is_some());
    let fill = "INSERT INTO wide SELECT repeat('x', 700) FROM generate_series(1, 131072)";
    assert!(agents.sql("a", fill).is_some());
    let size = agents.sql("a", "SELECT pg_relation_size('wide') >= 1024 * 1024 * 1024");
    assert_eq!(size.as_deref(), Some("t"), "a gigabyte of pages");
    caught_up(&agents, "a");

    let slowed = Slowed::down(agents.server_process("a", "checkpointer").expect("a checkpointer"));
    let asked = clock::now();
    let ((code, said), unwritable) = while_writing(&agents, "a", || switchover(&agents, "b"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("checkpoints take long"), "{said}");
    assert!(clock::now().since(asked) < LIMITED, "it is refused within its limit");
    assert!(unwritable < Duration::from_secs(5), "clients wrote meanwhile; no write for {unwritable:?}");
    assert_eq!(agents.postmaster("a"), postmaster, "the leader was not touched");
    drop(slowed);

    caught_up(&agents, "a");
    let (code, said) = switchover(&agents, "b");
    assert_eq!(code, Some(0), "{said}");
    assert!(agents.sql("b", "INSERT INTO t VALUES (1)").is_some());
    within(SLOW, "both others follow", || agents.streaming() == 2);
}

#[test]
fn a_replica_whose_start_hangs_is_copied_anew() {
    let agents = Agents::prepare(", primary_start_timeout: 10", false);
    for name in NAMES {
        let removes = "use_pg_rewind: true, remove_data_directory_on_diverged_timelines: true";
        agents.edit_config(name, "use_pg_rewind: true", removes);
    }
    let mut agents = agents.run();
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());
    agents.kill_host("b");
    let silent = Silent::instead_of(agents.data_dir("b").join("pg_logical/replorigin_checkpoint"));

    agents.start_agent("b");
    within(SLOW, "it streams again", || agents.streaming() == 2);

    let log = agents.log("b");
    assert_eq!(log.matches("and does nothing; I end it").count(), 2, "{log}");
    assert!(!silent.pipe.exists());
    assert_eq!(agents.primary(), Some("a"));
}
