//! The transport and the executor over a real sshd.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keddah::executor::client::{Client, StartError};
use keddah::executor::identity::{Order, Reply, What};
use keddah::executor::upload::{Payload, Refusal};
use keddah::executor::wire::{FromHost, Identity, ToHost};
use keddah::expr::{Dict, Value};
use keddah::modules::{Mode, ModuleCall, ModuleReply};
use keddah::transport::host_keys::HostKeyError;
use keddah::transport::options::Target;
use keddah::transport::{Connector, Unreachable};

use crate::programs;
use crate::sshd::{PASSWORD, Sshd, TestUser, processes_with, run, turn, until};

type Session = Client<ToHost, FromHost>;

fn connector() -> Connector {
    Connector::new(Payload::of(Path::new(env!("CARGO_BIN_EXE_keddah"))).unwrap())
}

/// This program with a hash of its own: no session of another test has brought it to this machine.
struct Fresh {
    _folder: tempfile::TempDir,
    program: std::path::PathBuf,
}

impl Fresh {
    fn new() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("keddah");
        let mut content = std::fs::read(env!("CARGO_BIN_EXE_keddah")).unwrap();
        // Bytes after the end of an ELF file mean nothing to it.
        content.extend(folder.path().as_os_str().as_encoded_bytes());
        programs::put(&program, &content);
        Fresh { _folder: folder, program }
    }

    fn payload(&self) -> Payload {
        Payload::of(&self.program).unwrap()
    }

    async fn connect(&self, target: &Target) -> Result<Session, Unreachable> {
        Connector::new(self.payload()).connect(target).await
    }

    /// Where it lies on the host after a session of this user.
    fn file(&self, user: &TestUser) -> std::path::PathBuf {
        user.home.join(".cache/keddah").join(self.payload().hash())
    }
}

async fn connect(target: &Target) -> Result<Session, Unreachable> {
    connector().connect(target).await
}

fn sudo_to(user: &str) -> Identity {
    Identity::Other { method: "sudo".into(), user: user.into(), exe: None, flags: None }
}

async fn order(session: &mut Session, identity: Identity, what: What) -> Reply {
    session.send(ToHost::Order(Box::new(Order { identity, what }))).await.unwrap();
    match session.next().await.unwrap() {
        FromHost::Reply(reply) => *reply,
        other => panic!("expected a reply: {other:?}"),
    }
}

fn touch(path: &Path) -> What {
    let params = Value::from([("path", path.to_str().unwrap()), ("state", "touch")]);
    What::Module(Box::new(ModuleCall::new("file", params, Mode::Apply)))
}

/// Makes a file as somebody and returns whose it is, or why it was not made.
async fn touched_by(session: &mut Session, identity: Identity, path: &Path) -> Result<u32, String> {
    match order(session, identity, touch(path)).await {
        Reply::Module(reply) => done(*reply).map(|()| std::fs::metadata(path).unwrap().uid()),
        Reply::Identity(error) => Err(error.to_string()),
        Reply::Facts(_) => panic!("facts for a module"),
    }
}

fn done(reply: ModuleReply) -> Result<(), String> {
    reply.map(|_| ()).map_err(|fault| fault.message)
}

async fn facts(session: &mut Session, identity: Identity) -> Dict {
    match order(session, identity, What::Facts(Value::none())).await {
        Reply::Facts(facts) => facts.unwrap(),
        other => panic!("expected facts: {other:?}"),
    }
}

/// A folder in which everybody may make files.
fn shared_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run("chmod", &["1777", folder.path().to_str().unwrap()]);
    folder
}

#[tokio::test]
async fn the_first_session_brings_the_file_and_the_second_finds_it() {
    let fresh = Fresh::new();
    let (server, user) = (Sshd::start(), TestUser::new("upload"));
    let target = server.target(&user.name, &[]);

    let mut first = fresh.connect(&target).await.unwrap();
    assert_eq!(facts(&mut first, Identity::Login).await.get("user_id").unwrap().as_str(), Some(&*user.name));
    first.close().await;
    let file = fresh.file(&user);
    let before = std::fs::metadata(&file).unwrap();
    assert_eq!(before.mode() & 0o777, 0o755);
    assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o777, 0o700);

    let start = Instant::now();
    let mut second = fresh.connect(&target).await.unwrap();
    facts(&mut second, Identity::Login).await;
    let took = start.elapsed();
    let after = std::fs::metadata(&file).unwrap();

    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    println!("connect, start and one request: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(5), "a session without an upload took {took:?}");
}

