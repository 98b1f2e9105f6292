//! One batch of one play: lets hosts observe ahead and apply in step, and does what lies between segments.
//!
//! Invariant: a host applies a task, or does one that looks beyond the host, only when every host of the batch has
//! finished all tasks before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::executor::wire::{
    Advance, Answer, Answered, FromHost, KnownFile, Mode, Question, Segment, SegmentId, Status, StepId,
    StepReport, Stop, ToHost,
};
use crate::expr::{Data, Dict, Scope, Value, emit};
use crate::input::playbook::Play;
use crate::plan::compile::Compiler;
use crate::plan::order::{self, Known, Named, Order};
use crate::plan::program::{Meta, Part, Task, Vars, What};
use crate::run::dispatcher::{Dispatcher, RunError, evaluate};
use crate::run::event::{Event, StepDone};
use crate::run::hosts::{OpenSegment, Standing};
use crate::run::lookups::OnController;

/// A batch while it runs.
pub(crate) struct Batch<'d, 'a> {
    pub run: &'d mut Dispatcher<'a>,
    pub play: &'a Play,
    pub compiler: Compiler<'a>,
    pub order: Vec<Arc<Task>>,
    positions: BTreeMap<StepId, usize>,
    pub standing: BTreeMap<Arc<str>, Standing>,
    pub names: Vec<Arc<str>>,
    known: BTreeMap<Arc<str>, Known>,
    by_segment: BTreeMap<SegmentId, Arc<str>>,
    set_by_play: BTreeSet<Arc<str>>,
    /// The play ends as soon as nothing is under way any more.
    pub ending: bool,
    pub goes_on: bool,
    failures: usize,
}

