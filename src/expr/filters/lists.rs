//! Filters over lists.

use std::sync::Arc;

use super::Args;
use super::Parts;
use super::Row;
use super::attribute;
use super::compare_values;
use super::folded;
use super::items;
use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::jinja_tests;
use crate::expr::operators;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Stop;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::World;
use crate::expr::world::usable;

/// Most elements that products and the like may make.
const RESULT_MAX: usize = 1_000_000;

pub(super) const ROWS: &[Row] = &[
    Row("length", Parts::Passed, |_, input, _| length(&input)),
    Row("count", Parts::Passed, |_, input, _| length(&input)),
    Row("list", Parts::Passed, |_, input, _| Ok(items(&input)?.into())),
    Row("first", Parts::Passed, |_, input, _| Ok(end(items(&input)?.into_iter().next(), "first"))),
    Row("last", Parts::Passed, |_, input, _| Ok(end(items(&input)?.pop(), "last"))),
    Row("reverse", Parts::Passed, reverse),
    Row("join", Parts::Read, join),
    Row("map", Parts::Passed, map),
    Row("select", Parts::Passed, |world, input, args| select(world, &input, args, true)),
    Row("reject", Parts::Passed, |world, input, args| select(world, &input, args, false)),
    Row("selectattr", Parts::Passed, |world, input, args| select_attribute(world, &input, args, true)),
    Row("rejectattr", Parts::Passed, |world, input, args| select_attribute(world, &input, args, false)),
    Row("sort", Parts::Passed, sort),
    Row("unique", Parts::Passed, unique),
    Row("min", Parts::Passed, |world, input, args| extreme(world, &input, args, false)),
    Row("max", Parts::Passed, |world, input, args| extreme(world, &input, args, true)),
    Row("sum", Parts::Read, sum),
    Row("flatten", Parts::Passed, flatten),
    Row("union", Parts::Passed, |_, input, args| {
        let other = args.need("b")?;
        Ok(distinct(items(&input)?.into_iter().chain(items(&other)?)))
    }),
    Row("intersect", Parts::Passed, |_, input, args| {
        let other = items(&args.need("b")?)?;
        Ok(distinct(items(&input)?.into_iter().filter(|v| has(&other, v))))
    }),
    Row("difference", Parts::Passed, |_, input, args| {
        let other = items(&args.need("b")?)?;
        Ok(distinct(items(&input)?.into_iter().filter(|v| !has(&other, v))))
    }),
    Row("symmetric_difference", Parts::Passed, |_, input, args| {
        let (a, b) = (items(&input)?, items(&args.need("b")?)?);
        let only_a = a.iter().filter(|v| !has(&b, v));
        let only_b = b.iter().filter(|v| !has(&a, v));
        Ok(distinct(only_a.chain(only_b).cloned()))
    }),
    Row("zip", Parts::Passed, zip),
    Row("zip_longest", Parts::Passed, zip_longest),
    Row("product", Parts::Passed, product),
    Row("batch", Parts::Passed, batch),
    Row("slice", Parts::Passed, slice),
    Row("groupby", Parts::Passed, group_by),
    Row("subelements", Parts::Passed, subelements),
    Row("extract", Parts::Passed, extract),
];

