//! Roles, databases and extensions on a real primary and its replica: told, made, waited for, found to be as asked.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keddah::expr::Value;
use keddah::modules::{self, Answer, FaultKind, Host, Mode, ModuleCall, ModuleReply, Thing};
use keddah::postgres::conf::Parameters;
use keddah::postgres::initdb::{Initdb, run_initdb};
use keddah::postgres::query::{self, Session};
use keddah::postgres::standby::{self, Password};
use keddah::postgres::users::{Purpose, Role};
use keddah::postgres::{basebackup, users};
use keddah::sys::secret::Secret;
use serde_json::{Value as Json, json};

use crate::ports;
use crate::postgres::{LIMIT, Node, as_postgres, seen};
use crate::programs;
use crate::sshd::turn;

/// A primary and a streaming replica, whose own user may do everything through their sockets.
struct Pair {
    primary: Node,
    replica: Node,
}

impl Pair {
    async fn start(folder: &Path) -> Pair {
        let ports = [ports::free(1), ports::free(1)];
        let mut primary = Node::new(folder, "one", ports[0]);
        let mut replica = Node::new(folder, "two", ports[1]);
        (primary.local, replica.local) = ("trust", "trust");
        let options = [
            ("encoding", Some("UTF8")),
            ("locale", Some("C.UTF-8")),
            ("auth", Some("trust")),
            ("no-sync", None),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).to_vec();
        let what = Initdb { options, superuser: "postgres".into(), password: None };
        run_initdb(&primary.installation, &primary.place.data_dir, &what).unwrap();
        primary.configure(&Parameters::new());
        primary.start();
        let session = primary.session().await;
        let replicator = Role {
            name: "replicator".into(),
            password: Some(Secret::new("repl")),
            purpose: Purpose::Replication,
        };
        users::ensure(&session, &replicator).await.unwrap();
        session.rows("SELECT pg_create_physical_replication_slot('two')").await.unwrap();
        let passfile = folder.join("pgpass");
        let entry = |host: &str| Password {
            host: host.into(),
            port: None,
            user: "replicator".into(),
            password: Secret::new("repl"),
        };
        standby::write_passfile(&passfile, &[entry("127.0.0.1"), entry("localhost")]).unwrap();
        let options = [("checkpoint".to_owned(), Some("fast".to_owned())), ("no-sync".to_owned(), None)];
        let source = primary.source("replicator", &passfile);
        basebackup::copy(&replica.installation, &replica.place.data_dir, &source, &options, LIMIT).unwrap();
        replica.follow(&primary, &passfile);
        replica.start();
        seen("the replica to stream", async || {
            session.monitor().await.unwrap().senders.into_iter().find(|s| s.state == "streaming")
        })
        .await;
        Pair { primary, replica }
    }
}

/// Runs a module against a server.
fn run(node: &Node, module: &str, params: &Json, mode: Mode) -> ModuleReply {
    let mut params = params.clone();
    params["socket_dir"] = json!(node.folder.display().to_string());
    params["port"] = json!(node.port);
    let mut call = ModuleCall::new(module, Value::from_json(&params), mode);
    call.verify = true;
    // Modules wait for the network on a loop of their own.
    std::thread::scope(|scope| scope.spawn(|| modules::run(&call, &mut Host::local())).join().unwrap())
}

fn lines(reply: &ModuleReply) -> Vec<String> {
    let outcome =
        reply.as_ref().unwrap_or_else(|fault| panic!("{fault}: {:?} {:?}", fault.lines, fault.hint));
    outcome.changes.iter().map(|change| change.text.clone()).collect()
}

/// Checks, applies and applies again; the changes must be told before, made once, and be none after.
fn converges(node: &Node, module: &str, params: &Json, changes: &[&str]) {
    assert_eq!(lines(&run(node, module, params, Mode::Check)), changes);
    assert_eq!(lines(&run(node, module, params, Mode::Apply)), changes);
    for mode in [Mode::Check, Mode::Apply] {
        let again = run(node, module, params, mode).unwrap();
        assert_eq!((again.answer, again.changed), (Answer::Known, false));
    }
}

