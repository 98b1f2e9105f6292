//! Templates and conditions of one step, evaluated on its host; what only the controller can look up is asked for.

use std::sync::Arc;

use crate::executor::runner::Runner;
use crate::executor::variables::Seen;
use crate::executor::wire::{Answer, Question, StepId};
use crate::expr::{self, Data, Dict, EvalError, Lookups, Scope, Value, emit};
use crate::sys::clock;

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Truth {
    Yes,
    No,
    Unknown(Arc<str>),
}

/// What several conditions say together, and the text of the first false one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub truth: Truth,
    pub failed: Option<String>,
}

impl From<bool> for Verdict {
    fn from(yes: bool) -> Verdict {
        Verdict { truth: if yes { Truth::Yes } else { Truth::No }, failed: None }
    }
}

/// Lookups that go to the controller.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub runner: &'a dyn Runner,
    pub step: StepId,
}

impl Lookups for Asking<'_> {
    fn lookup(
        &self,
        name: &str,
        args: &[Value],
        kwargs: &Dict,
        _scope: &dyn Scope,
    ) -> Result<Vec<Value>, EvalError> {
        let question = Question::Lookup {
            step: self.step,
            plugin: name.to_owned(),
            terms: args.to_vec(),
            options: kwargs.clone(),
        };
        match self.runner.ask(question) {
            Ok(Answer::Value(value)) => match &value.data {
                Data::List(values) => Ok(values.to_vec()),
                _ => Ok(vec![value]),
            },
            Ok(Answer::File(_) | Answer::Content(_)) => {
                Err(EvalError::value(format!("lookup `{name}` was answered with a file")))
            }
            Err(message) => Err(EvalError::value(message)),
        }
    }

    fn unix_time(&self) -> Option<f64> {
        let wall = clock::wall();
        Some(wall.as_second() as f64 + f64::from(wall.subsec_nanosecond()) / 1e9)
    }
}

/// The evaluator with the variables of one item of one step.
#[derive(Clone, Copy)]
pub(crate) struct Evaluation<'a> {
    seen: Seen<'a>,
    asking: Asking<'a>,
}

impl<'a> Evaluation<'a> {
    pub fn new(seen: Seen<'a>, asking: Asking<'a>) -> Evaluation<'a> {
        Evaluation { seen, asking }
    }

    /// Evaluates all templates in `value`; parameters that are `omit` are gone.
    ///
    /// # Errors
    /// Something in it has no value.
    pub fn value(&self, value: &Value) -> Result<Value, EvalError> {
        expr::template(value, &self.seen, &self.asking)
    }

    /// Evaluates a bare expression.
    ///
    /// # Errors
    /// It has no value, or is no expression.
    pub fn expression(&self, text: &str) -> Result<Value, EvalError> {
        expr::expression(text, &self.seen, &self.asking)
    }

    /// Renders the text of a template file, which sees `locals` besides.
    ///
    /// # Errors
    /// Something in it has no value.
    pub fn file(&self, text: &str, options: &expr::FileOptions, locals: &Dict) -> Result<Value, EvalError> {
        expr::render_file(text, &self.seen.and(locals), &self.asking, options)
    }

    /// Returns a variable, evaluated; `None` when it is not set or has no value.
    pub fn variable(&self, name: &str) -> Option<Value> {
        let value = self.seen.get(name)?;
        self.value(&value).ok()
    }

    /// Evaluates conditions in order, until one is not true.
    ///
    /// # Errors
    /// A condition that was reached has no value or is no condition.
    pub fn all(&self, conditions: &[Value]) -> Result<Verdict, EvalError> {
        for condition in conditions {
            match expr::condition(condition, &self.seen, &self.asking)? {
                expr::Verdict::Yes => {}
                expr::Verdict::No => {
                    return Ok(Verdict { truth: Truth::No, failed: Some(emit::to_text(condition)) });
                }
                expr::Verdict::Unknown { reason } => {
                    return Ok(Verdict { truth: Truth::Unknown(reason), failed: None });
                }
            }
        }
        Ok(Verdict::from(true))
    }

    /// Evaluates a yes-or-no keyword by Ansible's words; `None` when it is neither or unknown.
    pub fn boolean(&self, value: &Value) -> Option<bool> {
        let value = self.value(value).ok()?;
        match &value.data {
            Data::Bool(yes) => Some(*yes),
            Data::Int(number) => Some(*number != 0),
            Data::Str(text) => match text.trim().to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "y" | "t" | "1" => Some(true),
                "no" | "off" | "false" | "n" | "f" | "0" | "" => Some(false),
                _ => None,
            },
            Data::None => Some(false),
            Data::Float(_)
            | Data::List(_)
            | Data::Dict(_)
            | Data::Undefined { .. }
            | Data::Unknown { .. }
            | Data::Omit => None,
        }
    }

    /// Merges the `environment` of all levels, the outermost first; values become texts.
    ///
    /// # Errors
    /// A level has no value or is no dictionary.
    pub fn environment(&self, levels: &[Value]) -> Result<Vec<(String, String)>, EvalError> {
        let mut merged = Dict::new();
        for level in levels {
            let level = self.value(level)?;
            match &level.data {
                Data::Dict(entries) => merged.extend(entries.iter().map(|(k, v)| (k.clone(), v.clone()))),
                Data::List(list) => {
                    for entries in list.iter().filter_map(Value::as_dict) {
                        merged.extend(entries.iter().map(|(k, v)| (k.clone(), v.clone())));
                    }
                }
                Data::None | Data::Omit => {}
                _ => {
                    return Err(EvalError::value(format!(
                        "`environment` is {}, not a dictionary",
                        level.type_name()
                    )));
                }
            }
        }
        Ok(merged.iter().map(|(name, value)| (name.to_string(), emit::to_text(value))).collect())
    }

    /// Returns the items of `with_LOOKUP: over`.
    ///
    /// # Errors
    /// The lookup fails or does not exist.
    pub fn with_lookup(&self, lookup: &str, over: &Value) -> Result<Value, EvalError> {
        let over = self.value(over)?;
        if over.as_unknown().is_some() {
            return Ok(over);
        }
        let terms = match over.as_list() {
            Some(list) => list.to_vec(),
            None => vec![over],
        };
        match lookup {
            "list" => Ok(Value::from(terms)),
            "items" => {
                let flat = terms.iter().flat_map(|term| match term.as_list() {
                    Some(inner) => inner.to_vec(),
                    None => vec![term.clone()],
                });
                Ok(Value::from(flat.collect::<Vec<Value>>()))
            }
            _ => {
                let names: Vec<String> =
                    (0..terms.len()).map(|index| format!("keddah_term_{index}")).collect();
                let call = format!("query('{lookup}', {})", names.join(", "));
                let locals: Dict = names.iter().map(|name| Arc::from(name.as_str())).zip(terms).collect();
                expr::expression(&call, &self.seen.and(&locals), &self.asking)
            }
        }
    }
}
