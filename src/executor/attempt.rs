//! One item of a task: conditions, arguments, the module, and what its result means.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::executor::evaluate::{Asking, Evaluation, Truth, Verdict};
use crate::executor::runner::Runner;
use crate::executor::segment::Open;
use crate::executor::supply;
use crate::executor::task::{Given, Item};
use crate::executor::variables::Seen;
use crate::executor::wire::{self, Answered, Become, FaultText, Identity, Mode, Question, Status, Step};
use crate::expr::{Data, Dict, EvalError, Value, emit};
use crate::modules::{self, Answer, Fault, FaultKind, Kind, ModuleCall, Outcome, Thing};

/// How one item ended.
pub(crate) enum Ended {
    Pending,
    Item(Box<Item>),
}

impl From<Item> for Ended {
    fn from(item: Item) -> Ended {
        Ended::Item(Box::new(item))
    }
}

/// A step being run for its items.
pub(crate) struct Run<'a> {
    open: &'a Open,
    step: &'a Step,
    scope: &'a wire::Scope,
    runner: &'a dyn Runner,
    mode: Mode,
    /// Changes are allowed in principle, but not yet.
    probing: bool,
    /// Answers of the controller that stay the same for all items.
    asked: Cell<u32>,
}

/// A number of tries that no playbook means.
const RETRIES_MAX: i64 = 1_000_000;

