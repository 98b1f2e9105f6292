//! Python's ways to put values into text: `'%05d' % x` and `'{:>5}'.format(x)`.

use std::sync::Arc;

use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::value::Data;
use crate::expr::value::Value;

/// Widest field; more is a slip.
const WIDTH_MAX: usize = 100_000;

/// What stands between `%` or `:` and the letter.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    comma: bool,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `text % args`. A list that is written as a literal counts as the tuple of arguments, any other value as one argument.
pub(crate) fn percent(text: &str, args: &Value, is_literal: bool) -> Result<String, EvalError> {
    let positional: Vec<Value> = match (&args.data, is_literal) {
        (Data::List(items), true) if items.len() == 1 || conversions(text) != 1 => items.to_vec(),
        _ => vec![args.clone()],
    };
    let mut positional = positional.into_iter();
    let mut used_names = false;
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut name = None;
        if chars.next_if_eq(&'(').is_some() {
            let mut key = String::new();
            for c in chars.by_ref() {
                if c == ')' {
                    break;
                }
                key.push(c);
            }
            name = Some(key);
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.zero = true,
            }
        }
        let missing = || EvalError::value("not enough arguments for format string");
        let star = |chars: &mut std::iter::Peekable<std::str::Chars>,
                    positional: &mut std::vec::IntoIter<Value>| {
            if chars.next_if_eq(&'*').is_some() {
                let width = positional.next().and_then(|v| v.as_int()).and_then(|n| usize::try_from(n).ok());
                return width.map(Some).ok_or_else(missing);
            }
            number(chars)
        };
        spec.width = star(&mut chars, &mut positional)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(star(&mut chars, &mut positional)?.unwrap_or(0));
        }
        spec.kind = chars.next();
        if spec.kind == Some('%') {
            out.push('%');
            continue;
        }
        let value = match name {
            Some(key) => {
                used_names = true;
                args.get(&key)
                    .cloned()
                    .ok_or_else(|| EvalError::value(format!("the dict has no key '{key}'")))?
            }
            None => positional.next().ok_or_else(missing)?,
        };
        if matches!(spec.kind, Some('d' | 'i' | 'u' | 'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'x' | 'X' | 'o')) {
            // `%` aligns all to the right.
            spec.align = spec.align.or(Some('>'));
        } else {
            spec.align = spec.align.or(Some('>'));
            spec.zero = false;
        }
        field(&mut out, &value, &spec, true)?;
    }
    if !used_names && positional.next().is_some() && args.as_dict().is_none() {
        return Err(EvalError::value("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// Counts the arguments that a format takes. A list literal for one of them is that argument, not a tuple.
fn conversions(text: &str) -> usize {
    let literal = text.matches("%%").count() * 2;
    text.matches('%').count().saturating_sub(literal) + text.matches('*').count()
}

fn number(chars: &mut std::iter::Peekable<std::str::Chars>) -> Result<Option<usize>, EvalError> {
    let mut digits = String::new();
    while let Some(c) = chars.next_if(char::is_ascii_digit) {
        digits.push(c);
    }
    if digits.is_empty() {
        return Ok(None);
    }
    digits
        .parse()
        .ok()
        .filter(|n| *n <= WIDTH_MAX)
        .map(Some)
        .ok_or_else(|| EvalError::value(format!("a field is wider than {WIDTH_MAX}")))
}

/// `text.format(*args, **kwargs)`.
pub(crate) fn braces(text: &str, args: &[Value], kwargs: &[(Arc<str>, Value)]) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut next = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => out.push('}'),
            '}' => return Err(EvalError::value("single '}' encountered in format string")),
            '{' => {
                let mut inside = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some('{') => {
                            return Err(EvalError::value("nested fields in a format do not exist here"));
                        }
                        Some(c) => inside.push(c),
                        None => return Err(EvalError::value("'{' in a format is never closed")),
                    }
                }
                let (name, spec) = inside.split_once(':').unwrap_or((&inside, ""));
                let (name, conversion) = name.split_once('!').unwrap_or((name, ""));
                let mut value = replacement(name, &mut next, args, kwargs)?;
                match conversion {
                    "r" => value = Value::from(emit::repr(&value)),
                    "s" => value = Value::from(emit::to_text(&value)),
                    _ => {}
                }
                field(&mut out, &value, &format_spec(spec)?, false)?;
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn replacement(
    name: &str,
    next: &mut usize,
    args: &[Value],
    kwargs: &[(Arc<str>, Value)],
) -> Result<Value, EvalError> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, rest) = name.split_at(end);
    let found = if first.is_empty() {
        *next += 1;
        args.get(*next - 1)
    } else if let Ok(at) = first.parse::<usize>() {
        if *next > 0 {
            return Err(EvalError::value("a format numbers all its fields or none"));
        }
        args.get(at)
    } else {
        kwargs.iter().find(|(key, _)| key.as_ref() == first).map(|(_, value)| value)
    };
    let mut value = found
        .ok_or_else(|| EvalError::value(format!("the format has no argument for '{{{name}}}'")))?
        .clone();
    for part in rest.split(['.', '[']).filter(|part| !part.is_empty()) {
        let part = part.trim_end_matches(']');
        let inner = match part.parse::<usize>() {
            Ok(at) => value.as_list().and_then(|items| items.get(at)),
            Err(_) => value.get(part),
        };
        value = inner.cloned().ok_or_else(|| EvalError::value(format!("the format finds no '{part}'")))?;
    }
    Ok(value)
}

