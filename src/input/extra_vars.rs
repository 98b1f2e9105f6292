//! `-e`: `a=1 b=2` (texts), YAML or JSON (`{…}`), or `@FILE`.

use std::path::Path;

use crate::expr::{Dict, Value};
use crate::input::files::{self, Files};
use crate::input::words;
use crate::source::{Diagnostic, Span, yaml};

/// Reads all of them in order; later ones win.
pub fn read(files: &mut Files, given: &[String]) -> Dict {
    let mut all = Dict::new();
    for text in given {
        let trimmed = text.trim();
        let more = if let Some(path) = trimmed.strip_prefix('@') {
            files.variables(Path::new(path), None)
        } else if trimmed.starts_with(['{', '[']) {
            let file = files.sources.add("-e", text.as_str());
            let (documents, problems) = yaml::read(file, text);
            files.out.extend(problems);
            documents.first().map(|d| files.variables_of(d, "the value of `-e`")).unwrap_or_default()
        } else {
            pairs(files, text)
        };
        all.extend(more);
    }
    all
}

fn pairs(files: &mut Files, text: &str) -> Dict {
    let file = files.sources.add("-e", text);
    let mut vars = Dict::new();
    for word in words::arguments(text) {
        let span = Span::new(file, word.at.start, word.at.end);
        match words::key_value(&word.text) {
            Some((name, value)) => {
                let (name, value) = files::variable(name.into(), Value::template(value).with_origin(span));
                vars.insert(name, value);
            }
            None => {
                let message = format!("`{}` is no `name=value`", word.text);
                let hint = "write `-e name=value`, `-e '{\"name\": value}'` or `-e @FILE`";
                files.out.push(Diagnostic::error("extra-vars", message).at(span).hint(hint));
            }
        }
    }
    vars
}
