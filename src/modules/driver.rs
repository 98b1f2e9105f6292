//! The order of every module run, in one place: observe, diff, stop here in check mode, apply, and a diff of what was
//! reached that must be empty.

use serde::Serialize;

use crate::expr::{Data, Dict, Value};
use crate::modules::host::{Host, HostMut};
use crate::modules::outcome::{
    Answer, ChangeLine, Fault, FaultKind, Mode, ModuleCall, ModuleReply, Outcome, Thing,
};
use crate::modules::{Kind, Module, Seen, params};
use crate::source::Diagnostics;
use crate::sys::clock;

/// How often a thing that is waited for is looked for.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

/// A module without its types, as a row of the table.
pub trait AnyModule: Sync {
    /// The short name.
    fn name(&self) -> &'static str;
    /// The collection that makes the name fully qualified.
    fn collection(&self) -> &'static str;
    fn aliases(&self) -> &'static [&'static str];
    fn kind(&self) -> Kind;
    /// The names of its parameters, aliases included.
    fn parameters(&self) -> &'static [&'static str];
    /// Judges parameters that may still hold templates: names, and the values that are constants.
    fn check(&self, params: &Value) -> Diagnostics;
    /// The JSON Schema of its parameters.
    fn schema(&self) -> schemars::Schema;
    /// Runs the module on a host.
    ///
    /// # Errors
    /// The parameters are wrong, or the host refused.
    fn run(&self, call: &ModuleCall, host: &mut Host) -> ModuleReply;
}

/// The adapter from a [`Module`] to [`AnyModule`].
#[derive(Debug)]
pub struct Erased<M>(pub std::marker::PhantomData<fn() -> M>);

impl<M> Erased<M> {
    pub const NEW: Erased<M> = Erased(std::marker::PhantomData);
}

impl<M: Module> AnyModule for Erased<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn collection(&self) -> &'static str {
        M::COLLECTION
    }

    fn aliases(&self) -> &'static [&'static str] {
        M::ALIASES
    }

    fn kind(&self) -> Kind {
        M::KIND
    }

    fn parameters(&self) -> &'static [&'static str] {
        params::names::<M::Params>()
    }

    fn check(&self, value: &Value) -> Diagnostics {
        let value = dictionary::<M>(value);
        let (found, read) = params::check::<M::Params>(M::NAME, &value);
        let mut found = found;
        if let Some(read) = read {
            found.extend(M::check(&read));
        }
        found
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(M::Params)
    }

    fn run(&self, call: &ModuleCall, host: &mut Host) -> ModuleReply {
        let value = dictionary::<M>(&call.params);
        let secrets = params::secrets(&value);
        let done = params::read::<M::Params>(M::NAME, &value)
            .map_err(Fault::from)
            .and_then(|read| drive::<M>(&read, call, host));
        match done {
            Ok(outcome) => Ok(redact_outcome(outcome, &secrets)),
            Err(fault) => Err(redact_fault(fault, &secrets)),
        }
    }
}

/// Begins each change with the thing that it changes, where its words do not name it: for people, who see no parameters.
pub fn named(mut outcome: Outcome, params: &Value) -> Outcome {
    let text = |key: &str| params.as_dict().and_then(|dict| dict.get(key)).and_then(Value::as_str);
    if let Some(name) = ["dest", "path", "name"].into_iter().find_map(text) {
        for change in outcome.changes.iter_mut().filter(|change| !change.text.contains(name)) {
            change.text = format!("{name}: {}", change.text);
        }
    }
    outcome
}

/// Gives the text of a free-form module its name.
fn dictionary<M: Module>(value: &Value) -> Value {
    match &value.data {
        Data::Str(_) if M::FREE_FORM => {
            let mut dict = Dict::new();
            dict.insert("_raw_params".into(), value.clone());
            Value { data: Data::Dict(dict.into()), marks: value.marks }
        }
        Data::None => Value { data: Data::Dict(Dict::new().into()), marks: value.marks },
        _ => value.clone(),
    }
}

