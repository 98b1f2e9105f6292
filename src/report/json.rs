//! One JSON document per run, for programs.

use serde_json::{Value, json};

use crate::run::event::{Answered, Details, Event, Mode, Status, StepDone, Summary};

/// Collects a run.
#[derive(Debug, Default)]
pub struct Json {
    steps: Vec<Value>,
    unreachable: Vec<Value>,
    warnings: Vec<String>,
}

impl Json {
    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::StepDone(done) => self.steps.push(step(done)),
            Event::Unreachable { host, message } => {
                self.unreachable.push(json!({"host": &**host, "message": message}));
            }
            Event::Warning { message } => self.warnings.push(message.clone()),
            Event::PlayStarted { .. } | Event::StepStarted { .. } | Event::Interrupted | Event::Ended(_) => {}
        }
    }

    /// Returns the document of the finished run.
    pub fn document(self, summary: &Summary, mode: Mode) -> Value {
        let hosts: serde_json::Map<String, Value> = summary
            .recap
            .iter()
            .map(|(host, recap)| {
                let figures = json!({
                    "ok": recap.ok,
                    "changed": recap.changed,
                    "unreachable": recap.unreachable,
                    "failed": recap.failed,
                    "skipped": recap.skipped,
                    "rescued": recap.rescued,
                    "ignored": recap.ignored,
                });
                (host.to_string(), figures)
            })
            .collect();
        json!({
            "mode": match mode { Mode::Apply => "apply", Mode::Check => "check" },
            "steps": self.steps,
            "unreachable": self.unreachable,
            "warnings": self.warnings,
            "hosts": hosts,
            "pending": {"known": summary.known, "blocked": summary.blocked, "unknown": summary.unknown},
            "interrupted": summary.interrupted,
            "elapsed_ms": summary.elapsed_ms,
        })
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Changed => "changed",
        Status::Skipped => "skipped",
        Status::Failed => "failed",
    }
}

fn step(done: &StepDone) -> Value {
    let report = &done.report;
    let mut document = json!({
        "host": &*done.host,
        "step": report.step,
        "name": report.name,
        "role": done.role.as_deref(),
        "module": &*done.module,
        "at": &*done.origin,
        "status": word(report.status),
        "elapsed_ms": report.elapsed_ms,
    });
    let mut put = |key: &str, value: Value| {
        if let Some(map) = document.as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    };
    if let Some(place) = &done.place {
        put("place", json!(&**place));
    }
    if report.ignored || done.rescued {
        put(if report.ignored { "ignored" } else { "rescued" }, json!(true));
    }
    match &report.answered {
        Answered::Known => {}
        Answered::Blocked { by, name } => put("blocked_by", json!({"step": by, "name": name})),
        Answered::Unknown { reason } => put("unknown", json!(reason)),
    }
    details(&report.details, &mut put);
    if !report.items.is_empty() {
        let items: Vec<Value> = report
            .items
            .iter()
            .map(|item| {
                let mut document = json!({"label": item.label, "status": word(item.status)});
                details(&item.details, &mut |key, value| {
                    if let Some(map) = document.as_object_mut() {
                        map.insert(key.to_owned(), value);
                    }
                });
                document
            })
            .collect();
        put("items", Value::from(items));
    }
    document
}

fn details(details: &Details, put: &mut dyn FnMut(&str, Value)) {
    if !details.changes.is_empty() {
        let texts: Vec<&str> = details.changes.iter().map(|change| change.text.as_str()).collect();
        put("changes", json!(texts));
    }
    if let Some(diff) = &details.diff {
        put("diff", json!({"header": diff.header, "before": diff.before, "after": diff.after}));
    }
    if let Some(message) = &details.message {
        put("message", json!(message));
    }
    if let Some(fault) = &details.fault {
        put("fault", json!({"message": fault.message, "lines": fault.lines, "hint": fault.hint}));
    }
}
