//! Ansible's order of things within one task, on a host whose modules are a table.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::executor::wire::{Answer, Identity, Loop, Question, Scope, Step, StepReport, Until};
use crate::expr::{Dict, Value};
use crate::modules::{self, Fault, ModuleCall, ModuleReply, Outcome};

/// A host on which `count` counts its runs, `change` always has something to change, and `refuse` refuses.
#[derive(Default)]
struct Host {
    said: RefCell<Vec<StepReport>>,
    calls: RefCell<Vec<String>>,
}

impl Runner for Host {
    fn run(&self, _: &Identity, call: ModuleCall) -> ModuleReply {
        let applies = call.mode == modules::Mode::Apply;
        self.calls.borrow_mut().push(format!("{}{}", call.name, if applies { "" } else { " (check)" }));
        let mut output = Dict::new();
        let runs = self.calls.borrow().iter().filter(|name| name.starts_with(&call.name)).count();
        output.insert(Arc::from("runs"), Value::from(i64::try_from(runs).unwrap()));
        output.insert(Arc::from("rc"), Value::from(1));
        match call.name.as_str() {
            "refuse" => {
                let mut fault = Fault::refused("no");
                *fault.output = output;
                Err(fault)
            }
            name => Ok(Outcome {
                answer: modules::Answer::Known,
                changed: name == "change",
                changes: Vec::new(),
                diff: None,
                output,
                facts: Dict::new(),
                predicted: Vec::new(),
            }),
        }
    }

    fn facts(&self, _: &Identity, _: &Value) -> Result<Dict, Fault> {
        Ok(std::iter::once((Arc::from("hostname"), Value::str("db1"))).collect())
    }

    fn ask(&self, _: Question) -> Result<Answer, String> {
        Err("nobody answers here".to_owned())
    }

    fn tell(&self, message: FromHost) {
        if let FromHost::Report(report) = message {
            self.said.borrow_mut().push(*report);
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }

    fn pause(&self, _: Duration) {}
}

fn step(module: &str, args: &[(&str, &str)]) -> Step {
    let args: Dict = args.iter().map(|(name, text)| (Arc::from(*name), Value::template(*text))).collect();
    Step {
        id: 1,
        name: Value::str(module),
        origin: Arc::from("play.yml:1"),
        module: Arc::from(module),
        args: Value::from(args),
        when: Vec::new(),
        looping: None,
        register: Some(Arc::from("r")),
        until: None,
        changed_when: None,
        failed_when: None,
        become_as: None,
        environment: Vec::new(),
        check_mode: None,
        diff: None,
        no_log: None,
        ignore_errors: None,
        notify: Vec::new(),
        poll: None,
        scope: 0,
        ordered: false,
    }
}

fn over(items: &str) -> Option<Loop> {
    Some(Loop {
        lookup: None,
        over: Value::template(items),
        var: Arc::from("item"),
        index_var: None,
        label: None,
        pause: None,
        extended: false,
        break_when: Vec::new(),
    })
}

fn segment(mode: Mode, steps: Vec<Step>) -> Segment {
    Segment {
        id: 1,
        subject: Arc::from("db1"),
        mode,
        diff: false,
        verbose: false,
        steps,
        layers: Vec::new(),
        scopes: vec![Scope::default()],
        hostvars: Vec::new(),
        facts: Dict::new(),
        included: Dict::new(),
        registers: Dict::new(),
        flushes: Vec::new(),
        files: Vec::new(),
        pending: Vec::new(),
    }
}

fn advance(to: usize, apply_below: u32) -> Advance {
    Advance { segment: 1, from: 0, to: u32::try_from(to).unwrap(), apply_below, notified: false }
}

/// Runs steps to their end and returns what was reported.
fn run(mode: Mode, steps: Vec<Step>) -> (Stop, Vec<StepReport>, Vec<String>) {
    let host = Host::default();
    let count = steps.len();
    let stop = Open::new(segment(mode, steps)).advance(&advance(count, u32::MAX), &host);
    (stop, host.said.into_inner(), host.calls.into_inner())
}

fn conditions(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| Value::template(*text)).collect()
}

#[test]
fn until_runs_once_more_than_it_retries() {
    let mut step = step("count", &[]);
    step.until = Some(Until {
        conditions: conditions(&["r.runs > 9"]),
        retries: Some(Value::from(2)),
        delay: Some(Value::from(0)),
    });

    let (stop, said, calls) = run(Mode::Apply, vec![step]);

    assert_eq!(calls.len(), 3);
    assert_eq!(stop, Stop::Failed { at: 0 });
    assert_eq!(said[0].result.as_ref().unwrap().get("attempts"), Some(&Value::from(2)));
}

#[test]
fn a_false_condition_skips_with_its_text() {
    let mut step = step("count", &[("x", "{{ nope }}")]);
    step.when = conditions(&["true", "1 == 2"]);

    let (_, said, calls) = run(Mode::Apply, vec![step]);

    assert!(calls.is_empty());
    assert_eq!(said[0].status, Status::Skipped);
    let result = said[0].result.as_ref().unwrap();
    assert_eq!(result.get("false_condition"), Some(&Value::str("1 == 2")));
    assert_eq!(result.get("skipped"), Some(&Value::from(true)));
}

