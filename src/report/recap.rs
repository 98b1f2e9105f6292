//! The figures at the end of a run, in Ansible's form.

use crate::run::event::{Mode, Summary};

/// Writes one line per host with the seven figures, and the time.
pub fn lines(summary: &Summary, mode: Mode) -> String {
    let mut out = String::new();
    let width = summary.recap.iter().map(|(host, _)| host.chars().count()).max().unwrap_or(0).max(26);
    for (host, recap) in &summary.recap {
        out.push_str(&format!(
            "{host:<width$} : ok={:<4} changed={:<4} unreachable={:<4} failed={:<4} skipped={:<4} rescued={:<4} ignored={:<4}\n",
            recap.ok,
            recap.changed,
            recap.unreachable,
            recap.failed,
            recap.skipped,
            recap.rescued,
            recap.ignored,
        ));
    }
    if let Some(why) = &summary.stopped {
        out.push_str(&format!("{why}\n"));
    }
    let seconds = summary.elapsed_ms as f64 / 1000.0;
    match mode {
        Mode::Check => {
            out.push_str(&format!(
                "{} known, {} blocked, {} unknown, in {seconds:.1} s\n",
                summary.known, summary.blocked, summary.unknown
            ));
        }
        Mode::Apply => {
            let changed: usize = summary.recap.iter().map(|(_, recap)| recap.changed).sum();
            let word = if changed == 1 { "change" } else { "changes" };
            out.push_str(&format!("{changed} {word} in {seconds:.1} s\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::run::event::Recap;

    #[test]
    fn the_recap_has_ansibles_seven_figures() {
        let recap = Recap { ok: 12, changed: 3, skipped: 1, ..Recap::default() };
        let summary =
            Summary { recap: vec![(Arc::from("db1"), recap)], elapsed_ms: 1234, ..Summary::default() };

        insta::assert_snapshot!(lines(&summary, Mode::Apply), @r"
        db1                        : ok=12   changed=3    unreachable=0    failed=0    skipped=1    rescued=0    ignored=0   
        3 changes in 1.2 s
        ");
    }
}
