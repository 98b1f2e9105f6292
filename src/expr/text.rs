//! Python's text operations that Rust has in another form.

use crate::expr::error::EvalError;

/// Widest result of padding; more is a slip.
const WIDTH_MAX: usize = 1_000_000;

/// First letter upper, the rest lower.
pub(crate) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// `str.title()`: the first letter of each run of letters upper, the others lower.
pub(crate) fn titled(text: &str) -> String {
    let mut out = String::new();
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        in_word = c.is_alphabetic();
    }
    out
}

pub(crate) fn stripped<'t>(text: &'t str, chars: Option<&str>, method: &str) -> &'t str {
    let fits = |c: char| chars.map_or_else(|| c.is_whitespace(), |set| set.contains(c));
    match method {
        "lstrip" => text.trim_start_matches(fits),
        "rstrip" => text.trim_end_matches(fits),
        _ => text.trim_matches(fits),
    }
}

/// `str.split` and `str.rsplit`: at most `limit` cuts; without a separator at runs of blanks.
pub(crate) fn split(
    text: &str,
    separator: Option<&str>,
    limit: Option<usize>,
    from_end: bool,
) -> Vec<String> {
    let mut parts: Vec<String> = match (separator, limit) {
        (Some(separator), None) => text.split(separator).map(str::to_owned).collect(),
        (Some(separator), Some(limit)) if from_end => {
            let mut parts: Vec<String> = text.rsplitn(limit + 1, separator).map(str::to_owned).collect();
            parts.reverse();
            parts
        }
        (Some(separator), Some(limit)) => text.splitn(limit + 1, separator).map(str::to_owned).collect(),
        (None, None) => text.split_whitespace().map(str::to_owned).collect(),
        (None, Some(limit)) => {
            let mut parts = Vec::new();
            let mut rest = text.trim();
            while parts.len() < limit && !rest.is_empty() {
                let cut =
                    if from_end { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
                let Some(at) = cut else { break };
                let (before, after) = rest.split_at(at);
                let (part, left) = if from_end { (after.trim(), before) } else { (before, after) };
                parts.push(part.to_owned());
                rest = left.trim();
            }
            if !rest.is_empty() {
                let tail = if from_end {
                    rest
                } else {
                    text.get(text.rfind(rest).unwrap_or(0)..).unwrap_or(rest).trim()
                };
                parts.push(tail.to_owned());
            }
            if from_end {
                parts.reverse();
            }
            parts
        }
    };
    parts.shrink_to_fit();
    parts
}

/// `str.splitlines()`.
pub(crate) fn lines(text: &str, keep_ends: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_end = matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !is_end {
            line.push(c);
            continue;
        }
        let is_pair = c == '\r' && chars.next_if_eq(&'\n').is_some();
        if keep_ends {
            line.push(c);
            if is_pair {
                line.push('\n');
            }
        }
        lines.push(std::mem::take(&mut line));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

pub(crate) fn padded(text: &str, method: &str, width: usize, fill: char) -> Result<String, EvalError> {
    if width > WIDTH_MAX {
        return Err(EvalError::value(format!("a text wider than {WIDTH_MAX} is asked for")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let pad = |count: usize| fill.to_string().repeat(count);
    Ok(match method {
        "ljust" => format!("{text}{}", pad(missing)),
        "rjust" => format!("{}{text}", pad(missing)),
        "zfill" => {
            let sign = if text.starts_with(['-', '+']) { 1 } else { 0 };
            let (sign, digits) = text.split_at(sign);
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => {
            // Python gives the odd blank to the left if the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", pad(left), pad(missing - left))
        }
    })
}

/// Python's `str.is…()`; `None` if there is no such method.
pub(crate) fn is_kind(text: &str, method: &str) -> Option<bool> {
    let all = |fits: fn(char) -> bool| !text.is_empty() && text.chars().all(fits);
    let cased =
        |fits: fn(char) -> bool, other: fn(char) -> bool| text.chars().any(fits) && !text.chars().any(other);
    Some(match method {
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(char::is_whitespace),
        "isascii" => text.is_ascii(),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        _ => return None,
    })
}

/// Python's `textwrap`-free `indent`: `width` blanks before each line but the first.
pub(crate) fn indented(text: &str, indent: &str, first: bool, blank: bool) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let is_indented = if index == 0 { first } else { blank || !line.is_empty() };
        if is_indented {
            out.push_str(indent);
        }
        out.push_str(line);
    }
    out
}

/// `shlex.quote`.
pub(crate) fn shell_quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if text.is_empty() {
        "''".into()
    } else if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\"'\"'"))
    }
}

/// Percent-encodes all but letters, digits, `_.-~` and what is in `safe`.
pub(crate) fn url_quoted(text: &str, safe: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "_.-~".contains(c) || byte.is_ascii() && safe.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Python's `int(text, base)`; `None` if the text is no number.
pub(crate) fn parse_int(text: &str, base: u32) -> Option<i64> {
    let clean = text.trim().replace('_', "");
    let (negative, digits) = match clean.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, clean.strip_prefix('+').unwrap_or(&clean)),
    };
    let lower = digits.to_lowercase();
    let (base, digits) = match (base, lower.get(..2)) {
        (16 | 0, Some("0x")) => (16, &digits[2..]),
        (8 | 0, Some("0o")) => (8, &digits[2..]),
        (2 | 0, Some("0b")) => (2, &digits[2..]),
        (0, _) => (10, digits),
        (base, _) => (base, digits),
    };
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{}{digits}", if negative { "-" } else { "" }), base).ok()
}

/// Python's `float(text)`.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let clean = text.trim().replace('_', "").to_lowercase();
    let unsigned = clean.trim_start_matches(['+', '-']);
    let is_word = matches!(unsigned, "inf" | "infinity" | "nan");
    let is_number =
        unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && clean.len() - unsigned.len() <= 1;
    (is_word || is_number).then(|| clean.parse().ok()).flatten()
}