#[test]
fn failed_when_false_keeps_the_result_of_a_failure() {
    let mut step = step("refuse", &[]);
    step.failed_when = Some(conditions(&["false"]));

    let (stop, said, _) = run(Mode::Apply, vec![step]);

    assert_eq!(stop, Stop::End { at: 1 });
    let result = said[0].result.as_ref().unwrap();
    assert_eq!(result.get("rc"), Some(&Value::from(1)));
    assert_eq!(result.get("failed_when_result"), Some(&Value::from(false)));
}

#[test]
fn failed_when_sees_what_changed_when_said() {
    let mut step = step("count", &[]);
    step.changed_when = Some(conditions(&["r.rc == 1"]));
    step.failed_when = Some(conditions(&["r is changed"]));

    let (_, said, _) = run(Mode::Apply, vec![step]);

    assert_eq!(said[0].status, Status::Failed);
}

#[test]
fn a_loop_goes_on_after_a_failing_item_and_has_failed_only_then() {
    let mut step = step("fail", &[("msg", "{{ item }}")]);
    step.looping = over("{{ [1, 2, 3] }}");
    step.when = conditions(&["item != 2"]);
    step.ignore_errors = Some(Value::from(true));
    let mut fine = super::tests::step("count", &[]);
    fine.looping = over("{{ [1] }}");

    let (_, said, _) = run(Mode::Apply, vec![step, fine]);

    let results = said[0].result.as_ref().unwrap();
    assert_eq!(results.get("results").and_then(Value::as_list).unwrap().len(), 3);
    assert_eq!(results.get("msg"), Some(&Value::str("One or more items failed")));
    assert!(said[0].ignored);
    assert!(said[1].result.as_ref().unwrap().get("failed").is_none());
}

#[test]
fn an_undefined_loop_is_no_error_behind_a_false_condition() {
    let mut step = step("count", &[]);
    step.looping = over("{{ nope }}");
    step.when = conditions(&["false"]);
    let mut without = super::tests::step("count", &[]);
    without.looping = over("{{ nope }}");

    let (stop, said, _) = run(Mode::Apply, vec![step, without]);

    assert_eq!(said[0].status, Status::Skipped);
    assert_eq!(said[1].status, Status::Failed);
    assert_eq!(stop, Stop::Failed { at: 1 });
}

#[test]
fn a_host_observes_ahead_and_stops_at_what_it_may_not_change_yet() {
    let host = Host::default();
    let mut open =
        Open::new(segment(Mode::Apply, vec![step("count", &[]), step("change", &[]), step("count", &[])]));

    let stop = open.advance(&advance(3, 0), &host);

    assert_eq!(stop, Stop::Pending { at: 1 });
    assert_eq!(*host.calls.borrow(), ["count (check)", "change (check)"]);
    assert_eq!(host.said.borrow().len(), 1);

    let on = Advance { from: 1, apply_below: 2, ..advance(3, 0) };
    assert_eq!(open.advance(&on, &host), Stop::End { at: 3 });
    assert_eq!(*host.calls.borrow(), ["count (check)", "change (check)", "change", "count (check)"]);
}

#[test]
fn what_depends_on_something_unknown_is_unknown_itself() {
    let mut first = step("shell", &[]);
    first.register = Some(Arc::from("r"));
    let mut second = step("count", &[("x", "{{ r.stdout | default('y') }}")]);
    second.register = None;
    let mut third = step("count", &[]);
    third.when = conditions(&["r.rc == 0"]);
    let mut open = segment(Mode::Check, vec![second, third]);
    open.registers.insert(Arc::from("r"), Value::unknown("it was not run"));
    let host = Host::default();

    Open::new(open).advance(&advance(2, u32::MAX), &host);

    assert!(host.calls.borrow().is_empty());
    let unknown =
        |report: &StepReport| matches!(report.answered, crate::executor::wire::Answered::Unknown { .. });
    assert!(host.said.borrow().iter().all(unknown));
}

#[test]
fn facts_and_registers_of_a_step_are_seen_by_the_next() {
    let (_, said, _) = run(
        Mode::Apply,
        vec![
            step("setup", &[]),
            step("set_fact", &[("a{{ 1 + 1 }}", "{{ ansible_hostname }}/{{ ansible_facts.hostname }}")]),
            step("debug", &[("msg", "{{ a2 }}")]),
        ],
    );

    assert_eq!(said[2].details.message.as_deref(), Some("db1/db1"));
}

#[test]
fn a_notified_host_stops_before_the_handlers() {
    let mut change = step("change", &[]);
    change.notify = vec![Value::str("restart")];
    let mut with_flush = segment(Mode::Apply, vec![change, step("count", &[])]);
    with_flush.flushes = vec![1];
    let host = Host::default();

    let stop = Open::new(with_flush).advance(&advance(2, u32::MAX), &host);

    assert_eq!(stop, Stop::End { at: 1 });
    assert_eq!(host.said.borrow()[0].notify, ["restart"]);
}
