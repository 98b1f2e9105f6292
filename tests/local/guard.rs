//! The guard and a real Postgres: nothing writable outlives its lease.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keddah::agent::lease::gate::Gate as Line;
use keddah::guard::client::{Guard, Link, hello};
use keddah::guard::protocol::{Gate, Margins, OLDEST, Refusal, Request, StartAs, StopMode, VERSION};
use keddah::sys::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, past};
use crate::sshd::until;

fn guarded() -> Bed {
    let mut bed = Bed::new();
    bed.start_guard();
    bed
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed())
}

#[test]
fn nothing_writable_is_started_without_a_promise() {
    let bed = guarded();
    let mut agent = bed.agent();

    assert_eq!(agent.ask(bed.start_request(StartAs::Primary, &[])), Err(Refusal::NotArmed));
    assert_eq!(agent.ask(bed.start_request(StartAs::Replica, &[])), Err(Refusal::NotAStandby));
    assert_eq!(agent.ask(Request::Promote), Err(Refusal::NotRunning));
    assert_eq!(bed.visitor().ask(bed.start_request(StartAs::Replica, &[])), Err(Refusal::NoHello));

    let sent = clock::now();
    let margins = Margins::SHORTEST;
    let deadline = sent + Duration::from_millis(1_000);
    agent.ask(Request::Arm { deadline, margins, lease: 1, sent }).unwrap();
    let late = agent.ask(bed.start_request(StartAs::Primary, &[]));
    assert!(matches!(late, Err(Refusal::TooLate { .. })), "less than the first margin is left: {late:?}");
    assert_eq!(bed.processes(), []);
}

#[test]
fn no_commit_is_acknowledged_after_the_deadline() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let writers = bed.writers(3);

    let deadline = agent.arm(1, 2_500);
    past(deadline);

    assert_eq!(bed.processes(), [], "nobody is left at the deadline");
    assert!(writers.last() < deadline, "last acknowledged {}, deadline {deadline}", writers.last());
    assert!(agent.nobody_is_left().last_exit.unwrap().asked);
    assert!(bed.log().contains("fast stop"), "the first stage was enough");
    assert!(!bed.log().contains("kill stop"), "{}", bed.log());
}

#[test]
fn a_fast_stop_that_hangs_is_followed_by_an_immediate_one() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let writers = bed.writers(1);
    // A backend that waits for a program does not look at SIGTERM, and this program does not either.
    let mut stuck = bed.psql("COPY w FROM PROGRAM 'trap \"\" TERM; exec sleep 1000'").spawn().unwrap();
    until("the program runs", || bed.processes().iter().any(|pid| bed.title(*pid).contains("sleep")));

    let deadline = agent.arm(1, 2_500);
    past(deadline);

    assert_eq!(bed.processes(), []);
    assert!(writers.last() < deadline);
    agent.nobody_is_left();
    assert!(bed.log().contains("immediate stop"), "{}", bed.log());
    stuck.wait().unwrap();
}

#[test]
fn a_server_that_has_written_its_shutdown_checkpoint_may_go_on_archiving() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &["--archive_mode=on", "--archive_command=exec sleep 1000"]);
    let writers = bed.writers(1);

    let deadline = agent.arm(1, 2_500);
    past(deadline);

    assert!(writers.last() < deadline);
    assert!(!agent.server().writable);
    assert_eq!(keddah::postgres::controldata::read(&bed.data).unwrap().state.words(), "shut down");
    agent.ask(Request::Stop { mode: StopMode::Kill, limit_ms: 0 }).unwrap();
    agent.nobody_is_left();
    assert_eq!(bed.processes(), []);
}

#[test]
fn processes_that_are_stopped_do_not_outlive_the_deadline() {
    let bed = guarded();
    let mut agent = bed.agent();
    let server = agent.start_primary(&bed, &[]);
    let writers = bed.writers(3);
    let backends = bed.backends();
    assert_eq!(backends.len(), 3);

    let deadline = agent.arm(1, 2_500);
    kill(pid(server.pid), Signal::SIGSTOP).unwrap();
    kill(backends[0], Signal::SIGSTOP).unwrap();
    past(deadline);

    assert_eq!(bed.processes(), []);
    assert!(writers.last() < deadline, "last acknowledged {}, deadline {deadline}", writers.last());
    agent.nobody_is_left();
    assert!(bed.log().contains("kill stop"), "{}", bed.log());
}

