//! Playbooks on hosts, as a user runs them: the binary, an inventory, and an sshd or this machine itself.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::sshd::{Sshd, TestUser, turn};

/// Runs `keddah` with a home of its own and returns what it said.
fn keddah(folder: &Path, args: &[&str]) -> Output {
    let _turn = turn();
    Command::new(env!("CARGO_BIN_EXE_keddah"))
        .args(args)
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("SSH_AUTH_SOCK")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Runs a playbook on this machine under the names `h1`, `h2` and `h3`.
fn here(playbook: &str, files: &[(&str, &str)], command: &str) -> (TempDir, Output) {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "hosts.ini", "[all]\nh1\nh2\nh3\n[all:vars]\nansible_connection=local\n");
    let playbook = playbook.replace("FOLDER", &folder.path().display().to_string());
    write(folder.path(), "play.yml", &playbook);
    files.iter().for_each(|(name, content)| write(folder.path(), name, content));
    let output = keddah(folder.path(), &[command, "-i", "hosts.ini", "play.yml"]);
    (folder, output)
}

const TEN_TASKS: &str = "
- hosts: all
  become: true
  vars: {port: 5432}
  handlers:
    - name: tell
      debug: {msg: handler ran}
  tasks:
    - name: folder
      file: {path: OUT, state: directory, mode: '0750'}
    - name: configuration
      template: {src: app.conf.j2, dest: OUT/app.conf, mode: '0640'}
      notify: tell
    - name: text
      copy: {content: \"hello {{ inventory_hostname }}\\n\", dest: OUT/hello}
    - name: a file of the controller
      copy: {src: payload.bin, dest: OUT/payload.bin}
    - name: several
      copy: {content: \"{{ item.text }}\", dest: \"OUT/{{ item.name }}\"}
      loop: [{name: a, text: x}, {name: b, text: y}]
    - name: once only
      command: touch OUT/made
      args: {creates: OUT/made}
    - name: look
      stat: {path: OUT/made}
      register: made
    - name: remember
      set_fact: {next_port: \"{{ port + 1 }}\"}
    - name: sure
      assert: {that: ['next_port == 5433', made.stat.exists]}
    - name: say
      debug: {msg: \"{{ ansible_facts.hostname }} has {{ next_port }}\"}
";

#[test]
fn a_second_apply_changes_nothing_and_plan_says_so_before_and_after() {
    let sshd = Sshd::start();
    let user = TestUser::new("apply").sudo("ALL=(ALL) NOPASSWD: ALL");
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out").display().to_string();
    write(
        folder.path(),
        "hosts.ini",
        &format!(
            "db1 ansible_host=127.0.0.1 ansible_port={} ansible_user={} ansible_ssh_private_key_file={} \
             ansible_ssh_common_args='-o UserKnownHostsFile={} -o StrictHostKeyChecking=accept-new'\n",
            sshd.port,
            user.name,
            sshd.path("user").display(),
            sshd.path("known_hosts").display()
        ),
    );
    write(folder.path(), "play.yml", &TEN_TASKS.replace("OUT", &out));
    write(folder.path(), "templates/app.conf.j2", "port = {{ port }}\n");
    write(folder.path(), "files/payload.bin", "bytes of the controller");
    let run = |command: &str| keddah(folder.path(), &[command, "-i", "hosts.ini", "play.yml"]);

    let planned = run("plan");
    assert_eq!(planned.status.code(), Some(2), "{}", text(&planned));
    assert!(
        text(&planned).contains("step 3 `configuration` blocked by step 2 `folder`"),
        "{}",
        text(&planned)
    );
    assert!(!Path::new(&out).exists(), "plan changes nothing");

    let first = run("apply");
    assert_eq!(first.status.code(), Some(0), "{}", text(&first));
    assert!(text(&first).contains("handler ran"), "{}", text(&first));
    assert_eq!(std::fs::read_to_string(format!("{out}/payload.bin")).unwrap(), "bytes of the controller");

    let second = run("apply");
    assert!(text(&second).contains("changed=0 "), "{}", text(&second));
    assert!(!text(&second).contains("handler ran"), "{}", text(&second));

    let after = run("plan");
    assert_eq!(after.status.code(), Some(0), "{}", text(&after));
    assert!(text(&after).contains("0 known, 0 blocked, 0 unknown"), "{}", text(&after));
}

#[test]
fn no_host_begins_a_change_before_all_have_finished_the_one_before() {
    let playbook = "
- hosts: all
  gather_facts: false
  tasks:
    - name: slow on one host
      shell: \"{{ 'sleep 0.4;' if inventory_hostname == 'h1' else '' }} echo one >> FOLDER/log\"
    - name: converged
      file: {path: FOLDER, state: directory}
    - name: two
      shell: echo two >> FOLDER/log
";
    let (folder, output) = here(playbook, &[], "apply");

    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log, "one\none\none\ntwo\ntwo\ntwo\n");
}

#[test]
fn handlers_run_once_in_the_order_of_their_definition() {
    let playbook = "
- hosts: h1
  gather_facts: false
  handlers:
    - {name: first, shell: echo first >> FOLDER/log}
    - {name: second, shell: echo second >> FOLDER/log, listen: topic}
    - {name: third, shell: echo third >> FOLDER/log}
  tasks:
    - {shell: 'true', notify: [third, topic]}
    - {shell: 'true', notify: [third, first]}
    - {meta: flush_handlers}
    - {shell: echo after >> FOLDER/log}
";
    let (folder, output) = here(playbook, &[], "apply");

    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log, "first\nsecond\nthird\nafter\n");
}

#[test]
fn rescue_saves_a_host_and_always_runs_for_one_that_is_lost() {
    let playbook = "
- hosts: h1,h2
  gather_facts: false
  tasks:
    - block:
        - {name: breaks, shell: 'false', when: inventory_hostname == 'h1'}
        - shell: echo body {{ inventory_hostname }} >> FOLDER/log
      rescue:
        - shell: echo rescue {{ inventory_hostname }} {{ ansible_failed_task.name }} >> FOLDER/log
      always:
        - shell: echo always {{ inventory_hostname }} >> FOLDER/log
    - block:
        - {name: breaks for good, shell: 'false', when: inventory_hostname == 'h2'}
      always:
        - shell: echo last {{ inventory_hostname }} >> FOLDER/log
    - shell: echo end {{ inventory_hostname }} >> FOLDER/log
";
    let (folder, output) = here(playbook, &[], "apply");

    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["always h1", "always h2", "body h2", "end h1", "last h1", "last h2", "rescue h1 breaks"]
    );
    assert!(text(&output).contains("rescued=1 "), "{}", text(&output));
}

#[test]
fn includes_roles_and_what_is_done_once_reach_the_right_hosts() {
    let playbook = "
- hosts: all
  gather_facts: false
  serial: 2
  tasks:
    - include_tasks: inner.yml
      loop: [a, b]
      loop_control: {loop_var: letter}
      when: inventory_hostname != 'h2'
    - {name: once, command: 'echo {{ inventory_hostname }}', run_once: true, register: once}
    - {shell: 'echo once {{ once.stdout }} on {{ inventory_hostname }} >> FOLDER/log'}
    - {command: 'echo {{ inventory_hostname }}', delegate_to: h1, register: there}
    - {shell: 'echo there {{ there.stdout }} >> FOLDER/log'}
    - include_role: {name: part}
      vars: {word: included}
- hosts: h1
  gather_facts: false
  roles:
    - {role: part, word: listed}
    - {role: part, word: listed}
";
    let files = [
        ("inner.yml", "- shell: echo inner {{ letter }} {{ inventory_hostname }} >> FOLDER/log\n"),
        (
            "roles/part/tasks/main.yml",
            "- shell: echo {{ role_name }} {{ word }} {{ low }} {{ inventory_hostname }} >> FOLDER/log\n",
        ),
        ("roles/part/defaults/main.yml", "low: default\nword: none\n"),
    ];
    let folder = TempDir::new().unwrap();
    let place = folder.path().display().to_string();
    let files: Vec<(&str, String)> = files.iter().map(|(n, c)| (*n, c.replace("FOLDER", &place))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(n, c)| (*n, c.as_str())).collect();
    let (_other, output) = here(&playbook.replace("FOLDER", &place), &files, "apply");

    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "inner a h1",
            "inner a h3",
            "inner b h1",
            "inner b h3",
            "once h1 on h1",
            "once h1 on h2",
            "once h3 on h3",
            "part included default h1",
            "part included default h2",
            "part included default h3",
            "part listed default h1",
            "there h1",
            "there h2",
            "there h3",
        ]
    );
}