fn format_spec(text: &str) -> Result<Spec, EvalError> {
    let mut spec = Spec::default();
    let all: Vec<char> = text.chars().collect();
    let mut rest = text;
    if let [fill, align @ ('<' | '>' | '^' | '='), ..] = all.as_slice() {
        spec.fill = Some(*fill);
        spec.align = Some(*align);
        rest = &text[fill.len_utf8() + 1..];
    } else if let [align @ ('<' | '>' | '^' | '='), ..] = all.as_slice() {
        spec.align = Some(*align);
        rest = &text[1..];
    }
    let mut chars = rest.chars().peekable();
    spec.sign = chars.next_if(|c| "+- ".contains(*c));
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zero = chars.next_if_eq(&'0').is_some();
    spec.width = number(&mut chars)?.unwrap_or(0);
    spec.comma = chars.next_if(|c| ",_".contains(*c)).is_some();
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = number(&mut chars)?;
    }
    spec.kind = chars.next();
    match chars.next() {
        None => Ok(spec),
        Some(_) => Err(EvalError::value(format!("'{text}' is no format"))),
    }
}

fn field(out: &mut String, value: &Value, spec: &Spec, is_percent: bool) -> Result<(), EvalError> {
    if spec.width > WIDTH_MAX || spec.precision.is_some_and(|precision| precision > WIDTH_MAX) {
        return Err(EvalError::value(format!("a field is wider than {WIDTH_MAX}")));
    }
    let wrong = |needed: &str| {
        let kind = spec.kind.unwrap_or('s');
        EvalError::value(format!("format '{kind}' needs {needed}, not {}", value.type_name()))
    };
    let whole = || match value.data {
        Data::Int(number) => Ok(number),
        Data::Bool(flag) => Ok(i64::from(flag)),
        Data::Float(number) if is_percent => Ok(number as i64),
        _ => Err(wrong("an integer")),
    };
    let real = || value.as_number().ok_or_else(|| wrong("a number"));
    let (negative, body) = match spec.kind {
        Some('d' | 'i' | 'u' | 'n') => split_sign(&whole()?.to_string()),
        Some('x') => {
            (whole()? < 0, format!("{}{:x}", if spec.alternate { "0x" } else { "" }, whole()?.unsigned_abs()))
        }
        Some('X') => {
            (whole()? < 0, format!("{}{:X}", if spec.alternate { "0X" } else { "" }, whole()?.unsigned_abs()))
        }
        Some('o') => {
            (whole()? < 0, format!("{}{:o}", if spec.alternate { "0o" } else { "" }, whole()?.unsigned_abs()))
        }
        Some('b') => {
            (whole()? < 0, format!("{}{:b}", if spec.alternate { "0b" } else { "" }, whole()?.unsigned_abs()))
        }
        Some('f' | 'F') => split_sign(&format!("{:.*}", spec.precision.unwrap_or(6), real()?)),
        Some('%') => split_sign(&format!("{:.*}%", spec.precision.unwrap_or(6), real()? * 100.0)),
        Some('e' | 'E') => {
            let text = exponent(real()?, spec.precision.unwrap_or(6));
            split_sign(&if spec.kind == Some('E') { text.to_uppercase() } else { text })
        }
        Some('g' | 'G') => split_sign(&general(real()?, spec.precision.unwrap_or(6))),
        Some('c') => (
            false,
            whole()
                .ok()
                .and_then(|n| char::from_u32(u32::try_from(n).ok()?))
                .map_or_else(|| emit::to_text(value), String::from),
        ),
        Some('r') => (false, emit::repr(value)),
        Some('s') | None => {
            let is_number = matches!(value.data, Data::Int(_) | Data::Float(_));
            match (is_number && spec.kind.is_none(), spec.precision) {
                (true, Some(precision)) => split_sign(&general(real()?, precision)),
                (true, None) => split_sign(&emit::to_text(value)),
                (false, Some(precision)) => (false, emit::to_text(value).chars().take(precision).collect()),
                (false, None) => (false, emit::to_text(value)),
            }
        }
        Some(other) => return Err(EvalError::value(format!("'{other}' is no format"))),
    };
    let body = if spec.comma { grouped(&body) } else { body };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let is_number = !matches!(spec.kind, Some('s' | 'r' | 'c') | None)
        || matches!(value.data, Data::Int(_) | Data::Float(_));
    let missing = spec.width.saturating_sub(sign.chars().count() + body.chars().count());
    let align = spec.align.unwrap_or(if is_number { '>' } else { '<' });
    let fill = spec.fill.unwrap_or(' ');
    let pad = |count: usize| fill.to_string().repeat(count);
    match align {
        _ if spec.zero && is_number && align != '<' => {
            *out += &format!("{sign}{}{body}", "0".repeat(missing));
        }
        '<' => *out += &format!("{sign}{body}{}", pad(missing)),
        '^' => *out += &format!("{}{sign}{body}{}", pad(missing / 2), pad(missing - missing / 2)),
        '=' => *out += &format!("{sign}{}{body}", pad(missing)),
        _ => *out += &format!("{}{sign}{body}", pad(missing)),
    }
    Ok(())
}

fn split_sign(text: &str) -> (bool, String) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest.to_owned()),
        None => (false, text.to_owned()),
    }
}

fn grouped(digits: &str) -> String {
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut out = String::new();
    for (index, c) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out + rest
}

fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((digits, power)) => {
            let (negative, power) = split_sign(power);
            format!("{digits}e{}{power:0>2}", if negative { '-' } else { '+' })
        }
        None => text,
    }
}

fn general(number: f64, precision: usize) -> String {
    let precision = precision.max(1);
    if number == 0.0 || !number.is_finite() {
        return if number == 0.0 { "0".into() } else { emit::float(number) };
    }
    let scientific = exponent(number, precision - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, p)| p.parse().ok()).unwrap_or(0);
    let strip = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if power < -4 || power >= i32::try_from(precision).unwrap_or(i32::MAX) {
        let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{power}", strip(digits));
    }
    let decimals = usize::try_from(i32::try_from(precision).unwrap_or(i32::MAX) - 1 - power).unwrap_or(0);
    strip(&format!("{number:.decimals$}"))
}