#[test]
fn a_backend_that_ignores_everything_is_killed_in_time() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let _writers = bed.writers(2);
    let backends = bed.backends();

    let deadline = agent.arm(1, 2_500);
    for backend in &backends {
        kill(*backend, Signal::SIGSTOP).unwrap();
    }
    past(deadline);

    assert_eq!(bed.processes(), []);
    agent.nobody_is_left();
    assert!(bed.log().contains("kill stop"), "{}", bed.log());
}

#[test]
fn an_instance_with_a_control_group_is_killed_as_one() {
    let mut bed = Bed::new();
    let group = bed.start_guard_in_a_group();
    let mut agent = bed.agent();
    let server = agent.start_primary(&bed, &[]);
    assert!(agent.status().control_group, "{}", bed.log());
    assert!(group.members("instance").contains(&pid(server.pid)));
    assert_eq!(group.members(""), [bed.guard_pid()], "the guard is not killed with it");
    let writers = bed.writers(2);

    let deadline = agent.arm(1, 2_500);
    kill(pid(server.pid), Signal::SIGSTOP).unwrap();
    past(deadline);

    assert_eq!(bed.processes(), []);
    assert!(writers.last() < deadline);
    agent.nobody_is_left();
    agent.arm(2, 60_000);
    agent.ask(bed.start_request(StartAs::Primary, &[])).unwrap();
    bed.accepts();
}

#[test]
fn a_promotion_that_comes_too_late_is_refused_and_the_replica_left_alone() {
    let bed = guarded();
    bed.make_standby();
    let mut agent = bed.agent();
    let server = agent.ask(bed.start_request(StartAs::Replica, &[])).unwrap().server.unwrap();
    bed.accepts();
    assert_eq!(bed.is_in_recovery(), Some(true));
    assert!(!agent.server().writable);
    assert_eq!(agent.ask(Request::Promote), Err(Refusal::NotArmed));

    let deadline = agent.arm(1, 1_400);
    past(deadline - Margins::SHORTEST.fast());
    assert!(matches!(agent.ask(Request::Promote), Err(Refusal::TooLate { .. })));
    past(deadline);
    let same = Request::Arm {
        deadline: clock::now() + Duration::from_secs(60),
        margins: Margins::SHORTEST,
        lease: 1,
        sent: clock::now(),
    };
    assert!(matches!(agent.ask(same), Err(Refusal::LeaseDead { lease: 1, .. })));
    assert_eq!(bed.is_in_recovery(), Some(true));
    assert_eq!(agent.server().pid, server.pid);

    agent.arm(2, 60_000);
    agent.ask(Request::Promote).unwrap();
    until("the server has left recovery", || bed.is_in_recovery() == Some(false));
    assert!(agent.server().writable);

    let deadline = agent.arm(2, 2_500);
    past(deadline);
    assert_eq!(bed.processes(), [], "a promoted server is fenced like any other");
}

#[test]
fn the_deadline_holds_without_an_agent() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let writers = bed.writers(1);

    let deadline = agent.arm(1, 2_500);
    drop(agent);
    past(deadline);

    assert_eq!(bed.processes(), []);
    assert!(writers.last() < deadline);
}

#[test]
fn a_promise_that_is_renewed_keeps_the_server() {
    let bed = guarded();
    let mut agent = bed.agent();
    let server = agent.start_primary(&bed, &[]);
    let writers = bed.writers(1);

    let first = agent.arm(1, 3_000);
    until("the first deadline has long passed", || {
        agent.arm(1, 3_000);
        clock::now() > first + Duration::from_millis(1_500)
    });

    assert_eq!(agent.server(), server);
    let commits = writers.commits.load(Ordering::SeqCst);
    until("clients go on writing", || writers.commits.load(Ordering::SeqCst) > commits);
}

