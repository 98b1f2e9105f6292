//! A segment on its host: steps in order, observed ahead and applied only as far as the controller allows.
//!
//! What one task means is in [`task`](crate::executor::task); this file keeps the variables, the predicted overlay and the
//! rules of when to stop.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::executor::runner::Runner;
use crate::executor::server::Evaluator;
use crate::executor::task::{Done, Given, run_step};
use crate::executor::variables::Variables;
use crate::executor::wire::{
    Advance, FoundFile, FromHost, KnownFile, Mode, Pending, Segment, SegmentId, Status, StepId, Stop, ToHost,
};
use crate::modules::Thing;

/// A segment that was opened, with what its steps have set so far.
#[derive(Debug)]
pub struct Open {
    pub segment: Segment,
    pub variables: Variables,
    pub pending: Vec<Pending>,
    pub files: BTreeMap<(StepId, Arc<str>), FoundFile>,
}

impl Open {
    /// Opens a segment; nothing runs yet.
    pub fn new(mut segment: Segment) -> Open {
        let hostvars = std::mem::take(&mut segment.hostvars);
        let variables = Variables {
            subject: segment.subject.clone(),
            layers: std::mem::take(&mut segment.layers),
            facts: std::mem::take(&mut segment.facts),
            included: std::mem::take(&mut segment.included),
            registers: std::mem::take(&mut segment.registers),
            hostvars: Arc::new(hostvars.into_iter().map(|(host, vars)| (host, Arc::new(vars))).collect()),
        };
        let pending = std::mem::take(&mut segment.pending);
        let known = std::mem::take(&mut segment.files);
        let files =
            known.into_iter().map(|KnownFile { step, name, found, .. }| ((step, name), found)).collect();
        Open { segment, variables, pending, files }
    }

    /// Goes on as far as `advance` allows; each step that is done is reported on the way.
    pub fn advance(&mut self, advance: &Advance, runner: &dyn Runner) -> Stop {
        let mut notified = advance.notified;
        let end = (advance.to as usize).min(self.segment.steps.len());
        let mut at = advance.from as usize;
        while at < end {
            let index = u32::try_from(at).unwrap_or(u32::MAX);
            if notified && index > advance.from && self.segment.flushes.contains(&index) {
                return Stop::End { at: index };
            }
            if runner.is_cancelled() {
                return Stop::Cancelled { at: index };
            }
            let may_change = index < advance.apply_below;
            if !may_change && self.step_is_ordered(at) {
                return Stop::Pending { at: index };
            }
            let given = Given { may_change: may_change || self.segment.mode == Mode::Check };
            match run_step(self, at, given, runner) {
                Done::Pending => return Stop::Pending { at: index },
                Done::Report(report) => {
                    notified |= !report.notify.is_empty();
                    let failed = report.status == Status::Failed && !report.ignored;
                    runner.tell(FromHost::Report(report));
                    if failed {
                        return Stop::Failed { at: index };
                    }
                }
            }
            at += 1;
        }
        Stop::End { at: u32::try_from(at).unwrap_or(u32::MAX) }
    }

    fn step_is_ordered(&self, at: usize) -> bool {
        self.segment.steps.get(at).is_some_and(|step| step.ordered)
    }

    /// Says whether a pending step makes or changes exactly this.
    pub fn is_pending(&self, thing: &Thing) -> bool {
        self.pending.iter().any(|pending| pending.makes.contains(thing))
    }

    /// Finds the step that would make `thing`, in check mode; failing that, one that may bring it along. What a package
    /// brings is not known, so one of those comes last.
    pub fn maker(&self, thing: &Thing) -> Option<&Pending> {
        let find = |fits: &dyn Fn(&Thing) -> bool| self.pending.iter().find(|p| p.makes.iter().any(fits));
        find(&|made| made == thing)
            .or_else(|| find(&|made| made.may_bring(thing) && !matches!(made, Thing::Package(_))))
            .or_else(|| find(&|made| made.may_bring(thing)))
    }

    /// Returns the last step of which nobody can tell what it would make.
    pub fn opaque(&self) -> Option<&Pending> {
        self.pending.iter().rev().find(|pending| pending.opaque)
    }
}

/// The segments that a controller has open on this host.
#[derive(Debug, Default)]
pub struct Segments(BTreeMap<SegmentId, Open>);

impl Evaluator for Segments {
    fn handle(&mut self, message: ToHost, runner: &dyn Runner) {
        let advance = match message {
            ToHost::Open(segment, advance) => {
                self.0.insert(segment.id, Open::new(*segment));
                advance
            }
            ToHost::Advance(advance) => advance,
            ToHost::Close(id) => {
                self.0.remove(&id);
                return;
            }
            ToHost::Lock { .. } | ToHost::Unlock | ToHost::Order(_) | ToHost::Answer { .. } => return,
        };
        let Some(open) = self.0.get_mut(&advance.segment) else {
            runner.tell(FromHost::Broken(format!("segment {} is not open here", advance.segment)));
            return;
        };
        let stop = open.advance(&advance, runner);
        if matches!(stop, Stop::End { .. } | Stop::Failed { .. } | Stop::Cancelled { .. }) {
            self.0.remove(&advance.segment);
        }
        runner.tell(FromHost::Stopped { segment: advance.segment, stop });
    }
}

#[cfg(test)]
mod tests;
