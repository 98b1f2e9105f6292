//! Who does the work on a host: real users, with real sudo, and without.

use std::time::{Duration, Instant};

use keddah::executor::wire::Identity;

use crate::session::{Fresh, connect, facts, shared_folder, sudo_to, touched_by};
use crate::sshd::{PASSWORD, Sshd, TestUser, run};

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