#[test]
fn a_pause_opens_the_gate_and_its_end_shuts_it() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let writers = bed.writers(1);

    let deadline = agent.arm(1, 2_500);
    assert_eq!(agent.ask(Request::Release).unwrap().gate, Gate::Released);
    past(deadline);
    let commits = writers.commits.load(Ordering::SeqCst);
    until("clients go on writing", || writers.commits.load(Ordering::SeqCst) > commits);

    let taken_back = clock::now();
    agent.ask(Request::Disarm).unwrap();
    past(taken_back + Margins::SHORTEST.fast() + Duration::from_millis(100));
    assert_eq!(bed.processes(), []);
    assert_eq!(agent.ask(bed.start_request(StartAs::Primary, &[])), Err(Refusal::NotArmed));
}

#[test]
fn postgres_ends_with_its_guard() {
    let mut bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let _writers = bed.writers(2);

    bed.kill_guard();

    until("the instance has ended", || bed.processes().is_empty());
}

#[test]
fn a_guard_takes_over_a_server_that_runs() {
    let mut bed = Bed::new();
    bed.start_by_hand();
    bed.accepts();
    bed.start_guard();
    let mut agent = bed.agent();

    let server = agent.server();
    assert!(!server.child && server.writable, "{server:?}");
    assert_eq!(
        agent.ask(bed.start_request(StartAs::Primary, &[])),
        Err(Refusal::Running { pid: server.pid })
    );

    let writers = bed.writers(2);
    let deadline = agent.arm(1, 2_500);
    past(deadline);
    assert_eq!(bed.processes(), []);
    assert!(writers.last() < deadline);
    let exit = agent.nobody_is_left().last_exit.unwrap();
    assert_eq!((exit.pid, exit.code), (server.pid, None));
}

#[test]
fn a_server_that_somebody_else_starts_is_stopped_where_nothing_is_promised() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.nobody_is_left();

    bed.start_by_hand();

    until("the server was seen and is gone", || {
        let status = agent.status();
        status.last_exit.is_some() && status.nobody_left
    });
    assert_eq!(bed.processes(), []);
}

#[test]
fn a_postmaster_that_dies_takes_its_busy_backends_along() {
    let bed = guarded();
    let mut agent = bed.agent();
    let server = agent.start_primary(&bed, &[]);
    let writers = bed.writers(3);

    let killed = clock::now();
    kill(pid(server.pid), Signal::SIGKILL).unwrap();
    let status = agent.nobody_is_left();

    let exit = status.last_exit.unwrap();
    assert_eq!((exit.pid, exit.signal, exit.asked), (server.pid, Some(9), false));
    assert!(writers.last() < killed + Duration::from_millis(500), "orphans do not go on committing");
    assert_eq!(bed.processes(), []);

    let again = agent.start_primary(&bed, &[]);
    assert_ne!(again.pid, server.pid);
}

#[test]
fn a_stop_has_a_limit_and_the_next_mode_follows() {
    let bed = guarded();
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let _writers = bed.writers(1);
    for backend in bed.backends() {
        kill(backend, Signal::SIGSTOP).unwrap();
    }

    agent.ask(Request::Stop { mode: StopMode::Fast, limit_ms: 300 }).unwrap();

    agent.nobody_is_left();
    assert_eq!(bed.processes(), []);
    assert!(bed.log().contains("past its limit: immediate"), "{}", bed.log());
}

