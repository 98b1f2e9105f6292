//! Jinja's and Ansible's tests: what follows `is`. (`defined` is in `eval`.)

use std::cmp::Ordering;

use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::filters::Args;
use crate::expr::filters::items;
use crate::expr::filters::named_in;
use crate::expr::filters::no_such;
use crate::expr::filters::to_bool;
use crate::expr::operators;
use crate::expr::regex::Flags;
use crate::expr::regex::Pattern;
use crate::expr::runtime::Evaluated;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::version;
use crate::expr::world::World;
use crate::expr::world::usable;

type Run = fn(&Value, &mut Args) -> Result<bool, EvalError>;

struct Row(&'static [&'static str], Run);

const TESTS: &[Row] = &[
    Row(&["none"], |v, _| Ok(v.is_none())),
    Row(&["string"], |v, _| Ok(v.as_str().is_some())),
    Row(&["mapping"], |v, _| Ok(v.as_dict().is_some())),
    Row(&["iterable"], |v, _| Ok(is_iterable(v))),
    Row(&["sequence"], |v, _| Ok(is_iterable(v))),
    Row(&["number"], |v, _| Ok(v.as_number().is_some())),
    Row(&["integer"], |v, _| Ok(v.as_int().is_some())),
    Row(&["float"], |v, _| Ok(matches!(v.data, Data::Float(_)))),
    Row(&["boolean"], |v, _| Ok(v.as_bool().is_some())),
    Row(&["true"], |v, _| Ok(v.as_bool() == Some(true))),
    Row(&["false"], |v, _| Ok(v.as_bool() == Some(false))),
    Row(&["truthy"], |v, args| Ok(truthy(v, args))),
    Row(&["falsy"], |v, args| Ok(!truthy(v, args))),
    Row(&["eq", "equalto", "=="], |v, args| Ok(v.equals(&args.need("other")?))),
    Row(&["ne", "!="], |v, args| Ok(!v.equals(&args.need("other")?))),
    Row(&["lt", "lessthan", "<"], |v, args| order(v, args, &[Ordering::Less])),
    Row(&["le", "<="], |v, args| order(v, args, &[Ordering::Less, Ordering::Equal])),
    Row(&["gt", "greaterthan", ">"], |v, args| order(v, args, &[Ordering::Greater])),
    Row(&["ge", ">="], |v, args| order(v, args, &[Ordering::Greater, Ordering::Equal])),
    Row(&["in"], |v, args| operators::contains(&args.need("seq")?, v)),
    Row(&["contains"], |v, args| operators::contains(v, &args.need("value")?)),
    Row(&["sameas"], |v, args| {
        let other = args.need("other")?;
        Ok(v.type_name() == other.type_name() && v.equals(&other))
    }),
    Row(&["lower"], |v, _| Ok(cased(v, char::is_lowercase, char::is_uppercase))),
    Row(&["upper"], |v, _| Ok(cased(v, char::is_uppercase, char::is_lowercase))),
    Row(&["even"], |v, _| Ok(whole(v)?.rem_euclid(2) == 0)),
    Row(&["odd"], |v, _| Ok(whole(v)?.rem_euclid(2) == 1)),
    Row(&["divisibleby"], |v, args| {
        let by = whole(&args.need("num")?)?;
        whole(v)?.checked_rem(by).map(|rest| rest == 0).ok_or_else(|| EvalError::value("division by zero"))
    }),
    Row(&["match"], |v, args| regex(v, args, "match")),
    Row(&["search"], |v, args| regex(v, args, "search")),
    Row(&["regex"], |v, args| regex(v, args, "search")),
    Row(&["version", "version_compare"], version_test),
    Row(&["subset", "issubset"], |v, args| subset(v, &args.need("b")?)),
    Row(&["superset", "issuperset"], |v, args| subset(&args.need("b")?, v)),
    Row(&["any"], |v, _| Ok(list(v)?.iter().any(|v| v.truth() == Some(true)))),
    Row(&["all"], |v, _| Ok(list(v)?.iter().all(|v| v.truth() == Some(true)))),
    Row(&["failed", "failure"], |v, _| Ok(field(result(v, "failed")?, "failed"))),
    Row(&["succeeded", "success", "successful"], |v, _| Ok(!field(result(v, "success")?, "failed"))),
    Row(&["changed", "change"], |v, _| Ok(changed(result(v, "changed")?))),
    Row(&["skipped", "skip"], |v, _| Ok(field(result(v, "skipped")?, "skipped"))),
    Row(&["reachable"], |v, _| Ok(!field(result(v, "reachable")?, "unreachable"))),
    Row(&["unreachable"], |v, _| Ok(field(result(v, "unreachable")?, "unreachable"))),
    Row(&["started"], |v, _| Ok(field(result(v, "started")?, "started"))),
    Row(&["finished"], |v, _| Ok(field(result(v, "finished")?, "finished"))),
    Row(&["timedout"], |v, _| {
        Ok(result(v, "timedout")?.get("timedout").is_some_and(|t| t.truth() == Some(true)))
    }),
    Row(&["abs"], |v, _| Ok(emit::to_text(v).starts_with('/'))),
    Row(&["nan", "isnan"], |v, _| Ok(matches!(v.data, Data::Float(n) if n.is_nan()))),
    Row(&["filter"], |v, _| {
        let name = emit::to_text(v);
        Ok(crate::expr::filters::names().any(|known| known == crate::expr::filters::short_name(&name)))
    }),
    Row(&["test"], |v, _| {
        let name = emit::to_text(v);
        Ok(names().any(|known| known == crate::expr::filters::short_name(&name)))
    }),
    Row(&["uri", "url"], |v, _| {
        let text = emit::to_text(v);
        Ok(text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()))
    }),
];

