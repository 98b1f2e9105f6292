//! Variables that are templates themselves: evaluated when they are reached, never twice around.

use std::cell::Cell;
use std::cell::RefCell;
use std::sync::Arc;

use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::eval::Eval;
use crate::expr::parse;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Stop;
use crate::expr::scope::Lookups;
use crate::expr::scope::Scope;
use crate::expr::value::Data;
use crate::expr::value::Dict;
use crate::expr::value::Value;

/// Deepest nesting of expressions and templates in each other.
///
/// A recursive evaluation needs stack, and threads have 2 MiB of it. Real chains of variables are some tens deep.
const DEPTH_MAX: usize = 180;

/// Most steps of one evaluation. A large template takes some ten thousand; more than this does not end.
const STEPS_MAX: u64 = 1_000_000;

/// Most bytes that one evaluation may write.
const OUTPUT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Everything around one evaluation.
pub(crate) struct World<'w> {
    pub scope: &'w dyn Scope,
    pub lookups: &'w dyn Lookups,
    /// Names whose values are being evaluated, outermost first.
    resolving: RefCell<Vec<Arc<str>>>,
    depth: Cell<usize>,
    steps: Cell<u64>,
    written_bytes: Cell<usize>,
}

impl<'w> World<'w> {
    pub(crate) fn new(scope: &'w dyn Scope, lookups: &'w dyn Lookups) -> World<'w> {
        World {
            scope,
            lookups,
            resolving: RefCell::default(),
            depth: Cell::new(0),
            steps: Cell::new(0),
            written_bytes: Cell::new(0),
        }
    }

    /// Returns a world that sees another host's variables, at the same depth.
    pub(crate) fn beside<'x>(&'x self, scope: &'x dyn Scope) -> World<'x> {
        let Self { scope: _, lookups, resolving: _, depth, steps, written_bytes } = self;
        World {
            scope,
            lookups: *lookups,
            resolving: RefCell::default(),
            depth: depth.clone(),
            steps: steps.clone(),
            written_bytes: written_bytes.clone(),
        }
    }

    pub(crate) fn deeper<T>(&self, work: impl FnOnce() -> Evaluated<T>) -> Evaluated<T> {
        if self.depth.get() >= DEPTH_MAX {
            let message = "recursive loop: templates and expressions are nested too deep in each other";
            return Err(EvalError::new(ErrorKind::Recursion, message).into());
        }
        self.step()?;
        self.depth.set(self.depth.get() + 1);
        let result = work();
        self.depth.set(self.depth.get() - 1);
        result
    }

    /// Counts one expression, statement or turn of a loop.
    pub(crate) fn step(&self) -> Evaluated<()> {
        if self.steps.get() >= STEPS_MAX {
            let message = format!("the template does not end: it takes more than {STEPS_MAX} steps");
            return Err(EvalError::value(message).into());
        }
        self.steps.set(self.steps.get() + 1);
        Ok(())
    }

    /// Counts what is written, and stops what grows without end.
    pub(crate) fn wrote(&self, bytes: usize) -> Evaluated<()> {
        self.written_bytes.set(self.written_bytes.get().saturating_add(bytes));
        if self.written_bytes.get() > OUTPUT_MAX_BYTES {
            return Err(
                EvalError::value(format!("the template writes more than {OUTPUT_MAX_BYTES} bytes")).into()
            );
        }
        Ok(())
    }

    /// Returns a variable with its own template evaluated; parts of containers are not.
    pub(crate) fn variable(&self, name: &str) -> Evaluated<Option<Value>> {
        let Some(value) = self.scope.get(name) else { return Ok(None) };
        if !is_template(&value) {
            return Ok(Some(value));
        }
        if self.resolving.borrow().iter().any(|n| n.as_ref() == name) {
            let mut chain: Vec<String> = self.resolving.borrow().iter().map(ToString::to_string).collect();
            chain.push(name.to_owned());
            let message =
                format!("recursive loop: variable `{name}` needs its own value ({})", chain.join(" → "));
            return Err(EvalError::new(ErrorKind::Recursion, message).at(value.marks.origin).into());
        }
        self.resolving.borrow_mut().push(Arc::from(name));
        let result = self.resolve(value);
        self.resolving.borrow_mut().pop();
        result.map(Some)
    }

    /// Evaluates the value if it is trusted text with a template in it. What uses something undefined is undefined.
    pub(crate) fn resolve(&self, value: Value) -> Evaluated<Value> {
        let Data::Str(text) = &value.data else { return Ok(value) };
        if !value.marks.trusted {
            return Ok(value);
        }
        if !parse::has_markup(text) {
            let mut plain = value;
            plain.marks.trusted = false;
            return Ok(plain);
        }
        let mut result = match self.deeper(|| self.text(text)) {
            Ok(result) => result,
            Err(Stop::Unknown(reason)) => Value::unknown(reason),
            Err(Stop::Error(error)) if error.kind == ErrorKind::Undefined => Value::undefined(error.message),
            Err(Stop::Error(error)) => return Err(error.at(value.marks.origin).into()),
        };
        if value.marks.secret {
            result = result.secret();
        }
        result.marks.origin = result.marks.origin.or(value.marks.origin);
        Ok(result)
    }

    /// Evaluates a template of a playbook or variables file to its native value.
    fn text(&self, text: &str) -> Evaluated<Value> {
        let source = parse::raw_backslashes(text);
        let source = parse::raw_newlines(&source);
        let tree = parse::template(&source, parse::Whitespace::default())?;
        let Value { data, marks } = Eval::new(self).native(&tree)?;
        let data = match data {
            Data::Str(result) if text.ends_with('\n') => {
                Data::Str(parse::with_trailing_newlines(text, result.to_string()).into())
            }
            other => other,
        };
        Ok(Value { data, marks })
    }

    /// Evaluates all templates inside the value. Undefined parts stay, as they may never be used.
    pub(crate) fn settle(&self, value: Value) -> Evaluated<Value> {
        if !has_templates(&value) {
            return Ok(value);
        }
        self.deeper(|| {
            let value = self.resolve(value)?;
            let data = match &value.data {
                Data::List(items) => {
                    let items: Evaluated<Vec<Value>> = items.iter().map(|v| self.settle(v.clone())).collect();
                    Data::List(Arc::new(items?))
                }
                Data::Dict(entries) => {
                    let entries: Evaluated<Dict> =
                        entries.iter().map(|(k, v)| Ok((k.clone(), self.settle(v.clone())?))).collect();
                    Data::Dict(Arc::new(entries?))
                }
                leaf => leaf.clone(),
            };
            Ok(Value { data, marks: value.marks })
        })
    }
}

