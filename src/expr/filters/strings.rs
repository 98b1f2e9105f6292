//! Filters over text and paths.

use super::Args;
use super::Parts;
use super::Row;
use super::items;
use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::format;
use crate::expr::regex::Flags;
use crate::expr::regex::Pattern;
use crate::expr::runtime::Evaluated;
use crate::expr::text;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::World;

/// How far a text may be beyond the length before `truncate` cuts it.
const TRUNCATE_LEEWAY_CHARS: usize = 5;

pub(super) const ROWS: &[Row] = &[
    Row("lower", Parts::Read, |_, input, _| Ok(Value::from(emit::to_text(&input).to_lowercase()))),
    Row("upper", Parts::Read, |_, input, _| Ok(Value::from(emit::to_text(&input).to_uppercase()))),
    Row("title", Parts::Read, |_, input, _| Ok(Value::from(title(&emit::to_text(&input))))),
    Row("capitalize", Parts::Read, |_, input, _| Ok(Value::from(text::capitalized(&emit::to_text(&input))))),
    Row("trim", Parts::Read, |_, input, args| {
        let chars = args.text("chars");
        Ok(Value::from(text::stripped(&emit::to_text(&input), chars.as_deref(), "strip")))
    }),
    Row("replace", Parts::Read, replace),
    Row("split", Parts::Read, |_, input, args| {
        let separator = args.text("sep").filter(|s| !s.is_empty());
        let limit = args.int("maxsplit")?.and_then(|n| usize::try_from(n).ok());
        Ok(text::split(&emit::to_text(&input), separator.as_deref(), limit, false).into_iter().collect())
    }),
    Row("indent", Parts::Read, indent),
    Row("wordcount", Parts::Read, |_, input, _| {
        Ok(Value::from(i64::try_from(emit::to_text(&input).split_whitespace().count()).unwrap_or(i64::MAX)))
    }),
    Row("truncate", Parts::Read, truncate),
    Row("center", Parts::Read, |_, input, args| {
        let width = args.size("width")?.unwrap_or(80);
        Ok(Value::from(text::padded(&emit::to_text(&input), "center", width, ' ')?))
    }),
    Row("format", Parts::Read, |_, input, args| {
        let rest: Value = args.rest().into();
        Ok(Value::from(format::percent(&emit::to_text(&input), &rest, true)?))
    }),
    Row("quote", Parts::Read, |_, input, _| {
        let plain = if input.is_none() { String::new() } else { emit::to_text(&input) };
        Ok(Value::from(text::shell_quoted(&plain)))
    }),
    Row("comment", Parts::Read, comment),
    Row("urlencode", Parts::Read, url_encode),
    Row("regex_replace", Parts::Read, regex_replace),
    Row("regex_search", Parts::Read, regex_search),
    Row("regex_findall", Parts::Read, regex_find_all),
    Row("regex_escape", Parts::Read, |_, input, _| {
        let text = emit::to_text(&input);
        let escaped = text.chars().flat_map(|c| {
            let special = "()[]{}?*+-|^$\\.&~# \t\n\r\u{b}\u{c}".contains(c);
            special.then_some('\\').into_iter().chain(std::iter::once(c))
        });
        Ok(Value::from(escaped.collect::<String>()))
    }),
    Row("basename", Parts::Read, |_, input, _| {
        let path = emit::to_text(&input);
        Ok(Value::from(path.rsplit('/').next().unwrap_or_default()))
    }),
    Row("dirname", Parts::Read, |_, input, _| Ok(Value::from(dirname(&emit::to_text(&input))))),
    Row("splitext", Parts::Read, split_extension),
    Row("path_join", Parts::Read, path_join),
    Row("normpath", Parts::Read, |_, input, _| Ok(Value::from(normal_path(&emit::to_text(&input))))),
    Row("e", Parts::Read, |_, input, _| Ok(Value::from(html_escaped(&emit::to_text(&input))))),
    Row("escape", Parts::Read, |_, input, _| Ok(Value::from(html_escaped(&emit::to_text(&input))))),
    Row("safe", Parts::Passed, |_, input, _| Ok(input)),
];

/// Jinja's `title`: like Python's, but words begin behind blanks and opening brackets only.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut at_start = true;
    for c in text.chars() {
        if at_start {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        at_start = c.is_whitespace() || "-([{<".contains(c);
    }
    out
}

