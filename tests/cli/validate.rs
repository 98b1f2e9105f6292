//! `keddah validate`: every problem has a place, the line, and a hint.

use insta::assert_snapshot;

use crate::world::World;

/// Validates and returns what is printed without the advice, which every deployment of this version gets; exit 1 is asserted.
fn problems(world: &World) -> String {
    let done = world.run(&["validate", "-i", "inventory", "playbooks/site.yml"]);
    assert_eq!((done.code, done.err.as_str()), (1, ""), "{}", done.out);
    done.out.split("\n\n").filter(|part| !part.starts_with("advice")).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn a_healthy_deployment_passes_with_advice() {
    let done = World::healthy().run(&["validate", "-i", "inventory", "playbooks/site.yml"]);

    assert_eq!(done.code, 0);
    assert_snapshot!(done.out, @r#"
    advice: K144 etcd, the agents' REST API and Postgres speak without encryption
     --> inventory/cluster.yml:1:7
      |
    1 | name: orders
      |       ^^^^^^
      = hint: passwords and data can be read on the way; TLS is not part of this version, so keep these ports on a network of their own

    8 hosts, 1 play, 1 role: 0 errors, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_misspelled_keyword_is_named_with_the_nearest() {
    let world = World::healthy().edit("playbooks/site.yml", "become:", "beocme:");

    assert_snapshot!(problems(&world), @r#"
    error: `beocme` is no keyword of a play
     --> playbooks/site.yml:3:3
      |
    3 |   beocme: true
      |   ^^^^^^
      = hint: did you mean `become`?

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_misspelled_key_of_cluster_yml_is_named_with_the_nearest() {
    let world = World::healthy().edit("inventory/cluster.yml", "synchronous_mode", "synchronus_mode");

    assert_snapshot!(problems(&world), @r#"
    error: `agent` has no key `synchronus_mode`
     --> inventory/cluster.yml:5:3
      |
    5 |   synchronus_mode: on
      |   ^^^^^^^^^^^^^^^
      = hint: did you mean `synchronous_mode`?

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 2 pieces of advice
    "#);
}

#[test]
fn values_of_cluster_yml_are_checked_all_at_once() {
    let world = World::healthy().file(
        "inventory/cluster.yml",
        "name: orders!\npostgres:\n  port: 70000\nagent: {ttl: soon}\nwatchdog: {mode: automatik}\n",
    );

    assert_snapshot!(problems(&world), @r#"
    error: `name` cannot be `orders!`
     --> inventory/cluster.yml:1:7
      |
    1 | name: orders!
      |       ^^^^^^^
      = hint: use letters, digits, `_`, `.` and `-`, beginning with a letter or digit

    error: `postgres.version` is missing
     --> inventory/cluster.yml:3:3
      |
    3 |   port: 70000
      |   ^
      = hint: add `version:`

    error: `postgres.port` must be from 1 to 65535, and this is 70000
     --> inventory/cluster.yml:3:9
      |
    3 |   port: 70000
      |         ^^^^^
      = hint: choose a number within the bounds

    error: `agent.ttl` must be a whole number, and this is a string
     --> inventory/cluster.yml:4:14
      |
    4 | agent: {ttl: soon}
      |              ^^^^

    error: `watchdog.mode` must be one of: off, automatic, required
     --> inventory/cluster.yml:5:18
      |
    5 | watchdog: {mode: automatik}
      |                  ^^^^^^^^^
      = hint: did you mean `automatic`?

    8 hosts, 1 play, 1 role: 5 errors, 0 warnings, 2 pieces of advice
    "#);
}

#[test]
fn roles_and_databases_of_cluster_yml_are_checked_where_they_are_written() {
    let world = World::healthy().edit(
        "inventory/cluster.yml",
        "  version: 17\n",
        "  version: 17\n  roles:\n    - {name: app, pasword: \"{{ x }}\"}\n    - name: postgres\n  databases:\n    \
         - name: orders\n      owner: ap\n      extensions: [hstore, {version: 1}]\n",
    );

    assert_snapshot!(problems(&world), @r#"
    error: `postgres.roles[0]` has no key `pasword`
     --> inventory/cluster.yml:5:19
      |
    5 |     - {name: app, pasword: "{{ x }}"}
      |                   ^^^^^^^
      = hint: did you mean `password`?

    error: K147 the role `postgres` is made by the deployment itself
     --> inventory/cluster.yml:6:13
      |
    6 |     - name: postgres
      |             ^^^^^^^^
      = hint: leave it out; its password is a variable, e.g. `keddah_superuser_password`

    warning: K145 the database `orders` is to belong to `ap`, which is not among `roles`
     --> inventory/cluster.yml:9:14
      |
    9 |       owner: ap
      |              ^^
      = hint: did you mean `app`?

    error: `postgres.databases[0].extensions[1].name` is missing
      --> inventory/cluster.yml:10:28
       |
    10 |       extensions: [hstore, {version: 1}]
       |                            ^
       = hint: add `name:`

    8 hosts, 1 play, 1 role: 3 errors, 1 warning, 1 piece of advice
    "#);
}

#[test]
fn a_ring_of_groups_is_told_with_every_place() {
    let world = World::healthy()
        .file("inventory/hosts.ini", "[site:children]\nrow\n[row:children]\nrack\n[rack:children]\nsite\n");

    assert_snapshot!(problems(&world), @r#"
    error: the groups are children of each other in a ring: site → row → rack → site
     --> inventory/hosts.ini:6:1
      |
    6 | site
      | ^^^^
      = note: `rack` is a child of `row` at inventory/hosts.ini:4:1
      = note: `row` is a child of `site` at inventory/hosts.ini:2:1
      = hint: take one of these lines out; a group may not be its own ancestor

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_member_that_is_written_twice_is_told_with_both_places() {
    let world = World::healthy().edit("inventory/hosts.yml", "db2:", "db1:");

    assert_snapshot!(problems(&world), @r#"
    error: the host `db1` stands twice in the group `postgres`
      --> inventory/hosts.yml:11:9
       |
    11 |         db1: {ansible_host: 10.0.0.22}
       |         ^^^
       = note: first written here at inventory/hosts.yml:10:9
       = hint: give one of them another name, or put all its variables in one place

    7 hosts, 1 play, 1 role: 1 error, 0 warnings, 2 pieces of advice
    "#);
}

#[test]
fn an_address_that_is_given_twice_is_told_with_both_places() {
    let world = World::healthy().edit("inventory/hosts.yml", "10.0.0.22", "10.0.0.21");

    assert_snapshot!(problems(&world), @r#"
    error: K102 `db1` and `db2` of postgres have the same address 10.0.0.21
      --> inventory/hosts.yml:11:29
       |
    11 |         db2: {ansible_host: 10.0.0.21}
       |                             ^^^^^^^^^
       = note: the first one at inventory/hosts.yml:10:29
       = hint: give each member its own machine, and its own `ansible_host`

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn an_undefined_variable_is_told_with_the_nearest() {
    let world = World::healthy().edit("roles/etcd/tasks/main.yml", "etcd_folder", "etcd_foldr");

    assert_snapshot!(problems(&world), @r#"
    error: nothing defines the variable `etcd_foldr`
     --> roles/etcd/tasks/main.yml:3:15
      |
    3 |     path: "{{ etcd_foldr }}"
      |               ^^^^^^^^^^
      = hint: did you mean `etcd_folder`?

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_variable_that_is_guarded_or_defined_anywhere_is_no_problem() {
    let world = World::healthy().file(
        "roles/etcd/tasks/main.yml",
        "- debug: {msg: \"{{ nobody | default(1) }} {{ later }}\"}\n  when: nothing is defined and nothing.x\n\
         - stat: {path: /x}\n  register: later\n\
         - debug: {msg: \"{{ later.stat.exists }} {{ keddah.scope }} {{ ansible_hostname }}\"}\n",
    );

    let done = world.run(&["validate", "--strict", "-i", "inventory", "playbooks/site.yml"]);

    assert_eq!(done.code, 0, "{}", done.out);
}

#[test]
fn an_unknown_parameter_is_told_with_the_nearest() {
    let world = World::healthy().edit("roles/etcd/tasks/main.yml", "state:", "sate:");

    assert_snapshot!(problems(&world), @r#"
    error: file: unknown parameter `sate`
     --> roles/etcd/tasks/main.yml:4:11
      |
    4 |     sate: directory
      |           ^^^^^^^^^
      = hint: did you mean `state`?

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn broken_yaml_is_told_in_words() {
    let world = World::healthy().edit(
        "roles/etcd/tasks/main.yml",
        "path: \"{{ etcd_folder }}\"",
        "path: {{ etcd_folder }}",
    );

    assert_snapshot!(problems(&world), @r#"
    error: a value that begins with `{{` is read as a YAML mapping
     --> roles/etcd/tasks/main.yml:3:12
      |
    3 |     path: {{ etcd_folder }}
      |            ^^^^^^^^^^^^^^^
      = hint: put the whole value in quotes: "{{ … }}"

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn an_expression_that_cannot_be_read_is_told() {
    let world = World::healthy().file(
        "roles/etcd/tasks/main.yml",
        "- debug: {msg: \"{{ etcd_folder | defalt('x') }}\"}\n  when: a = 1\n",
    );

    assert_snapshot!(problems(&world), @r#"
    warning: there is no filter `defalt`
     --> roles/etcd/tasks/main.yml:1:34
      |
    1 | - debug: {msg: "{{ etcd_folder | defalt('x') }}"}
      |                                  ^^^^^^
      = hint: did you mean `default`?

    error: this template cannot be read: unexpected input after expression, in `a = 1`
     --> roles/etcd/tasks/main.yml:2:9
      |
    2 |   when: a = 1
      |         ^^^^^

    8 hosts, 1 play, 1 role: 1 error, 1 warning, 1 piece of advice
    "#);
}

#[test]
fn what_is_named_and_is_not_there_is_told() {
    let world = World::healthy().file(
        "roles/etcd/tasks/main.yml",
        "- template: {src: etcd.conf.j2, dest: /etc/etcd.conf}\n\
         - import_tasks: more.yml\n- include_role: {name: ectd}\n- fiel: {path: /x}\n",
    );
    let world = world.file("roles/etcd/templates/etcd.conf.j", "x\n");

    assert_snapshot!(problems(&world), @r#"
    error: there is no file `etcd.conf.j2` for `template`
     --> roles/etcd/tasks/main.yml:1:19
      |
    1 | - template: {src: etcd.conf.j2, dest: /etc/etcd.conf}
      |                   ^^^^^^^^^^^^
      = hint: did you mean `etcd.conf.j`?

    error: there is no task file `more.yml`
     --> roles/etcd/tasks/main.yml:2:17
      |
    2 | - import_tasks: more.yml
      |                 ^^^^^^^^
      = hint: it is looked for in roles/etcd/tasks and in the playbook's folder

    error: there is no role `ectd`
     --> roles/etcd/tasks/main.yml:3:24
      |
    3 | - include_role: {name: ectd}
      |                        ^^^^
      = hint: did you mean `etcd`?

    error: there is no module `fiel`
     --> roles/etcd/tasks/main.yml:4:3
      |
    4 | - fiel: {path: /x}
      |   ^^^^
      = hint: did you mean `file`?

    8 hosts, 1 play, 1 role: 4 errors, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_handler_that_is_not_there_is_told_with_the_nearest() {
    let world = World::healthy()
        .file("roles/etcd/tasks/main.yml", "- debug: {msg: x}\n  notify: restart etdc\n")
        .file("roles/etcd/handlers/main.yml", "- name: restart etcd\n  debug: {msg: x}\n");

    assert_snapshot!(problems(&world), @r#"
    error: no handler of this play is named `restart etdc`
     --> roles/etcd/tasks/main.yml:2:11
      |
    2 |   notify: restart etdc
      |           ^^^^^^^^^^^^
      = hint: did you mean `restart etcd`?

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_secret_is_never_shown_even_where_its_line_is_wrong() {
    let world = World::healthy().edit("inventory/group_vars/all/secrets.yml", "one\n", "hunter2\n  x: y\n");

    let shown = problems(&world);

    assert!(shown.contains("secrets.yml:2:") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn two_modules_in_one_task_are_told_apart() {
    let world =
        World::healthy().file("roles/etcd/tasks/main.yml", "- file: {path: /x}\n  stat: {path: /x}\n");

    assert_snapshot!(problems(&world), @r#"
    error: a task calls one module, and `stat` is the second
     --> roles/etcd/tasks/main.yml:2:3
      |
    2 |   stat: {path: /x}
      |   ^^^^
      = note: `file` is the first at roles/etcd/tasks/main.yml:1:3
      = hint: begin a task of its own with `- `

    8 hosts, 1 play, 1 role: 1 error, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn a_missing_password_and_a_file_that_others_can_read_are_told() {
    let world = World::healthy()
        .edit("inventory/group_vars/all/secrets.yml", "keddah_rewind_password: three\n", "")
        .mode("inventory/group_vars/all/secrets.yml", 0o644);

    assert_snapshot!(problems(&world), @r#"
    warning: K141 `inventory/group_vars/all/secrets.yml` holds a secret and may be read by every user of this machine
     --> inventory/group_vars/all/secrets.yml:1:28
      = hint: chmod 600 inventory/group_vars/all/secrets.yml

    error: K140 the variable `keddah_rewind_password` is not set for `db1`
     --> inventory/cluster.yml:1:7
      |
    1 | name: orders
      |       ^^^^^^
      = hint: set it in group_vars/all/secrets.yml, mode 0600: `keddah_rewind_password: …`

    8 hosts, 1 play, 1 role: 1 error, 1 warning, 1 piece of advice
    "#);
}

#[test]
fn the_same_is_printed_as_json() {
    let world = World::healthy().edit("playbooks/site.yml", "become:", "beocme:");

    let done = world.run(&["validate", "-i", "inventory", "--output", "json", "playbooks/site.yml"]);

    assert_eq!(done.code, 1);
    let document: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(document["errors"], 1);
    let problem = document["problems"].as_array().unwrap().iter().find(|p| p["severity"] == "error").unwrap();
    assert_eq!(problem["code"], "unknown-keyword");
    assert_eq!(problem["place"]["file"], "playbooks/site.yml");
    assert_eq!((&problem["place"]["line"], &problem["place"]["column"]), (&3.into(), &3.into()));
    assert_eq!(problem["hint"], "did you mean `become`?");
}

#[test]
fn without_an_inventory_the_flag_is_named() {
    let done = World::healthy().run(&["validate", "playbooks/site.yml"]);

    assert_ne!(done.code, 0);
    assert!(done.err.contains("--inventory"), "{}", done.err);
}

#[test]
fn the_example_inventory_is_right() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_keddah"))
        .args(["validate", "-i", "inventory/example", "playbooks/site.yml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}");
    assert!(said.contains(": 0 errors, 0 warnings"), "{said}");
}

#[test]
fn what_ansible_has_and_keddah_does_not_carry_out_is_refused_with_what_to_do_instead() {
    let world = World::healthy()
        .file(
            "playbooks/site.yml",
            "- hosts: etcd\n  strategy: free\n  order: sorted\n  force_handlers: yes\n  remote_user: admin\n  \
             ignore_unreachable: true\n  roles: [etcd]\n",
        )
        .file(
            "roles/etcd/tasks/main.yml",
            "- command: /bin/true\n  throttle: 1\n  timeout: 5\n  connection: docker\n\
             - command: /bin/true\n  async: 60\n  poll: 0\n\
             - pause: {prompt: sure?}\n- include_vars: {dir: vars, depth: 1}\n\
             - meta: refresh_inventory\n\
             - include_tasks: {file: main.yml, apply: {throttle: 1}}\n",
        );

    assert_snapshot!(problems(&world), @r#"
    error: Keddah carries out `strategy` only as `linear`
     --> playbooks/site.yml:2:13
      |
    2 |   strategy: free
      |             ^^^^
      = hint: take it out: every host finishes a change before any begins the next one

    error: Keddah carries out `order` only as `inventory`
     --> playbooks/site.yml:3:10
      |
    3 |   order: sorted
      |          ^^^^^^
      = hint: write the hosts in the inventory in the order that they should have

    error: Keddah carries out `force_handlers` only as `false`
     --> playbooks/site.yml:4:19
      |
    4 |   force_handlers: yes
      |                   ^^^
      = hint: put what must run after a failure into a block with `always`

    error: `remote_user` is a keyword of Ansible that Keddah does not carry out
     --> playbooks/site.yml:5:3
      |
    5 |   remote_user: admin
      |   ^^^^^^^^^^^
      = hint: set `ansible_user` in the inventory, or log in with `--user`

    error: Keddah carries out `ignore_unreachable` only as `false`
     --> playbooks/site.yml:6:23
      |
    6 |   ignore_unreachable: true
      |                       ^^^^
      = hint: take it out: a host that cannot be reached is left, and the others go on; `--limit` leaves it out from the start

    error: `throttle` is a keyword of Ansible that Keddah does not carry out
     --> roles/etcd/tasks/main.yml:2:3
      |
    2 |   throttle: 1
      |   ^^^^^^^^
      = hint: put the tasks into a play with `serial`, or run with fewer `--forks`

    error: `timeout` is a keyword of Ansible that Keddah does not carry out
     --> roles/etcd/tasks/main.yml:3:3
      |
    3 |   timeout: 5
      |   ^^^^^^^
      = hint: limit the program itself, e.g. `command: timeout 60 PROGRAM`; `wait_for` and `uri` have a limit of their own

    error: Keddah carries out `connection` only as `local`, `ssh`, `smart`
     --> roles/etcd/tasks/main.yml:4:15
      |
    4 |   connection: docker
      |               ^^^^^^
      = hint: hosts are reached by SSH; for others set `ansible_connection: local` in the inventory

    error: `poll: 0` would leave the task running behind; Keddah waits for every task
     --> roles/etcd/tasks/main.yml:7:9
      |
    7 |   poll: 0
      |         ^
      = hint: leave out `async` and `poll`, or start it as a unit of systemd

    error: `prompt` of `pause` is not carried out by Keddah
     --> roles/etcd/tasks/main.yml:8:19
      |
    8 | - pause: {prompt: sure?}
      |                   ^^^^^
      = hint: nothing is asked for while a run is under way; give `seconds` or `minutes`

    error: `depth` of `include_vars` is not carried out by Keddah
     --> roles/etcd/tasks/main.yml:9:36
      |
    9 | - include_vars: {dir: vars, depth: 1}
      |                                    ^
      = hint: name the files, one `include_vars` each; of a `dir`, all that end with .yml, .yaml and .json are read

    error: `meta` knows no `refresh_inventory`
      --> roles/etcd/tasks/main.yml:10:9
       |
    10 | - meta: refresh_inventory
       |         ^^^^^^^^^^^^^^^^^
       = hint: it may be flush_handlers, end_play, end_host, end_batch, clear_facts, reset_connection, noop

    error: `throttle` is a keyword of Ansible that Keddah does not carry out
      --> roles/etcd/tasks/main.yml:11:53
       |
    11 | - include_tasks: {file: main.yml, apply: {throttle: 1}}
       |                                                     ^
       = hint: put the tasks into a play with `serial`, or run with fewer `--forks`

    8 hosts, 1 play, 1 role: 13 errors, 0 warnings, 1 piece of advice
    "#);
}

#[test]
fn keywords_that_ask_for_what_happens_anyway_are_welcome() {
    let world = World::healthy().edit(
        "playbooks/site.yml",
        "  become: true\n",
        "  become: true\n  strategy: ansible.builtin.linear\n  order: inventory\n  force_handlers: no\n  \
         connection: ssh\n  ignore_unreachable: false\n",
    );

    let done = world.run(&["validate", "--strict", "-i", "inventory", "playbooks/site.yml"]);

    assert_eq!(done.code, 0, "{}", done.out);
}
