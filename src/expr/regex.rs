//! Python's `re` on fancy-regex: patterns and replacements translated.

use fancy_regex::Captures;
use fancy_regex::Regex;
use fancy_regex::RegexBuilder;

use crate::expr::error::EvalError;

/// Most steps of backtracking; a pattern that needs more is running away.
const BACKTRACK_MAX: usize = 2_000_000;

#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    pub ignore_case: bool,
    pub multiline: bool,
}

/// A compiled pattern with Python's meaning.
#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    text: String,
}

impl Pattern {
    /// Compiles a Python pattern.
    ///
    /// # Errors
    /// The pattern is malformed; the message shows it.
    pub fn new(pattern: &str, flags: Flags) -> Result<Pattern, EvalError> {
        let inline = inline_flags(pattern);
        let multiline = flags.multiline || inline.contains('m');
        let mut translated = String::new();
        if flags.ignore_case {
            translated.push_str("(?i)");
        }
        if multiline {
            translated.push_str("(?m)");
        }
        translated.push_str(&translate(pattern, multiline));
        let regex = RegexBuilder::new(&translated).backtrack_limit(BACKTRACK_MAX).build();
        let regex = regex
            .map_err(|error| EvalError::value(format!("bad regular expression `{pattern}`: {error}")))?;
        Ok(Pattern { regex, text: pattern.to_owned() })
    }

    fn failed(&self, error: &fancy_regex::Error) -> EvalError {
        EvalError::value(format!("regular expression `{}` cannot be matched: {error}", self.text))
    }

    /// Finds the first match, as Python's `search`.
    pub fn search<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, EvalError> {
        self.regex.captures(text).map_err(|error| self.failed(&error))
    }

    /// Finds a match that begins at the start, as Python's `match`.
    pub fn match_start<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, EvalError> {
        let anchored =
            Regex::new(&format!("\\A(?:{})", self.regex.as_str())).map_err(|error| self.failed(&error))?;
        anchored.captures(text).map_err(|error| self.failed(&error))
    }

    /// Finds a match of the whole text, as Python's `fullmatch`.
    pub fn match_full<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, EvalError> {
        let anchored =
            Regex::new(&format!("\\A(?:{})\\z", self.regex.as_str())).map_err(|error| self.failed(&error))?;
        anchored.captures(text).map_err(|error| self.failed(&error))
    }

    /// Finds all matches as Python does: an empty one may follow directly behind another.
    pub fn find_all<'t>(&self, text: &'t str) -> Result<Vec<Captures<'t>>, EvalError> {
        let mut found = Vec::new();
        let mut at = 0;
        while at <= text.len() {
            let Some(captures) =
                self.regex.captures_from_pos(text, at).map_err(|error| self.failed(&error))?
            else {
                break;
            };
            let Some(whole) = captures.get(0) else { break };
            at = whole.end();
            if whole.start() == whole.end() {
                at += text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            }
            found.push(captures);
        }
        Ok(found)
    }

    /// Replaces all matches (at most `count` unless it is 0) and returns the text and how many there were.
    ///
    /// # Errors
    /// The replacement names a group that the pattern does not have.
    pub fn replace_all(
        &self,
        text: &str,
        replacement: &str,
        count: usize,
    ) -> Result<(String, usize), EvalError> {
        let template = Replacement::parse(replacement)?;
        let mut out = String::new();
        let mut last = 0;
        let mut replaced = 0;
        for captures in self.find_all(text)? {
            if count > 0 && replaced == count {
                break;
            }
            let Some(whole) = captures.get(0) else { continue };
            out.push_str(text.get(last..whole.start()).unwrap_or_default());
            template.expand(&captures, self.groups(), &mut out)?;
            last = whole.end();
            replaced += 1;
        }
        out.push_str(text.get(last..).unwrap_or_default());
        Ok((out, replaced))
    }

    /// Returns how many groups the pattern has, the whole match not counted.
    pub fn groups(&self) -> usize {
        self.regex.captures_len().saturating_sub(1)
    }
}

/// Returns the flags of a leading `(?ims)`.
fn inline_flags(pattern: &str) -> &str {
    let Some(rest) = pattern.strip_prefix("(?") else { return "" };
    match rest.split_once(')') {
        Some((flags, _)) if flags.chars().all(|c| "aiLmsux".contains(c)) => flags,
        _ => "",
    }
}

