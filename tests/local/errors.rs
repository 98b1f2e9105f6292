//! What goes wrong on hosts and in the input, as a user reads it: which host, which task, where it is written, what to do; and
//! nothing is changed that should not be.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::sshd::{Sshd, TestUser, run, turn};

/// A folder with an inventory and a playbook, and what hosts write to.
struct World {
    folder: TempDir,
}

impl World {
    fn new(hosts: &str, playbook: &str) -> World {
        let world = World { folder: TempDir::new().unwrap() };
        let playbook = playbook.replace("FOLDER", &world.folder.path().display().to_string());
        std::fs::write(world.path("hosts.ini"), hosts).unwrap();
        std::fs::write(world.path("play.yml"), playbook).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Applies the playbook; returns the exit status and all that was said.
    fn apply(&self) -> (i32, String) {
        let _turn = turn();
        let output = Command::new(env!("CARGO_BIN_EXE_keddah"))
            .args(["apply", "-i", "hosts.ini", "play.yml"])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env_remove("SSH_AUTH_SOCK")
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    }
}

/// Returns the inventory line of a host that an sshd is.
fn line(name: &str, sshd: &Sshd, user: &str, more: &str) -> String {
    format!(
        "{name} ansible_host=127.0.0.1 ansible_port={} ansible_user={user} ansible_ssh_private_key_file={} \
         ansible_ssh_common_args='-o UserKnownHostsFile={} -o StrictHostKeyChecking=accept-new' {more}\n",
        sshd.port,
        sshd.path("user").display(),
        sshd.path("known_hosts").display()
    )
}

const TOUCH: &str = "
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - name: leave a mark
      copy: {dest: 'FOLDER/mark-{{ inventory_hostname }}', content: x}
";

fn mark(world: &World, host: &str) -> bool {
    world.path(&format!("mark-{host}")).exists()
}

/// Asserts that all parts were said.
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
}

#[test]
fn an_unreachable_host_is_named_with_its_address_and_the_others_go_on() {
    let sshd = Sshd::start();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hosts = format!(
        "{}db2 ansible_host=127.0.0.1 ansible_port={closed} ansible_user=root\n",
        line("db1", &sshd, "root", "")
    );
    let world = World::new(&hosts, TOUCH);

    let (code, said) = world.apply();

    assert_eq!(code, 4, "{said}");
    let refused = format!(
        "db2: unreachable: 127.0.0.1:{closed} refused the connection: no sshd listens there; check that the host is up \
         and the port is right"
    );
    says(&said, &[&refused, "unreachable=1 "]);
    assert!(mark(&world, "db1") && !mark(&world, "db2"));
}

#[test]
fn a_wrong_sudo_password_is_told_with_host_task_and_place_and_nothing_is_changed() {
    let sshd = Sshd::start();
    let user = TestUser::new("errsudo").sudo("ALL=(ALL) ALL");
    let world = World::new(&line("db1", &sshd, &user.name, "ansible_become_password='not this one'"), TOUCH);

    let (code, said) = world.apply();

    assert_eq!(code, 2, "{said}");
    let failed = format!(
        "db1: step 1 `leave a mark` failed: the password for sudo is wrong, or {} may not become root",
        user.name
    );
    says(
        &said,
        &[&failed, "from play.yml:6", "hint: give the login user's password with ansible_become_password"],
    );
    assert!(!said.contains("not this one"), "{said}");
    assert!(!mark(&world, "db1"));
}

#[test]
fn a_changed_host_key_is_told_with_both_keys_and_the_host_left_alone() {
    let mut sshd = Sshd::start();
    let world = World::new(&line("db1", &sshd, "root", ""), TOUCH);
    assert_eq!(world.apply().0, 0);
    std::fs::remove_file(world.path("mark-db1")).unwrap();
    sshd.change_host_key();

    let (code, said) = world.apply();

    assert_eq!(code, 4, "{said}");
    let known = sshd.path("known_hosts").display().to_string();
    let changed = format!("db1: unreachable: the host key of [127.0.0.1]:{} has changed", sshd.port);
    let remove = format!("remove the old key with `ssh-keygen -f {known} -R '[127.0.0.1]:{}'`", sshd.port);
    says(&said, &[&changed, &format!("and {known}:1 holds another"), &remove]);
    assert!(!mark(&world, "db1"));
}

