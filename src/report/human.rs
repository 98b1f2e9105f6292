//! Plain lines: one per host and step that changed, would change, failed or cannot be told.

use crate::run::event::{Answered, Details, Diff, Event, FaultText, Mode, Risk, Status, StepDone};

/// What is shown besides changes and failures.
#[derive(Debug, Clone, Copy)]
pub struct Human {
    pub mode: Mode,
    pub diff: bool,
    pub verbose: bool,
}

/// Most lines of one diff that are shown; the rest is counted.
const DIFF_LINES_MAX: usize = 200;

impl Human {
    /// Returns the lines that an event is told with; empty for what goes without saying.
    pub fn lines(&self, event: &Event) -> String {
        match event {
            Event::PlayStarted { name, hosts } => {
                let word = if hosts.len() == 1 { "host" } else { "hosts" };
                format!("play \"{name}\" ({} {word})\n", hosts.len())
            }
            Event::StepStarted { .. } | Event::Ended(_) => String::new(),
            Event::StepDone(done) => self.step(done),
            Event::Unreachable { host, message } => format!("{host}: unreachable: {message}\n"),
            Event::Warning { message } => format!("warning: {message}\n"),
            Event::Interrupted => {
                "interrupted: changes in flight are finished, nothing more is started (once more ends them)\n"
                    .to_owned()
            }
        }
    }

    fn step(&self, done: &StepDone) -> String {
        let report = &done.report;
        let place = done.place.as_ref().map(|place| format!(" on {place}")).unwrap_or_default();
        let role = done.role.as_ref().map(|role| format!("{role} : ")).unwrap_or_default();
        let title = format!("{}{place}: step {} `{role}{}`", done.host, report.step, report.name);
        let mut out = String::new();
        match (&report.answered, report.status) {
            (Answered::Unknown { reason }, _) => {
                out.push_str(&format!("{title} unknown: {reason}\n"));
            }
            (Answered::Blocked { by, name }, _) => {
                out.push_str(&format!("{title} blocked by step {by} `{name}`"));
                if let Some(needs) = &report.details.message {
                    out.push_str(&format!(": {needs}"));
                }
                out.push('\n');
            }
            (Answered::Known, Status::Failed) => {
                let word = if report.ignored {
                    " failed (ignored)"
                } else if done.rescued {
                    " failed (rescued)"
                } else {
                    " failed"
                };
                self.failed(&mut out, &format!("{title}{word}"), done);
            }
            (Answered::Known, Status::Changed) => {
                let word = if self.mode == Mode::Check { "would change" } else { "changed" };
                out.push_str(&format!("{title} {word}\n"));
                self.details(&mut out, &report.details);
                self.items(&mut out, done);
            }
            (Answered::Known, Status::Ok) => {
                let message = report.details.message.as_ref().filter(|_| &*done.module == "debug");
                if let Some(message) = message {
                    out.push_str(&format!("{title}: {}\n", indented(message)));
                }
                let said: Vec<&str> =
                    report.items.iter().filter_map(|item| item.details.message.as_deref()).collect();
                if &*done.module == "debug" {
                    said.iter()
                        .for_each(|message| out.push_str(&format!("{title}: {}\n", indented(message))));
                }
                if self.verbose && message.is_none() && said.is_empty() {
                    out.push_str(&format!("{title} ok\n"));
                }
            }
            (Answered::Known, Status::Skipped) if self.verbose => out.push_str(&format!("{title} skipped\n")),
            (Answered::Known, Status::Skipped) => {}
        }
        if self.verbose
            && !report.no_log
            && let Some(result) = &report.result
        {
            out.push_str(&format!("     => {}\n", result.redacted()));
        }
        out
    }

    fn failed(&self, out: &mut String, title: &str, done: &StepDone) {
        let report = &done.report;
        let none = FaultText::default();
        let fault = report.details.fault.as_ref().unwrap_or(&none);
        out.push_str(&format!("{title}: {}\n", indented(&fault.message)));
        let seconds = report.elapsed_ms as f64 / 1000.0;
        out.push_str(&format!("     from {}, after {seconds:.1} s\n", done.origin));
        if let Some(place) = &done.template {
            out.push_str(&format!("     written at {place}\n"));
        }
        for line in fault.lines.iter().flat_map(|lines| lines.lines()) {
            out.push_str(&format!("     > {line}\n"));
        }
        if let Some(hint) = &fault.hint {
            out.push_str(&format!("     hint: {hint}\n"));
        }
        for item in report.items.iter().filter(|item| item.status == Status::Failed) {
            let message = item.details.fault.as_ref().map(|fault| fault.message.as_str()).unwrap_or_default();
            out.push_str(&format!("     item {}: {}\n", item.label, indented(message)));
        }
    }

    fn items(&self, out: &mut String, done: &StepDone) {
        for item in done.report.items.iter().filter(|item| item.status == Status::Changed) {
            out.push_str(&format!("     item {}\n", item.label));
            self.details(out, &item.details);
        }
    }

    fn details(&self, out: &mut String, details: &Details) {
        for change in &details.changes {
            let risk = match change.risk {
                Risk::None => "",
                Risk::Reload => " (reload)",
                Risk::Restart => " (restart)",
                Risk::Failover => " (failover)",
                Risk::DataLoss => " (data loss)",
            };
            out.push_str(&format!("     - {}{risk}\n", indented(&change.text)));
        }
        if self.diff
            && let Some(diff) = &details.diff
        {
            write_diff(out, diff);
        }
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n     ")
}

/// Writes the changed lines of a text with three around them.
fn write_diff(out: &mut String, diff: &Diff) {
    let changes = similar::TextDiff::from_lines(&diff.before, &diff.after);
    let unified = changes.unified_diff().context_radius(3).to_string();
    if unified.is_empty() {
        return;
    }
    out.push_str(&format!("     --- {}\n", diff.header));
    let lines: Vec<&str> = unified.lines().collect();
    for line in lines.iter().take(DIFF_LINES_MAX) {
        out.push_str(&format!("     {line}\n"));
    }
    if lines.len() > DIFF_LINES_MAX {
        out.push_str(&format!("     … {} lines more\n", lines.len() - DIFF_LINES_MAX));
    }
}
