//! WAL on volumes of its own that fill up: a warning, a brake, no crash loop, and writes that return with the space.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::agents::{Agents, NAMES, SLOW, within};

/// About a segment and a half of WAL.
const WRITE: &str = "INSERT INTO t SELECT repeat(md5(i::text), 31) FROM generate_series(1, 20000) i";

/// A volume in memory.
struct Volume {
    folder: TempDir,
}

impl Volume {
    fn mount(megabytes: u32) -> Volume {
        let volume =
            Volume { folder: tempfile::Builder::new().prefix("keddah-wal-").tempdir_in("/tmp").unwrap() };
        let size = format!("size={megabytes}m,mode=0700,uid=postgres,gid=postgres");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "keddah-wal"]).arg(volume.folder.path()));
        volume
    }

    fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn grow(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        run(Command::new("mount").args(["-o", &size]).arg(self.folder.path()));
    }

    /// Takes all the room that is left.
    fn stuff(&self) {
        let mut filler = std::fs::File::create(self.folder.path().join("filler")).unwrap();
        let zeros = std::io::copy(&mut std::io::repeat(0), &mut filler);
        assert!(zeros.is_err(), "it is full");
    }

    fn unstuff(&self) {
        std::fs::remove_file(self.folder.path().join("filler")).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// A cluster whose members have their WAL on volumes of their own. The volumes go after what is on them.
struct Cluster {
    agents: Agents,
    volumes: [Volume; 3],
}

impl Cluster {
    fn start(megabytes: [u32; 3], disk: &str, parameters: &str) -> Cluster {
        let volumes = megabytes.map(Volume::mount);
        let agents = Agents::prepare(", ignore_slots: [{name: dead, type: physical}]", false);
        for (name, volume) in NAMES.iter().zip(&volumes) {
            let waldir = format!("waldir: {}", volume.path().display());
            agents.edit_config(name, "no-sync]", &format!("no-sync, {waldir}]"));
            let section = format!("postgresql:\n  basebackup: [{waldir}]\n  listen");
            agents.edit_config(name, "postgresql:\n  listen", &section);
            agents.edit_config(name, "disk: {warn: 'off'}", &format!("disk: {disk}"));
            agents.edit_config(name, "shared_buffers: 16MB", &format!("shared_buffers: 16MB{parameters}"));
        }
        let cluster = Cluster { agents: agents.run(), volumes };
        assert!(cluster.agents.sql("a", "CREATE TABLE t (x text)").is_some());
        cluster
    }

    fn volume(&self, name: &str) -> &Volume {
        let at = NAMES.iter().position(|known| *known == name).unwrap();
        &self.volumes[at]
    }

    /// Returns the free space of a member's WAL volume as the member tells it.
    fn told(&self, name: &str) -> u64 {
        self.agents.get(name, "/patroni")["keddah"]["wal_volume"]["free"].as_u64().unwrap_or_default()
    }

    /// Writes until it is refused; the member is let look at its volume after each segment. Returns what is said to the
    /// next who comes: a writer that was under way has been ended.
    fn fill(&self, name: &str) -> String {
        loop {
            let before = self.told(name);
            if self.agents.sql(name, WRITE).is_none() {
                let next = self.agents.psql(name, WRITE).output().unwrap();
                return String::from_utf8_lossy(&next.stderr).into_owned();
            }
            within(SLOW, "the member sees the space go, or Postgres ends", || {
                self.told(name) < before || self.agents.sql(name, "SELECT 1").is_none()
            });
        }
    }

    fn writes(&self, name: &str) -> bool {
        self.agents.sql(name, "INSERT INTO t VALUES ('x')").is_some()
    }

    /// Says who takes writes, if it is one of these.
    fn writer(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.writes(name))
    }

    fn explained(&self, name: &str) -> String {
        let output = self.agents.keddah(&["explain", "--member", name, "--all"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn all_stream(&self) {
        within(SLOW, "both others stream", || self.agents.streaming() == 2);
    }
}

/// Gives a member that is not started yet its data directory on a volume; returns where it is there.
fn put_data_on(volume: &Volume, agents: &Agents, name: &str) -> PathBuf {
    let (before, data) = (agents.data_dir(name), volume.path().join("data"));
    let line = |path: &Path| format!("data_dir: {}", path.display());
    agents.edit_config(name, &line(&before), &line(&data));
    std::os::unix::fs::symlink(&data, before).unwrap();
    data
}

/// Runs a test where its mounts are nobody else's, and go with its processes whatever happens.
fn apart(test: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| {
        let own = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            run(Command::new("mount").args(["--make-rprivate", "/"]));
            test();
        });
        own.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_volume_that_fills_is_told_and_braked_and_writes_return_with_the_space() {
    apart(|| {
        let cluster = Cluster::start([224, 640, 640], "{warn: 180MB, brake: 80MB}", "");
        let agents = &cluster.agents;
        let cap = || agents.sql("a", "SHOW max_slot_wal_keep_size");
        within(SLOW, "slots may keep a part of the volume", || cap().as_deref() == Some("64MB"));
        let slot = "SELECT pg_create_physical_replication_slot('dead', true)";
        assert!(agents.sql("a", slot).is_some());
        let open = "BEGIN; INSERT INTO t VALUES ('open'); SELECT pg_sleep(600)";
        let mut writer = agents.psql("a", open).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();

        let refusal = cluster.fill("a");
        assert!(refusal.contains("read-only transaction"), "{refusal}");
        within(SLOW, "what wrote before is ended", || writer.try_wait().unwrap().is_some());
        let told = cluster.explained("a");
        assert!(told.contains("DiskScarce") && told.contains("LeadingBraked"), "{told}");
        assert!(agents.log("a").contains("the slot dead keeps"), "who takes the space is named");
        let listed = String::from_utf8_lossy(&agents.keddah(&["list"]).stdout).into_owned();
        assert!(listed.contains("a: the WAL volume has"), "{listed}");
        let (_, metrics) = agents.http("a", "GET", "/metrics", "").unwrap();
        assert!(metrics.contains("keddah_disk_scarce{scope=\"demo\",name=\"a\"} 1"), "{metrics}");
        assert_eq!(agents.status("a", "/primary"), Some(200), "it leads, and is read from");

        // With nothing left at all, what people ask for is done.
        cluster.volume("a").stuff();
        assert_eq!(agents.post("a", "/reload", "").0, 202);
        agents.patch_config("a", r#"{"postgresql": {"parameters": {"work_mem": "5MB"}}}"#);
        within(SLOW, "the configuration is taken over", || {
            agents.sql("a", "SHOW work_mem").as_deref() == Some("5MB")
        });
        assert!(!cluster.writes("a"));
        cluster.volume("a").unstuff();
        cluster.volume("a").grow(448);
        within(SLOW, "writes return with the space", || cluster.writes("a"));
        within(SLOW, "slots may keep a part of that", || cap().as_deref() == Some("192MB"));

        cluster.fill("a");
        let done = agents.keddah(&["switchover", "--candidate", "b", "--force"]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        within(SLOW, "the member with room takes writes", || cluster.writes("b"));
        cluster.all_stream();

        // A full volume keeps no guard from its work.
        cluster.volume("b").stuff();
        let postmaster = agents.postmaster("b").expect("it leads");
        agents.signal_agent("b", Signal::SIGSTOP);
        within(SLOW, "another member takes writes", || cluster.writer(&["a", "c"]).is_some());
        let alive = nix::sys::signal::kill(nix::unistd::Pid::from_raw(postmaster), None).is_ok();
        assert!(!alive, "the guard has stopped the server of the stopped agent");
        cluster.volume("b").unstuff();
        agents.signal_agent("b", Signal::SIGCONT);
        cluster.all_stream();
    });
}

#[test]
fn a_full_volume_ends_a_primary_once_and_the_next_leads_only_with_room() {
    apart(|| {
        let cluster = Cluster::start([208, 144, 144], "{warn: 40MB}", ", max_slot_wal_keep_size: -1");
        let agents = &cluster.agents;
        let starts = || agents.log("a").matches("start Postgres as primary again").count();

        cluster.fill("a");
        within(SLOW, "it waits for room", || cluster.explained("a").contains("NoRoom"));
        assert!(starts() <= 1, "it is not started again and again");
        let leader = String::from_utf8_lossy(&agents.keddah(&["list", "-f", "json"]).stdout).into_owned();
        assert!(leader.contains("\"Leader\""), "nobody else leads without room: {leader}");
        cluster.volume("a").grow(304);
        within(SLOW, "writes return with the space", || cluster.writes("a"));
        for name in ["b", "c"] {
            cluster.volume(name).grow(512);
        }
        cluster.all_stream();

        let before = starts();
        cluster.fill("a");
        let limit = Duration::from_secs(60);
        within(limit, "a member with room takes writes", || cluster.writer(&["b", "c"]).is_some());
        assert!(starts() <= before + 1, "it is not started again and again");
        cluster.volume("a").grow(512);
        cluster.all_stream();
    });
}

#[test]
fn a_copy_that_does_not_fit_is_not_begun_and_the_data_stays() {
    apart(|| {
        let volume = Volume::mount(96);
        let agents = Agents::prepare("", false);
        let data = put_data_on(&volume, &agents, "b");
        let waldir = format!("waldir: {}", agents.folder().join("b/wal").display());
        let section = format!("postgresql:\n  basebackup: [{{{waldir}}}]\n  listen");
        agents.edit_config("b", "postgresql:\n  listen", &section);
        let agents = agents.run();
        assert!(agents.sql("a", "CREATE TABLE t (x text)").is_some());
        // The leader's data grows beyond the volume of a replica that has not replayed it yet.
        assert!(agents.sql("b", "SELECT pg_wal_replay_pause()").is_some());
        for _ in 0..4 {
            assert!(agents.sql("a", WRITE).is_some());
        }
        let files = || std::fs::read_dir(data.join("base/1")).map_or(0, std::iter::Iterator::count);
        let before = files();

        assert_eq!(agents.post("b", "/reinitialize", "{}").0, 200);
        within(SLOW, "it is refused", || agents.log("b").contains("MB more than there is room for"));
        assert!(agents.log("b").contains("which is left alone"), "{}", agents.log("b"));
        assert!(before > 0 && files() >= before, "nothing was removed");

        volume.grow(512);
        let rows = agents.sql("a", "SELECT count(*) FROM t");
        within(SLOW, "it goes on with the data that it had", || {
            agents.streaming() == 2 && agents.sql("b", "SELECT count(*) FROM t") == rows
        });
        let copies = || agents.log("b").matches("the job is done job=clone").count();
        assert_eq!(copies(), 1, "the first one");
        assert_eq!(agents.post("b", "/reinitialize", "{}").0, 200);
        within(SLOW, "a copy that fits is made", || copies() == 2);
        within(SLOW, "both stream", || agents.streaming() == 2);
    });
}

#[test]
fn with_a_full_data_volume_a_member_is_fenced_and_commanded_and_follows_once_there_is_room() {
    apart(|| {
        let volume = Volume::mount(192);
        let agents = Agents::prepare("", false);
        put_data_on(&volume, &agents, "a");
        let waldir = format!("waldir: {}", agents.folder().join("a/wal").display());
        agents.edit_config("a", "no-sync]", &format!("no-sync, {waldir}]"));
        agents.edit_config("a", "disk: {warn: 'off'}", "disk: {warn: 20MB}");
        let agents = agents.run();
        assert!(agents.sql("a", "CREATE TABLE t (x text)").is_some());
        let postmaster = agents.postmaster("a").expect("it leads");

        volume.stuff();
        within(SLOW, "it is told", || agents.log("a").contains("the data volume has"));
        assert_eq!(agents.sql("a", WRITE), None, "nothing can be added to a table");
        assert_eq!(agents.status("a", "/primary"), Some(200), "it leads, and is read from");
        assert_eq!(agents.sql("a", "SELECT count(*) FROM t").as_deref(), Some("0"));
        assert_eq!(agents.postmaster("a"), Some(postmaster));
        agents.patch_config("a", r#"{"postgresql": {"parameters": {"work_mem": "5MB"}}}"#);
        let work_mem = |name: &str| agents.sql(name, "SHOW work_mem");
        within(SLOW, "who has room takes the configuration over", || work_mem("b").as_deref() == Some("5MB"));

        // The guard needs no room, and neither does the end of a server.
        agents.signal_agent("a", Signal::SIGSTOP);
        let writer = || ["b", "c"].into_iter().find(|name| agents.sql(name, WRITE).is_some());
        within(SLOW, "another member takes writes", || writer().is_some());
        let alive = nix::sys::signal::kill(nix::unistd::Pid::from_raw(postmaster), None).is_ok();
        assert!(!alive, "the guard has stopped the server of the stopped agent");
        agents.signal_agent("a", Signal::SIGCONT);
        volume.unstuff();
        within(SLOW, "both others stream", || agents.streaming() == 2);
        within(SLOW, "it has the configuration too", || work_mem("a").as_deref() == Some("5MB"));

        // The checkpoint at its end would crash the server: the hand-over is refused, and nothing is touched.
        let done = agents.keddah(&["switchover", "--candidate", "a", "--force"]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        agents.settle();
        let postmaster = agents.postmaster("a");
        volume.stuff();
        let refused = agents.keddah(&["switchover", "--candidate", "b", "--force"]);
        assert_eq!(refused.status.code(), Some(1));
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(why.contains("the volume of the leader's data is full"), "{why}");
        assert_eq!(agents.postmaster("a"), postmaster);
        volume.unstuff();
        within(SLOW, "writes return with the space", || agents.sql("a", WRITE).is_some());
        assert_eq!(agents.streaming(), 2);
    });
}

#[test]
fn with_no_room_for_its_own_state_a_member_leads_and_is_replaced() {
    apart(|| {
        let volume = Volume::mount(1);
        let agents = Agents::prepare("", false);
        let sockets = |path: &Path| format!("unix_socket_directories: {}", path.display());
        agents.edit_config("a", &sockets(&agents.folder().join("a")), &sockets(&volume.path()));
        let mut agents = agents.run();
        assert!(agents.sql("a", "CREATE TABLE t (x text)").is_some());

        volume.stuff();
        let postmaster = agents.postmaster("a");
        agents.kill_agent("a");
        agents.start_agent("a");
        within(SLOW, "the next agent leads by what was written before", || {
            agents.status("a", "/primary") == Some(200)
        });
        assert_eq!(agents.postmaster("a"), postmaster, "Postgres was not restarted");

        // Another lease, of which it can write nothing down.
        let switch = |to: &str| agents.keddah(&["switchover", "--candidate", to, "--force"]).status.code();
        assert_eq!(switch("b"), Some(0));
        agents.settle();
        assert_eq!(switch("a"), Some(0));
        agents.settle();
        agents.kill_agent("a");
        agents.start_agent("a");
        let writers =
            || NAMES.into_iter().filter(|name| agents.sql(name, "INSERT INTO t VALUES ('x')").is_some());
        within(SLOW, "one member takes writes", || writers().count() == 1);
        volume.unstuff();
        agents.settle();
        assert_eq!(writers().count(), 1);
    });
}