fn is_template(value: &Value) -> bool {
    value.marks.trusted && value.as_str().is_some_and(parse::has_markup)
}

/// Returns whether anything in the value is trusted text, which is not settled yet.
pub(crate) fn has_templates(value: &Value) -> bool {
    match &value.data {
        Data::Str(_) => value.marks.trusted,
        Data::List(items) => items.iter().any(has_templates),
        Data::Dict(entries) => entries.values().any(has_templates),
        _ => false,
    }
}

/// Returns the hint of the first undefined part.
pub(crate) fn find_undefined(value: &Value) -> Option<&Arc<str>> {
    match &value.data {
        Data::Undefined { hint } => Some(hint),
        Data::List(items) => items.iter().find_map(find_undefined),
        Data::Dict(entries) => entries.values().find_map(find_undefined),
        _ => None,
    }
}

/// Refuses a value that holds something undefined, and stops at something unknown.
pub(crate) fn usable(value: Value) -> Evaluated<Value> {
    if let Some(reason) = value.find_unknown() {
        return Err(Stop::Unknown(reason.clone()));
    }
    match find_undefined(&value) {
        Some(hint) => Err(EvalError::undefined(hint.to_string()).into()),
        None => Ok(value),
    }
}

/// Takes out what is `omit`, at any depth, and refuses what is undefined. Unknown parts stay.
pub(crate) fn without_omit(value: Value) -> Result<Value, EvalError> {
    let Value { data, marks } = value;
    let data = match data {
        Data::List(items) => {
            let kept = items.iter().filter(|v| !v.is_omit()).map(|v| without_omit(v.clone()));
            Data::List(Arc::new(kept.collect::<Result<_, _>>()?))
        }
        Data::Dict(entries) => {
            let kept = entries.iter().filter(|(_, v)| !v.is_omit());
            Data::Dict(Arc::new(
                kept.map(|(k, v)| Ok((k.clone(), without_omit(v.clone())?))).collect::<Result<_, _>>()?,
            ))
        }
        Data::Undefined { hint } => return Err(EvalError::undefined(hint.to_string()).at(marks.origin)),
        leaf => leaf,
    };
    Ok(Value { data, marks })
}
