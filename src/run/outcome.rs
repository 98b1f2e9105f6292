//! What a report means: what is kept of it, what is counted and shown, and where a failed host goes on.

use std::sync::Arc;

use crate::executor::wire::{Answered, Mode, Status, StepReport};
use crate::expr::{Dict, Value};
use crate::plan::program::{Part, Task, What};
use crate::run::dispatcher::RunError;
use crate::run::event::{Event, StepDone};
use crate::run::play::{Batch, truthy};

impl Batch<'_, '_> {
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

    pub fn followers(&self, host: &Arc<str>) -> Vec<Arc<str>> {
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
    pub fn unwind(&mut self, name: &Arc<str>, at: usize, path: &[(u32, Part)]) -> bool {
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
}