fn replace(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let (old, new) = (args.need_text("old")?, args.need_text("new")?);
    let count = args.int("count")?;
    let text = emit::to_text(&input);
    Ok(Value::from(match count {
        Some(count) if count >= 0 => text.replacen(&old, &new, usize::try_from(count).unwrap_or(0)),
        _ => text.replace(&old, &new),
    }))
}

fn indent(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let width = args.next("width").unwrap_or_else(|| Value::from(4));
    let first = args.flag("first").unwrap_or(false);
    let blank = args.flag("blank").unwrap_or(false);
    let indent = match width.data {
        Data::Str(text) => text.to_string(),
        Data::Int(count) => " ".repeat(usize::try_from(count).unwrap_or(0).min(10_000)),
        _ => return Err(EvalError::value("`width` is a number or a text").into()),
    };
    Ok(Value::from(text::indented(&emit::to_text(&input), &indent, first, blank)))
}

fn truncate(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let length = args.size("length")?.unwrap_or(255);
    let kill_words = args.flag("killwords").unwrap_or(false);
    let end = args.text("end").unwrap_or_else(|| "...".into());
    let leeway = args.size("leeway")?.unwrap_or(TRUNCATE_LEEWAY_CHARS);
    let text = emit::to_text(&input);
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let cut: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let cut =
        if kill_words { cut } else { cut.rsplit_once(' ').map_or(cut.clone(), |(head, _)| head.to_owned()) };
    Ok(Value::from(cut + &end))
}

fn comment(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let style = args.text("style").unwrap_or_else(|| "plain".into());
    let (begin, decoration, finish) = match style.as_str() {
        "plain" => ("", "# ", ""),
        "erlang" => ("", "% ", ""),
        "c" => ("", "// ", ""),
        "cblock" => ("/*", " * ", " */"),
        "xml" => ("<!--", " - ", "-->"),
        other => return Err(EvalError::value(format!("there is no comment style `{other}`")).into()),
    };
    let decoration = args.named("decoration").map_or_else(|| decoration.to_owned(), |v| emit::to_text(&v));
    let empty = decoration.trim_end().to_owned();
    let prefix = args.named("prefix").map_or_else(|| empty.clone(), |v| emit::to_text(&v));
    let postfix = args.named("postfix").map_or_else(|| empty.clone(), |v| emit::to_text(&v));
    let count = |value: Option<Value>| {
        value.and_then(|v| v.as_int()).and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
    };
    let prefix_count = count(args.named("prefix_count"));
    let postfix_count = count(args.named("postfix_count"));
    let mut lines: Vec<String> = Vec::new();
    if !begin.is_empty() {
        lines.push(begin.to_owned());
    }
    lines.extend(std::iter::repeat_n(prefix, prefix_count.min(100)));
    let text = emit::to_text(&input);
    lines.extend(text.split('\n').map(|line| format!("{decoration}{line}").trim_end().to_owned()));
    lines.extend(std::iter::repeat_n(postfix, postfix_count.min(100)));
    if !finish.is_empty() {
        lines.push(finish.to_owned());
    }
    Ok(Value::from(lines.join("\n")))
}

fn url_encode(_: &World, input: Value, _: &mut Args) -> Evaluated<Value> {
    let plus = |v: &Value| text::url_quoted(&emit::to_text(v), " ").replace(' ', "+");
    let pairs: Vec<(Value, Value)> = match &input.data {
        Data::Dict(entries) => entries.iter().map(|(key, v)| (Value::from(key.clone()), v.clone())).collect(),
        Data::List(pairs) => pairs
            .iter()
            .filter_map(|pair| match pair.as_list() {
                Some([key, v]) => Some((key.clone(), v.clone())),
                _ => None,
            })
            .collect(),
        _ => return Ok(Value::from(text::url_quoted(&emit::to_text(&input), "/"))),
    };
    let parts: Vec<String> = pairs.iter().map(|(key, v)| format!("{}={}", plus(key), plus(v))).collect();
    Ok(Value::from(parts.join("&")))
}

fn flags(args: &mut Args) -> Flags {
    let ignore_case = args.named_flag("ignorecase").unwrap_or(false);
    let multiline = args.named_flag("multiline").unwrap_or(false);
    Flags { ignore_case, multiline }
}

