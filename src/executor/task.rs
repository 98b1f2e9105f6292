//! One task on one host, in Ansible's order: loop, when, arguments, module, until, changed_when, failed_when, register,
//! notify.

use std::sync::Arc;
use std::time::Duration;

use crate::executor::attempt::{Ended, Run};
use crate::executor::evaluate::{Truth, Verdict};
use crate::executor::runner::Runner;
use crate::executor::segment::Open;
use crate::executor::wire::{
    Answered, Details, FaultText, FromHost, ItemReport, Loop, Mode, Pending, Status, StepReport,
};
use crate::expr::{Data, Dict, ErrorKind, EvalError, Value, emit};
use crate::modules::Thing;
use crate::sys::clock;

/// What the controller allows for this step.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub may_change: bool,
}

/// How a step ended, as far as the segment is concerned.
#[derive(Debug)]
pub enum Done {
    /// It would change something and may not yet; nothing was done and nothing is remembered.
    Pending,
    Report(Box<StepReport>),
}

/// What one run of the module, one item of a loop or the whole step came to.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub status: Status,
    pub answered: Answered,
    /// What `register` sees; [`Data::Unknown`] when plan or check did not do it.
    pub result: Value,
    pub details: Details,
    pub set: Dict,
    pub facts: Dict,
    pub makes: Vec<Thing>,
    pub opaque: bool,
}

/// What to do about a variable that other hosts may have.
const UNDEFINED_HINT: &str = "`keddah inventory --host NAME` shows what a host has; set it in group_vars or host_vars, or give \
                              it a default: `NAME | default(…)`";

impl Item {
    pub fn new(status: Status, result: Value) -> Item {
        Item {
            status,
            answered: Answered::Known,
            result,
            details: Details::default(),
            set: Dict::new(),
            facts: Dict::new(),
            makes: Vec::new(),
            opaque: false,
        }
    }

    pub fn unknown(reason: impl Into<String>) -> Item {
        let reason = reason.into();
        let mut item = Item::new(Status::Skipped, Value::unknown(reason.clone()));
        item.answered = Answered::Unknown { reason };
        item.opaque = true;
        item
    }

    pub fn skipped(condition: Option<String>) -> Item {
        let mut result = Dict::new();
        result.insert(Arc::from("changed"), Value::from(false));
        result.insert(Arc::from("skipped"), Value::from(true));
        result.insert(Arc::from("skip_reason"), Value::str("Conditional result was False"));
        if let Some(condition) = condition {
            result.insert(Arc::from("false_condition"), Value::str(condition));
        }
        Item::new(Status::Skipped, Value::from(result))
    }

    pub fn failed(fault: FaultText, mut output: Dict) -> Item {
        output.insert(
            Arc::from("changed"),
            output.get("changed").cloned().unwrap_or_else(|| Value::from(false)),
        );
        output.insert(Arc::from("failed"), Value::from(true));
        output.entry(Arc::from("msg")).or_insert_with(|| Value::str(fault.message.clone()));
        let mut item = Item::new(Status::Failed, Value::from(output));
        item.details.fault = Some(fault);
        item
    }

    pub fn of_error(what: &str, error: &EvalError) -> Item {
        let message =
            if what.is_empty() { error.message.clone() } else { format!("{what}: {}", error.message) };
        let undefined = (error.kind == ErrorKind::Undefined).then_some(UNDEFINED_HINT.to_owned());
        let hint = error.hint.clone().or(undefined);
        let fault = FaultText { message, lines: Vec::new(), hint, place: error.origin };
        Item::failed(fault, Dict::new())
    }
}

