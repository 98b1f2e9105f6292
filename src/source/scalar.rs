//! What a plain YAML scalar means: YAML 1.1 as PyYAML resolves it, which is what Ansible and Patroni read.
//!
//! The rules in the order they are tried; a text that no rule takes is a string:
//!
//! | rule | takes | not |
//! |---|---|---|
//! | null | empty, `~`, `null`, `Null`, `NULL` | |
//! | bool | `yes no on off true false`, lower, Capitalized or UPPER | `y`, `n` |
//! | int | `0b11`, `0644` (octal), `12`, `1_000`, `0x1F`, `1:30` (base 60) | `0o644`, `08` |
//! | float | `1.0`, `1.`, `.5`, `1.0e+3`, `1:30.5`, `.inf`, `.nan` | `1e3`, `1.0e3` |

use std::sync::Arc;

use crate::source::node::NodeValue;

/// Returns the value of an unquoted scalar.
///
/// Integers beyond 64 bits stay text: no value type here holds them, and a float would lose digits.
/// Dates stay text as well; Ansible prints them as they were written.
pub fn resolve(text: &str) -> NodeValue {
    null(text)
        .or_else(|| boolean(text).map(NodeValue::Bool))
        .or_else(|| integer(text).map(NodeValue::Int))
        .or_else(|| float(text).map(NodeValue::Float))
        .unwrap_or_else(|| NodeValue::String(Arc::from(text)))
}

fn null(text: &str) -> Option<NodeValue> {
    matches!(text, "" | "~" | "null" | "Null" | "NULL").then_some(NodeValue::Null)
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn sign(text: &str) -> (i64, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    }
}

/// Returns the number if `text` is an integer of YAML 1.1 that fits 64 bits.
pub fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = sign(text);
    let radix = |digits: &str, base: u32| -> Option<i64> {
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        (!digits.is_empty() && plain.chars().all(|c| c.is_digit(base))).then_some(())?;
        // `0_` is octal without a digit; PyYAML fails on it, here it is text.
        i64::from_str_radix(&format!("{}{plain}", if sign < 0 { "-" } else { "" }), base).ok()
    };
    if digits == "0" {
        return Some(0);
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return radix(binary, 2);
    }
    if let Some(hex) = digits.strip_prefix("0x") {
        return radix(hex, 16);
    }
    if let Some(octal) = digits.strip_prefix('0') {
        return radix(octal, 8);
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if digits.contains(':') {
        return sexagesimal(digits).and_then(|n| n.checked_mul(sign));
    }
    radix(digits, 10)
}

/// Reads `1:30` and `190:20:30`; each part after the first is 0 to 59.
fn sexagesimal(digits: &str) -> Option<i64> {
    let mut parts = digits.split(':');
    let first: String = parts.next()?.chars().filter(|c| *c != '_').collect();
    let mut total: i64 = first.parse().ok()?;
    for part in parts {
        total = total.checked_mul(60)?.checked_add(minute(part)?)?;
    }
    Some(total)
}

fn minute(part: &str) -> Option<i64> {
    let fits = match part.as_bytes() {
        [d] => d.is_ascii_digit(),
        [tens, d] => (b'0'..=b'5').contains(tens) && d.is_ascii_digit(),
        _ => false,
    };
    fits.then(|| part.parse().ok()).flatten()
}

/// Returns the number if `text` is a float of YAML 1.1: a point is needed, and an exponent needs its sign.
pub fn float(text: &str) -> Option<f64> {
    let (sign, digits) = sign(text);
    let signed = |number: f64| if sign < 0 { -number } else { number };
    match digits {
        ".inf" | ".Inf" | ".INF" => return Some(signed(f64::INFINITY)),
        ".nan" | ".NaN" | ".NAN" => return (digits.len() == text.len()).then_some(f64::NAN),
        _ => {}
    }
    let (whole, rest) = digits.split_once('.')?;
    let numeral = |s: &str| s.chars().all(|c| c.is_ascii_digit() || c == '_');
    if whole.contains(':') {
        let clean: String = rest.chars().filter(|c| *c != '_').collect();
        let starts = whole.starts_with(|c: char| c.is_ascii_digit());
        let fraction: f64 = format!("0.{clean}0").parse().ok()?;
        return (starts && numeral(rest))
            .then(|| sexagesimal(whole))
            .flatten()
            .map(|n| signed(n as f64 + fraction));
    }
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        e.strip_prefix(['-', '+']).is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    });
    let starts_with_digit = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
    let whole_fits = match whole {
        // PyYAML takes no sign before a leading point.
        "" => digits.len() == text.len() && starts_with_digit(fraction),
        _ => starts_with_digit(whole),
    };
    if !(numeral(whole) && numeral(fraction) && whole_fits && exponent_fits) {
        return None;
    }
    let clean: String = text.chars().filter(|c| *c != '_').collect();
    clean.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_pyyaml_reads() {
        let string = |s: &str| NodeValue::String(Arc::from(s));
        let table: Vec<(&str, NodeValue)> = vec![
            ("yes", NodeValue::Bool(true)),
            ("Off", NodeValue::Bool(false)),
            ("True", NodeValue::Bool(true)),
            ("y", string("y")),
            ("n", string("n")),
            ("tRue", string("tRue")),
            ("0644", NodeValue::Int(420)),
            ("0o644", string("0o644")),
            ("08", string("08")),
            ("1:30", NodeValue::Int(90)),
            ("-1:30", NodeValue::Int(-90)),
            ("1:75", string("1:75")),
            ("01:30", string("01:30")),
            ("1_000", NodeValue::Int(1000)),
            ("0x1F", NodeValue::Int(31)),
            ("0b11", NodeValue::Int(3)),
            ("+12", NodeValue::Int(12)),
            ("-0", NodeValue::Int(0)),
            ("_1", string("_1")),
            ("1e3", string("1e3")),
            ("1.0e+3", NodeValue::Float(1000.0)),
            ("1.0e3", string("1.0e3")),
            ("1.10", NodeValue::Float(1.1)),
            ("1.", NodeValue::Float(1.0)),
            (".5", NodeValue::Float(0.5)),
            ("-.5", string("-.5")),
            (".", string(".")),
            ("16.4.1", string("16.4.1")),
            ("1:30.5", NodeValue::Float(90.5)),
            ("-.inf", NodeValue::Float(f64::NEG_INFINITY)),
            ("2026-01-02", string("2026-01-02")),
            ("~", NodeValue::Null),
            ("", NodeValue::Null),
            ("NULL", NodeValue::Null),
            ("99999999999999999999", string("99999999999999999999")),
        ];

        for (text, expected) in table {
            assert_eq!(resolve(text), expected, "{text:?}");
        }
        assert!(matches!(resolve(".nan"), NodeValue::Float(n) if n.is_nan()));
    }
}
