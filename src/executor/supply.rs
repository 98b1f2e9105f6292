//! What a module call needs beside its parameters, and the tasks that need no module at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::executor::attempt::asked;
use crate::executor::evaluate::{Evaluation, Truth, Verdict};
use crate::executor::runner::Runner;
use crate::executor::task::Item;
use crate::executor::wire::{Answer, FaultText, FileUse, FoundFile, Question, Status, Step, StepId};
use crate::expr::{self, Data, Dict, EvalError, Value, emit};
use crate::modules::{ModuleCall, SuppliedFile};

/// Does the tasks whose meaning is in the expressions alone; `None` for all others.
pub(crate) fn told_here(eval: &Evaluation<'_>, step: &Step, verbose: bool) -> Option<Item> {
    let done = match &*step.module {
        "debug" => debug(eval, step, verbose),
        "assert" => assert(eval, step),
        "fail" => fail(eval, step),
        "set_fact" => set_fact(eval, step),
        _ => return None,
    };
    Some(done.unwrap_or_else(|error| Item::of_error("", &error)))
}

fn unchanged() -> Dict {
    let mut result = Dict::new();
    result.insert(Arc::from("changed"), Value::from(false));
    result.insert(Arc::from("failed"), Value::from(false));
    result
}

fn debug(eval: &Evaluation<'_>, step: &Step, verbose: bool) -> Result<Item, EvalError> {
    let raw = |name: &str| step.args.get(name);
    let verbosity = raw("verbosity").map(|value| eval.value(value)).transpose()?;
    let verbosity =
        verbosity.and_then(|v| v.as_int().or_else(|| v.as_str().and_then(|text| text.parse().ok())));
    if verbosity.unwrap_or(0) > i64::from(verbose) {
        let mut result = unchanged();
        result.insert(Arc::from("skipped"), Value::from(true));
        result.insert(Arc::from("skipped_reason"), Value::str("Verbosity threshold not met."));
        return Ok(Item::new(Status::Skipped, Value::from(result)));
    }
    let mut result = unchanged();
    let text = if let Some(var) = raw("var") {
        let name = emit::to_text(&eval.value(var)?);
        let value = match eval.expression(&name) {
            Ok(value) if !value.is_undefined() => value,
            Ok(_) => Value::str("VARIABLE IS NOT DEFINED!"),
            Err(error) if error.kind == expr::ErrorKind::Undefined => Value::str("VARIABLE IS NOT DEFINED!"),
            Err(error) => return Err(error),
        };
        let text = format!("{name}: {}", shown(&value));
        result.insert(Arc::from(name), value);
        text
    } else {
        let msg = match raw("msg") {
            Some(msg) => eval.value(msg)?,
            None => Value::str("Hello world!"),
        };
        if let Some(reason) = msg.find_unknown() {
            return Ok(Item::unknown(reason.to_string()));
        }
        let text = shown(&msg);
        result.insert(Arc::from("msg"), msg);
        text
    };
    let mut item = Item::new(Status::Ok, Value::from(result));
    item.details.message = Some(text);
    Ok(item)
}

/// Writes a value for people: texts as they are, all else as JSON.
fn shown(value: &Value) -> String {
    let value = value.redacted();
    match &value.data {
        Data::Str(text) => text.to_string(),
        _ => emit::json(
            &value,
            &emit::JsonStyle { indent: Some(4), ascii: false, ..emit::JsonStyle::default() },
        ),
    }
}