async fn logs_in(node: &Node, user: &str, password: &str) -> Result<Session, query::QueryError> {
    let mut target = node.target(query::Host::Name("127.0.0.1".into()));
    target.user = user.into();
    target.password = Some(Secret::new(password));
    query::connect(&target).await
}

fn on_runtime(test: &str, story: impl AsyncFnOnce(PathBuf)) {
    as_postgres(test, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let temp = tempfile::tempdir().unwrap();
        runtime.unwrap().block_on(Box::pin(story(temp.path().canonicalize().unwrap())));
    });
}

#[test]
fn the_primary_is_changed_and_the_replica_waits() {
    on_runtime("databases::the_primary_is_changed_and_the_replica_waits", async |folder| {
        let pair = Pair::start(&folder).await;
        let primary = pair.primary.session().await;
        roles(&pair.primary, &primary).await;
        databases(&pair.primary);
        extensions(&pair.primary);
        replica(&pair);
    });
}

async fn roles(node: &Node, session: &Session) {
    converges(node, "postgres_role", &json!({"name": "readers", "login": false}), &["create role readers"]);
    let mut app = json!({"name": "app", "login": true, "password": "it's\\me", "connection_limit": 5,
        "member_of": ["readers"], "settings": {"search_path": ["$user", "app"], "TimeZone": "UTC", "jit": false}});
    let made = [
        "create role app",
        "login",
        "connection limit 5 (is -1)",
        "set the password",
        "grant membership of readers",
        "set TimeZone = 'UTC'",
        "set jit = 'off'",
        "set search_path = '$user, app'",
    ];
    converges(node, "postgres_role", &app, &made);
    logs_in(node, "app", "it's\\me").await.unwrap();

    // By hand: another password, a stronger role, a setting.
    let drift = "SET password_encryption = 'md5'; ALTER ROLE app PASSWORD 'other' CREATEDB; GRANT pg_monitor TO app; \
                 ALTER ROLE app SET work_mem = '1GB'; ALTER ROLE app SET jit = 'on'";
    session.execute(drift).await.unwrap();
    app["createdb"] = json!(false);
    let repaired = [
        "nocreatedb",
        "set the password",
        "revoke membership of pg_monitor",
        "set jit = 'off' (is 'on')",
        "reset work_mem (is '1GB')",
    ];
    converges(node, "postgres_role", &app, &repaired);
    logs_in(node, "app", "it's\\me").await.unwrap();
    assert!(logs_in(node, "app", "other").await.is_err());
}

fn databases(node: &Node) {
    let orders = json!({"name": "orders", "owner": "app", "encoding": "utf-8", "locale": "C.UTF-8"});
    converges(node, "postgres_database", &orders, &["create database orders"]);
    let readers = json!({"name": "orders", "owner": "readers"});
    converges(node, "postgres_database", &readers, &["owner readers (is app)"]);

    let latin = json!({"name": "orders", "encoding": "LATIN1"});
    assert_eq!(lines(&run(node, "postgres_database", &latin, Mode::Check)), ["encoding LATIN1 (is UTF8)"]);
    let fault = run(node, "postgres_database", &latin, Mode::Apply).unwrap_err();
    assert_eq!(
        fault.message,
        "the database `orders` cannot be given encoding LATIN1 (is UTF8) while it exists"
    );

    let owner = json!({"name": "readers", "state": "absent"});
    let fault = run(node, "postgres_role", &owner, Mode::Apply).unwrap_err();
    assert!(fault.message.contains("cannot be dropped because some objects depend on it"), "{fault}");
    assert!(fault.hint.unwrap().contains("REASSIGN OWNED"));

    let gone = json!({"name": "gone"});
    converges(node, "postgres_database", &gone, &["create database gone"]);
    converges(
        node,
        "postgres_database",
        &json!({"name": "gone", "state": "absent"}),
        &["drop database gone"],
    );
}