/// Runs the step at `at`, or finds out that it may not run yet.
pub fn run_step(open: &mut Open, at: usize, given: Given, runner: &dyn Runner) -> Done {
    let Some(step) = open.segment.steps.get(at).cloned() else { return Done::Pending };
    let begun = clock::now();
    let scope = open.segment.scopes.get(step.scope as usize).cloned().unwrap_or_default();
    let run = Run::new(open, &step, &scope, given, runner);
    let name = run.title();
    if given.may_change {
        let message = FromHost::Started { segment: open.segment.id, step: step.id, name: name.clone() };
        runner.tell(message);
    }
    let (item, items) = match &step.looping {
        None => match run.item(Dict::new()) {
            Ended::Pending => return Done::Pending,
            Ended::Item(item) => (*item, Vec::new()),
        },
        Some(looping) => match run.looped(looping) {
            Some(done) => done,
            None => return Done::Pending,
        },
    };
    let failed = item.status == Status::Failed;
    let ignored = failed && run.flag(step.ignore_errors.as_ref());
    let no_log = run.flag(step.no_log.as_ref());
    let maybe_changed = item.status == Status::Changed;
    let notify = if maybe_changed { run.notified() } else { Vec::new() };
    let pending = (run.mode() == Mode::Check && (maybe_changed || item.opaque)).then(|| Pending {
        step: step.id,
        name: name.clone(),
        makes: item.makes.clone(),
        opaque: item.opaque,
    });
    let verbose = open.segment.verbose;
    let Item { status, answered, result, details, set, facts, .. } = item;
    // A change: what was seen of the host before is kept by nobody, so there is nothing to forget here but the variables.
    open.variables.facts.extend(facts.iter().map(|(key, value)| (key.clone(), value.clone())));
    open.variables.registers.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    if let Some(register) = &step.register {
        open.variables.registers.insert(register.clone(), result.clone());
    }
    open.pending.extend(pending.clone());
    let wanted = verbose || failed || step.register.is_some();
    let mut report = StepReport {
        segment: open.segment.id,
        step: step.id,
        name,
        status,
        answered,
        ignored,
        no_log,
        details,
        items,
        result: wanted.then_some(result),
        register: step.register.clone(),
        set,
        facts,
        notify,
        pending,
        elapsed_ms: u64::try_from(clock::now().since(begun).as_millis()).unwrap_or(u64::MAX),
    };
    if no_log {
        censor(&mut report);
    }
    Done::Report(Box::new(report))
}

/// Takes out all that `no_log` forbids to show; what `register` saw stays for later steps.
fn censor(report: &mut StepReport) {
    let hide = |details: &mut Details| {
        let fault = details.fault.take().map(|_| FaultText {
            message: "the task failed; its output is hidden by `no_log`".to_owned(),
            ..FaultText::default()
        });
        *details = Details { fault, ..Details::default() };
    };
    hide(&mut report.details);
    for (index, item) in report.items.iter_mut().enumerate() {
        hide(&mut item.details);
        item.label = format!("(item {})", index + 1);
    }
}