fn regex_replace(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let pattern = args.text("pattern").unwrap_or_default();
    let replacement = args.text("replacement").unwrap_or_default();
    let ignore_case = args.flag("ignorecase").unwrap_or(false);
    let multiline = args.flag("multiline").unwrap_or(false);
    let count = args.size("count")?.unwrap_or(0);
    let mandatory = args.size("mandatory_count")?.unwrap_or(0);
    let pattern = Pattern::new(&pattern, Flags { ignore_case, multiline })?;
    let (text, replaced) = pattern.replace_all(&emit::to_text(&input), &replacement, count)?;
    if mandatory > 0 && replaced != mandatory {
        return Err(
            EvalError::value(format!("{mandatory} matches are mandatory, and there are {replaced}")).into()
        );
    }
    Ok(Value::from(text))
}

fn regex_search(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let pattern = args.need_text("regex")?;
    let flags = flags(args);
    let groups = args.rest();
    let pattern = Pattern::new(&pattern, flags)?;
    let text = emit::to_text(&input);
    let Some(found) = pattern.search(&text)? else { return Ok(Value::none()) };
    if groups.is_empty() {
        return Ok(Value::from(found.get(0).map_or("", |m| m.as_str())));
    }
    let mut out = Vec::new();
    for group in groups {
        let name = emit::to_text(&group);
        let wrong = || EvalError::value(format!("`{name}` is no group; write '\\\\1' or '\\\\g<name>'"));
        let piece = match name.strip_prefix("\\g<").and_then(|rest| rest.strip_suffix('>')) {
            Some(named) => match named.parse::<usize>() {
                Ok(number) if number <= pattern.groups() => found.get(number),
                Ok(_) => return Err(wrong().into()),
                Err(_) => found.name(named),
            },
            None => {
                let number: usize = name.strip_prefix('\\').and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
                if number > pattern.groups() {
                    return Err(wrong().into());
                }
                found.get(number)
            }
        };
        out.push(piece.map_or_else(Value::none, |m| Value::from(m.as_str())));
    }
    Ok(out.into())
}

fn regex_find_all(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let pattern = args.need_text("regex")?;
    let multiline = args.flag("multiline").unwrap_or(false);
    let ignore_case = args.flag("ignorecase").unwrap_or(false);
    let pattern = Pattern::new(&pattern, Flags { ignore_case, multiline })?;
    let text = emit::to_text(&input);
    let found = pattern.find_all(&text)?;
    let part = |captures: &fancy_regex::Captures, at: usize| {
        Value::from(captures.get(at).map_or("", |m| m.as_str()))
    };
    let row = |captures: &fancy_regex::Captures| match pattern.groups() {
        0 => part(captures, 0),
        1 => part(captures, 1),
        many => (1..=many).map(|at| part(captures, at)).collect::<Value>(),
    };
    Ok(found.iter().map(row).collect())
}

fn dirname(path: &str) -> String {
    let Some(at) = path.rfind('/') else { return String::new() };
    let head = path.get(..=at).unwrap_or_default();
    let trimmed = head.trim_end_matches('/');
    if trimmed.is_empty() { head.to_owned() } else { trimmed.to_owned() }
}

fn split_extension(_: &World, input: Value, _: &mut Args) -> Evaluated<Value> {
    let path = emit::to_text(&input);
    let start = path.rfind('/').map_or(0, |at| at + 1);
    let name = path.get(start..).unwrap_or_default();
    let leading = name.len() - name.trim_start_matches('.').len();
    let dot = name.rfind('.').filter(|at| *at > leading.saturating_sub(1) && *at > 0 && *at >= leading);
    let (root, extension) = path.split_at(dot.map_or(path.len(), |at| start + at));
    Ok([root, extension].into_iter().collect())
}

fn path_join(_: &World, input: Value, _: &mut Args) -> Evaluated<Value> {
    let parts = match &input.data {
        Data::Str(_) => vec![input.clone()],
        _ => items(&input)?,
    };
    let mut path = String::new();
    for part in &parts {
        let part = emit::to_text(part);
        if part.starts_with('/') {
            path = part;
        } else {
            if !path.is_empty() && !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(&part);
        }
    }
    Ok(Value::from(path))
}

fn normal_path(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

fn html_escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;")
}
