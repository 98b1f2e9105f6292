//! Operators as Python has them.

use std::cmp::Ordering;
use std::sync::Arc;

use minijinja::machinery::ast::BinOpKind;

use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::format;
use crate::expr::runtime::Evaluated;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::usable;

/// Most elements or bytes that `*`, `+` and `~` may make.
const REPEAT_MAX: usize = 16 * 1024 * 1024;

/// Marks `result` as secret if `source`, or anything in it, is.
pub(crate) fn tainted(result: Value, source: &Value) -> Value {
    if source.has_secret() { result.secret() } else { result }
}

/// Returns a dict's key as text: Python's other keys are kept as what it prints for them.
pub(crate) fn key_text(key: &Value) -> Result<Arc<str>, EvalError> {
    match &key.data {
        Data::Str(text) => Ok(text.clone()),
        Data::List(_) | Data::Dict(_) => {
            Err(EvalError::value(format!("a {} cannot be a key of a dict", key.type_name())))
        }
        Data::Undefined { hint } => Err(EvalError::undefined(hint.to_string())),
        _ => Ok(Arc::from(emit::to_text(key))),
    }
}

/// Turns an index that may count from the end into one that counts from the start.
pub(crate) fn index(at: i64, length: usize) -> Option<usize> {
    if at >= 0 {
        usize::try_from(at).ok()
    } else {
        length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?)
    }
}

/// Returns what a loop over the value goes through, parts unevaluated.
pub(crate) fn iterate(value: &Value) -> Evaluated<Vec<Value>> {
    match &value.data {
        Data::List(items) => Ok(items.to_vec()),
        Data::Dict(entries) => Ok(entries.keys().map(|key| Value::from(key.clone())).collect()),
        Data::Str(text) => Ok(text.chars().map(|c| tainted(Value::from(c.to_string()), value)).collect()),
        Data::Undefined { .. } | Data::Unknown { .. } => usable(value.clone()).map(|_| Vec::new()),
        _ => Err(EvalError::value(format!("'{}' object is not iterable", value.type_name())).into()),
    }
}

pub(crate) fn slice(value: &Value, [start, stop, step]: [Option<i64>; 3]) -> Evaluated<Value> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(EvalError::value("slice step cannot be zero").into());
    }
    let pick = |length: usize| -> Vec<usize> {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let clamp = |bound: Option<i64>, default: i64| match bound {
            None => default,
            Some(at) => {
                let at = if at < 0 { at.saturating_add(length) } else { at };
                if step > 0 { at.clamp(0, length) } else { at.clamp(-1, length - 1) }
            }
        };
        let (mut at, end) = if step > 0 {
            (clamp(start, 0), clamp(stop, length))
        } else {
            (clamp(start, length - 1), clamp(stop, -1))
        };
        let mut picked = Vec::new();
        while (step > 0 && at < end) || (step < 0 && at > end) {
            picked.extend(usize::try_from(at));
            at = at.saturating_add(step);
        }
        picked
    };
    match &value.data {
        Data::List(items) => {
            Ok(pick(items.len()).into_iter().filter_map(|at| items.get(at).cloned()).collect())
        }
        Data::Str(text) => {
            let chars: Vec<char> = text.chars().collect();
            let cut: String = pick(chars.len()).into_iter().filter_map(|at| chars.get(at)).collect();
            Ok(tainted(Value::from(cut), value))
        }
        _ => Err(EvalError::value(format!("a {} cannot be sliced", value.type_name())).into()),
    }
}

pub(crate) fn negate(value: Value) -> Evaluated<Value> {
    if value.as_unknown().is_some() {
        return Ok(value);
    }
    let value = usable(value)?;
    let negated = match value.data {
        Data::Int(number) => number.checked_neg().map(Value::from).ok_or_else(too_big)?,
        Data::Bool(flag) => Value::from(-i64::from(flag)),
        Data::Float(number) => Value::from(-number),
        _ => {
            return Err(
                EvalError::value(format!("bad operand type for unary -: '{}'", value.type_name())).into()
            );
        }
    };
    Ok(tainted(negated, &value))
}

