//! Filters: one table of names, one file per kind of data.

mod dicts;
mod encode;
mod lists;
mod numbers;
mod random;
mod strings;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::expr::emit;
use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::operators;
use crate::expr::runtime::Evaluated;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::World;
use crate::expr::world::usable;
use crate::source::suggest;

/// How a filter treats the parts of its input.
#[derive(Clone, Copy, PartialEq)]
enum Parts {
    /// It looks into them: something unknown or undefined inside decides the result, and a secret inside taints it.
    Read,
    /// It hands them on as they are, each with its own marks.
    Passed,
    /// Even an input that is undefined as a whole is welcome.
    Any,
}

type Run = fn(&World, Value, &mut Args) -> Evaluated<Value>;

struct Row(&'static str, Parts, Run);

/// Every filter. `default` is in `eval`, as it must not look at what it does not choose.
const FILTERS: &[&[Row]] =
    &[lists::ROWS, dicts::ROWS, strings::ROWS, numbers::ROWS, encode::ROWS, random::ROWS, GENERAL];

const GENERAL: &[Row] = &[
    Row("bool", Parts::Read, |_, input, _| Ok(Value::from(to_bool(&input)))),
    Row("string", Parts::Read, |_, input, _| Ok(Value::from(emit::to_text(&input)))),
    Row("type_debug", Parts::Any, |_, input, _| Ok(Value::from(input.type_name()))),
    Row("mandatory", Parts::Any, mandatory),
    Row("ternary", Parts::Passed, ternary),
    Row("attr", Parts::Passed, |world, input, args| {
        let name = args.need_text("name")?;
        attribute(world, &input, &name)
    }),
];

/// Returns all names, for `check`.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().flat_map(|rows| rows.iter().map(|row| row.0)).chain(["default", "d"])
}

/// Returns the name without the collection it comes from, if that is one whose filters are these.
pub(crate) fn short_name(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((
            "ansible.builtin" | "ansible.legacy" | "ansible.utils" | "ansible.netcommon"
            | "community.general" | "community.crypto",
            short,
        )) => short,
        _ => name,
    }
}

/// Arguments of a filter or test, taken one by one.
#[derive(Debug)]
pub(crate) struct Args {
    positional: VecDeque<Value>,
    named: Vec<(Arc<str>, Value)>,
}

impl Args {
    pub(crate) fn new(positional: Vec<Value>, named: Vec<(Arc<str>, Value)>) -> Args {
        Args { positional: positional.into(), named }
    }

    fn all(&self) -> impl Iterator<Item = &Value> {
        self.positional.iter().chain(self.named.iter().map(|(_, value)| value))
    }

    /// Takes the parameter `name`: the next one in order, or the one with that name.
    pub(crate) fn next(&mut self, name: &str) -> Option<Value> {
        self.positional.pop_front().or_else(|| self.named(name))
    }

    /// Takes a parameter that only goes by name.
    pub(crate) fn named(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(key, _)| key.as_ref() == name)?;
        Some(self.named.remove(at).1)
    }

    pub(crate) fn need(&mut self, name: &str) -> Result<Value, EvalError> {
        self.next(name).ok_or_else(|| EvalError::value(format!("the parameter `{name}` is missing")))
    }

    pub(crate) fn need_text(&mut self, name: &str) -> Result<String, EvalError> {
        Ok(emit::to_text(&self.need(name)?))
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.next(name).filter(|v| !v.is_none()).map(|v| emit::to_text(&v))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        self.next(name).and_then(|v| v.truth())
    }

    pub(crate) fn named_flag(&mut self, name: &str) -> Option<bool> {
        self.named(name).and_then(|v| v.truth())
    }

    pub(crate) fn int(&mut self, name: &str) -> Result<Option<i64>, EvalError> {
        match self.next(name).filter(|v| !v.is_none()) {
            None => Ok(None),
            Some(value) => match value.data {
                Data::Int(number) => Ok(Some(number)),
                Data::Bool(flag) => Ok(Some(i64::from(flag))),
                _ => Err(EvalError::value(format!("`{name}` must be an integer, not {}", value.type_name()))),
            },
        }
    }

    /// Takes an integer that counts or measures; negative ones are zero.
    pub(crate) fn size(&mut self, name: &str) -> Result<Option<usize>, EvalError> {
        Ok(self.int(name)?.map(|n| usize::try_from(n).unwrap_or(0)))
    }

    pub(crate) fn rest(&mut self) -> Vec<Value> {
        self.positional.drain(..).collect()
    }

    /// Takes all that is left, for another filter.
    pub(crate) fn hand_on(&mut self) -> Args {
        Args { positional: std::mem::take(&mut self.positional), named: std::mem::take(&mut self.named) }
    }

    pub(crate) fn copy(&self) -> Args {
        Args { positional: self.positional.clone(), named: self.named.clone() }
    }

    fn finish(&self) -> Result<(), EvalError> {
        match (self.named.first(), self.positional.is_empty()) {
            (Some((name, _)), _) => Err(EvalError::value(format!("there is no parameter `{name}`"))),
            (None, false) => Err(EvalError::value("there are too many arguments")),
            (None, true) => Ok(()),
        }
    }
}