fn assert(eval: &Evaluation<'_>, step: &Step) -> Result<Item, EvalError> {
    let that = match step.args.get("that").map(|that| (&that.data, that)) {
        Some((Data::List(conditions), _)) => conditions.to_vec(),
        Some((_, one)) => vec![one.clone()],
        None => return Err(EvalError::value("`assert` needs `that`, a list of conditions")),
    };
    let message = |names: [&str; 2], otherwise: &str| -> Result<String, EvalError> {
        let found = names.iter().find_map(|name| step.args.get(name));
        let found = found.map(|value| eval.value(value)).transpose()?;
        Ok(found.map_or_else(|| otherwise.to_owned(), |value| shown(&value)))
    };
    let mut result = unchanged();
    match eval.all(&that)? {
        Verdict { truth: Truth::Yes, .. } => {
            let text = message(["success_msg", "success_msg"], "All assertions passed")?;
            result.insert(Arc::from("msg"), Value::str(text));
            Ok(Item::new(Status::Ok, Value::from(result)))
        }
        Verdict { truth: Truth::Unknown(reason), .. } => Ok(Item::unknown(reason.to_string())),
        Verdict { truth: Truth::No, failed } => {
            let text = message(["fail_msg", "msg"], "Assertion failed")?;
            let failed = failed.unwrap_or_default();
            result.insert(Arc::from("assertion"), Value::str(failed.clone()));
            result.insert(Arc::from("evaluated_to"), Value::from(false));
            result.insert(Arc::from("msg"), Value::str(text.clone()));
            let fault = FaultText {
                message: text,
                lines: vec![format!("not true: {failed}")],
                ..FaultText::default()
            };
            Ok(Item::failed(fault, result))
        }
    }
}

fn fail(eval: &Evaluation<'_>, step: &Step) -> Result<Item, EvalError> {
    let msg = step.args.get("msg").map(|msg| eval.value(msg)).transpose()?;
    let message = msg.map_or_else(|| "Failed as requested from task".to_owned(), |msg| shown(&msg));
    Ok(Item::failed(FaultText { message, ..FaultText::default() }, Dict::new()))
}

fn set_fact(eval: &Evaluation<'_>, step: &Step) -> Result<Item, EvalError> {
    let whole;
    let entries = match &step.args.data {
        Data::Dict(entries) => entries,
        _ => {
            whole = eval.value(&step.args)?;
            match &whole.data {
                Data::Dict(entries) => entries,
                _ => return Err(EvalError::value("`set_fact` needs names and their values")),
            }
        }
    };
    let mut set = Dict::new();
    for (name, value) in
        entries.iter().filter(|(name, _)| &***name != "cacheable" && &***name != "_raw_params")
    {
        let name = emit::to_text(&eval.value(&Value::template(name.clone()))?);
        let value = eval.value(value)?;
        if value.is_omit() {
            return Err(EvalError::value(format!("`{name}` is `omit`, which is no value")));
        }
        set.insert(Arc::from(name), value);
    }
    if set.is_empty() {
        return Err(EvalError::value("`set_fact` needs names and their values"));
    }
    let mut result = unchanged();
    result.insert(Arc::from("ansible_facts"), Value::from(set.clone()));
    let mut item = Item::new(Status::Ok, Value::from(result));
    item.set = set;
    Ok(item)
}

/// Modules whose `src` is a file of the controller, unless they are told otherwise.
const WITH_FILE: [&str; 5] = ["copy", "template", "script", "unarchive", "assemble"];