#[tokio::test]
async fn only_the_two_newest_files_are_kept() {
    let fresh = Fresh::new();
    let (server, user) = (Sshd::start(), TestUser::new("prune"));
    let folder = user.home.join(".cache/keddah");
    std::fs::create_dir_all(&folder).unwrap();
    for path in [user.home.join(".cache"), folder.clone()] {
        user.own(&path);
    }
    for (age, digit) in [(3, "a"), (2, "b"), (1, "c")] {
        let file = folder.join(digit.repeat(64));
        std::fs::write(&file, "").unwrap();
        run("touch", &["-d", &format!("{age} days ago"), file.to_str().unwrap()]);
        user.own(&file);
    }

    fresh.connect(&server.target(&user.name, &[])).await.unwrap().close().await;

    let mut left: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let mut expected =
        vec![fresh.file(&user).file_name().unwrap().to_str().unwrap().to_owned(), "c".repeat(64)];
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn what_the_login_prints_does_no_harm() {
    let fresh = Fresh::new();
    let (server, user) = (Sshd::start(), TestUser::new("noise"));
    let noise = "echo Welcome; printf '\\000\\377 ready\\n'; seq 1 20000; echo \"$BASH_EXECUTION_STRING\"; echo oops >&2\n";
    std::fs::write(user.home.join(".bashrc"), noise).unwrap();

    let mut session = fresh.connect(&server.target(&user.name, &[])).await.unwrap();

    assert!(facts(&mut session, Identity::Login).await.contains_key("hostname"));
}

#[tokio::test]
async fn a_login_that_does_not_let_the_executor_start_is_told_with_what_it_printed() {
    let server = Sshd::start_with("ForceCommand echo only backups here; exit 3");
    let error = connect(&server.target("root", &[])).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Unreachable::Start(StartError::Ended { .. })), "{text}");
    assert!(text.contains("exit status 3") && text.contains("only backups here"), "{text}");
}

#[tokio::test]
async fn an_unknown_host_key_is_refused_with_how_to_accept_it() {
    let server = Sshd::start();
    let strict = [("ansible_ssh_extra_args", "-o StrictHostKeyChecking=yes")];

    let error = connect(&server.target("root", &strict)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Unreachable::HostKey(HostKeyError::Unknown { .. })), "{text}");
    let stored = server.path("known_hosts");
    let name = format!("[127.0.0.1]:{}", server.port);
    assert!(text.contains(&format!("echo '{name} ssh-ed25519 ")) && text.contains("accept-new"), "{text}");
    assert!(!stored.exists(), "a refused key is not stored");

    connect(&server.target("root", &[])).await.unwrap().close().await;
    assert!(std::fs::read_to_string(&stored).unwrap().starts_with(&format!("{name} ssh-ed25519 ")));
    connect(&server.target("root", &strict)).await.unwrap().close().await;
}

#[tokio::test]
async fn a_changed_host_key_is_refused_with_the_line_that_says_otherwise() {
    let mut server = Sshd::start();
    let target = server.target("root", &[]);
    connect(&target).await.unwrap().close().await;

    server.change_host_key();

    let error = connect(&target).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Unreachable::HostKey(HostKeyError::Changed { line: 1, .. })), "{text}");
    assert!(text.contains("known_hosts:1") && text.contains("ssh-keygen -f"), "{text}");
}

#[tokio::test]
async fn a_key_that_is_not_welcome_is_told_with_what_was_tried() {
    let server = Sshd::start();
    std::fs::write(server.path("authorized_keys"), "").unwrap();

    let error = connect(&server.target("root", &[])).await.unwrap_err();
    let text = error.to_string();

    assert!(matches!(error, Unreachable::Auth { .. }), "{text}");
    assert!(
        text.contains("root@127.0.0.1") && text.contains("/user") && text.contains("publickey"),
        "{text}"
    );
}