fn translate(pattern: &str, multiline: bool) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_is_empty = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('Z') => out.push_str("\\z"),
                Some(
                    c @ ('<' | '>' | ' ' | '"' | '\'' | '/' | '%' | '@' | '!' | ',' | ';' | ':' | '=' | '_'
                    | '`'),
                ) => out.push(c),
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
                None => out.push('\\'),
            },
            _ if in_class => {
                match c {
                    ']' if !class_is_empty => {
                        in_class = false;
                        out.push(']');
                    }
                    '[' | '&' | '~' | ']' => {
                        out.push('\\');
                        out.push(c);
                    }
                    c => out.push(c),
                }
                class_is_empty = false;
            }
            '[' => {
                in_class = true;
                class_is_empty = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            '$' if !multiline => out.push_str("(?=\\n?\\z)"),
            '$' => out.push_str("(?=\\n|\\z)"),
            '{' => {
                let ahead: String = chars.clone().take_while(|c| *c != '}').collect();
                let is_count = !ahead.is_empty()
                    && ahead.chars().all(|c| c.is_ascii_digit() || c == ',')
                    && ahead != ","
                    && ahead.matches(',').count() <= 1
                    && chars.clone().any(|c| c == '}');
                match (is_count, ahead.strip_prefix(',')) {
                    (true, Some(_)) => out.push_str("{0"),
                    (true, None) => out.push('{'),
                    (false, _) => out.push_str("\\{"),
                }
            }
            '}' => {
                // A closing brace ends a count only; the opening one has been looked at.
                let is_count = out.rfind('{').is_some_and(|at| {
                    !out[..at].ends_with('\\')
                        && out[at + 1..].chars().all(|c| c.is_ascii_digit() || c == ',')
                        && at + 1 < out.len()
                });
                out.push_str(if is_count { "}" } else { "\\}" });
            }
            '(' if chars.peek() == Some(&'?') => {
                let ahead: String = chars.clone().take(3).collect();
                if ahead == "?P=" {
                    chars.by_ref().take(3).for_each(drop);
                    let name: String = chars.by_ref().take_while(|c| *c != ')').collect();
                    out.push_str(&format!("\\k<{name}>"));
                } else {
                    out.push('(');
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// A replacement text: `\1`, `\g<1>`, `\g<name>`, `\n`.
struct Replacement(Vec<Piece>);

enum Piece {
    Text(String),
    Group(usize),
    Named(String),
}

impl Replacement {
    fn parse(text: &str) -> Result<Replacement, EvalError> {
        let mut pieces = vec![];
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '\\' {
                plain.push(c);
                continue;
            }
            let piece = match chars.next() {
                Some('g') if chars.peek() == Some(&'<') => {
                    chars.next();
                    let name: String = chars.by_ref().take_while(|c| *c != '>').collect();
                    Some(name.parse().map_or(Piece::Named(name), Piece::Group))
                }
                Some('0') => {
                    plain.push('\0');
                    None
                }
                Some(digit @ '1'..='9') => {
                    let mut number = digit.to_string();
                    number.extend(chars.next_if(char::is_ascii_digit));
                    number.parse().ok().map(Piece::Group)
                }
                Some(c) => {
                    match c {
                        'n' => plain.push('\n'),
                        't' => plain.push('\t'),
                        'r' => plain.push('\r'),
                        'a' => plain.push('\u{7}'),
                        'f' => plain.push('\u{c}'),
                        'v' => plain.push('\u{b}'),
                        '\\' => plain.push('\\'),
                        c if c.is_ascii_alphabetic() => {
                            return Err(EvalError::value(format!(
                                "bad escape \\{c} in the replacement `{text}`"
                            )));
                        }
                        c => {
                            plain.push('\\');
                            plain.push(c);
                        }
                    }
                    None
                }
                None => {
                    return Err(EvalError::value(format!("the replacement `{text}` ends in a backslash")));
                }
            };
            if let Some(piece) = piece {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(piece);
            }
        }
        pieces.push(Piece::Text(plain));
        Ok(Replacement(pieces))
    }

    fn expand(&self, captures: &Captures, groups: usize, out: &mut String) -> Result<(), EvalError> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Group(number) if *number > groups => {
                    return Err(EvalError::value(format!("invalid group reference {number}")));
                }
                Piece::Group(number) => out.push_str(captures.get(*number).map_or("", |m| m.as_str())),
                Piece::Named(name) => out.push_str(captures.name(name).map_or("", |m| m.as_str())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sub(pattern: &str, replacement: &str, text: &str) -> String {
        Pattern::new(pattern, Flags::default()).unwrap().replace_all(text, replacement, 0).unwrap().0
    }

    #[test]
    fn substitution_is_pythons() {
        assert_eq!(sub("x*", "-", "abc"), "-a-b-c-");
        assert_eq!(sub("x*", "-", "axb"), "-a--b-");
        assert_eq!(sub("$", "X", "a\n"), "aX\nX");
        assert_eq!(sub(r"(?P<n>a)(?P=n)", r"[\g<n>]", "aab"), "[a]b");
        assert_eq!(sub(r"^(.*)_x$", r"\1\n", "y_x"), "y\n");
        assert_eq!(sub(r"{{ (\w+) }}", r"<\1>", "a {{ b }}"), "a <b>");
        assert_eq!(sub(r"a{2,3}", "-", "aaab a{2"), "-b a{2");
        assert_eq!(sub(r"[[\]&]", "-", "[a]&"), "-a--");
        assert_eq!(sub(r"((?!5432).)*$", "x", "5433"), "xx");
        assert_eq!(sub(r"\Aa|b\Z", "-", "aab"), "-a-");
    }
}
