//! Segments: stretches of the program that one host can do by itself, with the variables they can reach.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::executor::wire::{FileUse, KnownFile, Mode, Pending, Scope, Segment, SegmentId, Step};
use crate::expr::{Dict, Value};
use crate::modules::{self, Kind};
use crate::plan::program::{Layer, Task, Vars};
use crate::plan::reach::Reach;

/// What is known of one host, in the groups between which a task's own variables stand.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Inventory, `group_vars`, `host_vars`.
    pub inventory: Layer,
    pub facts: Dict,
    /// The play's `vars` and `vars_files`.
    pub play: Vec<Layer>,
    pub included: Dict,
    pub registers: Dict,
    /// Extra variables, then magic ones.
    pub over: Vec<Layer>,
}

impl Known {
    /// Returns the layers and the scope that a task with `vars` sees.
    pub fn layers(&self, vars: &Vars) -> (Vec<Dict>, Scope) {
        let mut layers = Layers::default();
        let scope = layers.scope(self, vars);
        (layers.all.iter().map(|layer| (**layer).clone()).collect(), scope)
    }
}

/// The distinct layers of a segment.
#[derive(Debug, Default)]
struct Layers {
    all: Vec<Layer>,
}

impl Layers {
    fn index(&mut self, layer: &Layer) -> u32 {
        let found = self.all.iter().position(|known| Arc::ptr_eq(known, layer));
        let index = found.unwrap_or_else(|| {
            self.all.push(layer.clone());
            self.all.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    fn scope(&mut self, known: &Known, vars: &Vars) -> Scope {
        let base = vars.defaults.iter().chain([&known.inventory]).map(|layer| self.index(layer)).collect();
        let under = known.play.iter().chain(&vars.under).map(|layer| self.index(layer)).collect();
        let over = vars.over.iter().chain(&known.over).map(|layer| self.index(layer)).collect();
        Scope { base, under, over }
    }
}

/// What a segment is made from.
#[derive(Debug)]
pub struct Order<'a> {
    pub id: SegmentId,
    pub subject: &'a Arc<str>,
    pub known: &'a Known,
    pub mode: Mode,
    pub diff: bool,
    pub verbose: bool,
    pub tasks: &'a [Arc<Task>],
    /// Indexes before which handlers may have to run.
    pub flushes: Vec<u32>,
    pub files: Vec<KnownFile>,
    /// Steps that name a file which is not known beforehand: their templates may reach anything.
    pub blind: bool,
    pub pending: Vec<Pending>,
    /// Names that tasks of the play register or set, on any host.
    pub set_by_play: &'a BTreeSet<Arc<str>>,
}

/// Names that are read though no text mentions them.
const READ_BY_THE_EXECUTOR: [&str; 6] = [
    "ansible_become",
    "ansible_become_user",
    "ansible_become_method",
    "ansible_become_exe",
    "ansible_become_flags",
    "ansible_managed",
];

/// Evaluates variables of all hosts by name.
pub type OfHosts<'a> = &'a dyn Fn(&BTreeSet<Arc<str>>) -> Vec<(Arc<str>, Dict)>;

/// Makes a segment; `of_hosts` gives the variables of other hosts that it names.
pub fn segment(order: Order<'_>, of_hosts: OfHosts<'_>) -> Segment {
    let mut layers = Layers::default();
    let mut scopes: Vec<Scope> = Vec::new();
    let mut steps = Vec::new();
    let mut reach = Reach::default();
    for name in READ_BY_THE_EXECUTOR {
        reach.name(name);
    }
    for task in order.tasks {
        let scope = layers.scope(order.known, &task.vars);
        let index = scopes.iter().position(|known| *known == scope).unwrap_or_else(|| {
            scopes.push(scope);
            scopes.len() - 1
        });
        let mut step = task.step.clone();
        step.scope = u32::try_from(index).unwrap_or(u32::MAX);
        reached_by(&step, &mut reach);
        steps.push(step);
    }
    for file in &order.files {
        if let crate::executor::wire::FoundFile::Text { text, .. } = &file.found {
            reach.text(text);
            if text.contains("{% include") || text.contains("{% import") || text.contains("{% from") {
                reach.all();
            }
        }
    }
    if order.blind {
        reach.all();
    }
    let all: Vec<&Dict> = layers.all.iter().map(|layer| &**layer).collect();
    reach.close(&all);
    let hostvars = reach.of_hosts().map(of_hosts).unwrap_or_default();
    let apply = order.mode == Mode::Apply;
    for step in &mut steps {
        step.ordered =
            (apply && looks_beyond(step)) || (!hostvars.is_empty() && names_others(step, order.set_by_play));
    }
    let facts =
        if order.known.facts.keys().any(|fact| reach.has(fact) || reach.has(&format!("ansible_{fact}")))
            || reach.has("ansible_facts")
        {
            order.known.facts.clone()
        } else {
            Dict::new()
        };
    Segment {
        id: order.id,
        subject: order.subject.clone(),
        mode: order.mode,
        diff: order.diff,
        verbose: order.verbose,
        steps,
        layers: layers.all.iter().map(|layer| reach.part(layer)).collect(),
        scopes,
        hostvars,
        facts,
        included: reach.part(&order.known.included),
        registers: reach.part(&order.known.registers),
        flushes: order.flushes,
        files: order.files,
        pending: order.pending,
    }
}

/// Adds what a step's own texts reach.
fn reached_by(step: &Step, reach: &mut Reach) {
    reach.value(&step.name);
    reach.value(&step.args);
    match &*step.module {
        "assert" => step.args.get("that").into_iter().for_each(|that| reach.expression(that)),
        "debug" => step.args.get("var").into_iter().for_each(|var| reach.expression(var)),
        "set_fact" => {
            if let Some(entries) = step.args.as_dict() {
                entries.keys().filter(|name| name.contains("{{")).for_each(|name| reach.text(name));
            }
        }
        _ => {}
    }
    for conditions in
        [Some(&step.when), step.changed_when.as_ref(), step.failed_when.as_ref()].into_iter().flatten()
    {
        conditions.iter().for_each(|condition| reach.expression(condition));
    }
    if let Some(until) = &step.until {
        until.conditions.iter().for_each(|condition| reach.expression(condition));
        until.retries.iter().chain(&until.delay).for_each(|value| reach.value(value));
    }
    if let Some(looping) = &step.looping {
        reach.value(&looping.over);
        looping.label.iter().chain(&looping.pause).for_each(|value| reach.value(value));
        looping.break_when.iter().for_each(|condition| reach.expression(condition));
    }
    if let Some(become_as) = &step.become_as {
        reach.value(&become_as.enabled);
        let texts = [&become_as.user, &become_as.method, &become_as.exe, &become_as.flags];
        texts.into_iter().flatten().for_each(|value| reach.value(value));
    }
    step.environment.iter().chain(&step.notify).for_each(|value| reach.value(value));
    let flags = [&step.check_mode, &step.diff, &step.no_log, &step.ignore_errors, &step.poll];
    flags.into_iter().flatten().for_each(|value| reach.value(value));
}

/// Says whether what the step sees may be made by other hosts of the batch, so that it has to wait for them.
fn looks_beyond(step: &Step) -> bool {
    const FAR: [&str; 6] =
        ["uri", "get_url", "etcd_member", "postgres_ping", "postgres_query", "async_status"];
    const FAR_FAMILIES: [&str; 2] = ["cluster_", "etcd_"];
    let kind = modules::find(&step.module).map(modules::AnyModule::kind);
    kind == Some(Kind::Wait)
        || FAR.contains(&&*step.module)
        || FAR_FAMILIES.iter().any(|family| step.module.starts_with(family))
}

/// Says whether the step names a variable of other hosts that the play itself sets.
fn names_others(step: &Step, set_by_play: &BTreeSet<Arc<str>>) -> bool {
    let mut reach = Reach::default();
    reached_by(step, &mut reach);
    reach.of_hosts().is_some_and(|names| names.iter().any(|name| set_by_play.contains(name)))
}

/// Returns what a step names as a file of the controller, where that is plain text.
pub fn named_file(step: &Step) -> Option<(FileUse, Named<'_>)> {
    let usage = match &*step.module {
        "template" => FileUse::Template,
        "copy" | "script" | "unarchive" | "assemble" => FileUse::File,
        _ => return None,
    };
    let is_yes = |value: &Value| {
        value.as_bool() == Some(true) || matches!(value.as_str(), Some("yes" | "true" | "on"))
    };
    if step.args.get("remote_src").is_some_and(is_yes) {
        return None;
    }
    let key = if &*step.module == "script" { "_raw_params" } else { "src" };
    let src = step.args.get(key)?;
    let text = src.as_str()?;
    if text.contains("{{") || text.contains("{%") {
        return Some((usage, Named::Template(src)));
    }
    let text = if key == "src" { text } else { text.split_whitespace().next().unwrap_or_default() };
    Some((usage, Named::Plain(text)))
}

/// How a step names its file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Named<'a> {
    Plain(&'a str),
    Template(&'a Value),
}