/// Brings along what `src` names on the controller.
pub(crate) fn add_files(
    call: &mut ModuleCall,
    eval: &Evaluation<'_>,
    step: &Step,
    known: &BTreeMap<(StepId, Arc<str>), FoundFile>,
    runner: &dyn Runner,
) -> Result<(), Box<Item>> {
    if !WITH_FILE.contains(&&*step.module) {
        return Ok(());
    }
    let remote = ["remote_src"].iter().filter_map(|name| call.params.get(name));
    if remote.filter_map(|value| eval.boolean(value)).any(|yes| yes) {
        return Ok(());
    }
    let key = if &*step.module == "script" { "_raw_params" } else { "src" };
    let Some(src) = call.params.get(key).or_else(|| call.params.get("src")).map(emit::to_text) else {
        return Ok(());
    };
    let src =
        if key == "_raw_params" { src.split_whitespace().next().unwrap_or_default().to_owned() } else { src };
    let usage = if &*step.module == "template" { FileUse::Template } else { FileUse::File };
    let found = match known.get(&(step.id, Arc::from(src.as_str()))) {
        Some(found) => found.clone(),
        None => {
            let question = Question::File { step: step.id, usage, name: src.clone() };
            let read = |answer| match answer {
                Answer::File(found) => Some(found),
                Answer::Content(_) | Answer::Value(_) => None,
            };
            asked(runner, question, read).map_err(|message| {
                Box::new(Item::failed(FaultText { message, ..FaultText::default() }, Dict::new()))
            })?
        }
    };
    let base = |path: &str| {
        Path::new(path)
            .file_name()
            .map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    match found {
        FoundFile::Text { path, text } => {
            let rendered =
                render(eval, call, &path, &text).map_err(|error| Box::new(Item::of_error(&src, &error)))?;
            if let Some(reason) = rendered.as_unknown() {
                let reason = format!("its template depends on something unknown: {reason}");
                return Err(Box::new(Item::unknown(reason)));
            }
            call.is_secret = rendered.has_secret();
            let bytes: Arc<[u8]> = Arc::from(emit::to_text(&rendered).into_bytes());
            call.files = vec![SuppliedFile {
                name: base(&path),
                sha256: Sha256::digest(&bytes).into(),
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                mode: 0o644,
                bytes: Some(bytes),
            }];
        }
        FoundFile::File { path, sha256, size, mode } => {
            call.files = vec![SuppliedFile { name: base(&path), sha256, size, mode, bytes: None }];
        }
        FoundFile::Folder { folders, files, .. } => {
            call.folders = folders;
            let supplied = |file: crate::executor::wire::FolderFile| SuppliedFile {
                name: file.name,
                sha256: file.sha256,
                size: file.size,
                mode: file.mode,
                bytes: None,
            };
            call.files = files.into_iter().map(supplied).collect();
        }
    }
    Ok(())
}

/// Renders a template with the options that the task gives.
fn render(eval: &Evaluation<'_>, call: &ModuleCall, path: &str, text: &str) -> Result<Value, EvalError> {
    let text_of = |name: &str| call.params.get(name).map(emit::to_text);
    let mut options = expr::FileOptions::default();
    for (name, to) in [
        ("trim_blocks", &mut options.whitespace.trim_blocks),
        ("lstrip_blocks", &mut options.whitespace.lstrip_blocks),
    ] {
        if let Some(yes) = call.params.get(name).and_then(|value| eval.boolean(value)) {
            *to = yes;
        }
    }
    let pair = |start: &str, end: &str| Some((text_of(start)?, text_of(end)?));
    let mut marks = expr::TemplateMarks::default();
    let mut other = false;
    for (found, to) in [
        (pair("variable_start_string", "variable_end_string"), &mut marks.variable),
        (pair("block_start_string", "block_end_string"), &mut marks.block),
        (pair("comment_start_string", "comment_end_string"), &mut marks.comment),
    ] {
        if let Some(found) = found {
            *to = found;
            other = true;
        }
    }
    options.marks = other.then_some(marks);
    let mut locals = Dict::new();
    locals.insert(Arc::from("template_path"), Value::str(path));
    locals.insert(Arc::from("template_fullpath"), Value::str(path));
    if eval.variable("ansible_managed").is_none() {
        locals.insert(Arc::from("ansible_managed"), Value::str("Ansible managed"));
    }
    eval.file(text, &options, &locals)
}

/// Fetches the bytes of a supplied file that the module needs after all.
pub(crate) fn add_content(
    call: &mut ModuleCall,
    sha256: [u8; 32],
    runner: &dyn Runner,
) -> Result<(), Box<Item>> {
    let read = |answer| match answer {
        Answer::Content(bytes) => Some(bytes),
        Answer::File(_) | Answer::Value(_) => None,
    };
    let bytes = asked(runner, Question::Content { sha256 }, read).map_err(|message| {
        Box::new(Item::failed(FaultText { message, ..FaultText::default() }, Dict::new()))
    })?;
    for file in call.files.iter_mut().filter(|file| file.sha256 == sha256) {
        file.bytes = Some(bytes.clone());
    }
    Ok(())
}
