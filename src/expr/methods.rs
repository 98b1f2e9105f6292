//! Python's methods on text, lists and dicts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::expr::emit;
use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::eval::Arguments;
use crate::expr::eval::Eval;
use crate::expr::filters::compare_values;
use crate::expr::format;
use crate::expr::operators;
use crate::expr::runtime::Entries;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Object;
use crate::expr::runtime::Stop;
use crate::expr::text;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::usable;
use crate::source::suggest;

/// All methods, for `check`.
pub(crate) const NAMES: &[&str] = &[
    "append",
    "capitalize",
    "casefold",
    "center",
    "clear",
    "copy",
    "count",
    "date",
    "encode",
    "endswith",
    "expandtabs",
    "extend",
    "find",
    "format",
    "get",
    "index",
    "insert",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "items",
    "join",
    "keys",
    "ljust",
    "lower",
    "lstrip",
    "next",
    "partition",
    "pop",
    "popitem",
    "remove",
    "removeprefix",
    "removesuffix",
    "replace",
    "reverse",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "setdefault",
    "sort",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "update",
    "values",
    "zfill",
];

/// Returns whether a method changes what it is called on.
pub(crate) fn changes(name: &str) -> bool {
    matches!(
        name,
        "append"
            | "extend"
            | "insert"
            | "pop"
            | "popitem"
            | "remove"
            | "clear"
            | "sort"
            | "reverse"
            | "update"
            | "setdefault"
    )
}

pub(crate) fn misuse(name: &str) -> Stop {
    EvalError::value(format!("method `{name}` is called with wrong arguments")).into()
}

/// Calls a method. Lists and dicts that may change come as such; all else as values.
pub(crate) fn call<'a>(
    eval: &Eval<'_, 'a>,
    base: Object<'a>,
    name: &str,
    args: Arguments<'a>,
) -> Evaluated<Object<'a>> {
    match base {
        Object::List(items) => match list_change(eval, &items, name, &args)? {
            Some(result) => Ok(result),
            None => on_value(eval, Object::List(items), name, args),
        },
        Object::Dict(entries) => match dict_method(eval, &entries, name, &args)? {
            Some(result) => Ok(result),
            None => on_value(eval, Object::Dict(entries), name, args),
        },
        Object::Value(value)
            if value.as_dict().is_some() && matches!(name, "get" | "keys" | "values" | "items") =>
        {
            lazy_dict_method(eval, &value, name, args)
        }
        other => on_value(eval, other, name, args),
    }
}

fn none<'a>() -> Object<'a> {
    Object::Value(Value::none())
}

fn list_change<'a>(
    eval: &Eval<'_, 'a>,
    items: &Rc<RefCell<Vec<Object<'a>>>>,
    name: &str,
    args: &Arguments<'a>,
) -> Evaluated<Option<Object<'a>>> {
    let first = args.positional.first().cloned();
    match (name, first) {
        ("append", Some(item)) => items.borrow_mut().push(item),
        ("extend", Some(more)) => {
            let more = eval.items_of(more)?;
            items.borrow_mut().extend(more);
        }
        ("insert", Some(at)) => {
            let at = eval.settled(at)?.as_int().ok_or_else(|| misuse(name))?;
            let Some(item) = args.positional.get(1).cloned() else { return Err(misuse(name)) };
            let length = items.borrow().len();
            let at = if at < 0 {
                operators::index(at, length).unwrap_or(0)
            } else {
                usize::try_from(at).unwrap_or(length)
            };
            items.borrow_mut().insert(at.min(length), item);
        }
        ("pop", at) => {
            let at = match at {
                Some(at) => eval.settled(at)?.as_int().ok_or_else(|| misuse(name))?,
                None => -1,
            };
            let length = items.borrow().len();
            return match operators::index(at, length).filter(|at| *at < length) {
                Some(at) => Ok(Some(items.borrow_mut().remove(at))),
                None => Err(EvalError::value("pop from empty list, or index out of range").into()),
            };
        }
        ("remove", Some(item)) => {
            let wanted = eval.settled(item)?;
            let values: Evaluated<Vec<Value>> =
                items.borrow().iter().map(|v| eval.settled(v.clone())).collect();
            match values?.iter().position(|v| v.equals(&wanted)) {
                Some(at) => {
                    items.borrow_mut().remove(at);
                }
                None => return Err(EvalError::value("list.remove(x): x is not in the list").into()),
            }
        }
        ("clear", None) => items.borrow_mut().clear(),
        ("reverse", None) => items.borrow_mut().reverse(),
        ("sort", None) => {
            let values: Evaluated<Vec<Value>> =
                items.borrow().iter().map(|v| usable(eval.settled(v.clone())?)).collect();
            let mut values = values?;
            let mut failure = None;
            values.sort_by(|a, b| compare_values(a, b, true, &mut failure));
            if let Some(error) = failure {
                return Err(error.into());
            }
            if args.named.iter().any(|(k, v)| {
                k.as_ref() == "reverse" && matches!(v, Object::Value(v) if v.truth() == Some(true))
            }) {
                values.reverse();
            }
            *items.borrow_mut() = values.into_iter().map(Object::Value).collect();
        }
        ("copy", None) => return Ok(Some(Object::list(items.borrow().clone()))),
        _ => return Ok(None),
    }
    Ok(Some(none()))
}