/// A small file system that goes with this value.
struct Mount(PathBuf);

impl Mount {
    fn small(path: &Path) -> Mount {
        std::fs::create_dir(path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=64k", "keddah-test", path.to_str().unwrap()]);
        Mount(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_disk_is_told_with_host_task_and_path_and_the_old_file_stays_whole() {
    let playbook = |task: &str| {
        format!(
            "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: configuration\n      {task}\n    - name: after it\n      copy: {{dest: 'FOLDER/{{{{ inventory_hostname }}}}/after', content: x}}\n"
        )
    };
    let tasks = [
        "template: {src: large, dest: 'FOLDER/{{ inventory_hostname }}/app.conf'}",
        "copy: {src: large, dest: 'FOLDER/{{ inventory_hostname }}/app.conf'}",
    ];
    for task in tasks {
        let hosts = "db1\ndb2\n[all:vars]\nansible_connection=local\n";
        let world = World::new(hosts, &playbook(task));
        let _mount = Mount::small(&world.path("db2"));
        std::fs::create_dir(world.path("db1")).unwrap();
        for folder in ["templates", "files"] {
            std::fs::create_dir(world.path(folder)).unwrap();
            std::fs::write(world.path(folder).join("large"), "new".repeat(30_000)).unwrap();
        }
        std::fs::write(world.path("db2/app.conf"), "old\n").unwrap();

        let (code, said) = world.apply();

        assert_eq!(code, 2, "{said}");
        let failed = format!(
            "db2: step 1 `configuration` failed: cannot write {}: No space left on device",
            world.path("db2/app.conf").display()
        );
        says(&said, &[&failed, "from play.yml:4", "hint: make room on that file system"]);
        assert_eq!(std::fs::read_to_string(world.path("db2/app.conf")).unwrap(), "old\n");
        let left = std::fs::read_dir(world.path("db2")).unwrap().count();
        assert_eq!(left, 1, "neither half of a file nor what comes after it");
        assert!(world.path("db1/after").exists(), "{said}");
    }
}

#[test]
fn a_variable_that_one_host_lacks_is_told_with_host_task_and_place() {
    let hosts = "db1 greeting=hello\ndb2 greting=hello\n[all:vars]\nansible_connection=local\n";
    let world = World::new(hosts, &TOUCH.replace("content: x", "content: '{{ greeting }}'"));

    let (code, said) = world.apply();

    assert_eq!(code, 2, "{said}");
    let failed = "db2: step 1 `leave a mark` failed: 'greeting' is undefined\n     from play.yml:6";
    says(
        &said,
        &[failed, "written at play.yml:7:", "hint: `keddah inventory --host NAME` shows what a host has"],
    );
    assert!(mark(&world, "db1") && !mark(&world, "db2"));
}

#[test]
fn input_that_is_wrong_is_told_with_its_place_before_any_host_is_touched() {
    let cases = [
        (
            "db1\n",
            TOUCH.replace("content: x", "contnet: x"),
            ["error: copy: unknown parameter `contnet`", "--> play.yml:7:", "hint: did you mean `content`?"],
        ),
        (
            "db1\n",
            TOUCH.replace("content: x", "content: '{{ nobody }}'"),
            ["error: nothing defines the variable `nobody`", "--> play.yml:7:", "hint: set it in group_vars"],
        ),
        (
            "db1\n[a:children]\nb\n[b:children]\na\n",
            TOUCH.to_owned(),
            [
                "error: the groups are children of each other in a ring: a → b → a",
                "--> hosts.ini:5:1",
                "hint: take one of these lines out",
            ],
        ),
        (
            "[postgres]\ndb1\ndb1 x=1\n",
            TOUCH.to_owned(),
            [
                "error: the host `db1` stands twice in the group `postgres`",
                "--> hosts.ini:3:1",
                "hint: give one of them another name",
            ],
        ),
    ];
    for (hosts, playbook, parts) in cases {
        let world = World::new(&format!("{hosts}\n[all:vars]\nansible_connection=local\n"), &playbook);

        let (code, said) = world.apply();

        assert_eq!(code, 1, "{said}");
        says(&said, &parts);
        says(&said, &["no host was touched"]);
        assert!(!mark(&world, "db1"));
    }
}
