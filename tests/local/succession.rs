//! A guard becomes another program in its own process: the server, the promise and the watchdog stay as they are.

use std::path::Path;
use std::time::Duration;

use keddah::guard::protocol::{Refusal, Request};
use keddah::sys::clock;

use crate::bed::{Bed, TIMEOUT_S};
use crate::sshd::until;

fn upgrade(program: &Path) -> Request {
    Request::Upgrade { program: program.display().to_string() }
}

/// Stands between two programs: hands the estate on in a version that nobody knows.
const STRANGER: &str = r#"#!/usr/bin/python3
import fcntl, json, os, sys
number = int(os.environ['KEDDAH_HANDOVER'].split(':')[1])
with open(number, 'rb') as before:
    before.seek(0)
    document = json.loads(before.read())
document['version'] = 99
memory = os.memfd_create('handover', os.MFD_ALLOW_SEALING)
os.write(memory, json.dumps(document).encode())
fcntl.fcntl(memory, 1033, 15)
os.environ['KEDDAH_HANDOVER'] = '%d:%d' % (os.getpid(), memory)
os.execv('BINARY', sys.argv)
"#;

#[test]
fn a_guard_becomes_another_program_under_a_running_server_and_goes_on_guarding() {
    let mut bed = Bed::new();
    bed.start_guard();
    let mut agent = bed.agent_with(5).unwrap();
    let server = agent.start_primary(&bed, &[]);
    let writers = bed.writers(2);
    let next = bed.install("next", |_| ());

    let nothing = agent.ask(upgrade(Path::new("/nowhere/keddah"))).unwrap_err();
    assert!(matches!(nothing, Refusal::Failed { .. }), "{nothing}");
    let text = bed.install("text", |bytes| bytes.truncate(3));
    assert!(matches!(agent.ask(upgrade(&text)).unwrap_err(), Refusal::Failed { .. }));
    agent.arm(1, 60_000);
    let before = agent.status();
    let after = agent.ask(upgrade(&next)).unwrap();

    let guard = u32::try_from(bed.guard_pid().as_raw()).unwrap();
    assert_eq!(keddah::sys::children::runs(guard, &next), Some(true));
    assert_eq!((after.pid, after.gate, after.server), (guard, before.gate, Some(server)));
    let parent = |seen: &keddah::sys::children::Seen| u32::try_from(seen.pid) == Ok(server.pid);
    let seen = keddah::sys::children::list().into_iter().find(parent).expect("the server lives");
    assert_eq!(u32::try_from(seen.parent), Ok(guard));
    assert_eq!(
        bed.agent_with(4).err(),
        Some(Refusal::Busy { pid: std::process::id() }),
        "the agent is known"
    );
    assert!(bed.guard_command(&[]).output().unwrap().status.code() == Some(1), "the lock is held");
    // Once more, so that what was inherited is handed on.
    agent.ask(upgrade(&bed.binary())).unwrap();

    let deadline = agent.arm(1, 4_000);
    assert!(matches!(agent.ask(upgrade(&next)), Ok(_) | Err(Refusal::TooLate { .. })));
    agent.nobody_is_left();
    assert!(clock::now() <= deadline && writers.last() < deadline, "the promise is kept");
    assert_eq!(agent.status().last_exit.expect("it was seen ending").pid, server.pid);
}

#[test]
fn the_watchdog_goes_along_without_a_close_and_without_a_missed_meal() {
    let mut bed = Bed::new();
    bed.start_guard();
    let mut agent = bed.agent();
    let (device, settings) = bed.watchdog();
    agent.ask(settings).unwrap();
    agent.start_primary(&bed, &[]);
    let next = bed.install("next", |_| ());

    for program in [next, bed.binary()] {
        let before = device.meals();
        agent.arm(1, 60_000);
        let status = agent.ask(upgrade(&program)).unwrap();
        assert_eq!((status.watchdog.active, status.watchdog.timeout_s), (true, Some(TIMEOUT_S)));
        until("it is fed again", || device.meals() > before + 2);
    }
    assert_eq!(device.written().trim_matches('1'), format!("Ctimeout={TIMEOUT_S}\n"), "opened once");
    assert!(device.longest() < Duration::from_secs(TIMEOUT_S.into()), "{:?}", device.longest());

    agent.arm(1, 4_000);
    agent.nobody_is_left();
    until("it is let go after the proof", || device.written().ends_with('V'));
}

#[test]
fn what_is_left_in_another_version_is_named_and_the_server_taken_over_as_found() {
    let mut bed = Bed::new();
    bed.start_guard();
    let mut agent = bed.agent();
    let (device, settings) = bed.watchdog();
    agent.ask(settings.clone()).unwrap();
    let server = agent.start_primary(&bed, &[]);
    let writers = bed.writers(1);
    let script = STRANGER.replace("BINARY", &bed.binary().display().to_string());
    let stranger = bed.install("stranger", |bytes| *bytes = script.into_bytes());

    let cut = agent.guard.ask(upgrade(&stranger), Duration::from_secs(20));
    assert!(cut.is_err(), "the connection is closed with the rest: {cut:?}");
    until("it is named", || bed.log().contains("what the program before left (version 99) is of no use"));
    until("another one can be asked", || keddah::guard::client::Guard::connect(&bed.place.socket).is_ok());
    let mut agent = bed.agent();
    agent.ask(settings).unwrap();
    agent.arm(1, 60_000);

    assert_eq!(agent.server().pid, server.pid, "the server goes on");
    until("the device is opened anew", || device.written().matches("Ctimeout").count() == 2);
    assert!(!device.written().contains('V'));
    assert!(device.longest() < Duration::from_secs(TIMEOUT_S.into()), "{:?}", device.longest());
    let deadline = agent.arm(1, 2_500);
    agent.nobody_is_left();
    assert!(clock::now() <= deadline && writers.last() < deadline, "and is guarded");
}