fn dict_method<'a>(
    eval: &Eval<'_, 'a>,
    entries: &Rc<RefCell<Entries<'a>>>,
    name: &str,
    args: &Arguments<'a>,
) -> Evaluated<Option<Object<'a>>> {
    let key = |at: usize| -> Evaluated<Option<Arc<str>>> {
        let Some(object) = args.positional.get(at) else { return Ok(None) };
        Ok(Some(operators::key_text(&eval.settled(object.clone())?)?))
    };
    let evaluated = |object: Object<'a>| match object {
        Object::Value(value) => eval.world.resolve(value).map(Object::Value),
        other => Ok(other),
    };
    match name {
        "update" => {
            let mut new = Entries::new();
            if let Some(more) = args.positional.first() {
                for pair in pairs_of(eval, more.clone())? {
                    new.insert(pair.0, pair.1);
                }
            }
            new.extend(args.named.iter().cloned());
            entries.borrow_mut().extend(new);
            Ok(Some(none()))
        }
        "setdefault" => {
            let Some(key) = key(0)? else { return Err(misuse(name)) };
            let default = args.positional.get(1).cloned().unwrap_or_else(none);
            let mut entries = entries.borrow_mut();
            Ok(Some(entries.entry(key).or_insert(default).promote()))
        }
        "pop" => {
            let Some(key) = key(0)? else { return Err(misuse(name)) };
            match (entries.borrow_mut().shift_remove(&key), args.positional.get(1)) {
                (Some(object), _) => Ok(Some(evaluated(object)?)),
                (None, Some(default)) => Ok(Some(default.clone())),
                (None, None) => Err(EvalError::value(format!("pop: the dict has no key '{key}'")).into()),
            }
        }
        "clear" => {
            entries.borrow_mut().clear();
            Ok(Some(none()))
        }
        "copy" => Ok(Some(Object::Dict(Rc::new(RefCell::new(entries.borrow().clone()))))),
        "get" => {
            let Some(key) = key(0)? else { return Err(misuse(name)) };
            let found = entries.borrow().get(&key).cloned();
            match found {
                Some(object) => Ok(Some(evaluated(object)?)),
                None => Ok(Some(args.positional.get(1).cloned().unwrap_or_else(none))),
            }
        }
        "keys" => Ok(Some(Object::list(
            entries.borrow().keys().map(|key| Object::Value(Value::from(key.clone()))).collect(),
        ))),
        "values" => Ok(Some(Object::list(entries.borrow().values().cloned().collect()))),
        "items" => Ok(Some(Object::list(
            entries
                .borrow()
                .iter()
                .map(|(key, value)| {
                    Object::list(vec![Object::Value(Value::from(key.clone())), value.clone()])
                })
                .collect(),
        ))),
        _ => Ok(None),
    }
}

