//! Filters over numbers and sizes.

use super::Args;
use super::Parts;
use super::Row;
use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::runtime::Evaluated;
use crate::expr::text;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::World;

pub(super) const ROWS: &[Row] = &[
    Row("int", Parts::Read, int),
    Row("float", Parts::Read, float),
    Row("round", Parts::Read, round),
    Row("abs", Parts::Read, abs),
    Row("pow", Parts::Read, |_, input, args| {
        let power = number(&args.need("y")?)?;
        Ok(Value::from(number(&input)?.powf(power)))
    }),
    Row("root", Parts::Read, |_, input, args| {
        let base = args.next("base").map_or(Ok(2.0), |v| number(&v))?;
        Ok(Value::from(if base == 2.0 { number(&input)?.sqrt() } else { number(&input)?.powf(1.0 / base) }))
    }),
    Row("log", Parts::Read, |_, input, args| {
        let base = args.next("base").map(|v| number(&v)).transpose()?;
        let x = number(&input)?;
        Ok(Value::from(match base {
            None => x.ln(),
            Some(10.0) => x.log10(),
            Some(base) => x.log(base),
        }))
    }),
    Row("human_readable", Parts::Read, human_readable),
    Row("human_to_bytes", Parts::Read, human_to_bytes),
    Row("filesizeformat", Parts::Read, file_size),
];

fn number(value: &Value) -> Result<f64, EvalError> {
    let read = match &value.data {
        Data::Str(text) => text::parse_float(text),
        _ => value.as_number(),
    };
    read.ok_or_else(|| EvalError::value(format!("a number is needed, and this is {}", emit::repr(value))))
}

fn truncated(number: f64) -> Option<i64> {
    (number.is_finite() && number.abs() < 9.2e18).then_some(number as i64)
}

/// Jinja's `int`: what is no number is the default.
fn int(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let default = args.next("default").unwrap_or_else(|| Value::from(0));
    let base = args.int("base")?.and_then(|n| u32::try_from(n).ok()).unwrap_or(10);
    let read = match &input.data {
        Data::Int(number) => Some(*number),
        Data::Bool(flag) => Some(i64::from(*flag)),
        Data::Float(number) => truncated(*number),
        Data::Str(text) => {
            text::parse_int(text, base).or_else(|| text::parse_float(text).and_then(truncated))
        }
        _ => None,
    };
    Ok(read.map_or(default, Value::from))
}

fn float(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let default = args.next("default").unwrap_or_else(|| Value::from(0.0));
    let read = match &input.data {
        Data::Str(text) => text::parse_float(text),
        _ => input.as_number(),
    };
    Ok(read.map_or(default, Value::from))
}

fn round(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let precision = args.int("precision")?.unwrap_or(0);
    let method = args.text("method").unwrap_or_else(|| "common".into());
    let Some(x) = input.as_number() else {
        return Err(EvalError::value(format!("a number is needed, and this is {}", input.type_name())).into());
    };
    if let (Data::Int(whole), 0, "common") = (&input.data, precision, method.as_str()) {
        return Ok(Value::from(*whole));
    }
    if let (Data::Int(_), ..=-1, "common") = (&input.data, precision, method.as_str()) {
        let scale = 10f64.powi(i32::try_from(-precision).unwrap_or(i32::MAX));
        return Ok(truncated((x / scale).round_ties_even() * scale).map_or(input, Value::from));
    }
    let scale = 10f64.powi(i32::try_from(precision).unwrap_or(0));
    Ok(Value::from(match method.as_str() {
        "common" => match usize::try_from(precision) {
            // Formatting rounds the exact binary value half to even, as Python does.
            Ok(decimals) => format!("{x:.*}", decimals.min(300)).parse().unwrap_or(x),
            Err(_) => (x * scale).round_ties_even() / scale,
        },
        "ceil" => (x * scale).ceil() / scale,
        "floor" => (x * scale).floor() / scale,
        other => {
            return Err(EvalError::value(format!("`method` is common, ceil or floor, not '{other}'")).into());
        }
    }))
}

fn abs(_: &World, input: Value, _: &mut Args) -> Evaluated<Value> {
    Ok(match input.data {
        Data::Int(number) => {
            number.checked_abs().map(Value::from).ok_or_else(|| EvalError::value("beyond 64 bits"))?
        }
        Data::Float(number) => Value::from(number.abs()),
        Data::Bool(flag) => Value::from(i64::from(flag)),
        _ => {
            return Err(
                EvalError::value(format!("a number is needed, and this is {}", input.type_name())).into()
            );
        }
    })
}

const UNITS: [(&str, u32); 9] =
    [("Y", 80), ("Z", 70), ("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10), ("B", 0)];

fn human_readable(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let is_bits = args.flag("isbits").unwrap_or(false);
    let unit = args.text("unit").map(|u| u.to_uppercase());
    let size = number(&input)?;
    let fits = |(name, power): &&(&str, u32)| match &unit {
        Some(unit) => unit.starts_with(name),
        None => size >= 2f64.powi(i32::try_from(*power).unwrap_or(0)),
    };
    let (name, power) = UNITS.iter().find(fits).copied().unwrap_or(("B", 0));
    let suffix = match (power, is_bits) {
        (0, true) => "bits".to_owned(),
        (0, false) => "Bytes".to_owned(),
        (_, true) => format!("{name}b"),
        (_, false) => format!("{name}B"),
    };
    Ok(Value::from(format!("{:.2} {suffix}", size / 2f64.powi(i32::try_from(power).unwrap_or(0)))))
}

fn human_to_bytes(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let default_unit = args.text("default_unit");
    let is_bits = args.flag("isbits").unwrap_or(false);
    let text = emit::to_text(&input);
    let end = text.find(|c: char| !c.is_ascii_digit() && !". \t".contains(c)).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let wrong = || EvalError::value(format!("'{text}' is no size, such as 10M or 2 GB"));
    let count: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let unit = if unit.trim().is_empty() { default_unit.unwrap_or_default() } else { unit.trim().to_owned() };
    let letter = unit.chars().next().map(|c| c.to_ascii_uppercase().to_string());
    let power = match letter.as_deref() {
        None => 0,
        Some(letter) => {
            UNITS.iter().find(|(name, _)| *name == letter).map(|(_, power)| *power).ok_or_else(wrong)?
        }
    };
    let rest = unit.get(1..).unwrap_or_default();
    let fits = match (power, is_bits) {
        (_, _) if rest.is_empty() => true,
        (0, false) => unit.to_lowercase().starts_with("byte"),
        (0, true) => unit.to_lowercase().starts_with("bit"),
        (_, false) => rest == "B" || rest.to_lowercase() == "b" && rest != "b",
        (_, true) => rest == "b",
    };
    if !fits {
        return Err(wrong().into());
    }
    Ok(truncated((count * 2f64.powi(i32::try_from(power).unwrap_or(0))).round_ties_even())
        .map(Value::from)
        .ok_or_else(wrong)?)
}

/// Jinja's `filesizeformat`.
fn file_size(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let binary = args.flag("binary").unwrap_or(false);
    let (base, names) = if binary {
        (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    let bytes = number(&input)?;
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", bytes.trunc())));
    }
    let mut size = bytes / base;
    let mut names = names.iter();
    let mut name = names.next().copied().unwrap_or_default();
    while size >= base {
        let Some(next) = names.next() else { break };
        size /= base;
        name = next;
    }
    Ok(Value::from(format!("{size:.1} {name}")))
}
