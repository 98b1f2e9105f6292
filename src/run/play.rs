//! One batch of one play: lets hosts observe ahead and apply in step, and does what lies between segments.
//!
//! Invariant: a host applies a task, or does one that looks beyond the host, only when every host of the batch has
//! finished all tasks before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::executor::wire::{Advance, Answer, FromHost, Mode, Question, SegmentId, StepId, Stop, ToHost};
use crate::expr::{Data, Dict, Value};
use crate::input::playbook::Play;
use crate::plan::compile::Compiler;
use crate::plan::order::Known;
use crate::plan::program::{Meta, Part, Task, Vars, What};
use crate::run::dispatcher::{Dispatcher, RunError, evaluate};
use crate::run::event::Event;
use crate::run::hosts::{OpenSegment, Standing};
use crate::run::lookups::OnController;

/// A batch while it runs.
pub(crate) struct Batch<'d, 'a> {
    pub run: &'d mut Dispatcher<'a>,
    pub play: &'a Play,
    pub compiler: Compiler<'a>,
    pub order: Vec<Arc<Task>>,
    pub positions: BTreeMap<StepId, usize>,
    pub standing: BTreeMap<Arc<str>, Standing>,
    pub names: Vec<Arc<str>>,
    pub known: BTreeMap<Arc<str>, Known>,
    pub by_segment: BTreeMap<SegmentId, Arc<str>>,
    pub set_by_play: BTreeSet<Arc<str>>,
    /// The play ends as soon as nothing is under way any more.
    pub ending: bool,
    pub goes_on: bool,
    pub failures: usize,
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
                if task.is_for(&name) && !standing.skips(task) {
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