fn extensions(node: &Node) {
    let hstore = json!({"name": "hstore", "database": "orders", "schema": "tools"});
    converges(node, "postgres_extension", &hstore, &["create extension hstore in orders"]);
    let moved = json!({"name": "hstore", "database": "orders", "schema": "public"});
    converges(node, "postgres_extension", &moved, &["schema public (is tools)"]);
    let gone = json!({"name": "hstore", "database": "orders", "state": "absent"});
    converges(node, "postgres_extension", &gone, &["drop extension hstore from orders"]);
    converges(
        node,
        "postgres_extension",
        &json!({"name": "x", "database": "nowhere", "state": "absent"}),
        &[],
    );

    let blocked = |params: Json| run(node, "postgres_extension", &params, Mode::Check).unwrap().answer;
    assert_eq!(
        blocked(json!({"name": "hstore", "database": "nowhere"})),
        Answer::Blocked(Thing::Database("nowhere".into()))
    );
    let Answer::Blocked(Thing::Path(file)) = blocked(json!({"name": "postgis", "database": "orders"})) else {
        panic!("no package of this machine brings postgis");
    };
    assert!(file.ends_with("/extension/postgis.control"), "{file}");
}

fn replica(pair: &Pair) {
    let late = json!({"name": "late"});
    let told = run(&pair.replica, "postgres_role", &late, Mode::Check).unwrap();
    let Answer::Unknown(why) = told.answer else { panic!("{told:?}") };
    assert_eq!(
        why,
        "only the primary can change this, and it comes here by replication; apply would wait here: create role late"
    );

    // The replica waits for what the primary is asked for at the same time.
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&pair.replica, "postgres_role", &late, Mode::Apply));
        assert!(run(&pair.primary, "postgres_role", &late, Mode::Apply).unwrap().changed);
        waiting.join().unwrap().unwrap()
    });
    assert!(!waited.changed, "{waited:?}");

    let never = json!({"name": "never"});
    let fault = run(&pair.replica, "postgres_role", &never, Mode::Apply).unwrap_err();
    assert_eq!((fault.kind, fault.lines), (FaultKind::TimedOut, vec!["create role never".to_owned()]));
}

/// What the role `databases` does, with a port for each host.
const PLAYBOOK: &str = "
- hosts: all
  gather_facts: false
  module_defaults:
    postgres_role: {socket_dir: FOLDER, port: '{{ pg_port }}'}
    postgres_database: {socket_dir: FOLDER, port: '{{ pg_port }}'}
    postgres_extension: {socket_dir: FOLDER, port: '{{ pg_port }}'}
  tasks:
    - postgres_role: {name: app, login: true, password: '{{ app_password }}'}
    - postgres_database: {name: orders, owner: app}
    - postgres_extension: {name: hstore, database: orders}
";

fn keddah(folder: &Path, command: &str) -> (i32, String) {
    let _turn = turn();
    let Output { status, stdout, stderr } = Command::new(folder.join("keddah"))
        .args([command, "-i", "hosts.ini", "play.yml"])
        .current_dir(folder)
        .env("HOME", folder)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    (status.code().unwrap(), text)
}

#[test]
fn a_playbook_over_all_members_converges_whoever_leads() {
    on_runtime("databases::a_playbook_over_all_members_converges_whoever_leads", async |folder| {
        let pair = Pair::start(&folder).await;
        programs::copy(Path::new(env!("CARGO_BIN_EXE_keddah")), &folder.join("keddah"));
        // The replica comes first in the inventory: what is done once is not done on the primary.
        let hosts = format!(
            "two pg_port={}\none pg_port={}\n[all:vars]\nansible_connection=local\napp_password=hunter22222\n",
            pair.replica.port, pair.primary.port
        );
        std::fs::write(folder.join("hosts.ini"), hosts).unwrap();
        let playbook = PLAYBOOK.replace("FOLDER", &folder.display().to_string());
        std::fs::write(folder.join("play.yml"), playbook).unwrap();

        let (code, said) = keddah(&folder, "check");
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("one: step 1 `postgres_role` would change"), "{said}");
        assert!(said.contains("two: step 1 `postgres_role` unknown: only the primary"), "{said}");

        let (code, said) = keddah(&folder, "apply");
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("create database orders") && !said.contains("hunter22222"), "{said}");

        let (code, said) = keddah(&folder, "apply");
        assert_eq!((code, said.matches("changed=0 ").count()), (0, 2), "{said}");
        let (code, said) = keddah(&folder, "check");
        assert_eq!(code, 0, "{said}");
    });
}
