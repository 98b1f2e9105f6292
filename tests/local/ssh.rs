//! How hosts are reached, and why not: a real sshd, its keys and the users', logins that say much or nothing.

use keddah::executor::client::StartError;
use keddah::executor::wire::{FromHost, Identity, ToHost};
use keddah::transport::Unreachable;
use keddah::transport::host_keys::HostKeyError;
use keddah::transport::options::{Defaults, Target};

use crate::session::{Fresh, connect, connector, facts};
use crate::sshd::{Sshd, TestUser, run, until};

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
async fn this_machine_is_reached_without_ssh() {
    let vars = |name: &str| (name == "ansible_connection").then(|| "local".to_owned());
    let target = Target::from_vars("here", &vars, &Defaults::default()).unwrap();

    let mut session = connect(&target).await.unwrap();

    let facts = facts(&mut session, Identity::Login).await;
    assert_eq!(facts.get("nodename").unwrap().as_str(), nix::unistd::gethostname().unwrap().to_str());
    session.close().await;
}
