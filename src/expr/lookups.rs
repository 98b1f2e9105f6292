//! Lookups that need nothing but data, and how the others' results are put together.

use std::sync::Arc;

use crate::expr::emit;
use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::filters::short_name;
use crate::expr::operators;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Stop;
use crate::expr::value::Data;
use crate::expr::value::Dict;
use crate::expr::value::Value;
use crate::expr::world::World;

/// Lookups that are made here.
const BUILT_IN: &[&str] =
    &["vars", "list", "dict", "items", "together", "nested", "indexed_items", "flattened", "sequence"];

/// Lookups that the caller of an evaluation makes, as far as it can.
pub(crate) const OUTSIDE: &[&str] = &[
    "env",
    "file",
    "fileglob",
    "first_found",
    "password",
    "pipe",
    "template",
    "url",
    "lines",
    "ini",
    "csvfile",
    "unvault",
];

/// Most elements that `sequence` and `nested` make.
const RESULT_MAX: usize = 100_000;

/// Returns all names, for `check`.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().chain(OUTSIDE).copied()
}

/// `lookup`, `query` and `q`: the first argument is the name.
pub(crate) fn call(world: &World, function: &str, args: Vec<Value>, mut named: Dict) -> Evaluated<Value> {
    let mut args = args.into_iter();
    let name = match args.next() {
        Some(name) => emit::to_text(&name),
        None => return Err(EvalError::value(format!("`{function}` needs the name of a lookup")).into()),
    };
    let flag = |value: Option<Value>| value.and_then(|v| v.truth()).unwrap_or(false);
    let wants_list = flag(named.shift_remove("wantlist")) || function != "lookup";
    let errors = named.shift_remove("errors").map_or_else(|| "strict".to_owned(), |v| emit::to_text(&v));
    let args: Vec<Value> = args.collect();
    let found = match run(world, short_name(&name), &args, &named) {
        Ok(found) => found,
        Err(Stop::Error(error)) if errors != "strict" && error.kind != ErrorKind::NoSuchName => {
            return Ok(if wants_list { Value::from(Vec::new()) } else { Value::none() });
        }
        Err(stop) => return Err(stop),
    };
    if wants_list {
        return Ok(found.into());
    }
    if let [only] = found.as_slice() {
        return Ok(only.clone());
    }
    let texts: Option<Vec<&str>> = found.iter().map(Value::as_str).collect();
    Ok(match texts {
        Some(texts) => {
            let joined = Value::from(texts.join(","));
            if found.iter().any(Value::has_secret) { joined.secret() } else { joined }
        }
        None => found.into(),
    })
}

fn run(world: &World, name: &str, args: &[Value], named: &Dict) -> Evaluated<Vec<Value>> {
    let lists = || -> Evaluated<Vec<Vec<Value>>> { args.iter().map(operators::iterate).collect() };
    Ok(match name {
        "vars" => {
            let default = named.get("default");
            let mut out = Vec::new();
            for name in args {
                let name = emit::to_text(name);
                out.push(match (world.variable(&name)?, default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => default.clone(),
                    (None, None) => {
                        return Err(
                            EvalError::undefined(format!("no variable named '{name}' was found")).into()
                        );
                    }
                });
            }
            out
        }
        "list" => args.to_vec(),
        "items" | "flattened" => flat(args, name == "flattened"),
        "dict" => {
            let mut out = Vec::new();
            for dict in args {
                let Some(entries) = dict.as_dict() else {
                    return Err(EvalError::value("lookup `dict` needs dicts").into());
                };
                let pair = |(key, v): (&Arc<str>, &Value)| {
                    Value::from([("key", Value::from(key.clone())), ("value", v.clone())])
                };
                out.extend(entries.iter().map(pair));
            }
            out
        }
        "together" => {
            let lists = lists()?;
            let rows = lists.iter().map(Vec::len).max().unwrap_or(0);
            (0..rows)
                .map(|row| lists.iter().map(|l| l.get(row).cloned().unwrap_or_default()).collect())
                .collect()
        }
        "nested" => {
            let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
            for list in lists()? {
                if rows.len().saturating_mul(list.len()) > RESULT_MAX {
                    return Err(
                        EvalError::value(format!("`nested` makes more than {RESULT_MAX} rows")).into()
                    );
                }
                let longer = |row: &Vec<Value>, item: &Value| {
                    row.iter().chain(std::iter::once(item)).cloned().collect()
                };
                rows = rows.iter().flat_map(|row| list.iter().map(move |item| longer(row, item))).collect();
            }
            rows.into_iter().map(Value::from).collect()
        }
        "indexed_items" => flat(args, false)
            .into_iter()
            .enumerate()
            .map(|(at, item)| Value::from(vec![Value::from(i64::try_from(at).unwrap_or(i64::MAX)), item]))
            .collect(),
        "sequence" => sequence(args, named)?,
        _ => {
            let found = world.lookups.lookup(name, args, named, world.scope)?;
            // What comes from outside is data, whatever it looks like.
            found.into_iter().map(Value::untrusted).collect()
        }
    })
}

