//! One server's life with the room's own functions: made, asked, copied, left behind, rewound.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keddah::cluster::Timeline;
use keddah::cluster::control_file::ControlState;
use keddah::postgres::conf::{self, ConfigPlace, Parameters};
use keddah::postgres::initdb::{Initdb, run_initdb};
use keddah::postgres::query::{self, Host, QueryError, Session, Target};
use keddah::postgres::standby::{Password, Upstream};
use keddah::postgres::users::{Purpose, Role};
use keddah::postgres::{
    Installation, basebackup, controldata, has_data, hba, is_vacant, postmaster, rewind, slots, standby,
    users,
};
use keddah::sys::secret::Secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::ports;
use crate::programs;
use crate::sshd::until;

const SUPERUSER: &str = "postgres";
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Runs the calling test once more as the user postgres: its programs refuse root.
pub(crate) fn as_postgres(test: &str, body: impl FnOnce()) {
    if !geteuid().is_root() {
        return body();
    }
    let user = User::from_name("postgres").unwrap().expect("`make setup` installs postgresql-15");
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    let copy = folder.path().join("test");
    programs::copy(&std::env::current_exe().unwrap(), &copy);
    let output = Command::new(&copy)
        .args(["--exact", test, "--nocapture"])
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) struct Node {
    pub installation: Installation,
    pub folder: PathBuf,
    pub place: ConfigPlace,
    name: &'static str,
    pub port: u16,
    /// How users of this machine are let in.
    pub local: &'static str,
    child: Option<Child>,
}

impl Node {
    pub fn new(folder: &Path, name: &'static str, port: u16) -> Node {
        Node {
            installation: Installation::at("/usr/lib/postgresql/15/bin"),
            folder: folder.to_owned(),
            place: ConfigPlace::inside(&folder.join(name)),
            name,
            port,
            local: "scram-sha-256",
            child: None,
        }
    }

    fn launch(&self) -> postmaster::Launch {
        let wanted = Parameters::from([("max_wal_senders".into(), "5".into())]);
        postmaster::Launch {
            place: self.place.clone(),
            listen_addresses: "127.0.0.1".into(),
            port: self.port,
            cluster_name: "batman".into(),
            parameters: conf::split(&wanted).0,
        }
    }

    pub fn configure(&self, recovery: &Parameters) {
        let include = conf::settle_base(&self.place, None).unwrap();
        let sockets = self.folder.display().to_string();
        let file = BTreeMap::from([
            ("unix_socket_directories".to_owned(), sockets),
            ("fsync".to_owned(), "off".to_owned()),
        ]);
        conf::write(&self.place, &conf::render(&conf::Parameters::new(), &include, &file, recovery)).unwrap();
        conf::clean_auto(&self.place.data_dir).unwrap();
        let lines = [
            format!("local all all {}", self.local),
            "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
            "host replication all 127.0.0.1/32 scram-sha-256".to_owned(),
        ];
        hba::write(&self.place, &lines).unwrap();
    }

    pub fn start(&mut self) {
        let argv = postmaster::argv(&self.installation, &self.launch());
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.folder.join(format!("{}.log", self.name)))
            .unwrap();
        let environment = postmaster::environment(std::env::vars());
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().envs(environment).stdin(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn end(&mut self, signal: Signal) {
        let mut child = self.child.take().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
        until("its children have gone", || {
            !std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == self.place.data_dir)
            })
        });
    }

    pub fn target(&self, host: Host) -> Target {
        Target {
            host,
            port: self.port,
            user: SUPERUSER.into(),
            password: Some(Secret::new("su:per'pass")),
            database: "postgres".into(),
            options: Vec::new(),
            application_name: "Patroni heartbeat".into(),
        }
    }

    pub async fn session(&self) -> Session {
        loop {
            match query::connect(&self.target(Host::Socket(self.folder.clone()))).await {
                Ok(session) => return session,
                Err(error) => {
                    let starting = error.sqlstate() == Some("57P03") || error.sqlstate().is_none();
                    assert!(starting, "{error:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    pub fn source(&self, user: &str, passfile: &Path) -> basebackup::Source {
        basebackup::Source {
            host: "127.0.0.1".into(),
            port: self.port,
            user: user.into(),
            passfile: Some(passfile.display().to_string()),
            options: vec![("sslmode".into(), "disable".into())],
        }
    }

    pub fn follow(&self, upstream: &Node, passfile: &Path) {
        let upstream = Upstream {
            host: "localhost".into(),
            port: upstream.port,
            user: "replicator".into(),
            passfile: Some(passfile.display().to_string()),
            application_name: self.name.into(),
            options: vec![("sslmode".into(), "disable".into())],
            slot: Some(self.name.into()),
        };
        self.configure(&standby::recovery_parameters(Some(&upstream), &Parameters::new()));
        standby::signal(&self.place.data_dir).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGQUIT);
            let _gone = child.wait();
        }
    }
}

/// Asks until the answer is as it should be.
pub(crate) async fn seen<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1_500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited 30 s for {what}")
}

