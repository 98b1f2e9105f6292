//! Values as text: Python's `str` and `repr`, and JSON as Python writes it. YAML is in `emit_yaml`.

use std::fmt::Write;

use crate::expr::value::Data;
use crate::expr::value::Value;

/// Python's `str()`: text as it is, all else as `repr`. What a template prints, None apart.
pub fn to_text(value: &Value) -> String {
    match &value.data {
        Data::Str(text) => text.to_string(),
        _ => repr(value),
    }
}

/// Python's `repr()`: `{'a': [1, None, True]}`.
pub fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(&mut out, value);
    out
}

fn write_repr(out: &mut String, value: &Value) {
    match &value.data {
        Data::None => out.push_str("None"),
        Data::Bool(true) => out.push_str("True"),
        Data::Bool(false) => out.push_str("False"),
        Data::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Data::Float(number) => out.push_str(&float(*number)),
        Data::Str(text) => write_quoted(out, text),
        Data::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, item);
            }
            out.push(']');
        }
        Data::Dict(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_quoted(out, key);
                out.push_str(": ");
                write_repr(out, item);
            }
            out.push('}');
        }
        Data::Undefined { .. } => out.push_str("Undefined"),
        Data::Unknown { reason } => {
            let _ = write!(out, "<unknown: {reason}>");
        }
        Data::Omit => out.push_str("<<Omit>>"),
    }
}

fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`, without the unassigned code points.
fn is_printable(c: char) -> bool {
    let is_blank = c.is_whitespace() && c != ' ';
    let is_format = matches!(u32::from(c), 0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe000..=0xf8ff);
    !c.is_control() && !is_blank && !is_format
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent from 1e16 and below 1e-4.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// How JSON is written.
#[derive(Debug, Clone)]
pub struct JsonStyle {
    /// Blanks per level; `None` writes one line.
    pub indent: Option<usize>,
    pub sort_keys: bool,
    /// Whether all beyond ASCII is escaped.
    pub ascii: bool,
    pub item_separator: String,
    pub key_separator: String,
}

impl Default for JsonStyle {
    /// Python's `json.dumps` without arguments.
    fn default() -> JsonStyle {
        JsonStyle {
            indent: None,
            sort_keys: false,
            ascii: true,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
        }
    }
}

/// Writes JSON as Python's `json.dumps` does.
pub fn json(value: &Value, style: &JsonStyle) -> String {
    let mut out = String::new();
    write_json(&mut out, value, style, 0);
    out
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle, level: usize) {
    match &value.data {
        Data::None | Data::Undefined { .. } | Data::Omit => out.push_str("null"),
        Data::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Data::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Data::Float(number) => out.push_str(&match float(*number).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            plain => plain.to_owned(),
        }),
        Data::Str(text) => write_json_text(out, text, style.ascii),
        Data::Unknown { reason } => write_json_text(out, &format!("unknown: {reason}"), style.ascii),
        Data::List(items) => {
            let rows = items.iter().map(|item| (None, item)).collect();
            write_json_rows(out, rows, ('[', ']'), style, level);
        }
        Data::Dict(entries) => {
            let mut rows: Vec<(Option<&str>, &Value)> =
                entries.iter().map(|(k, v)| (Some(k.as_ref()), v)).collect();
            if style.sort_keys {
                rows.sort_by(|a, b| a.0.cmp(&b.0));
            }
            write_json_rows(out, rows, ('{', '}'), style, level);
        }
    }
}

fn write_json_rows(
    out: &mut String,
    rows: Vec<(Option<&str>, &Value)>,
    (begin, end): (char, char),
    style: &JsonStyle,
    level: usize,
) {
    out.push(begin);
    let is_empty = rows.is_empty();
    let line = |out: &mut String, level: usize| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * level));
        }
    };
    for (index, (key, value)) in rows.into_iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        line(out, level + 1);
        if let Some(key) = key {
            write_json_text(out, key, style.ascii);
            out.push_str(&style.key_separator);
        }
        write_json(out, value, style, level + 1);
    }
    if !is_empty {
        line(out, level);
    }
    out.push(end);
}

fn write_json_text(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || ascii && !(' '..='~').contains(&c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        let table = [
            (1.0, "1.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (1e-4, "0.0001"),
            (-0.0, "-0.0"),
            (1e100, "1e+100"),
        ];
        for (number, text) in table {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn quotes_in_text_choose_the_other_quotes() {
        assert_eq!(repr(&Value::from("it's")), "\"it's\"");
        assert_eq!(repr(&Value::from("it's \"x\"\n")), "'it\\'s \"x\"\\n'");
    }
}