#[test]
fn nothing_is_touched_while_the_input_is_wrong() {
    let playbook = "
- hosts: h1
  gather_facts: false
  tasks:
    - {shell: touch FOLDER/touched}
    - {file: {paht: FOLDER/x, state: directory}}
";
    let (folder, output) = here(playbook, &[], "apply");

    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("did you mean `path`"), "{}", text(&output));
    assert!(!folder.path().join("touched").exists());
}

#[test]
fn secrets_and_no_log_never_reach_the_output() {
    let playbook = "
- hosts: h1
  gather_facts: false
  vars: {db_password: hunter22222}
  tasks:
    - {name: hidden, shell: 'echo topsecret1; false', no_log: true, ignore_errors: true}
    - {name: shown, debug: {msg: 'the password is {{ db_password }}'}}
    - {name: failing, shell: 'echo {{ db_password }} >&2; false', ignore_errors: true}
";
    let folder = TempDir::new().unwrap();
    write(folder.path(), "hosts.ini", "h1 ansible_connection=local db_password=hunter22222\n");
    write(folder.path(), "play.yml", playbook);
    let output = keddah(folder.path(), &["apply", "-v", "--diff", "-i", "hosts.ini", "play.yml"]);

    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains("hunter22222"), "{}", text(&output));
    assert!(!text(&output).contains("topsecret1"), "{}", text(&output));
}
