//! How this program gets to a host through a real sshd, where it stays, and hosts that cannot hold it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keddah::executor::client::StartError;
use keddah::executor::upload::Refusal;
use keddah::executor::wire::Identity;
use keddah::transport::Unreachable;

use crate::session::{Fresh, facts};
use crate::sshd::{Sshd, TestUser, run};

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