impl<'a> Run<'a> {
    pub fn new(
        open: &'a Open,
        step: &'a Step,
        scope: &'a wire::Scope,
        given: Given,
        runner: &'a dyn Runner,
    ) -> Run<'a> {
        let mut run =
            Run { open, step, scope, runner, mode: open.segment.mode, probing: false, asked: Cell::new(0) };
        if let Some(check) = &step.check_mode {
            run.mode = if run.flag(Some(check)) { Mode::Check } else { Mode::Apply };
        }
        run.probing = run.mode == Mode::Apply && !given.may_change;
        run
    }

    pub fn step(&self) -> &'a Step {
        self.step
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn cancelled(&self) -> bool {
        self.runner.is_cancelled()
    }

    pub fn wait(&self, time: Duration) {
        self.runner.pause(time);
    }

    pub fn eval<'e>(&'e self, locals: &'e Dict) -> Evaluation<'e> {
        let seen: Seen<'e> = self.open.variables.seen(self.scope, locals);
        Evaluation::new(seen, Asking { runner: self.runner, step: self.step.id })
    }

    /// Evaluates a yes-or-no keyword; what has no value counts as no.
    pub fn flag(&self, value: Option<&Value>) -> bool {
        let none = Dict::new();
        value.is_some_and(|value| self.eval(&none).boolean(value) == Some(true))
    }

    /// Returns the name to show: rendered, or as written where it cannot be.
    pub fn title(&self) -> String {
        let none = Dict::new();
        let rendered =
            self.eval(&none).value(&self.step.name).ok().filter(|value| value.as_unknown().is_none());
        let name = rendered.unwrap_or_else(|| self.step.name.clone());
        let text = emit::to_text(&name.redacted());
        if text.is_empty() { self.step.module.to_string() } else { text }
    }

    /// Runs the step for one item, whose variables are `locals`.
    pub fn item(&self, mut locals: Dict) -> Ended {
        match self.eval(&locals).all(&self.step.when) {
            Ok(Verdict { truth: Truth::Yes, .. }) => {}
            Ok(Verdict { truth: Truth::No, failed }) => return Item::skipped(failed).into(),
            Ok(Verdict { truth: Truth::Unknown(reason), .. }) => {
                return Item::unknown(format!("its condition depends on something unknown: {reason}")).into();
            }
            Err(error) => return Item::of_error("condition", &error).into(),
        }
        let Some(until) = &self.step.until else {
            return self.judged(&mut locals, None);
        };
        let number = |value: &Option<Value>, otherwise: i64| -> i64 {
            let value = value.as_ref().and_then(|value| self.eval(&locals).value(value).ok());
            let read = value
                .and_then(|v| v.as_int().or_else(|| v.as_str().and_then(|text| text.trim().parse().ok())));
            read.unwrap_or(otherwise)
        };
        let retries = number(&until.retries, 3).clamp(0, RETRIES_MAX);
        let delay = number(&until.delay, 5).clamp(0, 86_400);
        let mut attempt = 1;
        loop {
            let item = match self.judged(&mut locals, Some(attempt.min(retries.max(1)))) {
                Ended::Pending => return Ended::Pending,
                Ended::Item(item) => item,
            };
            if matches!(item.result.data, Data::Unknown { .. }) {
                return Ended::Item(item);
            }
            let satisfied = if until.conditions.is_empty() {
                Ok(Verdict::from(item.status != Status::Failed))
            } else {
                self.eval(&locals).all(&until.conditions)
            };
            match satisfied {
                Ok(Verdict { truth: Truth::Yes, .. }) => return Ended::Item(item),
                Ok(Verdict { truth: Truth::Unknown(reason), .. }) => {
                    return Item::unknown(reason.to_string()).into();
                }
                Ok(Verdict { truth: Truth::No, .. }) => {}
                Err(error) => return Item::of_error("until", &error).into(),
            }
            if self.probing {
                return Ended::Pending;
            }
            if attempt > retries || self.runner.is_cancelled() || self.mode == Mode::Check {
                return self.gave_up(*item, attempt).into();
            }
            self.runner.pause(Duration::from_secs(u64::try_from(delay).unwrap_or(0)));
            attempt += 1;
        }
    }

    fn gave_up(&self, item: Item, attempts: i64) -> Item {
        if item.status == Status::Failed {
            return item;
        }
        let message = format!("its `until` did not come true in {attempts} tries");
        let fault = FaultText { message, ..FaultText::default() };
        Item { facts: item.facts, ..Item::failed(fault, item.result.as_dict().cloned().unwrap_or_default()) }
    }

    /// Runs the module and applies `changed_when` and `failed_when`; the result is in `locals` under the registered name.
    fn judged(&self, locals: &mut Dict, attempt: Option<i64>) -> Ended {
        let mut item = match self.once(locals) {
            Ended::Pending => return Ended::Pending,
            Ended::Item(item) => *item,
        };
        let remember = |locals: &mut Dict, result: &Value| {
            if let Some(register) = &self.step.register {
                locals.insert(register.clone(), result.clone());
            }
        };
        let Some(mut result) = item.result.as_dict().cloned() else {
            remember(locals, &item.result);
            return item.into();
        };
        if let Some(attempt) = attempt {
            result.insert(Arc::from("attempts"), Value::from(attempt));
        }
        let whole =
            |result: &Dict| Value { data: Data::Dict(Arc::new(result.clone())), marks: item.result.marks };
        remember(locals, &whole(&result));
        if let Some(conditions) = &self.step.changed_when
            && !matches!(item.answered, Answered::Unknown { .. })
        {
            match self.eval(locals).all(conditions) {
                Ok(Verdict { truth: Truth::Unknown(reason), .. }) => {
                    return Item::unknown(reason.to_string()).into();
                }
                Ok(verdict) => {
                    let changed = verdict.truth == Truth::Yes;
                    result.insert(Arc::from("changed"), Value::from(changed));
                    if item.status != Status::Failed {
                        item.status = if changed { Status::Changed } else { Status::Ok };
                    }
                    remember(locals, &whole(&result));
                }
                Err(error) => return Item::of_error("changed_when", &error).into(),
            }
        }
        if let Some(conditions) = &self.step.failed_when
            && !matches!(item.answered, Answered::Unknown { .. })
        {
            match self.eval(locals).all(conditions) {
                Ok(Verdict { truth: Truth::Unknown(reason), .. }) => {
                    return Item::unknown(reason.to_string()).into();
                }
                Ok(verdict) => self.failed_when(&mut item, &mut result, verdict.truth == Truth::Yes),
                Err(error) => return Item::of_error("failed_when", &error).into(),
            }
        }
        item.result = Value { data: Data::Dict(Arc::new(result)), marks: item.result.marks };
        remember(locals, &item.result);
        item.into()
    }

    fn failed_when(&self, item: &mut Item, result: &mut Dict, failed: bool) {
        result.insert(Arc::from("failed_when_result"), Value::from(failed));
        result.insert(Arc::from("failed"), Value::from(failed));
        if failed {
            if item.status != Status::Failed {
                item.status = Status::Failed;
                let message = result.get("msg").map(emit::to_text).filter(|text| !text.is_empty());
                let message = message.unwrap_or_else(|| "its `failed_when` is true".to_owned());
                item.details.fault = Some(FaultText { message, ..FaultText::default() });
            }
        } else if item.status == Status::Failed {
            let changed = result.get("changed").and_then(Value::as_bool) == Some(true);
            item.status = if changed { Status::Changed } else { Status::Ok };
            item.details.fault = None;
        }
    }

    /// Renders the arguments and does what the module is.
    fn once(&self, locals: &Dict) -> Ended {
        let eval = self.eval(locals);
        if let Some(item) = supply::told_here(&eval, self.step, self.open.segment.verbose) {
            return item.into();
        }
        let args = match eval.value(&self.step.args) {
            Ok(args) => args,
            Err(error) => return Item::of_error("", &error).into(),
        };
        if let Some(reason) = args.find_unknown() {
            return Item::unknown(format!("its parameters depend on something unknown: {reason}")).into();
        }
        if let Some(item) = self.detached(&eval) {
            return item.into();
        }
        let identity = match self.identity(&eval) {
            Ok(identity) => identity,
            Err(error) => return Item::of_error("become", &error).into(),
        };
        match &*self.step.module {
            "setup" | "gather_facts" => self.gathered(&identity, &args).into(),
            _ => match self.call(&eval, args) {
                Ok(call) => self.module(&identity, call),
                Err(item) => (*item).into(),
            },
        }
    }

    /// Refuses to leave a job behind: only jobs that are waited for can be run here.
    fn detached(&self, eval: &Evaluation<'_>) -> Option<Item> {
        let poll = eval.value(self.step.poll.as_ref()?).ok()?;
        let number = poll.as_int().or_else(|| poll.as_str().and_then(|text| text.trim().parse().ok()));
        (number == Some(0)).then(|| {
            let fault = FaultText {
                message: "`poll: 0` would leave the task running behind; this version waits for every task"
                    .to_owned(),
                hint: Some("leave out `async` and `poll`, or start it as a unit of systemd".to_owned()),
                ..FaultText::default()
            };
            Item::failed(fault, Dict::new())
        })
    }

    fn gathered(&self, identity: &Identity, args: &Value) -> Item {
        match self.runner.facts(identity, args) {
            Ok(facts) => {
                let strip =
                    |name: &Arc<str>| name.strip_prefix("ansible_").map_or_else(|| name.clone(), Arc::from);
                let facts: Dict = facts.iter().map(|(name, value)| (strip(name), value.clone())).collect();
                let mut result = Dict::new();
                result.insert(Arc::from("changed"), Value::from(false));
                result.insert(Arc::from("ansible_facts"), Value::from(facts.clone()));
                Item { facts, ..Item::new(Status::Ok, Value::from(result)) }
            }
            Err(fault) => Item::failed(text_of(&fault), *fault.output),
        }
    }

    fn call(&self, eval: &Evaluation<'_>, args: Value) -> Result<ModuleCall, Box<Item>> {
        let mode = match (self.mode, self.probing && !self.is_harmless()) {
            (Mode::Apply, false) => modules::Mode::Apply,
            (Mode::Apply, true) | (Mode::Check, _) => modules::Mode::Check,
        };
        let mut call = ModuleCall::new(&*self.step.module, args, mode);
        let diff = self.step.diff.as_ref().map(|value| self.flag(Some(value)));
        call.diff = diff.unwrap_or(self.open.segment.diff);
        call.environment = match eval.environment(&self.step.environment) {
            Ok(environment) => environment,
            Err(error) => return Err(Box::new(Item::of_error("environment", &error))),
        };
        supply::add_files(&mut call, eval, self.step, &self.open.files, self.runner)?;
        Ok(call)
    }

    /// Says whether the text itself says that the step changes nothing and may run in check mode.
    fn is_harmless(&self) -> bool {
        let is_false = |value: &Value| value.as_bool() == Some(false) || value.as_str() == Some("false");
        self.step.check_mode.as_ref().is_some_and(is_false)
            && self.step.changed_when.as_deref().is_some_and(|all| matches!(all, [one] if is_false(one)))
    }

    /// Returns the pending step that makes what a module of this kind only looks at, in check mode.
    fn looks_at_pending(&self, call: &ModuleCall) -> Option<Item> {
        let kind = modules::find(&self.step.module).map(modules::AnyModule::kind);
        if self.mode != Mode::Check || kind != Some(Kind::Query) {
            return None;
        }
        let path =
            ["path", "src", "dest"].iter().find_map(|name| call.params.get(name)).map(emit::to_text)?;
        let thing = Thing::Path(path);
        self.open.is_pending(&thing).then(|| self.blocked(&thing, None))
    }

    fn module(&self, identity: &Identity, mut call: ModuleCall) -> Ended {
        if let Some(item) = self.looks_at_pending(&call) {
            return item.into();
        }
        loop {
            let reply = self.runner.run(identity, call.clone());
            match reply {
                Ok(outcome) if self.probing && (outcome.changed || outcome.answer != Answer::Known) => {
                    return Ended::Pending;
                }
                Ok(outcome) => return self.of_outcome(modules::named(outcome, &call.params)).into(),
                Err(Fault { kind: FaultKind::NeedsContent(sha256), .. }) if self.asked.get() < ASKS_MAX => {
                    self.asked.set(self.asked.get() + 1);
                    if let Err(item) = supply::add_content(&mut call, sha256, self.runner) {
                        return Ended::Item(item);
                    }
                }
                Err(_) if self.probing => return Ended::Pending,
                Err(fault) => return self.of_fault(fault).into(),
            }
        }
    }

    fn of_outcome(&self, outcome: Outcome) -> Item {
        let Outcome { answer, changed, changes, diff, output, facts, predicted } = outcome;
        let mut item = match answer {
            Answer::Known => {
                let mut result = output;
                result.insert(Arc::from("changed"), Value::from(changed));
                result.entry(Arc::from("failed")).or_insert_with(|| Value::from(false));
                if !facts.is_empty() {
                    result.insert(Arc::from("ansible_facts"), Value::from(facts.clone()));
                }
                let status = if changed { Status::Changed } else { Status::Ok };
                Item::new(status, Value::from(result))
            }
            Answer::Blocked(thing) => self.blocked(&thing, None),
            Answer::Unknown(reason) => {
                let mut item = Item::unknown(reason);
                item.opaque =
                    modules::find(&self.step.module).is_none_or(|module| module.kind() == Kind::Action);
                item
            }
        };
        item.details.changes = changes;
        item.details.diff = diff;
        item.facts = facts;
        item.makes = predicted;
        item
    }

    fn of_fault(&self, fault: Fault) -> Item {
        if self.mode == Mode::Check {
            match &fault.kind {
                FaultKind::Missing(thing) => return self.blocked(thing, Some(&fault)),
                FaultKind::Refused | FaultKind::TimedOut => {
                    if let Some(pending) = self.open.pending.last() {
                        return Item::unknown(format!(
                            "{}; step {} \"{}\" before it was not done",
                            fault.message, pending.step, pending.name
                        ));
                    }
                }
                FaultKind::Params(_)
                | FaultKind::NotOnThisHost
                | FaultKind::NeedsContent(_)
                | FaultKind::NotConverged => {}
            }
        }
        let mut text = text_of(&fault);
        if let FaultKind::Params(place) = fault.kind {
            text.place = place;
        }
        Item::failed(text, *fault.output)
    }

    /// Tells which pending step would make what is missing, or that no step would.
    fn blocked(&self, thing: &Thing, fault: Option<&Fault>) -> Item {
        if let Some(maker) = self.open.maker(thing) {
            let reason = format!("step {} \"{}\" would make {thing}", maker.step, maker.name);
            let kind = modules::find(&self.step.module).map(modules::AnyModule::kind);
            let status = if kind == Some(Kind::Query) { Status::Ok } else { Status::Changed };
            let mut item = Item::new(status, Value::unknown(reason));
            item.answered = Answered::Blocked { by: maker.step, name: maker.name.clone() };
            item.details.message = Some(format!("needs {thing}"));
            return item;
        }
        if let Some(maybe) = self.open.opaque() {
            return Item::unknown(format!(
                "it needs {thing}, which step {} \"{}\" may make or not",
                maybe.step, maybe.name
            ));
        }
        if modules::find(&self.step.module).is_some_and(|module| module.kind() == Kind::Wait) {
            return Item::unknown(format!("apply would wait here for {thing}"));
        }
        let fault = fault.cloned().unwrap_or_else(|| Fault::missing(thing.clone()));
        Item::failed(text_of(&fault), *fault.output)
    }

    fn identity(&self, eval: &Evaluation<'_>) -> Result<Identity, EvalError> {
        let text = |value: Option<&Value>| -> Result<Option<String>, EvalError> {
            let value = value.map(|value| eval.value(value)).transpose()?;
            Ok(value.filter(|value| !value.is_none() && !value.is_omit()).map(|value| emit::to_text(&value)))
        };
        let keyword = self.step.become_as.as_ref();
        let variable = |name: &str| eval.variable(name).filter(|value| !value.is_none());
        let enabled = match variable("ansible_become") {
            Some(value) => eval.boolean(&value).unwrap_or(false),
            None => keyword.is_some_and(|Become { enabled, .. }| eval.boolean(enabled) == Some(true)),
        };
        if !enabled {
            return Ok(Identity::Login);
        }
        let chosen = |name: &str, keyword: Option<&Value>| match variable(name) {
            Some(value) => text(Some(&value)),
            None => text(keyword),
        };
        let user = chosen("ansible_become_user", keyword.and_then(|k| k.user.as_ref()))?;
        let method = chosen("ansible_become_method", keyword.and_then(|k| k.method.as_ref()))?;
        Ok(Identity::Other {
            method: method.unwrap_or_else(|| "sudo".to_owned()),
            user: user.unwrap_or_else(|| "root".to_owned()),
            exe: chosen("ansible_become_exe", keyword.and_then(|k| k.exe.as_ref()))?,
            flags: chosen("ansible_become_flags", keyword.and_then(|k| k.flags.as_ref()))?,
        })
    }
}

/// How many contents one item may ask for, far above any folder that is copied.
const ASKS_MAX: u32 = 100_000;

/// Makes of a fault what people are shown.
pub(crate) fn text_of(fault: &Fault) -> FaultText {
    FaultText {
        message: fault.message.clone(),
        lines: fault.lines.clone(),
        hint: fault.hint.clone(),
        place: None,
    }
}

/// Asks a question whose answer must be of one kind.
pub(crate) fn asked<T>(
    runner: &dyn Runner,
    question: Question,
    read: impl FnOnce(wire::Answer) -> Option<T>,
) -> Result<T, String> {
    read(runner.ask(question)?).ok_or_else(|| "the controller answered another question".to_owned())
}
