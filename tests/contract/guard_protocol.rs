//! What the guard's first version said, byte by byte: this build reads it, writes it, and is served by such a guard.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use keddah::guard::client::{Guard, GuardError, hello, understood};
use keddah::guard::protocol::{Ask, OLDEST, Refusal, Reply, Request, VERSION, is_spoken};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv, send, socket,
};

const FIRST: &str = include_str!("fixtures/guard-protocol/version-1.txt");

const LIMIT: Duration = Duration::from_secs(20);

fn lines(mark: &str) -> Vec<&'static str> {
    FIRST.lines().filter_map(|line| line.strip_prefix(mark)).collect()
}

/// Answers each packet by the next of `answers`, as a guard of another version does.
fn old_guard(path: &Path, answers: Vec<String>) -> JoinHandle<Vec<String>> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    std::thread::spawn(move || {
        let visitor = accept(listener.as_raw_fd()).unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        for answer in answers {
            let length = recv(visitor, &mut buffer, MsgFlags::empty()).unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            send(visitor, answer.as_bytes(), MsgFlags::empty()).unwrap();
        }
        heard
    })
}

#[test]
fn frames_of_the_first_version_are_read_and_written_as_they_were() {
    assert!(is_spoken(1) && is_spoken(VERSION) && !is_spoken(OLDEST - 1) && !is_spoken(VERSION + 1));
    for line in lines("> ").into_iter().filter(|line| !line.contains("sing")) {
        let ask: Ask = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&ask).unwrap(), line);
    }
    for line in lines("< ") {
        let reply: Reply = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&reply).unwrap(), line);
    }
}

#[test]
fn a_guard_of_the_first_version_serves_this_agent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.sock");
    let answers: Vec<String> =
        lines("< ").into_iter().filter(|line| !line.starts_with(r#"{"id":0,"#)).map(str::to_owned).collect();
    let old = old_guard(&path, answers);
    let asks = lines("> ");
    let mut guard = Guard::connect(&path).unwrap();

    for line in &asks[..asks.len() - 1] {
        let ask: Ask = serde_json::from_str(line).unwrap();
        match guard.ask(ask.ask, LIMIT) {
            Ok(status) => assert!(understood(status).is_ok()),
            Err(error) => assert!(
                matches!(error.refusal(), Some(Refusal::NotRunning | Refusal::NotAStandby)),
                "{line}: {error}"
            ),
        }
    }
    let newer = guard.ask(Request::Upgrade { program: "/usr/local/bin/keddah".into() }, LIMIT).unwrap_err();
    assert_eq!(newer.refusal(), Some(&Refusal::UnknownVerb), "what it cannot, it says");

    let heard = old.join().unwrap();
    assert_eq!(heard[..asks.len() - 1], asks[..asks.len() - 1], "and it hears what it knows");
}

#[test]
fn a_guard_of_another_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.sock");
    let answer = lines("< ")[0].replace(r#""version":1"#, r#""version":7"#);
    let other = old_guard(&path, vec![answer]);

    let status = Guard::connect(&path).unwrap().ask(hello(None), LIMIT).unwrap();
    let error = understood(status).unwrap_err();

    assert!(matches!(error, GuardError::OtherVersion { version: 7, .. }));
    assert!(error.to_string().contains("upgrade the older of the two"), "{error}");
    other.join().unwrap();
}