#[tokio::test]
async fn keys_of_all_kinds_and_of_the_agent_let_in() {
    let server = Sshd::start();
    let mut authorized = String::new();
    for (kind, bits) in [("rsa", "2048"), ("ecdsa", "256")] {
        let file = server.path(kind);
        run("ssh-keygen", &["-q", "-t", kind, "-b", bits, "-N", "", "-f", file.to_str().unwrap()]);
        authorized.push_str(&std::fs::read_to_string(file.with_extension("pub")).unwrap());
    }
    let locked = server.path("locked");
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret", "-f", locked.to_str().unwrap()]);
    std::fs::write(server.path("authorized_keys"), authorized).unwrap();
    for kind in ["rsa", "ecdsa"] {
        let mut target = server.target("root", &[]);
        target.key_files = vec![server.path(kind)];
        connect(&target).await.unwrap().close().await;
    }

    let mut target = server.target("root", &[]);
    target.key_files = vec![locked];
    let error = connect(&target).await.unwrap_err();
    assert!(error.to_string().contains("ssh-add"), "{error}");

    let socket = server.path("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let add =
        std::process::Command::new("ssh-add").arg(server.path("rsa")).env("SSH_AUTH_SOCK", &socket).output();
    assert!(add.unwrap().status.success());
    let mut target = server.target("root", &[]);
    (target.key_files, target.identities_only, target.agent) = (Vec::new(), false, Some(socket));
    let connected = connect(&target).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    connected.unwrap().close().await;
}

#[tokio::test]
async fn a_port_without_a_listener_and_a_name_without_an_address_are_told_apart() {
    let server = Sshd::start();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();

    let refused = connect(&server.target("root", &[("ansible_port", &closed)])).await.unwrap_err();
    assert!(matches!(refused, Unreachable::Refused { .. }), "{refused}");

    let nameless = connect(&server.target("root", &[("ansible_host", "no such host")])).await.unwrap_err();
    assert!(matches!(nameless, Unreachable::Name(_)), "{nameless}");

    // A listener that never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let args = [("ansible_port", port.as_str()), ("ansible_ssh_extra_args", "-o ConnectTimeout=1")];
    let mute = connect(&server.target("root", &args)).await.unwrap_err();
    assert!(matches!(mute, Unreachable::NoHandshake { .. }), "{mute}");
}

#[tokio::test]
async fn many_sessions_with_one_sshd_at_once_are_not_dropped() {
    // With nine logins unfinished, the tenth connection is dropped.
    let server = Sshd::start_with("MaxStartups 9:100:10");
    let (target, connector) = (server.target("root", &[]), connector());
    connect(&target).await.unwrap().close().await;

    let connecting =
        (0..24).map(|_| async { connector.connect::<ToHost, FromHost>(&target).await.map(drop) });
    let connected = futures_util::future::join_all(connecting).await;

    for session in connected {
        session.unwrap();
    }
}

#[tokio::test]
async fn root_becomes_postgres_without_sudo() {
    let (server, folder) = (Sshd::start(), shared_folder());
    let mut session = connect(&server.target("root", &[])).await.unwrap();
    let postgres =
        nix::unistd::User::from_name("postgres").unwrap().expect("`make setup` installs postgresql");

    let owner = touched_by(&mut session, sudo_to("postgres"), &folder.path().join("one")).await;
    assert_eq!(owner, Ok(postgres.uid.as_raw()));
    assert_eq!(touched_by(&mut session, sudo_to("root"), &folder.path().join("two")).await, Ok(0));

    let seen = facts(&mut session, sudo_to("postgres")).await;
    assert_eq!(seen.get("user_id").unwrap().as_str(), Some("postgres"));
    assert_eq!(seen.get("env").unwrap().get("HOME").unwrap().as_str(), postgres.dir.to_str());
}

#[tokio::test]
async fn one_sudo_with_a_password_is_enough_for_root_and_postgres() {
    let fresh = Fresh::new();
    let (server, folder) = (Sshd::start(), shared_folder());
    let user = TestUser::new("sudo").sudo("ALL=(ALL) ALL");
    let target = server.target(&user.name, &[("ansible_become_password", PASSWORD)]);
    let mut session = fresh.connect(&target).await.unwrap();
    let postgres = nix::unistd::User::from_name("postgres").unwrap().unwrap().uid.as_raw();

    let path = |name: &str| folder.path().join(name);
    assert_eq!(touched_by(&mut session, sudo_to("root"), &path("root")).await, Ok(0));
    assert_eq!(touched_by(&mut session, sudo_to("postgres"), &path("postgres")).await, Ok(postgres));
    assert_eq!(touched_by(&mut session, Identity::Login, &path("login")).await, Ok(user.uid()));

    let sudos = run("ps", &["-eo", "user:40,args"]);
    // sudo itself runs as root; the user's own children of the session name the executor's file.
    let started =
        sudos.lines().filter(|line| line.contains("sudo") && line.contains(".cache/keddah/")).count();
    assert!(started >= 1 && sudos.matches("-u postgres").count() == 0, "{sudos}");
}

#[tokio::test]
async fn a_wrong_sudo_password_is_known_at_the_second_prompt_and_not_tried_again() {
    let (server, folder) = (Sshd::start(), shared_folder());
    let user = TestUser::new("wrong").sudo("ALL=(ALL) ALL");
    let target = server.target(&user.name, &[("ansible_become_password", "not this one")]);
    let mut session = connect(&target).await.unwrap();

    let start = Instant::now();
    let error = touched_by(&mut session, sudo_to("root"), &folder.path().join("x")).await.unwrap_err();
    let first = start.elapsed();
    assert!(error.contains("password for sudo is wrong"), "{error}");
    // PAM delays the second prompt by two seconds or so.
    assert!(first < Duration::from_secs(15), "{first:?}");

    let start = Instant::now();
    let again = touched_by(&mut session, sudo_to("root"), &folder.path().join("x")).await.unwrap_err();
    assert_eq!(again, error);
    assert!(start.elapsed() < Duration::from_millis(500), "sudo was asked again");
    assert_eq!(touched_by(&mut session, Identity::Login, &folder.path().join("y")).await, Ok(user.uid()));
}

#[tokio::test]
async fn a_password_that_sudo_wants_and_nobody_gave_is_told() {
    let (server, folder) = (Sshd::start(), shared_folder());
    let user = TestUser::new("ask").sudo("ALL=(ALL) ALL");
    let mut session = connect(&server.target(&user.name, &[])).await.unwrap();

    let error = touched_by(&mut session, sudo_to("root"), &folder.path().join("x")).await.unwrap_err();

    assert!(error.contains("sudo wants a password") && error.contains(&user.name), "{error}");
}

#[tokio::test]
async fn a_user_that_may_only_become_postgres_becomes_postgres() {
    let fresh = Fresh::new();
    let (server, folder) = (Sshd::start(), shared_folder());
    let user = TestUser::new("some").sudo("ALL=(postgres) NOPASSWD: ALL");
    let mut session = fresh.connect(&server.target(&user.name, &[])).await.unwrap();
    let postgres = nix::unistd::User::from_name("postgres").unwrap().unwrap().uid.as_raw();

    assert_eq!(touched_by(&mut session, sudo_to("postgres"), &folder.path().join("x")).await, Ok(postgres));
    let root = touched_by(&mut session, sudo_to("root"), &folder.path().join("y")).await.unwrap_err();
    assert!(root.contains("root") && !folder.path().join("y").exists(), "{root}");
}

#[tokio::test]
async fn a_user_that_does_not_exist_is_named() {
    let (server, folder) = (Sshd::start(), shared_folder());
    let mut session = connect(&server.target("root", &[])).await.unwrap();
    let error =
        touched_by(&mut session, sudo_to("nobody-knows"), &folder.path().join("x")).await.unwrap_err();
    assert!(error.contains("`nobody-knows`"), "{error}");
}

#[tokio::test]
async fn a_noexec_cache_is_gone_around_and_named_when_nothing_else_is_left() {
    let fresh = Fresh::new();
    let (server, user) = (Sshd::start(), TestUser::new("noexec"));
    let cache = user.home.join(".cache");
    std::fs::create_dir(&cache).unwrap();
    let uid = user.uid();
    let mount = Mount::noexec(&cache, uid);

    fresh.connect(&server.target(&user.name, &[])).await.unwrap().close().await;
    let elsewhere = Path::new("/var/tmp").join(format!("keddah-{uid}"));
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 1);
    std::fs::remove_dir_all(&elsewhere).unwrap();
    // Somebody else's folder of that name must not be used.
    std::fs::create_dir(&elsewhere).unwrap();

    let error = fresh.connect(&server.target(&user.name, &[])).await.unwrap_err();
    let text = error.to_string();
    let Unreachable::Start(StartError::NoFolder(folders)) = error else { panic!("{text}") };
    assert!(
        folders.iter().any(|(folder, why)| folder.contains(".cache") && *why == Refusal::Noexec),
        "{text}"
    );
    assert!(
        folders.iter().any(|(folder, why)| folder.contains("/var/tmp") && *why == Refusal::Unwritable),
        "{text}"
    );
    assert!(text.contains("mounted noexec"), "{text}");
    drop(mount);
}

