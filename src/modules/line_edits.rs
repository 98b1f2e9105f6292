//! Edits of a text as Ansible's `lineinfile`, `replace` and `blockinfile` make them: pure functions from text to text.

use fancy_regex::Regex;

use crate::modules::Fault;

/// Reads a regular expression as Python writes it.
///
/// # Errors
/// It cannot be read; the message shows it.
pub fn regex(pattern: &str, is_multiline: bool) -> Result<Regex, Fault> {
    let mut translated = pattern.replace("(?P=", "\\k<").replace("\\Z", "\\z");
    if pattern.contains("(?P=") {
        translated = close_back_references(pattern).replace("\\Z", "\\z");
    }
    let flags = if is_multiline { "(?m)" } else { "" };
    Regex::new(&format!("{flags}{translated}"))
        .map_err(|error| Fault::params(format!("`{pattern}` is no regular expression: {error}")))
}

/// Writes `(?P=name)` as `\k<name>`.
fn close_back_references(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("(?P=") {
        out.push_str(before);
        let (name, tail) = after.split_once(')').unwrap_or((after, ""));
        out.push_str(&format!("\\k<{name}>"));
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Fills `\1`, `\g<1>`, `\g<name>` and `\n` of a Python replacement.
pub fn expand(template: &str, captures: &fancy_regex::Captures<'_>) -> String {
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('g') if chars.peek() == Some(&'<') => {
                chars.next();
                let name: String = chars.by_ref().take_while(|c| *c != '>').collect();
                let group = match name.parse::<usize>() {
                    Ok(number) => captures.get(number),
                    Err(_a_name) => captures.name(&name),
                };
                out.push_str(group.map_or("", |g| g.as_str()));
            }
            Some(digit) if digit.is_ascii_digit() => {
                let mut number = digit.to_string();
                if let Some(next) = chars.peek().filter(|c| c.is_ascii_digit()) {
                    number.push(*next);
                    chars.next();
                }
                let group = number.parse().ok().and_then(|n: usize| captures.get(n));
                out.push_str(group.map_or("", |g| g.as_str()));
            }
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') => out.push('\\'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// Where a line or block goes that is not there.
#[derive(Debug)]
pub enum Place {
    End,
    Begin,
    After(Regex),
    Before(Regex),
}

/// Splits into lines without their ends.
fn lines(text: &str) -> Vec<String> {
    text.split_terminator('\n').map(str::to_owned).collect()
}

fn join(lines: &[String]) -> String {
    lines.iter().map(|l| format!("{l}\n")).collect()
}

fn fits(regex: &Regex, line: &str) -> bool {
    // A match that the engine gives up on (too much backtracking) is none.
    regex.is_match(line).unwrap_or(false)
}

/// Returns where an inserted line goes; `None`: nothing fits the pattern.
fn insertion(all: &[String], place: &Place, is_first: bool) -> Option<usize> {
    let find = |regex: &Regex| {
        if is_first {
            all.iter().position(|l| fits(regex, l))
        } else {
            all.iter().rposition(|l| fits(regex, l))
        }
    };
    match place {
        Place::End => Some(all.len()),
        Place::Begin => Some(0),
        Place::After(regex) => find(regex).map(|i| i + 1),
        Place::Before(regex) => find(regex),
    }
}

/// Makes sure of one line: the last that fits is replaced (the first with `is_first`), else it is inserted.
pub fn ensure_line(
    text: &str,
    line: &str,
    finder: Option<&dyn Fn(&str) -> bool>,
    back_references: Option<&Regex>,
    place: &Place,
    is_first: bool,
) -> String {
    let mut all = lines(text);
    let found = finder.and_then(|finder| {
        if is_first { all.iter().position(|l| finder(l)) } else { all.iter().rposition(|l| finder(l)) }
    });
    if let Some(slot) = found.and_then(|index| all.get_mut(index)) {
        let wanted = match back_references.and_then(|r| r.captures(slot).ok().flatten()) {
            Some(captures) => expand(line, &captures),
            None => line.to_owned(),
        };
        if *slot == wanted {
            return text.to_owned();
        }
        *slot = wanted;
        return join_like(&all, text);
    }
    if back_references.is_some() || all.iter().any(|l| l == line) {
        return text.to_owned();
    }
    let index = insertion(&all, place, is_first).unwrap_or(all.len());
    all.splice(index..index, line.split('\n').map(str::to_owned));
    join(&all)
}

/// Joins lines and keeps a missing final newline missing.
fn join_like(all: &[String], text: &str) -> String {
    let mut joined = join(all);
    if !text.is_empty() && !text.ends_with('\n') {
        joined.pop();
    }
    joined
}

/// Removes all lines that fit.
pub fn remove_lines(text: &str, finder: &dyn Fn(&str) -> bool) -> (String, usize) {
    let all = lines(text);
    let kept: Vec<String> = all.iter().filter(|l| !finder(l)).cloned().collect();
    let removed = all.len() - kept.len();
    if removed == 0 { (text.to_owned(), 0) } else { (join_like(&kept, text), removed) }
}

/// Replaces every match in a text, or in the part of it between two other matches; returns how many.
///
/// # Errors
/// The engine gives the search up.
pub fn replace_all(text: &str, regex: &Regex, by: &str) -> Result<(String, usize), Fault> {
    let mut out = String::new();
    let (mut last, mut count) = (0, 0);
    for captures in regex.captures_iter(text) {
        let captures =
            captures.map_err(|error| Fault::refused(format!("the search was given up: {error}")))?;
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(text.get(last..whole.start()).unwrap_or_default());
        out.push_str(&expand(by, &captures));
        last = whole.end();
        count += 1;
    }
    out.push_str(text.get(last..).unwrap_or_default());
    Ok((out, count))
}

/// Makes sure of a block between two marker lines; `None` removes it.
pub fn ensure_block(text: &str, block: Option<&str>, begin: &str, end: &str, place: &Place) -> String {
    let mut all = lines(text);
    let first = all.iter().rposition(|l| l == begin);
    let last = first.and_then(|f| all.iter().skip(f).position(|l| l == end).map(|i| f + i));
    let mut wanted: Vec<String> = Vec::new();
    if let Some(block) = block.filter(|b| !b.is_empty()) {
        wanted.push(begin.to_owned());
        wanted.extend(block.trim_end_matches('\n').split('\n').map(str::to_owned));
        wanted.push(end.to_owned());
    }
    match (first, last) {
        (Some(first), Some(last)) => {
            all.splice(first..=last, wanted);
        }
        _ => {
            let index = insertion(&all, place, false).unwrap_or(all.len());
            all.splice(index..index, wanted);
        }
    }
    let joined = join_like(&all, text);
    if joined.is_empty() || joined.ends_with('\n') || text.is_empty() || block.is_none() {
        joined
    } else {
        join(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(pattern: &str) -> Regex {
        regex(pattern, false).unwrap()
    }

    #[test]
    fn the_last_line_that_fits_is_replaced_and_a_missing_one_appended() {
        let finder = |line: &str| fits(&r("^a="), line);
        assert_eq!(
            ensure_line("a=1\nb\na=2\n", "a=3", Some(&finder), None, &Place::End, false),
            "a=1\nb\na=3\n"
        );
        assert_eq!(ensure_line("a=1\na=2\n", "a=3", Some(&finder), None, &Place::End, true), "a=3\na=2\n");
        assert_eq!(ensure_line("b", "a=3", Some(&finder), None, &Place::End, false), "b\na=3\n");
        assert_eq!(ensure_line("a=3\n", "a=3", None, None, &Place::Begin, false), "a=3\n");
    }

    #[test]
    fn back_references_take_parts_of_the_old_line_and_do_nothing_without_a_match() {
        let pattern = r("^(x=)(\\d+)");
        let finder = |line: &str| fits(&pattern, line);
        assert_eq!(
            ensure_line("x=1\n", "\\g<1>9", Some(&finder), Some(&pattern), &Place::End, false),
            "x=9\n"
        );
        assert_eq!(ensure_line("y\n", "\\1", Some(&finder), Some(&pattern), &Place::End, false), "y\n");
    }

    #[test]
    fn a_line_goes_after_the_last_match_or_to_the_end() {
        let place = Place::After(r("^\\["));
        assert_eq!(ensure_line("[a]\nx\n[b]\ny\n", "z", None, None, &place, false), "[a]\nx\n[b]\nz\ny\n");
        assert_eq!(ensure_line("x\n", "z", None, None, &place, false), "x\nz\n");
    }

    #[test]
    fn every_match_is_replaced_and_counted() {
        let (text, count) = replace_all("a1\na2\n", &regex("^a(\\d)$", true).unwrap(), "b\\1").unwrap();
        assert_eq!((text.as_str(), count), ("b1\nb2\n", 2));
    }

    #[test]
    fn a_block_is_put_in_replaced_and_taken_out() {
        let put = ensure_block("x\n", Some("1\n2\n"), "# B", "# E", &Place::End);
        assert_eq!(put, "x\n# B\n1\n2\n# E\n");
        assert_eq!(ensure_block(&put, Some("3"), "# B", "# E", &Place::End), "x\n# B\n3\n# E\n");
        assert_eq!(ensure_block(&put, None, "# B", "# E", &Place::End), "x\n");
    }
}