fn too_big() -> EvalError {
    EvalError::value("the number is beyond 64 bits")
}

/// Applies an operator to settled values. Unknown in, unknown out; undefined is an error.
pub(crate) fn binary(kind: BinOpKind, left: Value, right: Value, right_is_literal: bool) -> Evaluated<Value> {
    if let Some(reason) = left.find_unknown().or_else(|| right.find_unknown()) {
        return Ok(Value::unknown(reason.clone()));
    }
    let (left, right) = (usable(left)?, usable(right)?);
    let truth = match kind {
        BinOpKind::Eq => left.equals(&right),
        BinOpKind::Ne => !left.equals(&right),
        BinOpKind::Lt => order(&left, &right, "<")? == Some(Ordering::Less),
        BinOpKind::Gt => order(&left, &right, ">")? == Some(Ordering::Greater),
        BinOpKind::Lte => matches!(order(&left, &right, "<=")?, Some(Ordering::Less | Ordering::Equal)),
        BinOpKind::Gte => matches!(order(&left, &right, ">=")?, Some(Ordering::Greater | Ordering::Equal)),
        BinOpKind::In => contains(&right, &left)?,
        _ => {
            let result = arithmetic(kind, &left, &right, right_is_literal)?;
            // Elements of a joined list keep their own marks; text and numbers have only this one.
            let is_container = result.as_list().is_some();
            return Ok(if is_container { result } else { tainted(tainted(result, &left), &right) });
        }
    };
    Ok(Value::from(truth))
}

