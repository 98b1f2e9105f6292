//! Filters over dicts, and queries into data.

use std::sync::Arc;

use super::Args;
use super::Parts;
use super::Row;
use super::compare_values;
use super::items;
use crate::expr::error::EvalError;
use crate::expr::operators;
use crate::expr::runtime::Evaluated;
use crate::expr::value::Data;
use crate::expr::value::Dict;
use crate::expr::value::Value;
use crate::expr::world::World;

pub(super) const ROWS: &[Row] = &[
    Row("dict2items", Parts::Passed, dict_to_items),
    Row("items2dict", Parts::Passed, items_to_dict),
    Row("items", Parts::Passed, |_, input, _| pairs(&input)),
    Row("dictsort", Parts::Passed, dict_sort),
    Row("combine", Parts::Passed, combine),
    Row("json_query", Parts::Read, json_query),
];

fn entries(input: &Value) -> Result<&Dict, EvalError> {
    input
        .as_dict()
        .ok_or_else(|| EvalError::value(format!("a dict is needed, and this is {}", input.type_name())))
}

fn pairs(input: &Value) -> Evaluated<Value> {
    let pair = |(key, v): (&Arc<str>, &Value)| Value::from(vec![Value::from(key.clone()), v.clone()]);
    Ok(entries(input)?.iter().map(pair).collect())
}

fn dict_to_items(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let key_name: Arc<str> = args.text("key_name").unwrap_or_else(|| "key".into()).into();
    let value_name: Arc<str> = args.text("value_name").unwrap_or_else(|| "value".into()).into();
    let item = |(key, v): (&Arc<str>, &Value)| {
        Value::from([(key_name.clone(), Value::from(key.clone())), (value_name.clone(), v.clone())])
    };
    Ok(entries(&input)?.iter().map(item).collect())
}

fn items_to_dict(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let key_name = args.text("key_name").unwrap_or_else(|| "key".into());
    let value_name = args.text("value_name").unwrap_or_else(|| "value".into());
    let mut out = Dict::new();
    for item in items(&input)? {
        let (Some(key), Some(value)) = (item.get(&key_name), item.get(&value_name)) else {
            let message = format!("each item needs the keys `{key_name}` and `{value_name}`");
            return Err(EvalError::value(message).into());
        };
        out.insert(operators::key_text(key)?, value.clone());
    }
    Ok(out.into())
}

fn dict_sort(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let case_sensitive = args.flag("case_sensitive").unwrap_or(false);
    let by = args.text("by").unwrap_or_else(|| "key".into());
    let reverse = args.flag("reverse").unwrap_or(false);
    let column = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return Err(EvalError::value("`by` is 'key' or 'value'").into()),
    };
    let mut rows = items(&pairs(&input)?)?;
    let mut failure = None;
    let at = |row: &Value| row.as_list().and_then(|pair| pair.get(column)).cloned().unwrap_or_default();
    rows.sort_by(|a, b| {
        let order = compare_values(&at(a), &at(b), case_sensitive, &mut failure);
        if reverse { order.reverse() } else { order }
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(rows.into()),
    }
}

/// What happens where both dicts hold a list.
#[derive(Clone, Copy)]
enum ListMerge {
    Replace,
    Keep,
    Append,
    Prepend,
    AppendDistinct,
    PrependDistinct,
}

fn combine(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let recursive = args.named_flag("recursive").unwrap_or(false);
    let list_merge = match args.named("list_merge").as_ref().and_then(Value::as_str).unwrap_or("replace") {
        "replace" => ListMerge::Replace,
        "keep" => ListMerge::Keep,
        "append" => ListMerge::Append,
        "prepend" => ListMerge::Prepend,
        "append_rp" => ListMerge::AppendDistinct,
        "prepend_rp" => ListMerge::PrependDistinct,
        other => return Err(EvalError::value(format!("`list_merge` has no way called '{other}'")).into()),
    };
    let mut dicts = Vec::new();
    for value in std::iter::once(input).chain(args.rest()) {
        match &value.data {
            Data::List(parts) => dicts.extend(parts.iter().cloned()),
            _ => dicts.push(value),
        }
    }
    let mut out = Dict::new();
    for value in &dicts {
        merge(&mut out, entries(value)?, recursive, list_merge);
    }
    Ok(out.into())
}

fn merge(into: &mut Dict, from: &Dict, recursive: bool, list_merge: ListMerge) {
    for (key, new) in from {
        let old = into.get(key);
        let merged = match (old.map(|v| &v.data), &new.data) {
            (Some(Data::Dict(a)), Data::Dict(b)) if recursive => {
                let mut inner = a.as_ref().clone();
                merge(&mut inner, b, recursive, list_merge);
                inner.into()
            }
            (Some(Data::List(a)), Data::List(b)) => merged_lists(a, b, list_merge),
            _ => new.clone(),
        };
        into.insert(key.clone(), merged);
    }
}

fn merged_lists(old: &[Value], new: &[Value], how: ListMerge) -> Value {
    let without = |list: &[Value], other: &[Value]| -> Vec<Value> {
        list.iter().filter(|v| !other.iter().any(|o| o.equals(v))).cloned().collect()
    };
    match how {
        ListMerge::Replace => new.iter().cloned().collect(),
        ListMerge::Keep => old.iter().cloned().collect(),
        ListMerge::Append => old.iter().chain(new).cloned().collect(),
        ListMerge::Prepend => new.iter().chain(old).cloned().collect(),
        ListMerge::AppendDistinct => without(old, new).iter().chain(new).cloned().collect(),
        ListMerge::PrependDistinct => new.iter().chain(&without(old, new)).cloned().collect(),
    }
}

fn json_query(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let query = args.need_text("expr")?;
    let wrong = |error: &dyn std::fmt::Display| EvalError::value(format!("query `{query}`: {error}"));
    let compiled = jmespath::compile(&query).map_err(|error| wrong(&error))?;
    let data = jmespath::Variable::from_json(&input.to_json().to_string()).map_err(|error| wrong(&error))?;
    let found = compiled.search(data).map_err(|error| wrong(&error))?;
    let json = serde_json::from_str(&found.to_string()).map_err(|error| wrong(&error))?;
    Ok(Value::from_json(&json))
}
