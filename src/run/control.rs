//! Tasks that the controller does itself, evaluated by the same code as on a host.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::executor::runner::Runner;
use crate::executor::segment::Open;
use crate::executor::wire::{Advance, Answer, FromHost, Identity, Question, Segment, StepReport};
use crate::expr::{Data, Dict, Value, emit};
use crate::input::deployment::FileKind;
use crate::input::files::Files as InputFiles;
use crate::modules::{self, Fault, ModuleCall, ModuleReply, Outcome};
use crate::plan::program::Search;
use crate::run::files;
use crate::run::lookups::OnController;

/// Evaluates a segment here and returns what it reports.
pub fn evaluate(segment: Segment, search: &Search) -> Vec<StepReport> {
    let advance = Advance {
        segment: segment.id,
        from: 0,
        to: u32::try_from(segment.steps.len()).unwrap_or(u32::MAX),
        apply_below: u32::MAX,
        notified: false,
    };
    let here = Here { search, said: RefCell::default() };
    Open::new(segment).advance(&advance, &here);
    here.said.into_inner()
}

/// The controller as the place of a step. Its modules only say what was asked for; the dispatcher acts on it.
struct Here<'a> {
    search: &'a Search,
    said: RefCell<Vec<StepReport>>,
}

impl Runner for Here<'_> {
    fn run(&self, _: &Identity, call: ModuleCall) -> ModuleReply {
        let mut outcome = Outcome {
            answer: modules::Answer::Known,
            changed: call.name == "add_host" || call.name == "group_by",
            changes: Vec::new(),
            diff: None,
            output: Dict::new(),
            facts: Dict::new(),
            predicted: Vec::new(),
        };
        if call.name == "include_vars" {
            let vars = self.include_vars(&call.params).map_err(Fault::refused)?;
            outcome.output.insert(Arc::from(VARS), Value::from(vars));
        } else {
            outcome.output.insert(Arc::from(ASKED), call.params);
        }
        Ok(outcome)
    }

    fn facts(&self, _: &Identity, _: &Value) -> Result<Dict, Fault> {
        Err(Fault::refused("facts are gathered on hosts only"))
    }

    fn ask(&self, question: Question) -> Result<Answer, String> {
        match question {
            Question::Lookup { plugin, terms, options, .. } => {
                let lookups = OnController { search: self.search.clone() };
                let values = lookups.answer(&plugin, &terms, &options).map_err(|error| error.message)?;
                Ok(Answer::Value(Value::from(values)))
            }
            Question::File { name, .. } => Err(format!("`{name}` is asked for by no module here")),
            Question::Content { .. } => Err("no content is asked for by a task of the controller".to_owned()),
        }
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

/// The key of a result under which the rendered parameters of a task of the controller stand.
const ASKED: &str = "asked";

/// The key of a result under which loaded variables stand.
const VARS: &str = "ansible_facts";

/// What one item of such a task asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub params: Value,
    /// The loop's variables.
    pub locals: Dict,
}

/// Reads from a report what each item that was not skipped asks for.
pub fn asked(report: &StepReport) -> Vec<Asked> {
    each(report, |result| {
        let params = result.get(ASKED)?.clone();
        let mut locals = Dict::new();
        for key in ["ansible_loop_var", "ansible_index_var"] {
            let name = result.get(key).and_then(Value::as_str);
            if let Some((name, value)) = name.and_then(|name| Some((name, result.get(name)?))) {
                locals.insert(Arc::from(name), value.clone());
            }
        }
        Some(Asked { params, locals })
    })
}

/// Reads the variables that `include_vars` loaded.
pub fn loaded(report: &StepReport) -> Vec<Dict> {
    each(report, |result| result.get(VARS).and_then(|vars| vars.as_dict().cloned()))
}

fn each<T>(report: &StepReport, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let Some(result) = &report.result else { return Vec::new() };
    match result.get("results").and_then(Value::as_list) {
        Some(items) => items.iter().filter_map(read).collect(),
        None => read(result).into_iter().collect(),
    }
}

impl Here<'_> {
    fn include_vars(&self, params: &Value) -> Result<Dict, String> {
        let text = |key: &str| params.get(key).map(emit::to_text);
        let mut vars = Dict::new();
        if let Some(dir) = text("dir") {
            let folder = self.find(&dir)?;
            let entries = std::fs::read_dir(&folder);
            let entries = entries.map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            let is_vars = |path: &PathBuf| {
                path.extension().is_some_and(|end| ["yml", "yaml", "json"].contains(&&*end.to_string_lossy()))
            };
            for path in paths.iter().filter(|path| is_vars(path)) {
                vars.extend(read_vars(path)?);
            }
        } else {
            let file = text("file").or_else(|| text("_raw_params")).ok_or("`include_vars` needs a file")?;
            vars = read_vars(&self.find(&file)?)?;
        }
        match text("name") {
            Some(name) => Ok(std::iter::once((Arc::from(name), Value::from(vars))).collect()),
            None => Ok(vars),
        }
    }

    fn find(&self, name: &str) -> Result<PathBuf, String> {
        let candidates = files::candidates(FileKind::Vars, name, self.search);
        candidates
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| format!("the file of variables `{name}` was not found on the controller"))
    }
}

/// Reads a file of variables while the run is under way.
///
/// # Errors
/// It cannot be read or is no mapping.
pub fn read_vars(path: &Path) -> Result<Dict, String> {
    let mut files = InputFiles::default();
    let vars = files.variables(path, None);
    if let Some(problem) =
        files.out.sorted().into_iter().find(|d| d.severity == crate::source::Severity::Error)
    {
        return Err(format!("{}: {}", path.display(), problem.message));
    }
    Ok(vars.into_iter().map(|(name, value)| (name, without_place(value))).collect())
}

/// Forgets places: the file is not of the map that the run shows places from.
fn without_place(value: Value) -> Value {
    let mut marks = value.marks;
    marks.origin = None;
    let data = match value.data {
        Data::List(values) => Data::List(Arc::new(values.iter().cloned().map(without_place).collect())),
        Data::Dict(values) => Data::Dict(Arc::new(
            values.iter().map(|(key, value)| (key.clone(), without_place(value.clone()))).collect(),
        )),
        other => other,
    };
    Value { data, marks }
}