/// Returns Python's order, `None` where a not-a-number is involved.
///
/// # Errors
/// Values of different kinds have no order.
pub(crate) fn order(left: &Value, right: &Value, symbol: &str) -> Result<Option<Ordering>, EvalError> {
    let mixed = || {
        let (a, b) = (left.type_name(), right.type_name());
        EvalError::value(format!("'{symbol}' not supported between instances of '{a}' and '{b}'"))
            .hint("convert one side: `| int`, `| float` or `| string`; versions compare by `is version(…)`")
    };
    match (&left.data, &right.data) {
        (Data::Str(a), Data::Str(b)) => Ok(Some(a.cmp(b))),
        (Data::Int(a), Data::Int(b)) => Ok(Some(a.cmp(b))),
        (Data::List(a), Data::List(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !a.equals(b) {
                    return order(a, b, symbol);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => match (left.as_number(), right.as_number()) {
            (Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => Err(mixed()),
        },
    }
}

/// Returns whether `item in container` holds.
pub(crate) fn contains(container: &Value, item: &Value) -> Result<bool, EvalError> {
    match &container.data {
        Data::List(items) => Ok(items.iter().any(|v| v.equals(item))),
        Data::Dict(entries) => Ok(entries.contains_key(key_text(item)?.as_ref())),
        Data::Str(text) => match item.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => Err(EvalError::value(format!(
                "'in <string>' requires string as left operand, not {}",
                item.type_name()
            ))),
        },
        _ => Err(EvalError::value(format!("argument of type '{}' is not iterable", container.type_name()))
            .hint("the right side of `in` is a list, a dict or text")),
    }
}

fn arithmetic(
    kind: BinOpKind,
    left: &Value,
    right: &Value,
    right_is_literal: bool,
) -> Result<Value, EvalError> {
    let size =
        |value: &Value| value.as_str().map_or_else(|| value.as_list().map_or(0, <[Value]>::len), str::len);
    if matches!(kind, BinOpKind::Concat | BinOpKind::Add) && size(left) + size(right) > REPEAT_MAX {
        return Err(EvalError::value(format!(
            "the result would have more than {REPEAT_MAX} characters or elements"
        )));
    }
    if matches!(kind, BinOpKind::Concat) {
        return Ok(Value::from(emit::to_text(left) + &emit::to_text(right)));
    }
    match (&kind, &left.data, &right.data) {
        (BinOpKind::Add, Data::Str(a), Data::Str(b)) => return Ok(Value::from(format!("{a}{b}"))),
        (BinOpKind::Add, Data::List(a), Data::List(b)) => {
            return Ok(a.iter().chain(b.iter()).cloned().collect());
        }
        (BinOpKind::Mul, Data::Str(_) | Data::List(_), Data::Int(count)) => return repeat(left, *count),
        (BinOpKind::Mul, Data::Int(count), Data::Str(_) | Data::List(_)) => return repeat(right, *count),
        (BinOpKind::Rem, Data::Str(text), _) => {
            return format::percent(text, right, right_is_literal).map(Value::from);
        }
        _ => {}
    }
    let whole = |value: &Value| match value.data {
        Data::Int(number) => Some(number),
        Data::Bool(flag) => Some(i64::from(flag)),
        _ => None,
    };
    if let (Some(a), Some(b)) = (whole(left), whole(right))
        && let Some(result) = whole_arithmetic(&kind, a, b)
    {
        return result;
    }
    let (Some(a), Some(b)) = (left.as_number(), right.as_number()) else {
        let symbol = symbol(&kind);
        let (a, b) = (left.type_name(), right.type_name());
        return Err(EvalError::value(format!("unsupported operand types for {symbol}: '{a}' and '{b}'"))
            .hint("convert with `| int`, `| float` or `| string`; `~` joins anything as text"));
    };
    let zero = || EvalError::value("division by zero");
    let result = match kind {
        BinOpKind::Add => a + b,
        BinOpKind::Sub => a - b,
        BinOpKind::Mul => a * b,
        BinOpKind::Div if b == 0.0 => return Err(zero()),
        BinOpKind::Div => a / b,
        BinOpKind::FloorDiv if b == 0.0 => return Err(zero()),
        BinOpKind::FloorDiv => (a / b).floor(),
        BinOpKind::Rem if b == 0.0 => return Err(zero()),
        BinOpKind::Rem => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        _ => a.powf(b),
    };
    Ok(Value::from(result))
}

/// Arithmetic that stays whole; `None` where Python goes over to floats.
fn whole_arithmetic(kind: &BinOpKind, a: i64, b: i64) -> Option<Result<Value, EvalError>> {
    let zero = || Some(Err(EvalError::value("division by zero")));
    let result = match kind {
        BinOpKind::Add => a.checked_add(b),
        BinOpKind::Sub => a.checked_sub(b),
        BinOpKind::Mul => a.checked_mul(b),
        BinOpKind::FloorDiv | BinOpKind::Rem | BinOpKind::Div if b == 0 => return zero(),
        BinOpKind::FloorDiv => {
            a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
        }
        BinOpKind::Rem => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        BinOpKind::Pow if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        _ => return None,
    };
    Some(result.map(Value::from).ok_or_else(too_big))
}

fn repeat(value: &Value, count: i64) -> Result<Value, EvalError> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    let size = value.as_str().map_or_else(|| value.as_list().map_or(0, <[Value]>::len), str::len);
    if size.saturating_mul(count) > REPEAT_MAX {
        return Err(EvalError::value(format!(
            "`*` would make more than {REPEAT_MAX} characters or elements"
        )));
    }
    Ok(match &value.data {
        Data::Str(text) => Value::from(text.repeat(count)),
        _ => {
            let items = value.as_list().unwrap_or_default();
            (0..count).flat_map(|_| items.iter().cloned()).collect()
        }
    })
}

fn symbol(kind: &BinOpKind) -> &'static str {
    match kind {
        BinOpKind::Add => "+",
        BinOpKind::Sub => "-",
        BinOpKind::Mul => "*",
        BinOpKind::Div => "/",
        BinOpKind::FloorDiv => "//",
        BinOpKind::Rem => "%",
        BinOpKind::Pow => "**",
        _ => "this operator",
    }
}