fn pairs_of<'a>(eval: &Eval<'_, 'a>, object: Object<'a>) -> Evaluated<Vec<(Arc<str>, Object<'a>)>> {
    match object {
        Object::Dict(entries) => Ok(entries.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        other => {
            let value = usable(eval.settled(other)?)?;
            if let Some(entries) = value.as_dict() {
                return Ok(entries.iter().map(|(k, v)| (k.clone(), Object::Value(v.clone()))).collect());
            }
            let pairs = operators::iterate(&value)?;
            pairs
                .iter()
                .map(|pair| match pair.as_list() {
                    Some([key, v]) => Ok((operators::key_text(key)?, Object::Value(v.clone()))),
                    _ => Err(misuse("update")),
                })
                .collect()
        }
    }
}

/// The methods that must not evaluate the parts of a variable that nobody asked for.
fn lazy_dict_method<'a>(
    eval: &Eval<'_, 'a>,
    value: &Value,
    name: &str,
    args: Arguments<'a>,
) -> Evaluated<Object<'a>> {
    let Some(entries) = value.as_dict() else { return Err(misuse(name)) };
    Ok(match name {
        "get" => {
            let mut args = args.positional.into_iter();
            let Some(key) = args.next() else { return Err(misuse(name)) };
            let key = usable(eval.settled(key)?)?;
            match entries.get(&operators::key_text(&key)?) {
                Some(part) => Object::Value(eval.world.resolve(part.clone())?),
                None => args.next().unwrap_or_else(none),
            }
        }
        "keys" => Object::Value(entries.keys().map(|key| Value::from(key.clone())).collect()),
        "values" => Object::Value(entries.values().cloned().collect()),
        _ => Object::Value(
            entries.iter().map(|(key, v)| Value::from(vec![Value::from(key.clone()), v.clone()])).collect(),
        ),
    })
}

fn on_value<'a>(
    eval: &Eval<'_, 'a>,
    base: Object<'a>,
    name: &str,
    args: Arguments<'a>,
) -> Evaluated<Object<'a>> {
    let value = eval.settled(base)?;
    let positional: Evaluated<Vec<Value>> = args.positional.into_iter().map(|v| eval.settled(v)).collect();
    let positional = positional?;
    let named: Evaluated<Vec<(Arc<str>, Value)>> =
        args.named.into_iter().map(|(k, v)| Ok((k, eval.settled(v)?))).collect();
    let named = named?;
    let mut all = std::iter::once(&value).chain(&positional).chain(named.iter().map(|(_, v)| v));
    if let Some(stopper) = all.find(|v| v.is_undefined() || v.as_unknown().is_some()) {
        return Ok(Object::Value(stopper.clone()));
    }
    let is_secret = std::iter::once(&value).chain(&positional).any(Value::has_secret);
    let result = match &value.data {
        Data::Str(text) => text_method(text, name, &positional, &named)?,
        Data::List(items) => list_method(items, name, &positional)?,
        _ => None,
    };
    match result {
        Some(result) if is_secret && result.as_bool().is_none() => Ok(Object::Value(result.secret())),
        Some(result) => Ok(Object::Value(result)),
        None => {
            let message = format!("object of type '{}' has no method '{name}'", value.type_name());
            let error = EvalError::new(ErrorKind::NoSuchName, message);
            Err(match suggest::did_you_mean(name, NAMES.iter().copied()) {
                Some(hint) => error.hint(hint),
                None => error,
            }
            .into())
        }
    }
}

fn list_method(items: &[Value], name: &str, args: &[Value]) -> Evaluated<Option<Value>> {
    let whole = |n: usize| Value::from(i64::try_from(n).unwrap_or(i64::MAX));
    Ok(match (name, args) {
        ("index", [wanted]) => match items.iter().position(|v| v.equals(wanted)) {
            Some(at) => Some(whole(at)),
            None => return Err(EvalError::value(format!("{} is not in list", emit::repr(wanted))).into()),
        },
        ("count", [wanted]) => Some(whole(items.iter().filter(|v| v.equals(wanted)).count())),
        ("copy", []) => Some(items.iter().cloned().collect()),
        _ => None,
    })
}

