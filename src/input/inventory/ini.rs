//! Inventories in INI form: `[group]`, `[group:children]`, `[group:vars]`, hosts with `key=value`.

use std::path::Path;
use std::sync::Arc;

use crate::expr::Marks;
use crate::input::inventory::build::Builder;
use crate::input::inventory::literal;
use crate::input::words::{self, SplitError};
use crate::source::{Diagnostic, FileId, Span, suggest};

/// What the lines after a section's header are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hosts,
    Children,
    Vars,
}

/// Adds the text's hosts, groups and variables to `builder`.
pub fn read(builder: &mut Builder<'_>, path: &Path, file: FileId, text: &str) {
    let mut reader = Reader { builder, path, file, group: "ungrouped".into(), kind: Kind::Hosts };
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if !trimmed.is_empty() && !trimmed.starts_with(['#', ';']) {
            let at = start + (line.len() - line.trim_start().len());
            reader.line(trimmed, at);
        }
        start += line.len();
    }
}

struct Reader<'a, 'b> {
    builder: &'a mut Builder<'b>,
    path: &'a Path,
    file: FileId,
    group: Arc<str>,
    kind: Kind,
}

impl Reader<'_, '_> {
    fn line(&mut self, line: &str, at: usize) {
        let whole = Span::new(self.file, at, at + line.len());
        if line.starts_with('[') && self.section(line, whole) {
            return;
        }
        match self.kind {
            Kind::Hosts => self.host(line, at),
            Kind::Vars => self.variable(line, at),
            Kind::Children => {
                let name = line.split_once('#').map_or(line, |(name, _)| name).trim_end();
                self.builder.child(&self.group, name, Span::new(self.file, at, at + name.len()));
            }
        }
    }

    /// Reads `[name]` or `[name:kind]`; `false` if the line is no header but a host such as `[2001:db8::1]:22`.
    fn section(&mut self, line: &str, whole: Span) -> bool {
        let Some((inside, after)) = line.strip_prefix('[').and_then(|l| l.split_once(']')) else {
            return false;
        };
        let after = after.trim_start();
        if inside.parse::<std::net::Ipv6Addr>().is_ok() || !(after.is_empty() || after.starts_with('#')) {
            return false;
        }
        let (name, kind) = inside.split_once(':').unwrap_or((inside, "hosts"));
        let span = Span::new(whole.file, whole.start as usize + 1, whole.start as usize + 1 + name.len());
        self.kind = match kind {
            "hosts" => Kind::Hosts,
            "children" => Kind::Children,
            "vars" => Kind::Vars,
            other => {
                let message = format!("`[{name}:{other}]` is no kind of section");
                let hint = suggest::did_you_mean(other, ["children", "vars", "hosts"]).unwrap_or_else(|| {
                    "sections are `[group]`, `[group:children]` and `[group:vars]`".into()
                });
                self.builder
                    .files
                    .out
                    .push(Diagnostic::error("inventory-section", message).at(whole).hint(hint));
                Kind::Hosts
            }
        };
        self.group = name.trim().into();
        self.builder.group(&self.group, span);
        true
    }

    fn host(&mut self, line: &str, at: usize) {
        let words = match words::shell(line, true) {
            Ok(words) => words,
            Err(error) => {
                let (SplitError::OpenQuote { at: inside } | SplitError::Backslash { at: inside }) = error;
                let span = Span::new(self.file, at + inside, at + line.len());
                self.builder
                    .files
                    .out
                    .push(Diagnostic::error("inventory-syntax", error.to_string()).at(span));
                return;
            }
        };
        let Some((name, rest)) = words.split_first() else { return };
        let span = |word: &words::Word| Span::new(self.file, at + word.at.start, at + word.at.end);
        let mut vars = Vec::new();
        for word in rest {
            match word.text.split_once('=') {
                Some((key, value)) => {
                    let marks = Marks { trusted: true, secret: false, origin: Some(span(word)) };
                    vars.push((Arc::from(key), literal::value(value, marks)));
                }
                None => {
                    let message = format!("`{}` behind a host must be `name=value`", word.text);
                    let hint = "one host a line; quote a value that has blanks: name=\"a b\"";
                    self.builder
                        .files
                        .out
                        .push(Diagnostic::error("inventory-syntax", message).at(span(word)).hint(hint));
                }
            }
        }
        let place = span(name);
        self.builder.hosts(Some(&self.group), &name.text, place, self.path, vars);
    }

    fn variable(&mut self, line: &str, at: usize) {
        let whole = Span::new(self.file, at, at + line.len());
        let Some((key, value)) = line.split_once('=') else {
            let message = format!("a variable of the group `{}` must be `name=value`", self.group);
            self.builder.files.out.push(Diagnostic::error("inventory-syntax", message).at(whole));
            return;
        };
        let marks = Marks { trusted: true, secret: false, origin: Some(whole) };
        let value = literal::value(value.trim(), marks);
        self.builder.group_variable(&self.group, key.trim().into(), value);
    }
}