/// Joins lists by one level, or by all.
fn flat(args: &[Value], deep: bool) -> Vec<Value> {
    let mut out = Vec::new();
    for arg in args {
        match arg.as_list() {
            Some(inner) if deep => out.extend(flat(inner, true)),
            Some(inner) => out.extend(inner.iter().cloned()),
            None => out.push(arg.clone()),
        }
    }
    out
}

fn sequence(args: &[Value], named: &Dict) -> Evaluated<Vec<Value>> {
    let mut options: Vec<(String, String)> = Vec::new();
    for arg in args {
        for word in emit::to_text(arg).split_whitespace() {
            match word.split_once('=') {
                Some((key, v)) => options.push((key.to_owned(), v.to_owned())),
                None => match word.split_once('-') {
                    Some((from, to)) => {
                        options.extend([("start".into(), from.into()), ("end".into(), to.into())]);
                    }
                    None => options.push(("end".into(), word.to_owned())),
                },
            }
        }
    }
    options.extend(named.iter().map(|(key, v)| (key.to_string(), emit::to_text(v))));
    let option = |name: &str| options.iter().rev().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let number = |name: &str| -> Result<Option<i64>, EvalError> {
        let wrong = || EvalError::value(format!("`{name}` of a sequence must be an integer"));
        option(name).map(|v| v.trim().parse::<i64>().map_err(|_| wrong())).transpose()
    };
    let start = number("start")?.unwrap_or(1);
    let stride = number("stride")?.unwrap_or(1);
    let end = match (number("end")?, number("count")?) {
        (Some(end), _) => end,
        (None, Some(0)) => return Ok(Vec::new()),
        (None, Some(count)) => start.saturating_add(count.saturating_sub(1).saturating_mul(stride)),
        (None, None) => return Err(EvalError::value("a sequence needs `end` or `count`").into()),
    };
    if stride == 0 {
        return Err(EvalError::value("`stride` of a sequence must not be zero").into());
    }
    let mut out = Vec::new();
    let mut at = start;
    while (stride > 0 && at <= end) || (stride < 0 && at >= end) {
        let text = match option("format") {
            Some(format) => crate::expr::format::percent(format, &Value::from(at), false)?,
            None => at.to_string(),
        };
        out.push(Value::from(text));
        if out.len() > RESULT_MAX {
            return Err(EvalError::value(format!("the sequence has more than {RESULT_MAX} numbers")).into());
        }
        let Some(next) = at.checked_add(stride) else { break };
        at = next;
    }
    Ok(out)
}

/// `now()`: the time as text, by `fmt` or in ISO form.
pub(crate) fn now(world: &World, named: &Dict) -> Evaluated<Value> {
    let format = named.get("fmt").filter(|v| !v.is_none()).map(emit::to_text);
    format_time(world, format.as_deref().unwrap_or("%Y-%m-%d %H:%M:%S.%6f"), None)
}

/// Formats seconds since 1970, or the present time if there are none. Times are in UTC, as no zone file is read here.
pub(crate) fn format_time(world: &World, format: &str, seconds: Option<&Value>) -> Evaluated<Value> {
    let seconds = match seconds {
        Some(value) => match &value.data {
            Data::Str(text) => text.trim().parse().ok(),
            _ => value.as_number(),
        }
        .ok_or_else(|| EvalError::value("a time is a number of seconds"))?,
        None => match world.lookups.unix_time() {
            Some(seconds) => seconds,
            None => return Err(Stop::Unknown(Arc::from("the time of the run"))),
        },
    };
    let wrong =
        |error: &dyn std::fmt::Display| EvalError::value(format!("the time cannot be written: {error}"));
    let nanos = (seconds * 1e9).round();
    if !nanos.is_finite() || nanos.abs() > 9e27 {
        return Err(EvalError::value("the time is out of range").into());
    }
    let stamp = jiff::Timestamp::from_nanosecond(nanos as i128).map_err(|error| wrong(&error))?;
    let zoned = stamp.to_zoned(jiff::tz::TimeZone::UTC);
    Ok(Value::from(jiff::fmt::strtime::format(format, &zoned).map_err(|error| wrong(&error))?))
}