async fn promoted(session: &Session) {
    session.execute("SELECT pg_promote(false)").await.unwrap();
    seen("the end of recovery", async || (!session.is_in_recovery().await.unwrap()).then_some(())).await;
}

#[test]
fn a_cluster_is_made_copied_left_behind_and_rewound() {
    as_postgres("postgres::a_cluster_is_made_copied_left_behind_and_rewound", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(Box::pin(story()));
    });
}

async fn story() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().canonicalize().unwrap();
    let passfile = folder.join("pgpass");
    let (mut a, mut b) = (Node::new(&folder, "a", ports::free(1)), Node::new(&folder, "b", ports::free(1)));
    assert_eq!(a.installation.version().unwrap().major(), 15);

    // Made.
    assert!(is_vacant(&a.place.data_dir));
    let what = Initdb {
        options: vec![
            ("encoding".into(), Some("UTF8".into())),
            ("data-checksums".into(), None),
            ("auth".into(), Some("scram-sha-256".into())),
            ("no-sync".into(), None),
        ],
        superuser: SUPERUSER.into(),
        password: Some(Secret::new("su:per'pass")),
    };
    run_initdb(&a.installation, &a.place.data_dir, &what).unwrap();
    assert!(has_data(&a.place.data_dir));
    let again = run_initdb(&a.installation, &a.place.data_dir, &what).unwrap_err();
    assert!(again.to_string().contains("not empty"), "{again}");
    a.configure(&Parameters::new());
    a.start();

    // Asked.
    let primary = a.session().await;
    let seen_a = primary.monitor().await.unwrap();
    assert!(!seen_a.in_recovery && seen_a.receiver.is_none() && seen_a.senders.is_empty(), "{seen_a:?}");
    assert_eq!((seen_a.version.major(), seen_a.timeline), (15, Timeline(1)));
    let control = controldata::read(&a.place.data_dir).unwrap();
    assert_eq!(control.system_id, primary.system_id().await.unwrap());
    assert_eq!(control.state, ControlState::InProduction);
    let by_name = query::connect(&a.target(Host::Name("localhost".into()))).await.unwrap();
    assert!(!by_name.is_in_recovery().await.unwrap());
    primary.serves(&a.place.data_dir).await.unwrap();
    let strange = primary.serves(&folder).await.unwrap_err();
    assert!(matches!(strange, QueryError::OtherServer { .. }), "{strange}");
    let settings = primary.restart_settings().await.unwrap();
    assert!(settings.iter().any(|(name, value, _)| name == "max_wal_senders" && value == "5"));
    let mut wrong = a.target(Host::Socket(folder.clone()));
    wrong.password = Some(Secret::new("no"));
    assert_eq!(query::connect(&wrong).await.unwrap_err().sqlstate(), Some("28P01"));

    for (name, purpose) in [("replicator", Purpose::Replication), ("rewinder", Purpose::Rewind)] {
        let role = Role { name: name.into(), password: Some(Secret::new("re:pl")), purpose };
        users::ensure(&primary, &role).await.unwrap();
        users::ensure(&primary, &role).await.unwrap();
    }
    assert_eq!(users::missing_rewind_grants(&primary, "rewinder").await.unwrap(), Vec::<String>::new());
    assert_eq!(users::missing_rewind_grants(&primary, "replicator").await.unwrap().len(), 4);
    for slot in ["a", "b", "b", "c"] {
        slots::create_physical(&primary, slot).await.unwrap();
    }
    assert!(slots::drop_idle(&primary, "c").await.unwrap());
    assert!(slots::drop_idle(&primary, "never").await.unwrap());
    let names: Vec<String> = slots::list(&primary).await.unwrap().into_iter().map(|slot| slot.name).collect();
    assert_eq!(names, ["a", "b"]);

    // Copied.
    let entry = |user: &str| {
        ["127.0.0.1", "localhost"].map(|host| Password {
            host: host.into(),
            port: None,
            user: user.into(),
            password: Secret::new("re:pl"),
        })
    };
    standby::write_passfile(&passfile, &[entry("replicator"), entry("rewinder")].concat()).unwrap();
    let options = [("checkpoint".to_owned(), Some("fast".to_owned())), ("no-sync".to_owned(), None)];
    basebackup::copy(&b.installation, &b.place.data_dir, &a.source("replicator", &passfile), &options, LIMIT)
        .unwrap();
    b.follow(&a, &passfile);
    b.start();
    let replica = b.session().await;
    let sender = seen("b to stream", async || {
        primary.monitor().await.unwrap().senders.into_iter().find(|s| s.state == "streaming")
    })
    .await;
    assert_eq!((sender.application_name.as_str(), sender.sync_state.as_str()), ("b", "async"));
    let seen_b = replica.monitor().await.unwrap();
    let receiver = seen_b.receiver.unwrap();
    assert!(seen_b.in_recovery && seen_b.flushed.is_none() && seen_b.replayed.is_some());
    assert_eq!((receiver.status.as_str(), receiver.slot.as_deref()), ("streaming", Some("b")));
    assert_eq!(standby::parse_conninfo(&seen_b.primary_conninfo).unwrap()["user"], "replicator");
    assert!(!slots::drop_idle(&primary, "b").await.unwrap(), "in use");

    // Stopped twice: with no checkpoint in between, only how far it has replayed tells the two apart.
    let mut told = controldata::LastReport::default();
    let mut ends = Vec::new();
    for table in ["once", "twice"] {
        primary.execute(&format!("CREATE TABLE {table} ()")).await.unwrap();
        let end = primary.monitor().await.unwrap().flushed;
        let replica = b.session().await;
        seen("b to replay", async || (replica.monitor().await.unwrap().replayed >= end).then_some(())).await;
        b.end(Signal::SIGINT);
        told.refresh(&b.installation, &b.place.data_dir, true).unwrap();
        ends.push(told.get().unwrap().minimum_recovery_end());
        b.start();
    }
    assert!(ends[0] < ends[1], "{ends:?}");
    let replica = b.session().await;

    // Left behind: b leads, a writes on and dies.
    slots::create_physical(&replica, "a").await.unwrap();
    promoted(&replica).await;
    primary.execute("CREATE TABLE lost AS SELECT 1").await.unwrap();
    a.end(Signal::SIGKILL);
    replica.checkpoint(LIMIT).await.unwrap();
    let seen_b = replica.monitor().await.unwrap();
    assert_eq!((seen_b.timeline, seen_b.checkpoint_timeline), (Timeline(2), Timeline(2)));
    let history = replica.history(seen_b.timeline).await.unwrap();
    assert!(history.leads_to(Timeline(2)));
    assert_eq!(keddah::postgres::history::read(&b.place.data_dir, Timeline(2)), Some(history.clone()));

    // Rewound.
    assert_eq!(controldata::read(&a.place.data_dir).unwrap().state, ControlState::InProduction);
    let launch = postmaster::argv(&a.installation, &a.launch());
    rewind::recover(&a.installation, &a.place.data_dir, &launch[3..], LIMIT).unwrap();
    let control = controldata::read(&a.place.data_dir).unwrap();
    assert_eq!(control.state, ControlState::ShutDown);
    let parted = history.switch_point(control.timeline).unwrap();
    assert!(control.checkpoint >= parted, "its last record lies past the switch");
    assert!(controldata::report(&a.installation, &a.place.data_dir).unwrap().allows_rewind());
    let source = b.source("rewinder", &passfile);
    rewind::rewind(&a.installation, &a.place, &source, "postgres", false, LIMIT).unwrap();
    a.follow(&b, &passfile);
    a.start();
    let rewound = a.session().await;
    seen("a to stream", async || {
        replica.monitor().await.unwrap().senders.into_iter().find(|s| s.application_name == "a")
    })
    .await;
    let gone = rewound.rows("SELECT to_regclass('lost')").await.unwrap();
    assert_eq!(gone, [[None]]);

    // Stopped in order after everything was sent: no rewind.
    b.end(Signal::SIGINT);
    let control = controldata::read(&b.place.data_dir).unwrap();
    promoted(&rewound).await;
    let history = rewound.history(Timeline(3)).await.unwrap();
    let parted = history.switch_point(control.timeline).unwrap();
    assert!(control.checkpoint < parted, "the switch comes after its last record");
}
