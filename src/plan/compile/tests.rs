//! What a play compiles to: the order of tasks, and what each of them inherits.
#![allow(clippy::disallowed_methods, reason = "the tests write the playbooks that they read")]

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::input::{Request, load};
use crate::plan::program::Meta;
use crate::source::Diagnostics;

struct All;

impl crate::input::playbook::Catalog for All {
    fn knows(&self, _: &str) -> bool {
        true
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn check(&self, _: &str, _: &Value) -> Diagnostics {
        Diagnostics::default()
    }

    fn etcd_faults(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

fn loaded(files: &[(&str, &str)]) -> (tempfile::TempDir, Deployment) {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::write(folder.path().join("hosts"), "h1\n").unwrap();
    let request = Request {
        inventories: vec![folder.path().join("hosts")],
        playbooks: vec![folder.path().join("play.yml")],
        ..Request::default()
    };
    // Whether names are defined is judged elsewhere; these texts name what they like.
    let (deployment, _problems) = load(&request, &All);
    (folder, deployment)
}

fn compiled(files: &[(&str, &str)], selection: &Selection) -> Vec<Arc<Task>> {
    let (_folder, deployment) = loaded(files);
    Compiler::new(&deployment, &deployment.plays[0], selection, 1).play(false).unwrap()
}

/// Names of tasks; `|` is a flush of handlers.
fn names(tasks: &[Arc<Task>]) -> Vec<String> {
    let name = |task: &Arc<Task>| match task.what {
        What::Meta(Meta::FlushHandlers { .. }) => "|".to_owned(),
        _ => task.title(),
    };
    tasks.iter().map(name).collect()
}

const ROLE: &str = "- {name: does, debug: {msg: '{{ low }}'}}\n";

#[test]
fn parts_of_a_play_run_in_ansibles_order_with_handlers_between() {
    let play = "
- hosts: all
  tasks: [{name: t, debug: {}}]
  pre_tasks: [{name: pre, debug: {}}]
  post_tasks: [{name: post, debug: {}}]
  roles: [r]
";
    let tasks = compiled(&[("play.yml", play), ("roles/r/tasks/main.yml", ROLE)], &Selection::default());

    assert_eq!(names(&tasks), ["pre", "|", "r : does", "t", "|", "post", "|"]);
}

#[test]
fn a_role_with_equal_parameters_runs_once_and_its_dependencies_before_it() {
    let play = "
- hosts: all
  roles: [r, r, {role: r, z: 1}]
";
    let files = [
        ("play.yml", play),
        ("roles/r/tasks/main.yml", ROLE),
        ("roles/r/meta/main.yml", "dependencies: [base]\n"),
        ("roles/base/tasks/main.yml", "- {name: first, debug: {}}\n"),
    ];

    let tasks = compiled(&files, &Selection::default());

    assert_eq!(names(&tasks), ["base : first", "r : does", "r : does", "|"]);
}

#[test]
fn tags_of_a_role_reach_its_tasks_and_choose_them() {
    let play = "
- hosts: all
  roles: [{role: r, tags: [a]}]
  tasks:
    - {name: b, debug: {}, tags: b}
    - {name: always, debug: {}, tags: always}
";
    let selection = Selection { only: BTreeSet::from(["a".to_owned()]), skip: BTreeSet::new() };

    let tasks = compiled(&[("play.yml", play), ("roles/r/tasks/main.yml", ROLE)], &selection);

    assert_eq!(names(&tasks), ["r : does", "always", "|"]);
}

#[test]
fn blocks_and_imports_hand_down_conditions_in_order_and_the_inner_keyword_wins() {
    let play = "
- hosts: all
  become: true
  become_user: outer
  tasks:
    - when: one
      become_user: middle
      block:
        - {name: in block, when: two, debug: {}}
        - import_tasks: more.yml
          when: three
";
    let more = "- {name: imported, debug: {}, become_user: inner, when: four}\n";

    let tasks = compiled(&[("play.yml", play), ("more.yml", more)], &Selection::default());

    let texts = |task: &Task| -> Vec<String> { task.step.when.iter().map(ToString::to_string).collect() };
    assert_eq!(texts(&tasks[0]), ["one", "two"]);
    assert_eq!(texts(&tasks[1]), ["one", "three", "four"]);
    let user = |task: &Task| task.step.become_as.as_ref().unwrap().user.as_ref().unwrap().to_string();
    assert_eq!((user(&tasks[0]), user(&tasks[1])), ("middle".to_owned(), "inner".to_owned()));
}

#[test]
fn handlers_of_roles_come_before_those_of_the_play() {
    let play = "
- hosts: all
  roles: [r]
  handlers: [{name: mine, debug: {}}, {name: mine, debug: {}}, {name: other, debug: {}, listen: topic}]
";
    let files = [
        ("play.yml", play),
        ("roles/r/tasks/main.yml", ROLE),
        ("roles/r/handlers/main.yml", "- {name: of role, debug: {}, listen: topic}\n"),
    ];
    let (_folder, deployment) = loaded(&files);
    let selection = Selection::default();
    let mut compiler = Compiler::new(&deployment, &deployment.plays[0], &selection, 1);
    compiler.play(false).unwrap();

    assert_eq!(compiler.handlers.len(), 3);
    assert_eq!(compiler.handlers.notified("topic"), [0, 2]);
    assert_eq!(compiler.handlers.notified("r : of role"), [0]);
    assert_eq!(compiler.handlers.notified("mine"), [1]);
    assert!(compiler.handlers.notified("nobody").is_empty());
}

#[test]
fn a_file_that_includes_itself_is_refused() {
    let play = "- {hosts: all, tasks: [{import_tasks: again.yml}]}\n";
    let mut deployment = Deployment::default();
    let (_kept, other) = loaded(&[("play.yml", play), ("again.yml", "- {name: x, debug: {}}\n")]);
    deployment.plays.clone_from(&other.plays);
    let (known, mut file) = other.task_files.iter().next().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    file.statements.clone_from(&other.plays[0].tasks);
    deployment.task_files.insert(known, file);
    let selection = Selection::default();

    let refused = Compiler::new(&deployment, &deployment.plays[0], &selection, 1).play(false);

    assert_eq!(refused.unwrap_err(), CompileError::TooDeep { limit: DEPTH_LIMIT });
}
