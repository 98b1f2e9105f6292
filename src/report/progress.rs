//! Live lines on a terminal: what each host is at, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::event::Event;

/// How often elapsed times are redrawn.
const REDRAW: Duration = Duration::from_millis(120);

/// One line per busy host below the lines that stay.
#[derive(Debug)]
pub struct Progress {
    all: MultiProgress,
    lines: BTreeMap<Arc<str>, ProgressBar>,
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{prefix}  {elapsed:>4}  {wide_msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Progress {
    /// Begins on standard error, which must be a terminal.
    pub fn new() -> Progress {
        Progress {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            lines: BTreeMap::new(),
        }
    }

    /// Shows a line that stays, above the live ones.
    pub fn print(&self, text: &str) {
        self.all.suspend(|| print!("{text}"));
    }

    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::StepStarted { host, name } => {
                let line = self.lines.entry(host.clone()).or_insert_with(|| {
                    let line = self.all.add(ProgressBar::new_spinner().with_style(style()));
                    line.set_prefix(host.to_string());
                    line.enable_steady_tick(REDRAW);
                    line
                });
                line.reset_elapsed();
                line.set_message(name.clone());
            }
            Event::StepDone(done) => {
                if let Some(line) = self.lines.remove(&done.host) {
                    line.finish_and_clear();
                }
            }
            Event::Unreachable { host, .. } => {
                if let Some(line) = self.lines.remove(host) {
                    line.finish_and_clear();
                }
            }
            Event::Ended(_) => {
                for line in std::mem::take(&mut self.lines).into_values() {
                    line.finish_and_clear();
                }
            }
            Event::PlayStarted { .. } | Event::Warning { .. } | Event::Interrupted => {}
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}
