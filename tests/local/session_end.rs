//! What ends with a session, or when it is told to stop: the change in flight, what waits behind it, the lock of the host.

use std::time::{Duration, Instant};

use keddah::executor::identity::{Order, Reply};
use keddah::executor::wire::{FromHost, Identity, ToHost};
use keddah::transport::options::Target;

use crate::session::{Fresh, Session, connect, shared_folder, shell, sudo_to, touch};
use crate::sshd::{Sshd, TestUser, processes_with, turn, until};

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