/// A small file system that goes with this value.
struct Mount(std::path::PathBuf);

impl Mount {
    fn noexec(path: &Path, uid: u32) -> Mount {
        let options = format!("noexec,size=1m,uid={uid}");
        run("mount", &["-t", "tmpfs", "-o", &options, "keddah-test", path.to_str().unwrap()]);
        Mount(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let fresh = Fresh::new();
    let (server, user) = (Sshd::start(), TestUser::new("full"));
    let cache = user.home.join(".cache");
    std::fs::create_dir(&cache).unwrap();
    let options = format!("size=1m,uid={}", user.uid());
    run("mount", &["-t", "tmpfs", "-o", &options, "keddah-test", cache.to_str().unwrap()]);
    let _mount = Mount(cache.clone());

    let error = fresh.connect(&server.target(&user.name, &[])).await.unwrap_err();

    let text = error.to_string();
    assert!(matches!(error, Unreachable::Start(StartError::Upload { .. })), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(std::fs::read_dir(cache.join("keddah")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_lock_of_a_host_is_held_by_one_session_and_goes_with_it() {
    let _turn = tokio::task::spawn_blocking(turn).await.unwrap();
    let server = Sshd::start();
    let user = TestUser::new("lock");
    let mut first = connect(&server.target("root", &[])).await.unwrap();
    let mut second = connect(&server.target(&user.name, &[])).await.unwrap();
    let lock = |holder: &str| ToHost::Lock { holder: holder.to_owned() };

    first.send(lock("anna@build-1")).await.unwrap();
    assert_eq!(first.next().await.unwrap(), FromHost::Lock(Ok(())));
    second.send(lock("bert@build-2")).await.unwrap();
    let FromHost::Lock(Err(why)) = second.next().await.unwrap() else { panic!("both hold the lock") };
    assert!(why.contains("anna@build-1, since 20"), "{why}");

    first.close().await;

    let mut got = false;
    for _ in 0..100 {
        second.send(lock("bert@build-2")).await.unwrap();
        got = second.next().await.unwrap() == FromHost::Lock(Ok(()));
        if got {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(got, "the lock outlived its holder");
}

#[tokio::test]
async fn this_machine_is_reached_without_ssh() {
    let vars = |name: &str| (name == "ansible_connection").then(|| "local".to_owned());
    let target = Target::from_vars("here", &vars, &keddah::transport::options::Defaults::default()).unwrap();

    let mut session = connect(&target).await.unwrap();

    let facts = facts(&mut session, Identity::Login).await;
    assert_eq!(facts.get("nodename").unwrap().as_str(), nix::unistd::gethostname().unwrap().to_str());
    session.close().await;
}

fn shell(line: &str) -> What {
    What::Module(Box::new(ModuleCall::new("shell", Value::str(line), Mode::Apply)))
}

/// What must hold when a session is cut off while a change is made and another waits: as `identity`, with `cut` doing it.
async fn the_change_in_flight_ends_and_nothing_follows(
    server: &Sshd,
    target: &Target,
    identity: Identity,
    cut: impl FnOnce(Session),
) {
    let (fresh, folder) = (Fresh::new(), shared_folder());
    let path = |name: &str| folder.path().join(name);
    let line = |name: &str| {
        let path = |end: &str| path(&format!("{name}.{end}")).display().to_string();
        format!("touch {}; sleep 1; touch {}", path("begun"), path("done"))
    };
    let session = fresh.connect(target).await.unwrap();
    for name in ["first", "second"] {
        let order = Order { identity: identity.clone(), what: shell(&line(name)) };
        session.send(ToHost::Order(Box::new(order))).await.unwrap();
    }
    let begun = path("first.begun");
    tokio::task::spawn_blocking(move || until("the first change has begun", || begun.exists()))
        .await
        .unwrap();
    assert!(processes_with(fresh.payload().hash()) > 0, "port {}", server.port);

    cut(session);

    let (done, hash) = (path("first.done"), fresh.payload().hash().to_owned());
    tokio::task::spawn_blocking(move || {
        until("the first change is made", || done.exists());
        until("the executor has ended", || processes_with(&hash) == 0);
    })
    .await
    .unwrap();
    assert!(!path("second.begun").exists(), "a change was started after the end of the connection");
}

#[tokio::test]
async fn a_session_that_is_dropped_ends_the_change_in_flight_and_starts_nothing_more() {
    let server = Sshd::start();
    let target = server.target("root", &[]);
    the_change_in_flight_ends_and_nothing_follows(&server, &target, Identity::Login, drop).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_ends_the_change_of_another_identity_and_starts_nothing_more() {
    let (server, user) = (Sshd::start(), TestUser::new("cut").sudo("ALL=(ALL) NOPASSWD: ALL"));
    let target = server.target(&user.name, &[]);
    let mut kept = None;
    let cut = |session| {
        server.cut_connections();
        kept = Some(session);
    };
    the_change_in_flight_ends_and_nothing_follows(&server, &target, sudo_to("postgres"), cut).await;

    let lost = kept.unwrap().next().await.unwrap_err().to_string();
    assert!(lost.contains("connection"), "{lost}");
}

#[tokio::test]
async fn a_cancel_lets_the_change_in_flight_end_and_refuses_the_next() {
    let (server, folder) = (Sshd::start(), shared_folder());
    let mut session = connect(&server.target("root", &[])).await.unwrap();
    let (begun, done) = (folder.path().join("begun"), folder.path().join("done"));
    let line = format!("touch {}; sleep 1; touch {}", begun.display(), done.display());
    let order = |what| ToHost::Order(Box::new(Order { identity: Identity::Login, what }));

    session.send(order(shell(&line))).await.unwrap();
    tokio::task::spawn_blocking(move || until("it runs", || begun.exists())).await.unwrap();
    session.sender().cancel().await.unwrap();
    session.send(order(touch(&folder.path().join("never")))).await.unwrap();

    let FromHost::Reply(_) = session.next().await.unwrap() else { panic!("no reply") };
    assert!(done.exists(), "the change in flight was not ended");
    let FromHost::Reply(second) = session.next().await.unwrap() else { panic!("no second reply") };
    let Reply::Module(second) = *second else { panic!("no module's reply") };
    assert!(second.unwrap_err().message.contains("cancelled"));
    assert!(!folder.path().join("never").exists());
}

#[tokio::test]
async fn a_kill_ends_the_program_in_flight_in_every_identity() {
    let server = Sshd::start();
    for identity in [Identity::Login, sudo_to("postgres")] {
        let mut session = connect(&server.target("root", &[])).await.unwrap();
        let order = Order { identity, what: shell("sleep 60.5") };
        session.send(ToHost::Order(Box::new(order))).await.unwrap();
        tokio::task::spawn_blocking(|| until("it runs", || processes_with("sleep 60.5") > 0)).await.unwrap();

        let start = Instant::now();
        session.sender().kill().await.unwrap();
        let FromHost::Reply(reply) = session.next().await.unwrap() else { panic!("no reply") };

        let Reply::Module(reply) = *reply else { panic!("no module's reply") };
        assert!(reply.is_err(), "{reply:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