impl<'a> Batch<'_, 'a> {
    /// Runs a batch to its end; `false` when no further play may begin.
    pub async fn run(
        run: &mut Dispatcher<'a>,
        play: &'a Play,
        all: &[Arc<str>],
        names: Vec<Arc<str>>,
    ) -> Result<bool, RunError> {
        let compiler = Compiler::new(run.deployment, play, &run.options.selection, run.next_step);
        let standing = names.iter().map(|name| (name.clone(), Standing::default())).collect();
        let mut batch = Batch {
            run,
            play,
            compiler,
            order: Vec::new(),
            positions: BTreeMap::new(),
            standing,
            names,
            known: BTreeMap::new(),
            by_segment: BTreeMap::new(),
            set_by_play: BTreeSet::new(),
            ending: false,
            goes_on: true,
            failures: 0,
        };
        batch.begin(all)?;
        batch.engine().await?;
        batch.run.next_step = batch.compiler.next_id();
        let any_left = batch
            .names
            .iter()
            .any(|name| batch.run.hosts.get(name).is_some_and(|host| !host.failed && !host.unreachable));
        Ok(batch.goes_on && any_left)
    }

    fn begin(&mut self, all: &[Arc<str>]) -> Result<(), RunError> {
        let magic = self.magic(all);
        for name in self.names.clone() {
            let mut known = self.run.known(&name, self.play, &magic);
            known.inventory.values().for_each(|value| self.run.secrets.collect(value));
            match self.run.vars_files(&name, self.play, &known) {
                Ok(layers) => {
                    known.play.extend(layers);
                    known.play.iter().for_each(|layer| self.run.secrets.collect_layer(layer));
                }
                Err(why) => {
                    self.run.warn(format!("{name}: {why}"));
                    self.fail_for_good(&name);
                }
            }
            self.known.insert(name, known);
        }
        let gather = match (&self.play.gather_facts, self.names.first()) {
            (None, _) | (_, None) => true,
            (Some(value), Some(host)) => {
                let known = self.known_of(host);
                let value = evaluate(&known, host, &Vars::default(), Default::default(), value);
                value.ok().and_then(|value| truthy(&value)).unwrap_or(true)
            }
        };
        let compiled = self.compiler.play(gather);
        let tasks = compiled.map_err(|source| RunError::Compile { play: self.play.title(), source })?;
        self.insert(0, tasks);
        Ok(())
    }

    fn magic(&self, all: &[Arc<str>]) -> Dict {
        let options = self.run.options;
        let texts =
            |names: &[Arc<str>]| Value::from(names.iter().map(|n| Value::str(n.clone())).collect::<Vec<_>>());
        let words = |set: &BTreeSet<String>, otherwise: &[&str]| {
            let words: Vec<Value> = if set.is_empty() {
                otherwise.iter().map(|word| Value::str(*word)).collect()
            } else {
                set.iter().map(|word| Value::str(word.as_str())).collect()
            };
            Value::from(words)
        };
        let mut magic = Dict::new();
        let mut put = |name: &str, value: Value| magic.insert(Arc::from(name), value);
        put("ansible_play_hosts", texts(all));
        put("ansible_play_hosts_all", texts(all));
        put("ansible_play_batch", texts(&self.names));
        put("play_hosts", texts(all));
        put("ansible_play_name", Value::str(self.play.title()));
        put("ansible_check_mode", Value::from(options.mode == Mode::Check));
        put("ansible_diff_mode", Value::from(options.diff));
        put("ansible_verbosity", Value::from(i64::from(options.verbose)));
        put("ansible_forks", Value::from(i64::try_from(options.forks).unwrap_or(i64::MAX)));
        put("ansible_run_tags", words(&options.selection.only, &["all"]));
        put("ansible_skip_tags", words(&options.selection.skip, &[]));
        put("ansible_config_file", Value::none());
        if let Some(limit) = &options.limit_text {
            put("ansible_limit", Value::str(limit.as_str()));
        }
        let version =
            [("full", Value::str("2.19.14")), ("major", Value::from(2)), ("minor", Value::from(19))];
        put(
            "ansible_version",
            Value::from(version.into_iter().map(|(k, v)| (Arc::from(k), v)).collect::<Dict>()),
        );
        magic
    }

    /// Puts tasks into the program before `at`; hosts beyond that place keep theirs.
    pub fn insert(&mut self, at: usize, tasks: Vec<Arc<Task>>) {
        let count = tasks.len();
        let by_default = self.run.options.become_by_default.clone();
        let adopted = tasks.into_iter().map(|task| match (&by_default, &task.step.become_as) {
            (Some(enabled), None) => {
                let mut task = (*task).clone();
                task.step.become_as = Some(crate::executor::wire::Become {
                    enabled: enabled.clone(),
                    user: None,
                    method: None,
                    exe: None,
                    flags: None,
                });
                Arc::new(task)
            }
            _ => task,
        });
        self.order.splice(at..at, adopted.collect::<Vec<_>>());
        for task in self.order.iter().skip(at).take(count) {
            for layer in task.vars.defaults.iter().chain(&task.vars.under).chain(&task.vars.over) {
                self.run.secrets.collect_layer(layer);
            }
            self.set_by_play.extend(task.step.register.clone());
            if &*task.step.module == "set_fact"
                && let Some(entries) = task.step.args.as_dict()
            {
                self.set_by_play.extend(entries.keys().cloned());
            }
        }
        self.positions = self.order.iter().enumerate().map(|(index, task)| (task.id, index)).collect();
        for standing in self.standing.values_mut() {
            if standing.at > at {
                standing.at += count;
            }
        }
    }

    async fn engine(&mut self) -> Result<(), RunError> {
        loop {
            for (place, message) in std::mem::take(&mut self.run.backlog) {
                self.incoming(&place, message)?;
            }
            self.settle();
            let stopping = self.ending || self.run.interrupted > 0;
            if !stopping && self.kick().await? {
                continue;
            }
            if !self.run.backlog.is_empty() {
                continue;
            }
            let busy = self.standing.values().any(|standing| standing.busy);
            if !busy {
                return if stopping || self.is_done() { Ok(()) } else { Err(self.stuck()) };
            }
            tokio::select! {
                message = self.run.inbox.recv() => match message {
                    Some((place, message)) => self.incoming(&place, message)?,
                    None => return Err(self.stuck()),
                },
                _ = tokio::signal::ctrl_c() => self.run.interrupt(),
            }
            while let Ok((place, message)) = self.run.inbox.try_recv() {
                self.incoming(&place, message)?;
            }
        }
    }

    fn stuck(&self) -> RunError {
        let at =
            self.frontier().and_then(|at| self.order.get(at)).map(|task| task.title()).unwrap_or_default();
        RunError::Play {
            why: format!("the run stands still at \"{at}\" without anything under way; please report it"),
        }
    }

    fn is_done(&self) -> bool {
        self.standing.values().all(|standing| standing.ended || standing.at >= self.order.len())
    }

    /// Returns the place of the host that is furthest behind.
    fn frontier(&self) -> Option<usize> {
        self.standing.values().filter(|standing| !standing.ended).map(|standing| standing.at).min()
    }

    pub fn known_of(&self, host: &Arc<str>) -> Known {
        let mut known = self.known.get(host).cloned().unwrap_or_default();
        if let Some(state) = self.run.hosts.get(host) {
            known.facts.clone_from(&state.facts);
            known.registers.clone_from(&state.registers);
            known.included.clone_from(&state.included);
        }
        known
    }

    /// Moves idle hosts past tasks that are not theirs, and out of blocks that end with a failure.
    fn settle(&mut self) {
        for name in self.names.clone() {
            while let Some(standing) = self.standing.get(&name) {
                if standing.ended || standing.busy {
                    break;
                }
                let task = self.order.get(standing.at);
                let left = standing.unwinding.last().filter(|(block, _)| {
                    task.is_none_or(|task| !task.path.contains(&(*block, Part::Always)))
                });
                if let Some((_, outer)) = left.cloned() {
                    let at = standing.at.saturating_sub(1);
                    if let Some(standing) = self.standing.get_mut(&name) {
                        standing.unwinding.pop();
                    }
                    self.unwind(&name, at, &outer);
                    continue;
                }
                let Some(task) = task else { break };
                if task.is_for(&name) && !skips(standing, task) {
                    break;
                }
                if let Some(standing) = self.standing.get_mut(&name) {
                    standing.at += 1;
                    standing.open = None;
                }
            }
        }
    }

    /// Starts whatever may start; says whether anything moved without waiting for a message.
    async fn kick(&mut self) -> Result<bool, RunError> {
        let mut moved = false;
        for name in self.names.clone() {
            let Some(standing) = self.standing.get(&name) else { continue };
            if standing.ended || standing.busy || standing.follows.is_some() {
                continue;
            }
            let at = standing.at;
            let Some(task) = self.order.get(at).cloned() else { continue };
            if let What::Meta(Meta::FlushHandlers { from }) = task.what {
                if standing.notified.range(from..).next().is_none() {
                    if let Some(standing) = self.standing.get_mut(&name) {
                        standing.at += 1;
                        moved = true;
                    }
                } else if self.is_barrier_reached(at) {
                    self.flush(at, from)?;
                    return Ok(true);
                }
            } else if task.is_barrier() {
                if self.is_barrier_reached(at) {
                    self.between(at, &task).await?;
                    return Ok(true);
                }
            } else {
                self.advance(&name, at);
            }
        }
        Ok(moved)
    }

    /// Says whether every host of the batch is at `at` or beyond, and none is about to get there.
    fn is_barrier_reached(&self, at: usize) -> bool {
        self.standing
            .values()
            .filter(|standing| !standing.ended)
            .all(|standing| standing.at >= at && (standing.at > at || !standing.busy))
    }

    /// Lets a host go on in its segment, or opens the next one.
    fn advance(&mut self, name: &Arc<str>, at: usize) {
        let busy = self.standing.values().filter(|standing| standing.busy).count();
        if busy >= self.run.options.forks.max(1) {
            return;
        }
        let leave = self.frontier() == Some(at);
        let alone = self.standing.values().filter(|standing| !standing.ended).count() == 1;
        let Some(standing) = self.standing.get(name) else { return };
        let notified = !standing.notified.is_empty();
        if let Some(OpenSegment { id, place, waits_at: Some(waits), to, .. }) = &standing.open {
            if !leave {
                return;
            }
            let (id, place, waits, to) = (*id, place.clone(), *waits, *to);
            let apply_below = if alone { to } else { waits + 1 };
            let advance = Advance { segment: id, from: waits, to, apply_below, notified };
            self.mark_busy(name);
            self.run.send(&place, ToHost::Advance(advance));
            return;
        }
        let (tasks, flushes) = self.stretch(name, at);
        let to = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let apply_below = if alone { to } else { u32::from(leave) };
        self.open(name, name, &tasks, flushes, apply_below, notified);
    }

    fn mark_busy(&mut self, name: &Arc<str>) {
        if let Some(standing) = self.standing.get_mut(name) {
            standing.busy = true;
            if let Some(open) = &mut standing.open {
                open.waits_at = None;
            }
        }
    }

    /// Collects the tasks that a host can do by itself from `at` on, and where handlers may have to run between them.
    fn stretch(&self, name: &Arc<str>, at: usize) -> (Vec<Arc<Task>>, Vec<u32>) {
        let mut tasks: Vec<Arc<Task>> = Vec::new();
        let mut flushes = Vec::new();
        let Some(standing) = self.standing.get(name) else { return (tasks, flushes) };
        for task in self.order.iter().skip(at) {
            let leaves = standing
                .unwinding
                .last()
                .is_some_and(|(block, _)| !task.path.contains(&(*block, Part::Always)));
            if leaves {
                break;
            }
            if !task.is_for(name) || skips(standing, task) {
                continue;
            }
            if task.is_barrier() {
                break;
            }
            if matches!(task.what, What::Meta(_)) {
                if !standing.notified.is_empty() {
                    break;
                }
                flushes.push(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
                continue;
            }
            tasks.push(task.clone());
        }
        (tasks, flushes)
    }

    /// Makes the segment of some tasks for a subject.
    pub fn segment(
        &mut self,
        subject: &Arc<str>,
        tasks: &[Arc<Task>],
        flushes: Vec<u32>,
        verbose: bool,
    ) -> Segment {
        let id = self.run.next_segment;
        self.run.next_segment += 1;
        let known = self.known_of(subject);
        let (files, blind) = self.files(subject, &known, tasks);
        let of_hosts = |names: &BTreeSet<Arc<str>>| self.of_hosts(names);
        let pending = self.run.hosts.get(subject).map(|host| host.pending.clone()).unwrap_or_default();
        let order = Order {
            id,
            subject,
            known: &known,
            mode: self.run.options.mode,
            diff: self.run.options.diff,
            verbose: verbose || self.run.options.verbose,
            tasks,
            flushes,
            files,
            blind,
            pending,
            set_by_play: &self.set_by_play,
        };
        order::segment(order, &of_hosts)
    }

    /// Opens a segment of `subject` at `place`.
    pub fn open(
        &mut self,
        subject: &Arc<str>,
        place: &Arc<str>,
        tasks: &[Arc<Task>],
        flushes: Vec<u32>,
        apply_below: u32,
        notified: bool,
    ) {
        let segment = self.segment(subject, tasks, flushes, false);
        let to = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let advance = Advance { segment: segment.id, from: 0, to, apply_below, notified };
        self.by_segment.insert(segment.id, subject.clone());
        let steps = tasks.iter().map(|task| task.id).collect();
        if let Some(standing) = self.standing.get_mut(subject) {
            if let Some(old) = standing.open.take() {
                self.run.send(&old.place, ToHost::Close(old.id));
            }
            standing.open =
                Some(OpenSegment { id: segment.id, place: place.clone(), steps, waits_at: None, to });
            standing.busy = true;
        }
        self.run.send(place, ToHost::Open(Box::new(segment), advance));
    }

    /// Finds the files that tasks name; the second answer says whether a template is not known beforehand.
    fn files(&mut self, host: &Arc<str>, known: &Known, tasks: &[Arc<Task>]) -> (Vec<KnownFile>, bool) {
        let mut files = Vec::new();
        let mut blind = false;
        for task in tasks {
            let Some((usage, named)) = order::named_file(&task.step) else { continue };
            let names: Vec<String> = match named {
                Named::Plain(name) => vec![name.to_owned()],
                Named::Template(src) => {
                    let value = evaluate(known, host, &task.vars, task.search.clone(), src);
                    match value
                        .ok()
                        .filter(|value| value.find_unknown().is_none() && task.step.looping.is_none())
                    {
                        Some(value) => vec![emit::to_text(&value)],
                        None => {
                            blind |= usage == crate::executor::wire::FileUse::Template;
                            Vec::new()
                        }
                    }
                }
            };
            for name in names {
                // What is not found is asked for when the step is reached, and is its failure then.
                if let Ok(found) = self.run.files.find(usage, &name, &task.search, self.run.connect) {
                    files.push(KnownFile { step: task.id, usage, name: Arc::from(name), found });
                }
            }
        }
        (files, blind)
    }

    /// Evaluates variables of all hosts by name, as `hostvars` shows them.
    fn of_hosts(&self, names: &BTreeSet<Arc<str>>) -> Vec<(Arc<str>, Dict)> {
        let mut all = Vec::new();
        let hosts: BTreeSet<Arc<str>> =
            self.run.deployment.inventory.hosts.keys().chain(self.run.hosts.keys()).cloned().collect();
        for host in &hosts {
            let mut known = match self.known.get(host) {
                Some(_) => self.known_of(host),
                None => self.run.known(host, self.play, &Dict::new()),
            };
            known.play = Vec::new();
            let (layers, scope) = known.layers(&Vars::default());
            let variables = crate::executor::variables::Variables {
                subject: host.clone(),
                layers,
                facts: known.facts.clone(),
                included: Dict::new(),
                registers: known.registers.clone(),
                ..Default::default()
            };
            let locals = Dict::new();
            let seen = variables.seen(&scope, &locals);
            let lookups = OnController { search: Default::default() };
            let mut vars = Dict::new();
            for name in names {
                let Some(value) = seen.get(name) else { continue };
                if let Ok(value) = crate::expr::template(&value, &seen, &lookups) {
                    vars.insert(name.clone(), value);
                }
            }
            all.push((host.clone(), vars));
        }
        all
    }

    fn incoming(&mut self, place: &Arc<str>, message: Result<FromHost, String>) -> Result<(), RunError> {
        match message {
            Ok(FromHost::Report(report)) => {
                let Some(host) = self.by_segment.get(&report.segment).cloned() else { return Ok(()) };
                self.reported(&host, place, *report)
            }
            Ok(FromHost::Stopped { segment, stop }) => {
                if let Some(host) = self.by_segment.get(&segment).cloned() {
                    self.stopped(&host, segment, &stop);
                }
                Ok(())
            }
            Ok(FromHost::Started { segment, name, .. }) => {
                if let Some(host) = self.by_segment.get(&segment).cloned() {
                    let mut name = name;
                    self.run.secrets.hide(&mut name);
                    (self.run.listener)(&Event::StepStarted { host, name });
                }
                Ok(())
            }
            Ok(FromHost::Ask { ask, segment: _, question }) => {
                let answer = self.answer(question);
                self.run.send(place, ToHost::Answer { ask, answer });
                Ok(())
            }
            Ok(FromHost::Lock(_) | FromHost::Reply(_)) => Ok(()),
            Ok(FromHost::Broken(why)) | Err(why) => {
                self.place_lost(place, &why);
                Ok(())
            }
        }
    }

    fn answer(&mut self, question: Question) -> Result<Answer, String> {
        let search = |batch: &Self, step: StepId| {
            let task = batch.positions.get(&step).and_then(|at| batch.order.get(*at));
            task.map(|task| task.search.clone()).unwrap_or_default()
        };
        match question {
            Question::File { step, usage, name } => {
                let search = search(self, step);
                self.run.files.find(usage, &name, &search, self.run.connect).map(Answer::File)
            }
            Question::Lookup { step, plugin, terms, options } => {
                let lookups = OnController { search: search(self, step) };
                let values = lookups.answer(&plugin, &terms, &options).map_err(|error| error.message)?;
                Ok(Answer::Value(Value::from(values)))
            }
            Question::Content { .. } => Err("contents travel by their hash".to_owned()),
        }
    }

    /// Ends the hosts whose work was under way at a place that is gone.
    fn place_lost(&mut self, place: &Arc<str>, why: &str) {
        let running = self
            .standing
            .get(place)
            .and_then(|standing| self.order.get(standing.at))
            .map(|task| task.title());
        let message = match running {
            Some(task) => format!("{why}; it was at \"{task}\""),
            None => why.to_owned(),
        };
        self.run.lost(place, message);
        for name in self.names.clone() {
            let Some(standing) = self.standing.get_mut(&name) else { continue };
            let worked_there =
                standing.busy && standing.open.as_ref().is_some_and(|open| open.place == *place);
            let followed = standing.follows.as_ref() == Some(place);
            if name == *place || worked_there {
                standing.busy = false;
                standing.ended = true;
                if name != *place {
                    self.fail_for_good(&name);
                }
            } else if followed {
                standing.follows = None;
                standing.busy = false;
            }
        }
    }

    /// Takes in what a host reports of a step.
    pub fn reported(
        &mut self,
        host: &Arc<str>,
        place: &Arc<str>,
        mut report: StepReport,
    ) -> Result<(), RunError> {
        let Some(at) = self.positions.get(&report.step).copied() else { return Ok(()) };
        let Some(task) = self.order.get(at).cloned() else { return Ok(()) };
        let failed = report.status == Status::Failed && !report.ignored;
        let rescued = failed && self.is_rescued(host, &task);
        self.count(host, &report, rescued);
        let followers: Vec<Arc<str>> = self.followers(host);
        for name in std::iter::once(host).chain(&followers) {
            self.remember(name, place, &task, &report);
        }
        for name in &report.notify {
            let found = self.compiler.handlers.notified(name);
            if found.is_empty() {
                let why = format!(
                    "step {} \"{}\" at {} notifies `{name}`, and no handler has this name or listens to it",
                    report.step, report.name, task.step.origin
                );
                return Err(RunError::Play { why });
            }
            if let Some(standing) = self.standing.get_mut(host) {
                standing.notified.extend(found);
            }
        }
        for name in std::iter::once(host).chain(&followers) {
            if failed {
                self.failed(name, at, &task, &report);
            } else if let Some(standing) = self.standing.get_mut(name) {
                standing.at = at + 1;
            }
        }
        self.hide(&mut report);
        let template = report.details.fault.as_ref().and_then(|fault| fault.place);
        let template =
            template.and_then(|span| self.run.deployment.sources.location(span)).map(|at| at.to_string());
        let done = StepDone {
            host: host.clone(),
            place: (place != host).then(|| place.clone()),
            role: task.role.clone(),
            module: task.step.module.clone(),
            origin: task.step.origin.clone(),
            rescued,
            template,
            report,
        };
        if !matches!(task.what, What::Meta(_)) {
            (self.run.listener)(&Event::StepDone(Box::new(done)));
        }
        Ok(())
    }

    fn followers(&self, host: &Arc<str>) -> Vec<Arc<str>> {
        let follows =
            |name: &&Arc<str>| self.standing.get(*name).is_some_and(|s| s.follows.as_ref() == Some(host));
        self.names.iter().filter(follows).cloned().collect()
    }

    /// Keeps what a step set for a host.
    fn remember(&mut self, name: &Arc<str>, place: &Arc<str>, task: &Task, report: &StepReport) {
        let Some(state) = self.run.hosts.get_mut(name) else { return };
        state.registers.extend(report.set.iter().map(|(key, value)| (key.clone(), value.clone())));
        if let (Some(register), Some(result)) = (&report.register, &report.result) {
            state.registers.insert(register.clone(), result.clone());
        }
        state.pending.extend(report.pending.clone());
        let to_delegate = task.delegate_facts.as_ref().and_then(truthy) == Some(true);
        let keeper = if to_delegate { place } else { name };
        let facts = report.facts.iter().map(|(key, value)| (key.clone(), value.clone()));
        self.run.hosts.entry(keeper.clone()).or_default().facts.extend(facts);
    }

    fn count(&mut self, host: &Arc<str>, report: &StepReport, rescued: bool) {
        if self.run.options.mode == Mode::Check {
            match &report.answered {
                Answered::Unknown { .. } => self.run.summary.unknown += 1,
                Answered::Blocked { .. } => self.run.summary.blocked += 1,
                Answered::Known if report.status == Status::Changed => self.run.summary.known += 1,
                Answered::Known => {}
            }
        }
        let changes =
            report.details.changes.iter().chain(report.items.iter().flat_map(|item| &item.details.changes));
        let worst = changes.map(|change| change.risk).max();
        self.run.summary.risk = self.run.summary.risk.max(worst);
        let Some(state) = self.run.hosts.get_mut(host) else { return };
        let recap = &mut state.recap;
        match report.status {
            Status::Ok => recap.ok += 1,
            Status::Changed => {
                recap.ok += 1;
                recap.changed += 1;
            }
            Status::Skipped => recap.skipped += 1,
            Status::Failed if report.ignored => {
                recap.ok += 1;
                recap.ignored += 1;
            }
            Status::Failed if rescued => recap.rescued += 1,
            Status::Failed => recap.failed += 1,
        }
    }

    /// Blacks out secrets in everything that may be shown.
    fn hide(&self, report: &mut StepReport) {
        let secrets = &self.run.secrets;
        secrets.hide(&mut report.name);
        let all = std::iter::once(&mut report.details).chain(report.items.iter_mut().map(|item| {
            secrets.hide(&mut item.label);
            &mut item.details
        }));
        for details in all {
            details.changes.iter_mut().for_each(|change| secrets.hide(&mut change.text));
            details.message.iter_mut().for_each(|message| secrets.hide(message));
            if let Some(diff) = &mut details.diff {
                [&mut diff.header, &mut diff.before, &mut diff.after]
                    .into_iter()
                    .for_each(|text| secrets.hide(text));
            }
            if let Some(fault) = &mut details.fault {
                secrets.hide(&mut fault.message);
                fault.lines.iter_mut().for_each(|line| secrets.hide(line));
            }
        }
        if let Some(result) = &mut report.result {
            *result = secrets.without(result);
        }
        report.notify.iter_mut().for_each(|name| secrets.hide(name));
        let answers = report.items.iter_mut().map(|item| &mut item.answered);
        for answered in answers.chain([&mut report.answered]) {
            if let Answered::Unknown { reason } = answered {
                secrets.hide(reason);
            }
        }
    }

    fn is_rescued(&self, host: &Arc<str>, task: &Task) -> bool {
        let unwinding =
            self.standing.get(host).map(|standing| standing.unwinding.as_slice()).unwrap_or_default();
        let has = |(block, part): &(u32, Part)| {
            *part == Part::Body && self.compiler.blocks.get(block).is_some_and(|parts| parts.rescue)
        };
        unwinding.is_empty() && task.path.iter().any(has)
    }

    /// Finds where a failed host goes on.
    fn failed(&mut self, name: &Arc<str>, at: usize, task: &Arc<Task>, report: &StepReport) {
        if let Some(state) = self.run.hosts.get_mut(name) {
            let task_name = Value::from(
                std::iter::once((Arc::from("name"), Value::str(report.name.as_str()))).collect::<Dict>(),
            );
            state.registers.insert(Arc::from("ansible_failed_task"), task_name);
            if let Some(result) = &report.result {
                state.registers.insert(Arc::from("ansible_failed_result"), result.clone());
            }
        }
        let path = task.path.clone();
        let rescued = self.unwind(name, at, &path);
        if !rescued && task.any_errors_fatal.as_ref().and_then(truthy) == Some(true) {
            self.ending = true;
            self.goes_on = false;
        }
    }

    /// Moves a failed host to the nearest rescue or always around it; without one it is out. `true` when it goes on.
    fn unwind(&mut self, name: &Arc<str>, at: usize, path: &[(u32, Part)]) -> bool {
        for (depth, (block, part)) in path.iter().enumerate().rev() {
            let parts = self.compiler.blocks.get(block).copied().unwrap_or_default();
            let first = |wanted: Part| {
                let found = self
                    .order
                    .iter()
                    .enumerate()
                    .skip(at + 1)
                    .find(|(_, t)| t.path.contains(&(*block, wanted)));
                found.map(|(index, _)| index)
            };
            let after_body = || {
                let tasks = self.order.iter().enumerate().skip(at + 1);
                let mut after = tasks.filter(|(_, t)| !t.path.contains(&(*block, Part::Body)));
                after.next().map_or(self.order.len(), |(index, _)| index)
            };
            if *part == Part::Body && parts.rescue {
                let to = first(Part::Rescue).unwrap_or_else(after_body);
                if let Some(standing) = self.standing.get_mut(name) {
                    standing.rescuing.insert(*block);
                    standing.at = to;
                    standing.open = None;
                }
                return true;
            }
            if *part != Part::Always
                && parts.always
                && let Some(to) = first(Part::Always)
            {
                let outer = path.get(..depth).unwrap_or_default().to_vec();
                if let Some(standing) = self.standing.get_mut(name) {
                    standing.unwinding.push((*block, outer));
                    standing.at = to;
                    standing.open = None;
                }
                return true;
            }
        }
        self.fail_for_good(name);
        false
    }

    /// Takes a host out of the run.
    pub fn fail_for_good(&mut self, name: &Arc<str>) {
        if let Some(state) = self.run.hosts.get_mut(name) {
            state.failed = true;
        }
        if let Some(standing) = self.standing.get_mut(name) {
            standing.ended = true;
        }
        self.failures += 1;
        let limit = self.play.max_fail_percentage.as_ref().and_then(Value::as_number);
        if limit.is_some_and(|limit| self.failures as f64 * 100.0 > limit * self.names.len() as f64) {
            self.ending = true;
            self.goes_on = false;
        }
        let fatal = self.play.common.any_errors_fatal.as_ref().and_then(truthy) == Some(true);
        if fatal {
            self.ending = true;
            self.goes_on = false;
        }
    }

    fn stopped(&mut self, host: &Arc<str>, segment: SegmentId, stop: &Stop) {
        let Some(standing) = self.standing.get_mut(host) else { return };
        standing.busy = false;
        let current = standing.open.as_mut().filter(|open| open.id == segment);
        match (stop, current) {
            (Stop::Pending { at }, Some(open)) => {
                let step = open.steps.get(*at as usize).copied();
                open.waits_at = Some(*at);
                if let Some(position) = step.and_then(|step| self.positions.get(&step)) {
                    standing.at = *position;
                }
            }
            (Stop::End { .. } | Stop::Failed { .. } | Stop::Cancelled { .. } | Stop::Pending { .. }, _) => {
                standing.open = None;
            }
        }
        for name in self.followers(host) {
            if let Some(standing) = self.standing.get_mut(&name) {
                standing.follows = None;
                standing.busy = false;
            }
        }
    }

    /// Runs the first handlers that are waiting at the flush at `at`; the rest follow by a flush behind them.
    fn flush(&mut self, at: usize, from: usize) -> Result<(), RunError> {
        let here: Vec<Arc<str>> = self.group(at);
        let waiting =
            |name: &Arc<str>| self.standing.get(name).and_then(|s| s.notified.range(from..).next().copied());
        let Some(first) = here.iter().filter_map(waiting).min() else { return Ok(()) };
        let hosts: BTreeSet<Arc<str>> = here
            .iter()
            .filter(|name| {
                self.standing.get(*name).is_some_and(|standing| standing.notified.contains(&first))
            })
            .cloned()
            .collect();
        for name in &hosts {
            if let Some(standing) = self.standing.get_mut(name) {
                standing.notified.remove(&first);
            }
        }
        let path = self.order.get(at).map(|task| task.path.clone()).unwrap_or_default();
        let compiled = self.compiler.handler_tasks(first, Arc::new(hosts), &path);
        let mut tasks = compiled.map_err(|source| RunError::Compile { play: self.play.title(), source })?;
        let mut next = self.compiler.flush(first + 1);
        Arc::make_mut(&mut next).path = path;
        tasks.push(next);
        self.insert(at + 1, tasks);
        for name in &here {
            if let Some(standing) = self.standing.get_mut(name) {
                standing.at = at + 1;
                standing.open = None;
            }
        }
        Ok(())
    }

    /// Returns the idle hosts that stand at `at`.
    pub fn group(&self, at: usize) -> Vec<Arc<str>> {
        let stands = |name: &&Arc<str>| {
            self.standing.get(*name).is_some_and(|s| !s.ended && !s.busy && s.follows.is_none() && s.at == at)
        };
        self.names.iter().filter(stands).cloned().collect()
    }
}

/// Says whether a host passes over a task because it stands in a rescue that it has not entered.
fn skips(standing: &Standing, task: &Task) -> bool {
    task.path.iter().any(|(block, part)| *part == Part::Rescue && !standing.rescuing.contains(block))
}

/// Reads a yes-or-no keyword whose value is known.
pub(crate) fn truthy(value: &Value) -> Option<bool> {
    match &value.data {
        Data::Bool(yes) => Some(*yes),
        Data::Int(number) => Some(*number != 0),
        Data::Str(text) => match text.trim().to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "1" => Some(true),
            "no" | "off" | "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
