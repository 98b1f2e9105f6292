//! What a run knows of its hosts: variables, figures, where each stands in the program.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::executor::wire::{Pending, SegmentId, StepId};
use crate::expr::{Data, Dict, Value};
use crate::plan::program::{BlockId, Layer, Part, Task};
use crate::run::event::Recap;

/// A host during the whole run.
#[derive(Debug, Clone, Default)]
pub struct Host {
    pub facts: Dict,
    pub registers: Dict,
    pub included: Dict,
    /// What plan and check did not do there.
    pub pending: Vec<Pending>,
    pub recap: Recap,
    pub unreachable: bool,
    /// A step failed and nothing rescued it: no further play runs there.
    pub failed: bool,
}

/// A host in a batch of a play.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The index in the program of the task that comes next.
    pub at: usize,
    /// The host works, or its work is under way elsewhere.
    pub busy: bool,
    pub open: Option<OpenSegment>,
    /// It is to stand still until this host has done the step for all.
    pub follows: Option<Arc<str>>,
    /// Blocks whose rescue runs or ran.
    pub rescuing: BTreeSet<BlockId>,
    /// Blocks whose `always` runs though the failure is not rescued, with the blocks around them.
    pub unwinding: Vec<(BlockId, Vec<(BlockId, Part)>)>,
    /// Indexes of handlers that were notified.
    pub notified: BTreeSet<usize>,
    /// Nothing more happens there in this play.
    pub ended: bool,
}

impl Standing {
    /// Says whether the host passes over a task because that stands in a rescue which it has not entered.
    pub fn skips(&self, task: &Task) -> bool {
        task.path.iter().any(|(block, part)| *part == Part::Rescue && !self.rescuing.contains(block))
    }
}

/// A segment that a host has open.
#[derive(Debug, Clone)]
pub struct OpenSegment {
    pub id: SegmentId,
    pub place: Arc<str>,
    pub steps: Vec<StepId>,
    /// The index in the segment at which the host waits for leave.
    pub waits_at: Option<u32>,
    /// The index after the last step that belongs to this round.
    pub to: u32,
}

/// Texts that must never be shown: values marked as secrets.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    texts: BTreeSet<String>,
    /// Layers that were looked through; they are kept so that no other one gets the same address.
    seen: Vec<Layer>,
}

/// Shorter texts would black out half of every line.
const SECRET_CHARS_MIN: usize = 4;

impl Secrets {
    /// Collects the secret texts in `value`.
    pub fn collect(&mut self, value: &Value) {
        match &value.data {
            Data::Str(text) if value.marks.secret => {
                for line in
                    text.lines().map(str::trim).filter(|line| line.chars().count() >= SECRET_CHARS_MIN)
                {
                    if !line.contains("{{") {
                        self.texts.insert(line.to_owned());
                    }
                }
            }
            Data::List(values) => values.iter().for_each(|value| self.collect(value)),
            Data::Dict(values) => values.values().for_each(|value| self.collect(value)),
            Data::Str(_)
            | Data::None
            | Data::Bool(_)
            | Data::Int(_)
            | Data::Float(_)
            | Data::Undefined { .. }
            | Data::Unknown { .. }
            | Data::Omit => {}
        }
    }

    /// Collects the secret texts of variables that many tasks share.
    pub fn collect_layer(&mut self, layer: &Layer) {
        if !self.seen.iter().any(|seen| Arc::ptr_eq(seen, layer)) {
            self.seen.push(layer.clone());
            layer.values().for_each(|value| self.collect(value));
        }
    }

    /// Returns a value without secrets: neither those that are marked nor those that a program has repeated.
    pub fn without(&self, value: &Value) -> Value {
        let data = match &value.data {
            Data::Str(_) if value.marks.secret => return value.redacted(),
            Data::Str(text) => {
                let mut text = text.to_string();
                self.hide(&mut text);
                Data::Str(Arc::from(text))
            }
            Data::List(values) => {
                Data::List(Arc::new(values.iter().map(|value| self.without(value)).collect()))
            }
            Data::Dict(values) => Data::Dict(Arc::new(
                values.iter().map(|(key, value)| (key.clone(), self.without(value))).collect(),
            )),
            Data::None
            | Data::Bool(_)
            | Data::Int(_)
            | Data::Float(_)
            | Data::Undefined { .. }
            | Data::Unknown { .. }
            | Data::Omit => value.redacted().data,
        };
        Value { data, marks: value.marks }
    }

    /// Replaces every secret in a text.
    pub fn hide(&self, text: &mut String) {
        for secret in &self.texts {
            if text.contains(secret.as_str()) {
                *text = text.replace(secret.as_str(), "***");
            }
        }
    }
}

/// Hosts by name.
pub type Hosts = BTreeMap<Arc<str>, Host>;