#[test]
fn one_guard_serves_one_agent_and_the_newer_leadership_wins() {
    let mut bed = guarded();
    let second = bed.guard_command(&[]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("pid {}", bed.guard_pid())), "{said}");
    let stranger = Request::Hello { version: 99, pid: 1, hold: None };
    let refused = bed.visitor().ask(stranger).unwrap_err();
    assert_eq!(refused, Refusal::OtherVersion { oldest: OLDEST, newest: VERSION });

    let mut old = bed.agent_with(10).unwrap();
    let busy = bed.agent_with(9).err();
    assert_eq!(busy, Some(Refusal::Busy { pid: std::process::id() }));
    let mut new = bed.agent_with(11).unwrap();
    new.arm(1, 60_000);
    let lost = old.guard.ask(Request::Disarm, Duration::from_secs(5));
    assert!(lost.is_err(), "the older agent is cut off: {lost:?}");
    assert!(matches!(new.status().gate, Gate::Armed { lease: 1, .. }));

    kill(bed.guard_pid(), Signal::SIGTERM).unwrap();
    bed.guard_ends();
}

#[test]
fn a_guard_that_is_told_to_end_stops_its_server_first() {
    let mut bed = guarded();
    let mut agent = bed.agent();
    let (device, settings) = bed.watchdog();
    agent.ask(settings).unwrap();
    agent.start_primary(&bed, &[]);

    kill(bed.guard_pid(), Signal::SIGTERM).unwrap();
    bed.guard_ends();

    assert_eq!(bed.processes(), []);
    until("the watchdog is let go, although the lease lives", || device.written().ends_with('V'));
    let control = keddah::postgres::controldata::read(&bed.data).unwrap();
    assert_eq!(control.state.words(), "shut down");
}

#[test]
fn a_detached_guard_outlives_its_caller() {
    let bed = Bed::new();
    let log = bed.log_path().display().to_string();

    let caller = bed.guard_command(&["--detach", "--log", &log]).output().unwrap();

    assert!(caller.status.success(), "{}", String::from_utf8_lossy(&caller.stderr));
    let mut agent = bed.agent();
    agent.start_primary(&bed, &[]);
    let guard = agent.status().pid;
    kill(pid(guard), Signal::SIGTERM).unwrap();
    until("the guard has ended", || Guard::connect(&bed.place.socket).is_err());
    assert_eq!(bed.processes(), []);
}

#[test]
fn tasks_are_told_what_happens_and_their_asks_overlap() {
    let bed = guarded();
    bed.make_standby();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let link = Link::connect(&bed.place.socket).unwrap();
        let limit = Duration::from_secs(5);
        let status = || link.ask(Request::Status, limit);
        link.ask(hello(None), limit).await.unwrap();
        let start = bed.start_request(StartAs::Replica, &[]);
        let server = link.ask(start, limit).await.unwrap().server.unwrap();

        let mut notices = link.notices();
        for _ in 0..20 {
            let (one, other) = tokio::join!(status(), status());
            assert_eq!(one.unwrap().version, other.unwrap().version);
        }
        kill(pid(server.pid), Signal::SIGKILL).unwrap();
        // The asks read the notice off the connection before anybody waits for one.
        while !status().await.unwrap().nobody_left {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let exit = loop {
            let status =
                tokio::time::timeout(Duration::from_secs(20), notices.next()).await.unwrap().unwrap();
            if status.nobody_left {
                break status.last_exit.unwrap();
            }
        };
        assert_eq!((exit.pid, exit.signal), (server.pid, Some(9)));
    });
}

#[test]
fn an_agent_that_holds_no_lock_finds_its_guard_again_after_a_silence() {
    let bed = guarded();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let line = Line::new(bed.place.socket.clone(), Arc::default());
        tokio::spawn(line.clone().listen());
        line.hold(None).await.unwrap();
        until("it is listened to", || line.last().is_some());

        kill(bed.guard_pid(), Signal::SIGSTOP).unwrap();
        assert!(line.status().await.is_none(), "a guard that is stopped says nothing");
        // More than the connection has room for.
        for _ in 0..1000 {
            line.ask(Request::Status, Duration::from_micros(10)).await.unwrap_err();
        }
        kill(bed.guard_pid(), Signal::SIGCONT).unwrap();

        let end = clock::now() + Duration::from_secs(60);
        while let Err(error) = line.ask(Request::Disarm, Duration::from_secs(5)).await {
            assert!(clock::now() < end, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!bed.log().contains("refuses"), "{}", bed.log());
    });
}
