//! Diagnostics for people (the line, a caret, second places, a hint) and for programs (JSON).

use std::fmt::Write;

use crate::source::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::source::span::{SourceMap, Span};

/// Longest source line that is shown in full; beyond, a window around the caret.
const LINE_SHOWN_CHARS: usize = 160;

pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Advice => "advice",
    }
}

/// Returns all problems, sorted by place, as text for a terminal. Ends with a newline unless empty.
pub fn text(diagnostics: &Diagnostics, map: &SourceMap) -> String {
    let mut out = String::new();
    for (index, diagnostic) in diagnostics.sorted().into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(&one(diagnostic, map));
    }
    out
}

/// Returns one problem as text: sentence, place, line with caret, notes, hint.
pub fn one(diagnostic: &Diagnostic, map: &SourceMap) -> String {
    let Diagnostic { severity, code: _, message, span, labels, hint } = diagnostic;
    let mut out = format!("{}: {message}\n", severity_word(*severity));
    let place = span.and_then(|s| map.location(s).map(|location| (s, location)));
    let width = place.as_ref().map_or(1, |(_, location)| location.line.to_string().len());
    let pad = " ".repeat(width);
    if let Some((span, location)) = &place {
        let _ = writeln!(out, "{pad}--> {location}");
        if let Some(line) = map.line(span.file, location.line).filter(|line| !line.trim().is_empty()) {
            let (shown, column) = window(line, location.column);
            let carets = caret_count(map, *span, &shown, column);
            let lead: String =
                shown.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let _ = writeln!(
                out,
                "{pad} |\n{:width$} | {shown}\n{pad} | {lead}{}",
                location.line,
                "^".repeat(carets)
            );
        }
    }
    for label in labels {
        let _ = match map.location(label.span) {
            Some(at) => writeln!(out, "{pad} = note: {} at {at}", label.message),
            None => writeln!(out, "{pad} = note: {}", label.message),
        };
    }
    if let Some(hint) = hint {
        let _ = writeln!(out, "{pad} = hint: {hint}");
    }
    out
}

fn caret_count(map: &SourceMap, span: Span, shown: &str, column: usize) -> usize {
    let chars = map
        .text(span.file)
        .and_then(|text| text.get(span.start as usize..(span.end as usize).min(text.len())))
        .map_or(1, |marked| marked.lines().next().unwrap_or_default().trim_end().chars().count());
    let room = shown.chars().count().saturating_sub(column - 1);
    chars.min(room).max(1)
}

/// Cuts a long line to a window around `column` (from 1) and returns it with the column inside it.
fn window(line: &str, column: usize) -> (String, usize) {
    let total = line.chars().count();
    if total <= LINE_SHOWN_CHARS {
        return (line.to_owned(), column);
    }
    let start = column.saturating_sub(LINE_SHOWN_CHARS / 2).min(total - LINE_SHOWN_CHARS);
    let cut: String = line.chars().skip(start).take(LINE_SHOWN_CHARS).collect();
    if start == 0 { (format!("{cut}…"), column) } else { (format!("…{cut}…"), column - start + 1) }
}

/// Returns all problems, sorted by place, as a JSON array of objects.
pub fn json(diagnostics: &Diagnostics, map: &SourceMap) -> serde_json::Value {
    let place = |span: Span| {
        map.location(span).map(|at| {
            serde_json::json!({ "file": at.path.display().to_string(), "line": at.line, "column": at.column })
        })
    };
    let rows = diagnostics.sorted().into_iter().map(|d| {
        let notes: Vec<serde_json::Value> = d
            .labels
            .iter()
            .map(|label| serde_json::json!({ "message": label.message, "place": place(label.span) }))
            .collect();
        serde_json::json!({
            "severity": severity_word(d.severity),
            "code": d.code,
            "message": d.message,
            "place": d.span.and_then(place),
            "notes": notes,
            "hint": d.hint,
        })
    });
    serde_json::Value::Array(rows.collect())
}