/// Returns all names, for `check`.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TESTS.iter().flat_map(|row| row.0.iter().copied()).chain(["defined", "undefined", "callable"])
}

/// Applies a test to settled values. Undefined is an error, unknown is unknown.
pub(crate) fn apply(world: &World, name: &str, input: Value, mut args: Args) -> Evaluated<Value> {
    let _ = world;
    if matches!(name, "defined" | "undefined") {
        return Ok(match input.as_unknown() {
            Some(_) => input,
            None => Value::from(input.is_undefined() == (name == "undefined")),
        });
    }
    let Some(Row(_, run)) = TESTS.iter().find(|row| row.0.contains(&name)) else {
        return Err(no_such("test", name, names()).into());
    };
    if let Some(reason) = input.as_unknown() {
        return Ok(Value::unknown(reason.clone()));
    }
    if input.as_dict().is_none() {
        if let Some(reason) = input.find_unknown() {
            return Ok(Value::unknown(reason.clone()));
        }
        usable(input.clone())?;
    }
    for arg in args.copy().rest() {
        if let Some(reason) = arg.find_unknown() {
            return Ok(Value::unknown(reason.clone()));
        }
        usable(arg)?;
    }
    // Whether a step changed may be the very thing that is not known.
    if let Some(reason) = result_field(name).and_then(|field| input.get(field)).and_then(Value::as_unknown) {
        return Ok(Value::unknown(reason.clone()));
    }
    run(&input, &mut args).map(Value::from).map_err(|error| named_in(error.into(), "test", name))
}

fn result_field(test: &str) -> Option<&'static str> {
    Some(match test {
        "failed" | "failure" | "succeeded" | "success" | "successful" => "failed",
        "changed" | "change" => "changed",
        "skipped" | "skip" => "skipped",
        "finished" => "finished",
        "started" => "started",
        _ => return None,
    })
}

fn is_iterable(value: &Value) -> bool {
    value.as_str().is_some() || value.as_list().is_some() || value.as_dict().is_some()
}

fn truthy(value: &Value, args: &mut Args) -> bool {
    let convert = args.named_flag("convert_bool").unwrap_or(false);
    if convert && value.as_str().is_some() { to_bool(value) } else { value.truth().unwrap_or(false) }
}

fn order(value: &Value, args: &mut Args, wanted: &[Ordering]) -> Result<bool, EvalError> {
    let other = args.need("other")?;
    Ok(operators::order(value, &other, "<")?.is_some_and(|found| wanted.contains(&found)))
}

fn cased(value: &Value, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    let text = emit::to_text(value);
    text.chars().any(wanted) && !text.chars().any(other)
}

fn whole(value: &Value) -> Result<i64, EvalError> {
    match value.data {
        Data::Int(number) => Ok(number),
        Data::Bool(flag) => Ok(i64::from(flag)),
        _ => Err(EvalError::value(format!("an integer is needed, and this is {}", value.type_name()))),
    }
}

fn list(value: &Value) -> Result<&[Value], EvalError> {
    value
        .as_list()
        .ok_or_else(|| EvalError::value(format!("a list is needed, and this is {}", value.type_name())))
}

fn regex(value: &Value, args: &mut Args, default: &str) -> Result<bool, EvalError> {
    let pattern = args.text("pattern").unwrap_or_default();
    let ignore_case = args.flag("ignorecase").unwrap_or(false);
    let multiline = args.flag("multiline").unwrap_or(false);
    let kind = args.text("match_type").unwrap_or_else(|| default.to_owned());
    let pattern = Pattern::new(&pattern, Flags { ignore_case, multiline })?;
    let text = emit::to_text(value);
    let found = match kind.as_str() {
        "match" => pattern.match_start(&text)?,
        "fullmatch" => pattern.match_full(&text)?,
        _ => pattern.search(&text)?,
    };
    Ok(found.is_some())
}

fn version_test(value: &Value, args: &mut Args) -> Result<bool, EvalError> {
    let other = args.need_text("version")?;
    let operator = args.text("operator").unwrap_or_else(|| "eq".into());
    let strict = args.flag("strict");
    let kind = args.text("version_type");
    version::compare(&emit::to_text(value), &other, &operator, strict, kind.as_deref())
}

fn subset(small: &Value, large: &Value) -> Result<bool, EvalError> {
    let wrong = |stop: crate::expr::runtime::Stop| match stop {
        crate::expr::runtime::Stop::Error(error) => *error,
        crate::expr::runtime::Stop::Unknown(reason) => EvalError::value(reason.to_string()),
    };
    let (small, large) = (items(small).map_err(wrong)?, items(large).map_err(wrong)?);
    Ok(small.iter().all(|item| large.iter().any(|other| other.equals(item))))
}

/// Returns the result of a task, which these tests are about.
fn result<'v>(value: &'v Value, test: &str) -> Result<&'v Value, EvalError> {
    match value.as_dict() {
        Some(_) => Ok(value),
        None => {
            Err(EvalError::value(format!("a task's result is needed, and this is {}", value.type_name()))
                .hint(format!("`is {test}` goes with a registered variable")))
        }
    }
}

fn field(result: &Value, name: &str) -> bool {
    result.get(name).and_then(Value::truth).unwrap_or(false)
}

/// A loop's result counts as changed if one of its results is.
fn changed(result: &Value) -> bool {
    match result.get("changed") {
        Some(flag) => flag.truth().unwrap_or(false),
        None => result
            .get("results")
            .and_then(Value::as_list)
            .is_some_and(|all| all.iter().any(|r| field(r, "changed"))),
    }
}
