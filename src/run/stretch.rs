//! What a host is sent: the tasks that it can do by itself, with all that it has to know for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::executor::variables::Variables;
use crate::executor::wire::{Advance, FileUse, KnownFile, Segment, ToHost};
use crate::expr::{Dict, Scope, emit};
use crate::plan::order::{self, Known, Named, Order};
use crate::plan::program::{Part, Task, Vars, What};
use crate::run::dispatcher::evaluate;
use crate::run::hosts::OpenSegment;
use crate::run::lookups::OnController;
use crate::run::play::Batch;

impl Batch<'_, '_> {
    /// Collects the tasks that a host can do by itself from `at` on, and where handlers may have to run between them.
    pub fn stretch(&self, name: &Arc<str>, at: usize) -> (Vec<Arc<Task>>, Vec<u32>) {
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
            if !task.is_for(name) || standing.skips(task) {
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
                            blind |= usage == FileUse::Template;
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
            let variables = Variables {
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
}
