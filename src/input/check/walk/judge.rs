//! What is wrong with one task: its module and parameters, the files that it takes, its expressions and the names in
//! them, the handlers that it notifies.

use std::path::Path;
use std::sync::Arc;

use crate::expr::{self, Value};
use crate::input::deployment::{FileKind, file_candidates};
use crate::input::playbook::args::short_name;
use crate::input::playbook::{Common, Condition, Task};
use crate::source::{Diagnostic, Severity, Span, suggest};

use super::{Walk, Way};

impl Walk<'_> {
    pub(super) fn module(&mut self, task: &Task, way: &Way) {
        let name = task.module.value.as_ref();
        if !self.catalog.knows(name) {
            let message = format!("there is no module `{name}`");
            let hint = suggest::did_you_mean(short_name(name), self.catalog.names())
                .unwrap_or_else(|| "the step would fail when it is reached".to_owned());
            self.problem(way, Diagnostic::error("unknown-module", message).at(task.module.span).hint(hint));
            self.value(&task.args.value, &Way { sure: false, ..way.clone() });
            return;
        }
        let mut params = task.args.value.clone();
        if let (Some(free), Some(dict)) = (&task.free_form, params.as_dict()) {
            let mut dict = dict.clone();
            dict.insert("_raw_params".into(), free.clone());
            params = Value::from(dict).with_origin(task.args.span);
        }
        for problem in self.catalog.check(name, &params).sorted() {
            let problem = problem.clone().at(problem.span.unwrap_or(task.module.span));
            // A slip of the pen is wrong behind a condition too; a parameter that another module or system has may be right there.
            let is_slip = problem.hint.as_ref().is_some_and(|hint| hint.starts_with("did you mean"));
            if is_slip { self.out.push(problem) } else { self.problem(way, problem) }
        }
        self.value(&params, way);
        self.supplied_file(task, &params, way);
    }

    /// Looks for the file that `template`, `copy` or `script` takes from this machine, and into a template's text.
    fn supplied_file(&mut self, task: &Task, params: &Value, way: &Way) {
        let (kind, parameter) = match short_name(&task.module.value) {
            "template" => (FileKind::Template, "src"),
            "copy" => (FileKind::File, "src"),
            _ => return,
        };
        let is_remote = params.get("remote_src").is_some_and(|v| v.truth() == Some(true));
        let Some((src, name)) = params.get(parameter).and_then(|v| Some((v, v.as_str()?))) else { return };
        if is_remote || name.contains("{{") {
            return;
        }
        let span = src.marks.origin.unwrap_or(task.module.span);
        let role = way.role.as_deref();
        let candidates = file_candidates(kind, name, role, Some(&way.task_dir), &way.playbook_dir);
        let Some(path) = candidates.iter().find(|path| path.exists()) else {
            let folder = role.unwrap_or(&way.playbook_dir).join(kind.folder());
            let names: Vec<String> = crate::input::files::entries(&folder)
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .collect();
            let hint = suggest::did_you_mean(name, names.iter().map(String::as_str))
                .unwrap_or_else(|| format!("it is looked for in {} first", folder.display()));
            let message = format!("there is no file `{name}` for `{}`", task.module.value);
            self.problem(way, Diagnostic::error("missing-file", message).at(span).hint(hint));
            return;
        };
        if kind == FileKind::Template {
            self.template_file(path, span, way);
        }
    }

    fn template_file(&mut self, path: &Path, span: Span, way: &Way) {
        let Ok(text) = std::fs::read_to_string(path) else { return };
        for problem in expr::check_file(&text, Some(span)).sorted() {
            let message = format!("{}: {}", path.display(), problem.message);
            self.problem(way, Diagnostic { message, ..problem.clone() });
        }
        for name in expr::needed_by_file(&text) {
            self.undefined(&name, Some(span), way, &format!(" in {}", path.display()));
        }
    }

    /// Says what is wrong: as an error on a sure way, else as a warning.
    fn problem(&mut self, way: &Way, diagnostic: Diagnostic) {
        let severity =
            if way.sure { diagnostic.severity } else { diagnostic.severity.max(Severity::Warning) };
        self.out.push(Diagnostic { severity, ..diagnostic });
    }

    pub(super) fn common(&mut self, common: &Common, way: &Way) {
        for condition in common.when.iter().skip(1) {
            self.expression(condition, &Way { sure: false, ..way.clone() });
        }
        self.conditions(common.when.first(), way);
        let values = [
            &common.become_,
            &common.become_user,
            &common.check_mode,
            &common.no_log,
            &common.run_once,
            &common.ignore_errors,
            &common.any_errors_fatal,
        ];
        let lazy = Way { sure: false, ..way.clone() };
        values.into_iter().flatten().for_each(|value| self.value(value, &lazy));
        common.delegate_to.iter().for_each(|value| self.value(value, &lazy));
        common.environment.iter().for_each(|value| self.value(value, &lazy));
        // Variables are evaluated where they are used.
        common.vars.values().for_each(|value| self.syntax(value, &lazy));
    }

    fn conditions(&mut self, first: Option<&Condition>, way: &Way) {
        first.into_iter().for_each(|condition| self.expression(condition, way));
    }

    pub(super) fn expression(&mut self, condition: &Condition, way: &Way) {
        for problem in expr::check_expression(&condition.value, Some(condition.span)).sorted() {
            self.expression_problem(problem, way);
        }
        for name in expr::needed_by_expression(&condition.value) {
            self.undefined(&name, Some(condition.span), way, "");
        }
    }

    fn expression_problem(&mut self, problem: &Diagnostic, way: &Way) {
        // A text that cannot be read is wrong wherever it stands.
        if problem.code == "template-syntax" {
            self.out.push(problem.clone());
        } else {
            self.problem(way, problem.clone());
        }
    }

    fn syntax(&mut self, value: &Value, way: &Way) {
        for problem in expr::check_value(value).sorted() {
            self.expression_problem(problem, way);
        }
    }

    pub(super) fn value(&mut self, value: &Value, way: &Way) {
        self.syntax(value, way);
        self.needs(value, way);
    }

    fn needs(&mut self, value: &Value, way: &Way) {
        match &value.data {
            expr::Data::List(items) => items.iter().for_each(|item| self.needs(item, way)),
            expr::Data::Dict(entries) => entries.values().for_each(|item| self.needs(item, way)),
            _ => {
                for name in expr::needed_by_value(value) {
                    self.undefined(&name, value.marks.origin, way, "");
                }
            }
        }
    }

    fn undefined(&mut self, name: &str, span: Option<Span>, way: &Way, place: &str) {
        if self.names.has(name) {
            return;
        }
        let diagnostic =
            Diagnostic::error("undefined-variable", format!("nothing defines the variable `{name}`{place}"));
        let hint = suggest::did_you_mean(name, self.names.iter()).unwrap_or_else(|| {
            "set it in group_vars, in the role's defaults or with -e; or give it a default: `NAME | default(…)`".to_owned()
        });
        let diagnostic = diagnostic.hint(hint);
        let diagnostic = match span {
            Some(span) => diagnostic.at(self.word_place(name, span)),
            None => diagnostic,
        };
        let sure = way.sure && !self.names.open;
        self.problem(&Way { sure, ..way.clone() }, diagnostic);
    }

    /// Narrows a span to the word in it, where the word stands there once.
    fn word_place(&self, word: &str, span: Span) -> Span {
        let Some(text) = self.deployment.sources.text(span.file) else { return span };
        let Some(part) = text.get(span.start as usize..(span.end as usize).min(text.len())) else {
            return span;
        };
        let mut places = part.match_indices(word);
        match (places.next(), places.next()) {
            (Some((at, _)), None) => {
                let start = span.start as usize + at;
                Span::new(span.file, start, start + word.len())
            }
            _ => span,
        }
    }

    pub(super) fn notify(&mut self, common: &Common, way: &Way) {
        for name in &common.notify {
            let Some(text) = name.as_str() else { continue };
            let plain = text.split_once(" : ").map_or(text, |(_, handler)| handler).trim();
            if plain.contains("{{") || self.handlers.open || self.handlers.names.contains(plain) {
                continue;
            }
            let known: Vec<Arc<str>> = self.handlers.names.iter().map(|n| Arc::from(n.as_str())).collect();
            let hint = suggest::did_you_mean(plain, known.iter().map(AsRef::as_ref)).unwrap_or_else(|| {
                "add it to the role's handlers/main.yml or to the play's `handlers`".to_owned()
            });
            let diagnostic =
                Diagnostic::error("unknown-handler", format!("no handler of this play is named `{plain}`"));
            let diagnostic = match name.marks.origin {
                Some(span) => diagnostic.at(span),
                None => diagnostic,
            };
            self.problem(way, diagnostic.hint(hint));
        }
    }
}
