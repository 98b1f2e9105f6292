//! Log lines in the shape of Python's logging, which tools for this field read.

use std::fmt;
use std::io::Write;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::contract::config::LogSection;
use crate::sys::clock;

const FORMAT: &str = "%(asctime)s %(levelname)s: %(message)s";

/// Writes events to standard error.
struct Lines {
    format: String,
    dateformat: Option<String>,
    json: bool,
}

/// Begins to log as the configuration says.
pub fn start(section: &LogSection) {
    let level = match section.level.to_ascii_uppercase().as_str() {
        "DEBUG" => "debug",
        "WARNING" | "WARN" => "warn",
        "ERROR" | "CRITICAL" | "FATAL" => "error",
        _ => "info",
    };
    let filter = EnvFilter::new(format!("warn,keddah={level}"));
    let lines = Lines {
        format: section.format.clone().unwrap_or_else(|| FORMAT.to_owned()),
        dateformat: section.dateformat.clone(),
        json: section.kind.eq_ignore_ascii_case("json"),
    };
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// The message and the fields of an event.
#[derive(Default)]
struct Parts {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else if !field.name().starts_with("log.") {
            self.fields.push((field.name(), text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else if !field.name().starts_with("log.") {
            self.fields.push((field.name(), value.to_owned()));
        }
    }
}

impl Parts {
    /// Returns the sentence with its fields behind it; an error goes last, after a colon.
    fn sentence(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "error") {
            text.push_str(&format!(" {name}={value}"));
        }
        for (_, value) in self.fields.iter().filter(|(name, _)| *name == "error") {
            text.push_str(&format!(": {value}"));
        }
        text
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let metadata = event.metadata();
        let time = clock::wall().to_zoned(jiff::tz::TimeZone::system());
        let asctime = match &self.dateformat {
            Some(format) => time.strftime(format.as_str()).to_string(),
            None => time.strftime("%Y-%m-%d %H:%M:%S,%3f").to_string(),
        };
        // Python's logging has one level more.
        let before = parts.fields.len();
        parts.fields.retain(|(name, _)| *name != "critical");
        let level = if parts.fields.len() < before { "CRITICAL" } else { level_name(*metadata.level()) };
        let line = if self.json {
            serde_json::json!({"asctime": asctime, "levelname": level, "message": parts.sentence()})
                .to_string()
        } else {
            self.format
                .replace("%(asctime)s", &asctime)
                .replace("%(levelname)s", level)
                .replace("%(name)s", "keddah")
                .replace("%(process)d", &std::process::id().to_string())
                .replace("%(threadName)s", "MainThread")
                .replace("%(pathname)s", metadata.file().unwrap_or_default())
                .replace(
                    "%(filename)s",
                    metadata.file().and_then(|f| f.rsplit('/').next()).unwrap_or_default(),
                )
                .replace("%(module)s", metadata.target())
                .replace("%(lineno)d", &metadata.line().unwrap_or_default().to_string())
                .replace("%(funcName)s", metadata.target().rsplit("::").next().unwrap_or_default())
                .replace("%(message)s", &parts.sentence())
        };
        // Nobody can be told that the log cannot be written.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}