impl Run<'_> {
    /// Runs all items; `None` when one of them may not run yet.
    fn looped(&self, looping: &Loop) -> Option<(Item, Vec<ItemReport>)> {
        let values = match self.values(looping) {
            Ok(values) => values,
            Err(item) => return Some((*item, Vec::new())),
        };
        if values.is_empty() {
            let mut result = Dict::new();
            result.insert(Arc::from("changed"), Value::from(false));
            result.insert(Arc::from("results"), Value::from(Vec::<Value>::new()));
            result.insert(Arc::from("skipped"), Value::from(true));
            result.insert(Arc::from("skipped_reason"), Value::str("No items in the list"));
            return Some((Item::new(Status::Skipped, Value::from(result)), Vec::new()));
        }
        let mut items: Vec<Item> = Vec::new();
        let mut reports = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let locals = loop_variables(looping, &values, index, value);
            if index > 0 {
                self.loop_pause(looping, &locals);
            }
            let mut item = match self.item(locals.clone()) {
                Ended::Pending => return None,
                Ended::Item(item) => *item,
            };
            add_item_fields(&mut item, looping, index, value);
            reports.push(ItemReport {
                label: self.label(looping, &locals, value),
                status: item.status,
                answered: item.answered.clone(),
                details: item.details.clone(),
            });
            let stop = !looping.break_when.is_empty() && self.breaks(looping, &locals, &item);
            items.push(item);
            if stop || self.cancelled() {
                break;
            }
        }
        Some((together(items), reports))
    }

    /// Resolves the loop; the error is the step's end.
    fn values(&self, looping: &Loop) -> Result<Vec<Value>, Box<Item>> {
        let none = Dict::new();
        let eval = self.eval(&none);
        let over = match &looping.lookup {
            None => eval.value(&looping.over),
            Some(lookup) => eval.with_lookup(lookup, &looping.over),
        };
        let over = over.and_then(|over| match &over.data {
            Data::List(_) | Data::Unknown { .. } => Ok(over),
            Data::Undefined { hint } => Err(EvalError::undefined(format!("{hint} is undefined"))),
            _ => Err(EvalError::value(format!("`loop` needs a list and got {}", over.type_name()))),
        });
        match over {
            Ok(over) => match (&over.data, over.as_list()) {
                (Data::Unknown { reason }, _) => match self.held_back() {
                    Some(skipped) => Err(Box::new(skipped)),
                    None => Err(Box::new(Item::unknown(reason.to_string()))),
                },
                (_, list) => Ok(list.unwrap_or_default().to_vec()),
            },
            // The error counts only if the task would run at all.
            Err(error) => Err(Box::new(self.held_back().unwrap_or_else(|| Item::of_error("loop", &error)))),
        }
    }

    /// Returns the skip of a step whose conditions are false without any item.
    fn held_back(&self) -> Option<Item> {
        let none = Dict::new();
        match self.eval(&none).all(&self.step().when) {
            Ok(Verdict { truth: Truth::No, failed }) => Some(Item::skipped(failed)),
            Ok(_) | Err(_) => None,
        }
    }

    fn label(&self, looping: &Loop, locals: &Dict, value: &Value) -> String {
        let label = looping.label.as_ref().and_then(|label| self.eval(locals).value(label).ok());
        let mut text = emit::to_text(&label.unwrap_or_else(|| value.clone()).redacted());
        if let Some((cut, _)) = text.char_indices().nth(LABEL_CHARS_MAX) {
            text.truncate(cut);
            text.push('…');
        }
        text
    }

    fn loop_pause(&self, looping: &Loop, locals: &Dict) {
        let Some(pause) = &looping.pause else { return };
        if let Ok(value) = self.eval(locals).value(pause)
            && let Some(seconds) = value.as_number()
        {
            self.wait(Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)));
        }
    }

    fn breaks(&self, looping: &Loop, locals: &Dict, item: &Item) -> bool {
        let mut locals = locals.clone();
        if let Some(register) = &self.step().register {
            locals.insert(register.clone(), item.result.clone());
        }
        matches!(self.eval(&locals).all(&looping.break_when), Ok(Verdict { truth: Truth::Yes, .. }))
    }

    /// Renders whom to notify.
    fn notified(&self) -> Vec<String> {
        let none = Dict::new();
        let eval = self.eval(&none);
        let mut names = Vec::new();
        for value in &self.step().notify {
            match eval.value(value) {
                Ok(value) => match value.as_list() {
                    Some(list) => names.extend(list.iter().map(emit::to_text)),
                    None => names.push(emit::to_text(&value)),
                },
                Err(_) => names.push(emit::to_text(value)),
            }
        }
        names
    }
}

/// How much of an item is shown where no label is given.
const LABEL_CHARS_MAX: usize = 100;