/// Applies a filter to settled values.
///
/// An undefined input or argument is the result, so that a `default` behind it can help; unknown is unknown.
pub(crate) fn apply(world: &World, name: &str, input: Value, mut args: Args) -> Evaluated<Value> {
    if matches!(name, "default" | "d") {
        return Ok(default(input, &mut args));
    }
    let Some(Row(_, parts, run)) = FILTERS.iter().flat_map(|rows| rows.iter()).find(|row| row.0 == name)
    else {
        return Err(no_such("filter", name, names()).into());
    };
    if let Some(value) = std::iter::once(&input).chain(args.all()).find(|v| v.as_unknown().is_some()) {
        return Ok(value.clone());
    }
    if *parts != Parts::Any
        && let Some(value) = std::iter::once(&input).chain(args.all()).find(|v| v.is_undefined())
    {
        return Ok(value.clone());
    }
    if *parts == Parts::Read {
        if let Some(reason) = std::iter::once(&input).chain(args.all()).find_map(Value::find_unknown) {
            return Ok(Value::unknown(reason.clone()));
        }
        usable(input.clone())?;
        for value in args.all() {
            usable(value.clone())?;
        }
    }
    let is_scalar = |v: &Value| v.as_list().is_none() && v.as_dict().is_none();
    let is_tainted = match parts {
        Parts::Read => input.has_secret() || args.all().any(Value::has_secret),
        Parts::Passed | Parts::Any => input.marks.secret && is_scalar(&input),
    };
    let result = run(world, input, &mut args).map_err(|stop| named_in(stop, "filter", name))?;
    args.finish().map_err(|error| named_in(error.into(), "filter", name))?;
    let is_bare = matches!(result.data, Data::Bool(_) | Data::None);
    Ok(if is_tainted && !is_bare { result.secret() } else { result })
}

/// Says in the message which filter or test it was.
pub(crate) fn named_in(
    stop: crate::expr::runtime::Stop,
    what: &str,
    name: &str,
) -> crate::expr::runtime::Stop {
    use crate::expr::runtime::Stop;
    match stop {
        Stop::Error(mut error)
            if error.kind == ErrorKind::Value && !error.message.contains(&format!("`{name}`")) =>
        {
            error.message = format!("{what} `{name}`: {}", error.message);
            Stop::Error(error)
        }
        other => other,
    }
}

pub(crate) fn no_such(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> EvalError {
    let error = EvalError::new(ErrorKind::NoSuchName, format!("there is no {what} `{name}`"));
    match suggest::did_you_mean(short_name(name), known) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// `default` where it is named as text, in `map('default', …)`.
fn default(input: Value, args: &mut Args) -> Value {
    let replacement = args.next("default_value").unwrap_or_else(|| Value::from(""));
    let replaces_falsy = args.flag("boolean").unwrap_or(false);
    if input.is_undefined() || replaces_falsy && input.truth() == Some(false) { replacement } else { input }
}

/// Ansible's `bool` filter: a few words are true, everything else is false.
pub(crate) fn to_bool(value: &Value) -> bool {
    match &value.data {
        Data::Bool(flag) => *flag,
        Data::Int(number) => *number == 1,
        Data::Float(number) => *number == 1.0,
        Data::Str(text) => matches!(text.to_lowercase().as_str(), "yes" | "on" | "1" | "true"),
        _ => false,
    }
}

fn mandatory(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let message = args.text("msg");
    match &input.data {
        Data::Undefined { hint } => {
            let message = message.unwrap_or_else(|| format!("a mandatory variable is not defined: {hint}"));
            Err(EvalError::value(message).into())
        }
        _ => Ok(input),
    }
}

fn ternary(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let (yes, no) = (args.need("true_val")?, args.need("false_val")?);
    let none = args.next("none_val");
    Ok(match (&input.data, none) {
        (Data::None, Some(none)) if !none.is_none() => none,
        _ if input.truth() == Some(true) => yes,
        _ => no,
    })
}

/// Returns a part by a dotted path, as `map(attribute='a.b.0')` takes it; undefined if it is not there.
pub(crate) fn attribute(world: &World, value: &Value, path: &str) -> Evaluated<Value> {
    let mut at = value.clone();
    for part in path.split('.') {
        let found = match (&at.data, part.parse::<i64>()) {
            (Data::List(items), Ok(index)) => operators::index(index, items.len()).and_then(|i| items.get(i)),
            (Data::Dict(entries), _) => entries.get(part),
            _ => None,
        };
        at = match found {
            Some(inner) => world.settle(inner.clone())?,
            None if at.as_unknown().is_some() => return Ok(at),
            None => {
                return Ok(Value::undefined(format!(
                    "object of type '{}' has no attribute '{path}'",
                    at.type_name()
                )));
            }
        };
    }
    Ok(at)
}

/// Orders values for sorting; what cannot be ordered is noted in `failure`.
pub(crate) fn compare_values(
    a: &Value,
    b: &Value,
    case_sensitive: bool,
    failure: &mut Option<EvalError>,
) -> Ordering {
    let folded = |v: &Value| if case_sensitive { v.clone() } else { folded(v) };
    match operators::order(&folded(a), &folded(b), "<") {
        Ok(order) => order.unwrap_or(Ordering::Equal),
        Err(error) => {
            failure.get_or_insert(error);
            Ordering::Equal
        }
    }
}

/// Text in lower case, as Jinja compares it; lists part by part.
pub(crate) fn folded(value: &Value) -> Value {
    match &value.data {
        Data::Str(text) => Value::from(text.to_lowercase()),
        Data::List(items) => items.iter().map(folded).collect(),
        _ => value.clone(),
    }
}

/// Returns the items of a list, the keys of a dict or the characters of a text.
pub(crate) fn items(value: &Value) -> Evaluated<Vec<Value>> {
    operators::iterate(value)
}