fn drive<M: Module>(read: &M::Params, call: &ModuleCall, host: &mut Host) -> ModuleReply {
    if let Some(problem) = M::check(read).sorted().first() {
        let mut fault = Fault::params(problem.message.clone());
        fault.hint.clone_from(&problem.hint);
        return Err(fault);
    }
    host.begin(call.environment.clone(), call.files.clone(), call.folders.clone(), M::OBSERVES_WITH);
    let mut seen = M::observe(read, host)?;
    if call.mode == Mode::Apply {
        // What a wait looks at may come as late as what it waits for.
        let end = clock::now() + M::patience(read);
        while matches!(seen, Seen::Blocked(_)) && clock::now() < end {
            std::thread::sleep(LOOK_EVERY);
            seen = M::observe(read, host)?;
        }
    }
    let found = match (seen, call.mode) {
        (Seen::Now(found), _) => found,
        (Seen::Blocked(thing), Mode::Apply) => return Err(Fault::missing(thing)),
        (Seen::Blocked(thing), Mode::Check) => return Ok(untold::<M>(read, Answer::Blocked(thing))),
        (Seen::Unknowable(why), Mode::Apply) => return Err(Fault::refused(why)),
        (Seen::Unknowable(why), Mode::Check) => return Ok(untold::<M>(read, Answer::Unknown(why))),
    };
    let changes = M::diff(read, &found);
    if changes.is_empty() || M::KIND == Kind::Query {
        let output = M::output(read, &found, None, &changes);
        return Ok(Outcome {
            answer: Answer::Known,
            changed: false,
            changes: Vec::new(),
            diff: None,
            output: output_of(&output)?,
            facts: M::facts(read, &found),
            predicted: Vec::new(),
        });
    }
    let lines: Vec<ChangeLine> = changes
        .iter()
        .filter(|c| M::counts(c))
        .map(|c| ChangeLine { text: c.to_string(), risk: M::risk(c) })
        .collect();
    let diff = if call.diff && !call.is_secret { M::texts(read, &found, host) } else { None };
    if call.mode == Mode::Check {
        let answer = match (M::KIND, M::opaque(read), M::elsewhere(&found)) {
            (_, Some(why), _) => Answer::Unknown(why),
            (_, None, Some(why)) => {
                Answer::Unknown(format!("{why}; apply would wait here: {}", texts_of(&lines)))
            }
            (Kind::Wait, None, None) => {
                Answer::Unknown(format!("apply would wait here: {}", texts_of(&lines)))
            }
            (Kind::Resource | Kind::Query | Kind::Action, None, None) => Answer::Known,
        };
        let changed = answer == Answer::Known && !lines.is_empty();
        return Ok(Outcome {
            answer,
            changed,
            changes: lines,
            diff,
            output: output_of(&M::output(read, &found, None, &changes))?,
            facts: M::facts(read, &found),
            predicted: M::makes(read),
        });
    }
    let reached = M::apply(read, &found, &changes, &mut HostMut::new(host))?;
    if M::KIND != Kind::Action {
        believe::<M>(read, &reached)?;
        if call.verify
            && let Seen::Now(again) = M::observe(read, host)?
            && M::KIND == Kind::Resource
            && M::LASTING
        {
            believe::<M>(read, &again)?;
        }
    }
    let is_ours = M::KIND != Kind::Wait && M::elsewhere(&found).is_none();
    let changed = is_ours && !lines.is_empty() && M::changed(read, &found, &reached);
    Ok(Outcome {
        answer: Answer::Known,
        changed,
        changes: if changed { lines } else { Vec::new() },
        diff: diff.filter(|_| changed),
        output: output_of(&M::output(read, &found, Some(&reached), &changes))?,
        facts: M::facts(read, &reached),
        predicted: Vec::new(),
    })
}

/// Refuses a state that still differs from what was asked for.
fn believe<M: Module>(read: &M::Params, reached: &M::State) -> Result<(), Fault> {
    let rest = M::diff(read, reached);
    if rest.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = rest.iter().map(ToString::to_string).collect();
    let message = format!("`{}` did not reach what it promised; still to do: {}", M::NAME, left.join("; "));
    Err(Fault::new(FaultKind::NotConverged, message)
        .hint("something else may be changing the same thing; if not, please report this"))
}

fn texts_of(lines: &[ChangeLine]) -> String {
    lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>().join("; ")
}

fn untold<M: Module>(read: &M::Params, answer: Answer) -> Outcome {
    let predicted: Vec<Thing> = M::makes(read);
    Outcome {
        answer,
        changed: false,
        changes: Vec::new(),
        diff: None,
        output: Dict::new(),
        facts: Dict::new(),
        predicted,
    }
}

fn output_of<T: Serialize>(output: &T) -> Result<Dict, Fault> {
    let json = serde_json::to_value(output).map_err(|error| {
        Fault::refused(format!("the module's result cannot be written: {error}; please report this"))
    })?;
    match Value::from_json(&json).data {
        Data::Dict(dict) => Ok(dict.as_ref().clone()),
        _ => Ok(Dict::new()),
    }
}

fn redact(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}

/// Takes secret parameters out of all that is shown, and marks them in what `register` sees.
fn redact_outcome(mut outcome: Outcome, secrets: &[String]) -> Outcome {
    if secrets.is_empty() {
        return outcome;
    }
    for line in &mut outcome.changes {
        line.text = redact(&line.text, secrets);
    }
    if let Answer::Unknown(why) = &mut outcome.answer {
        *why = redact(why, secrets);
    }
    if let Some(diff) = &mut outcome.diff
        && secrets.iter().any(|s| diff.before.contains(s.as_str()) || diff.after.contains(s.as_str()))
    {
        // The old text may hold the old secret, which nobody can recognize.
        diff.before = "(not shown: made from a secret)\n".to_owned();
        diff.after = "(not shown: made from a secret, and different)\n".to_owned();
    }
    outcome.output = mark(&outcome.output, secrets);
    outcome.facts = mark(&outcome.facts, secrets);
    outcome
}

fn redact_fault(mut fault: Fault, secrets: &[String]) -> Fault {
    fault.message = redact(&fault.message, secrets);
    for line in &mut fault.lines {
        *line = redact(line, secrets);
    }
    fault.output = Box::new(mark(&fault.output, secrets));
    fault
}

fn mark(dict: &Dict, secrets: &[String]) -> Dict {
    if secrets.is_empty() {
        return dict.clone();
    }
    dict.iter().map(|(key, value)| (key.clone(), mark_value(value, secrets))).collect()
}

fn mark_value(value: &Value, secrets: &[String]) -> Value {
    let mut marked = value.clone();
    match &value.data {
        Data::Str(text) if secrets.iter().any(|s| text.contains(s.as_str())) => marked.marks.secret = true,
        Data::List(items) => {
            marked.data = Data::List(items.iter().map(|v| mark_value(v, secrets)).collect::<Vec<_>>().into());
        }
        Data::Dict(dict) => marked.data = Data::Dict(mark(dict, secrets).into()),
        _ => {}
    }
    marked
}