fn text_method(
    text: &str,
    name: &str,
    args: &[Value],
    named: &[(Arc<str>, Value)],
) -> Evaluated<Option<Value>> {
    let strings: Option<Vec<&str>> = args.iter().map(Value::as_str).collect();
    let strings = strings.unwrap_or_default();
    let keyword = |wanted: &str| named.iter().find(|(k, _)| k.as_ref() == wanted).map(|(_, v)| v);
    let string = |s: String| Some(Value::from(s));
    Ok(match name {
        "lower" | "casefold" => string(text.to_lowercase()),
        "upper" => string(text.to_uppercase()),
        "capitalize" => string(text::capitalized(text)),
        "title" => string(text::titled(text)),
        "swapcase" => string(
            text.chars()
                .flat_map(|c| -> Vec<char> {
                    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
                })
                .collect(),
        ),
        "strip" | "lstrip" | "rstrip" => {
            string(text::stripped(text, strings.first().copied(), name).to_owned())
        }
        "removeprefix" => string(
            text.strip_prefix(*strings.first().ok_or_else(|| misuse(name))?).unwrap_or(text).to_owned(),
        ),
        "removesuffix" => string(
            text.strip_suffix(*strings.first().ok_or_else(|| misuse(name))?).unwrap_or(text).to_owned(),
        ),
        "startswith" | "endswith" => {
            let ends: Vec<&str> = match args {
                [Value { data: Data::List(items), .. }] => items.iter().filter_map(Value::as_str).collect(),
                [value] => value.as_str().into_iter().collect(),
                _ => return Err(misuse(name)),
            };
            if ends.is_empty() && !matches!(args, [Value { data: Data::List(_), .. }]) {
                return Err(misuse(name));
            }
            let fits =
                |end: &&str| if name == "startswith" { text.starts_with(end) } else { text.ends_with(end) };
            Some(Value::from(ends.iter().any(fits)))
        }
        "split" | "rsplit" => {
            let separator = args.first().or(keyword("sep")).filter(|v| !v.is_none());
            let separator = match separator {
                Some(value) => Some(value.as_str().filter(|s| !s.is_empty()).ok_or_else(|| misuse(name))?),
                None => None,
            };
            let limit = args.get(1).or(keyword("maxsplit")).and_then(Value::as_int);
            let limit = limit.and_then(|n| usize::try_from(n).ok());
            Some(text::split(text, separator, limit, name == "rsplit").into_iter().collect())
        }
        "splitlines" => {
            let keep = args.first().or(keyword("keepends")).and_then(Value::truth).unwrap_or(false);
            Some(text::lines(text, keep).into_iter().collect())
        }
        "partition" | "rpartition" => {
            let separator = *strings.first().filter(|s| !s.is_empty()).ok_or_else(|| misuse(name))?;
            let found =
                if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            Some(match (found, name) {
                (Some((before, after)), _) => [before, separator, after].into_iter().collect(),
                (None, "partition") => [text, "", ""].into_iter().collect(),
                (None, _) => ["", "", text].into_iter().collect(),
            })
        }
        "join" => {
            let Some(list) = args.first() else { return Err(misuse(name)) };
            let parts = operators::iterate(list)?;
            let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
            match parts {
                Some(parts) => string(parts.join(text)),
                None => {
                    let error = EvalError::value("`join` as a method takes text only");
                    return Err(error.hint("the filter takes anything: `list | join(',')`").into());
                }
            }
        }
        "replace" => match (strings.as_slice(), args.get(2).and_then(Value::as_int)) {
            ([from, to], _) => string(text.replace(from, to)),
            (_, Some(count)) => {
                match (args.first().and_then(Value::as_str), args.get(1).and_then(Value::as_str)) {
                    (Some(from), Some(to)) if count >= 0 => {
                        string(text.replacen(from, to, usize::try_from(count).unwrap_or(0)))
                    }
                    (Some(from), Some(to)) => string(text.replace(from, to)),
                    _ => return Err(misuse(name)),
                }
            }
            _ => return Err(misuse(name)),
        },
        "format" => string(format::braces(text, args, named)?),
        "encode" | "expandtabs" if args.is_empty() || name == "encode" => match name {
            "encode" => string(text.to_owned()),
            _ => string(text.replace('\t', "        ")),
        },
        "zfill" | "ljust" | "rjust" | "center" => {
            let width = args.first().and_then(Value::as_int).ok_or_else(|| misuse(name))?;
            let fill = args.get(1).and_then(Value::as_str).and_then(|s| s.chars().next()).unwrap_or(' ');
            string(text::padded(text, name, usize::try_from(width).unwrap_or(0), fill)?)
        }
        "count" => {
            strings.first().map(|part| Value::from(i64::try_from(text.matches(*part).count()).unwrap_or(0)))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let part = *strings.first().ok_or_else(|| misuse(name))?;
            let at = if name.starts_with('r') { text.rfind(part) } else { text.find(part) };
            let at = at.map(|byte| text.get(..byte).unwrap_or_default().chars().count());
            match at.and_then(|at| i64::try_from(at).ok()) {
                Some(at) => Some(Value::from(at)),
                None if name.ends_with("find") => Some(Value::from(-1)),
                None => return Err(EvalError::value("substring not found").into()),
            }
        }
        _ => text::is_kind(text, name).map(Value::from),
    })
}