fn length(input: &Value) -> Evaluated<Value> {
    let count = match &input.data {
        Data::Str(text) => text.chars().count(),
        Data::List(items) => items.len(),
        Data::Dict(entries) => entries.len(),
        _ => {
            return Err(
                EvalError::value(format!("object of type '{}' has no length", input.type_name())).into()
            );
        }
    };
    Ok(Value::from(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn end(item: Option<Value>, which: &str) -> Value {
    item.unwrap_or_else(|| Value::undefined(format!("there is no {which} item, the list is empty")))
}

fn reverse(_: &World, input: Value, _: &mut Args) -> Evaluated<Value> {
    if let Some(text) = input.as_str() {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    Ok(items(&input)?.into_iter().rev().collect())
}

fn join(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let separator = args.text("d").unwrap_or_default();
    let path = args.text("attribute");
    let mut parts = Vec::new();
    for item in items(&input)? {
        let item = match &path {
            Some(path) => usable(attribute(world, &item, path)?)?,
            None => item,
        };
        parts.push(emit::to_text(&item));
    }
    Ok(Value::from(parts.join(&separator)))
}

fn map(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let source = items(&input)?;
    let mut out = Vec::with_capacity(source.len());
    if let Some(path) = args.named("attribute") {
        let default = args.named("default");
        let path = emit::to_text(&path);
        for item in source {
            let found = attribute(world, &item, &path)?;
            out.push(match (&found.data, &default) {
                (Data::Undefined { .. }, Some(default)) => default.clone(),
                (Data::Undefined { hint }, None) => return Err(EvalError::undefined(hint.to_string()).into()),
                _ => found,
            });
        }
        return Ok(out.into());
    }
    let name = args.need_text("filter")?;
    let rest = args.hand_on();
    for item in source {
        out.push(super::apply(world, super::short_name(&name), item, rest.copy())?);
    }
    Ok(out.into())
}

/// Applies a test, or Python's truth without one.
fn passes(world: &World, item: Value, test: Option<&str>, args: &Args) -> Evaluated<bool> {
    let result = match test {
        Some(test) => jinja_tests::apply(world, super::short_name(test), item, args.copy())?,
        None => item,
    };
    let result = usable(result)?;
    Ok(result.truth().unwrap_or(false))
}

fn select(world: &World, input: &Value, args: &mut Args, wanted: bool) -> Evaluated<Value> {
    let test = args.text("test");
    let rest = args.hand_on();
    kept(input, |item| Ok(passes(world, item.clone(), test.as_deref(), &rest)? == wanted))
}

fn select_attribute(world: &World, input: &Value, args: &mut Args, wanted: bool) -> Evaluated<Value> {
    let path = args.need_text("attribute")?;
    let test = args.text("test");
    let rest = args.hand_on();
    kept(input, |item| {
        let part = attribute(world, item, &path)?;
        let part = match test.as_deref() {
            Some("defined" | "undefined" | "ansible.builtin.defined") => part,
            _ => match &part.data {
                Data::Undefined { hint } => {
                    let error = EvalError::undefined(hint.to_string());
                    let hint = format!("put `selectattr('{path}', 'defined')` before it");
                    return Err(error.hint(hint).into());
                }
                _ => part,
            },
        };
        Ok(passes(world, part, test.as_deref(), &rest)? == wanted)
    })
}

/// Filters a list; if one item's answer is unknown, so is the list.
fn kept(input: &Value, mut fits: impl FnMut(&Value) -> Evaluated<bool>) -> Evaluated<Value> {
    let mut out = Vec::new();
    for item in items(input)? {
        match fits(&item) {
            Ok(true) => out.push(item),
            Ok(false) => {}
            Err(Stop::Unknown(reason)) => return Ok(Value::unknown(reason)),
            Err(error) => return Err(error),
        }
    }
    Ok(out.into())
}

/// Returns the values to sort or compare by: the items, or an attribute of each (several with commas).
fn keys(world: &World, source: &[Value], path: Option<&str>) -> Evaluated<Vec<Value>> {
    let one = |item: &Value, path: &str| usable(attribute(world, item, path)?);
    source
        .iter()
        .map(|item| match path {
            Some(paths) if paths.contains(',') => {
                let parts: Evaluated<Vec<Value>> =
                    paths.split(',').map(|path| one(item, path.trim())).collect();
                Ok(parts?.into())
            }
            Some(path) => one(item, path),
            None => usable(item.clone()),
        })
        .collect()
}

fn sorted(keys: &[Value], case_sensitive: bool) -> Evaluated<Vec<usize>> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    let mut failure = None;
    order.sort_by(|a, b| match (keys.get(*a), keys.get(*b)) {
        (Some(a), Some(b)) => compare_values(a, b, case_sensitive, &mut failure),
        _ => std::cmp::Ordering::Equal,
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(order),
    }
}

fn sort(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let reverse = args.flag("reverse").unwrap_or(false);
    let case_sensitive = args.flag("case_sensitive").unwrap_or(false);
    let path = args.text("attribute");
    let source = items(&input)?;
    let keys = keys(world, &source, path.as_deref())?;
    let mut order = sorted(&keys, case_sensitive)?;
    if reverse {
        // Equal items keep their order also when reversed.
        order.reverse();
        order = stable_reversed(&order, &keys, case_sensitive);
    }
    Ok(order.into_iter().filter_map(|at| source.get(at).cloned()).collect())
}

fn stable_reversed(order: &[usize], keys: &[Value], case_sensitive: bool) -> Vec<usize> {
    let fold = |at: &usize| keys.get(*at).map(|v| if case_sensitive { v.clone() } else { folded(v) });
    let mut out: Vec<usize> = Vec::with_capacity(order.len());
    for run in order.chunk_by(|a, b| matches!((fold(a), fold(b)), (Some(a), Some(b)) if a.equals(&b))) {
        out.extend(run.iter().rev());
    }
    out
}

fn unique(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let case_sensitive = args.flag("case_sensitive").unwrap_or(false);
    let path = args.text("attribute");
    let source = items(&input)?;
    let mut seen: Vec<Value> = Vec::new();
    let mut out = Vec::new();
    for (item, key) in source.iter().zip(keys(world, &source, path.as_deref())?) {
        let key = if case_sensitive { key } else { folded(&key) };
        if !has(&seen, &key) {
            seen.push(key);
            out.push(item.clone());
        }
    }
    Ok(out.into())
}

fn extreme(world: &World, input: &Value, args: &mut Args, is_max: bool) -> Evaluated<Value> {
    let case_sensitive = args.flag("case_sensitive").unwrap_or(false);
    let path = args.text("attribute");
    let source = items(input)?;
    let keys = keys(world, &source, path.as_deref())?;
    let mut failure = None;
    let mut best: Option<(&Value, &Value)> = None;
    for (item, key) in source.iter().zip(&keys) {
        best = match best {
            Some((_, best_key)) => {
                let order = compare_values(key, best_key, case_sensitive, &mut failure);
                let is_better = if is_max { order.is_gt() } else { order.is_lt() };
                if is_better { Some((item, key)) } else { best }
            }
            None => Some((item, key)),
        };
    }
    match (failure, best) {
        (Some(error), _) => Err(error.into()),
        (None, Some((item, _))) => Ok(item.clone()),
        (None, None) => Ok(Value::undefined("there is no smallest or largest item, the list is empty")),
    }
}

fn sum(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let path = args.text("attribute");
    let mut total = args.next("start").unwrap_or_else(|| Value::from(0));
    let source = items(&input)?;
    for key in keys(world, &source, path.as_deref())? {
        total = operators::binary(minijinja::machinery::ast::BinOpKind::Add, total, key, false)?;
    }
    Ok(total)
}

fn flatten(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let levels = args.int("levels")?;
    let skip_nulls = args.flag("skip_nulls").unwrap_or(true);
    let mut out = Vec::new();
    flatten_into(&mut out, &items(&input)?, levels, skip_nulls);
    Ok(out.into())
}

fn flatten_into(out: &mut Vec<Value>, source: &[Value], levels: Option<i64>, skip_nulls: bool) {
    for item in source {
        let is_null = item.is_none() || matches!(item.as_str(), Some("None" | "null"));
        match item.as_list() {
            _ if skip_nulls && is_null => {}
            Some(inner) if levels.is_none_or(|n| n >= 1) => {
                flatten_into(out, inner, levels.map(|n| n - 1), skip_nulls);
            }
            _ => out.push(item.clone()),
        }
    }
}

fn has(list: &[Value], item: &Value) -> bool {
    list.iter().any(|v| v.equals(item))
}

fn distinct(source: impl Iterator<Item = Value>) -> Value {
    let mut out: Vec<Value> = Vec::new();
    for item in source {
        if !has(&out, &item) {
            out.push(item);
        }
    }
    out.into()
}

fn columns(input: &Value, args: &mut Args) -> Evaluated<Vec<Vec<Value>>> {
    std::iter::once(input.clone()).chain(args.rest()).map(|v| items(&v)).collect()
}

fn zip(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let columns = columns(&input, args)?;
    let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
    Ok((0..rows).map(|row| columns.iter().filter_map(|c| c.get(row).cloned()).collect::<Value>()).collect())
}

fn zip_longest(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let fill = args.named("fillvalue").unwrap_or_default();
    let columns = columns(&input, args)?;
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    let row = |row: usize| columns.iter().map(|c| c.get(row).unwrap_or(&fill).clone()).collect::<Value>();
    Ok((0..rows).map(row).collect())
}

fn product(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let repeat = args.named("repeat").and_then(|v| v.as_int()).unwrap_or(1);
    let columns = columns(&input, args)?;
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for _ in 0..repeat.clamp(0, 64) {
        for column in &columns {
            if rows.len().saturating_mul(column.len()) > RESULT_MAX {
                return Err(EvalError::value(format!("the product has more than {RESULT_MAX} rows")).into());
            }
            let longer =
                |row: &Vec<Value>, item: &Value| row.iter().chain(std::iter::once(item)).cloned().collect();
            rows = rows.iter().flat_map(|row| column.iter().map(move |item| longer(row, item))).collect();
        }
    }
    Ok(rows.into_iter().map(Value::from).collect())
}

fn batch(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let size = args.size("linecount")?.filter(|n| *n > 0);
    let size = size.ok_or_else(|| EvalError::value("the size of a batch must be at least 1"))?;
    let fill = args.next("fill_with").filter(|v| !v.is_none());
    let source = items(&input)?;
    let padded = |chunk: &[Value]| {
        let missing = fill.iter().cycle().take(size.min(RESULT_MAX).saturating_sub(chunk.len()));
        chunk.iter().chain(missing).cloned().collect::<Value>()
    };
    Ok(source.chunks(size).map(padded).collect())
}

fn slice(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let count = args.size("slices")?.filter(|n| (1..=RESULT_MAX).contains(n));
    let count = count.ok_or_else(|| EvalError::value("the number of slices must be at least 1"))?;
    let fill = args.next("fill_with").filter(|v| !v.is_none());
    let source = items(&input)?;
    let (each, longer) = (source.len() / count, source.len() % count);
    let mut rest = source.as_slice();
    let mut out = Vec::new();
    for index in 0..count {
        let size = each + usize::from(index < longer);
        let (part, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let pad = fill.iter().filter(|_| longer > 0 && index >= longer);
        out.push(part.iter().chain(pad).cloned().collect::<Value>());
    }
    Ok(out.into())
}

fn group_by(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let path = args.need_text("attribute")?;
    let default = args.next("default").filter(|v| !v.is_none());
    let case_sensitive = args.flag("case_sensitive").unwrap_or(false);
    let source = items(&input)?;
    let mut keys = Vec::with_capacity(source.len());
    for item in &source {
        let found = attribute(world, item, &path)?;
        keys.push(match &default {
            Some(default) if found.is_undefined() => default.clone(),
            _ => usable(found)?,
        });
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for at in sorted(&keys, case_sensitive)? {
        let (Some(key), Some(item)) = (keys.get(at), source.get(at)) else { continue };
        let fold = |v: &Value| if case_sensitive { v.clone() } else { folded(v) };
        match groups.last_mut() {
            Some((last, members)) if fold(last).equals(&fold(key)) => members.push(item.clone()),
            _ => groups.push((key.clone(), vec![item.clone()])),
        }
    }
    Ok(groups.into_iter().map(|(key, members)| Value::from(vec![key, members.into()])).collect())
}

fn subelements(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let path = args.need("subelements")?;
    let skip_missing = args.flag("skip_missing").unwrap_or(false);
    let path: Vec<String> = match &path.data {
        Data::List(parts) => parts.iter().map(emit::to_text).collect(),
        _ => emit::to_text(&path).split('.').map(str::to_owned).collect(),
    };
    let elements = match &input.data {
        Data::Dict(entries) => entries.values().cloned().collect(),
        _ => items(&input)?,
    };
    let mut out = Vec::new();
    for element in elements {
        let mut inner = element.clone();
        for part in &path {
            inner = attribute(world, &inner, part)?;
        }
        match &inner.data {
            Data::List(parts) => {
                out.extend(parts.iter().map(|part| Value::from(vec![element.clone(), part.clone()])));
            }
            Data::Undefined { .. } if skip_missing => {}
            Data::Undefined { .. } => {
                let message = format!("an element has no key '{}'", path.join("."));
                return Err(EvalError::value(message)
                    .hint("skip such elements with `skip_missing=true`")
                    .into());
            }
            _ => {
                return Err(
                    EvalError::value(format!("'{}' is not a list in every element", path.join("."))).into()
                );
            }
        }
    }
    Ok(out.into())
}

fn extract(world: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let container = args.need("container")?;
    let more = match args.next("morekeys") {
        Some(value) if value.as_list().is_some() => items(&value)?,
        Some(value) if !value.is_none() => vec![value],
        _ => Vec::new(),
    };
    let mut at = container;
    for key in std::iter::once(input).chain(more) {
        let found = match (&at.data, &key.data) {
            (Data::List(items), Data::Int(index)) => {
                operators::index(*index, items.len()).and_then(|i| items.get(i))
            }
            (Data::Dict(entries), _) => entries.get(&operators::key_text(&key)? as &Arc<str>),
            _ => None,
        };
        at = match found {
            Some(inner) => world.settle(inner.clone())?,
            None => return Ok(Value::undefined(format!("there is no {} to extract", emit::repr(&key)))),
        };
    }
    Ok(at)
}