fn loop_variables(looping: &Loop, values: &[Value], index: usize, value: &Value) -> Dict {
    let mut locals = Dict::new();
    locals.insert(looping.var.clone(), value.clone());
    locals.insert(Arc::from("ansible_loop_var"), Value::str(looping.var.clone()));
    let number = i64::try_from(index).unwrap_or(i64::MAX);
    if let Some(index_var) = &looping.index_var {
        locals.insert(index_var.clone(), Value::from(number));
        locals.insert(Arc::from("ansible_index_var"), Value::str(index_var.clone()));
    }
    if looping.extended {
        let length = i64::try_from(values.len()).unwrap_or(i64::MAX);
        let mut extended = Dict::new();
        let mut put = |name: &str, value: Value| extended.insert(Arc::from(name), value);
        put("allitems", Value::from(values.to_vec()));
        put("index", Value::from(number + 1));
        put("index0", Value::from(number));
        put("first", Value::from(index == 0));
        put("last", Value::from(number + 1 == length));
        put("length", Value::from(length));
        put("revindex", Value::from(length - number));
        put("revindex0", Value::from(length - number - 1));
        if let Some(previous) = index.checked_sub(1).and_then(|index| values.get(index)) {
            put("previtem", previous.clone());
        }
        if let Some(next) = values.get(index + 1) {
            put("nextitem", next.clone());
        }
        locals.insert(Arc::from("ansible_loop"), Value::from(extended));
    }
    locals
}

fn add_item_fields(item: &mut Item, looping: &Loop, index: usize, value: &Value) {
    let Some(result) = item.result.as_dict() else { return };
    let mut result = result.clone();
    result.insert(looping.var.clone(), value.clone());
    result.insert(Arc::from("ansible_loop_var"), Value::str(looping.var.clone()));
    if let Some(index_var) = &looping.index_var {
        result.insert(index_var.clone(), Value::from(i64::try_from(index).unwrap_or(i64::MAX)));
        result.insert(Arc::from("ansible_index_var"), Value::str(index_var.clone()));
    }
    item.result = Value { data: Data::Dict(Arc::new(result)), marks: item.result.marks };
}

/// Makes the step's own end from those of its items.
fn together(items: Vec<Item>) -> Item {
    let any = |status: Status| items.iter().any(|item| item.status == status);
    let all_skipped = items.iter().all(|item| item.status == Status::Skipped);
    let status = if any(Status::Failed) {
        Status::Failed
    } else if any(Status::Changed) {
        Status::Changed
    } else if all_skipped {
        Status::Skipped
    } else {
        Status::Ok
    };
    let changed = items.iter().any(|item| item.result.get("changed").and_then(Value::as_bool) == Some(true));
    let mut result = Dict::new();
    result.insert(Arc::from("changed"), Value::from(changed));
    result.insert(Arc::from("skipped"), Value::from(all_skipped));
    let message = match status {
        Status::Failed => "One or more items failed",
        Status::Skipped => "All items skipped",
        Status::Ok | Status::Changed => "All items completed",
    };
    result.insert(Arc::from("msg"), Value::str(message));
    if status == Status::Failed {
        result.insert(Arc::from("failed"), Value::from(true));
    }
    let results: Vec<Value> = items.iter().map(|item| item.result.clone()).collect();
    result.insert(Arc::from("results"), Value::from(results));
    let mut whole = Item::new(status, Value::from(result));
    // The least certain item speaks for the step.
    let rank = |answered: &Answered| match answered {
        Answered::Known => 0,
        Answered::Blocked { .. } => 1,
        Answered::Unknown { .. } => 2,
    };
    if let Some(least) = items.iter().map(|item| &item.answered).max_by_key(|answered| rank(answered)) {
        whole.answered = least.clone();
    }
    for item in items {
        if whole.details.fault.is_none() && item.status == Status::Failed {
            whole.details.fault.clone_from(&item.details.fault);
        }
        whole.set.extend(item.set);
        whole.facts.extend(item.facts);
        whole.makes.extend(item.makes);
        whole.opaque |= item.opaque;
    }
    whole
}
