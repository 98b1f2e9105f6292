//! Text to minijinja's syntax tree: where Ansible's text differs from Jinja's, and errors in our form.

use std::borrow::Cow;

use minijinja::machinery;
use minijinja::machinery::WhitespaceConfig;
use minijinja::machinery::ast;
use minijinja::syntax::SyntaxConfig;

use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;

/// How a template is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whitespace {
    /// Whether the newline behind a block or comment goes.
    pub trim_blocks: bool,
    /// Whether blanks before a block on its line go.
    pub lstrip_blocks: bool,
    /// Whether the last newline goes through the template, rather than being put back behind its result.
    pub keep_trailing_newline: bool,
}

impl Default for Whitespace {
    /// Ansible's, in playbooks and in template files alike.
    fn default() -> Whitespace {
        Whitespace { trim_blocks: true, lstrip_blocks: false, keep_trailing_newline: false }
    }
}

/// Appends the newlines that the template ends with and its result does not, as Ansible does for text.
pub fn with_trailing_newlines(template: &str, result: String) -> String {
    let count = |text: &str| text.len() - text.trim_end_matches('\n').len();
    let missing = count(template).saturating_sub(count(&result));
    result + &"\n".repeat(missing)
}

/// Keeps the newline behind `{% raw %}`, which minijinja trims and Jinja does not.
pub fn raw_newlines(text: &str) -> Cow<'_, str> {
    if !text.contains("raw") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 2);
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        out.push_str(tag);
        rest = after;
        if tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['%', '}']).trim() == "raw"
            && after.starts_with('\n')
        {
            out.push('\n');
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Returns whether the text holds anything that a template engine would look at.
pub fn has_markup(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// Parses a template whose delimiters are Jinja's. `source` must have gone through [`raw_backslashes`] where that applies.
pub fn template(source: &str, whitespace: Whitespace) -> Result<ast::Stmt<'_>, EvalError> {
    bounded(source)?;
    template_with(source, whitespace, SyntaxConfig::default())
}

/// Parses a template with delimiters of its own.
pub fn template_with(
    source: &str,
    whitespace: Whitespace,
    syntax: SyntaxConfig,
) -> Result<ast::Stmt<'_>, EvalError> {
    let config = WhitespaceConfig {
        keep_trailing_newline: whitespace.keep_trailing_newline,
        lstrip_blocks: whitespace.lstrip_blocks,
        trim_blocks: whitespace.trim_blocks,
    };
    machinery::parse(source, "template", syntax, config).map_err(|error| syntax_error(&error, source))
}

/// Parses a bare expression, as conditions are.
pub fn expression(source: &str) -> Result<ast::Expr<'_>, EvalError> {
    bounded_chain(source)?;
    balanced(source)?;
    machinery::parse_expr(source).map_err(|error| syntax_error(&error, source))
}

/// Longest chain of operators, filters or attributes; whoever walks the tree recurses along it.
const CHAIN_MAX: usize = 300;

/// Refuses a template whose tree would be too deep to walk: long chains, nested or not, and long rows of `elif`.
///
/// The parser bounds brackets and blocks itself, but not these.
fn bounded(source: &str) -> Result<(), EvalError> {
    if source.len() <= CHAIN_MAX {
        return Ok(());
    }
    if source.matches("elif").count() > CHAIN_MAX {
        return Err(too_deep("`elif`"));
    }
    let mut rest = source;
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let tag = rest.get(at..).unwrap_or_default();
        let (tag, after) = tag.split_at(tag_end(tag));
        bounded_chain(tag.trim_start_matches(['{', '%']).trim_end_matches(['%', '}']))?;
        rest = after;
    }
    Ok(())
}

/// Refuses an expression with a brace that closes nothing, at which minijinja panics.
fn balanced(source: &str) -> Result<(), EvalError> {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') if depth > 0 => depth -= 1,
            (None, ')' | ']' | '}') => {
                let shown: String = source.trim().chars().take(120).collect();
                return Err(EvalError::new(ErrorKind::Syntax, format!("`{c}` closes nothing, in `{shown}`")));
            }
            (None, _) => {}
        }
    }
    Ok(())
}

fn too_deep(what: &str) -> EvalError {
    EvalError::new(ErrorKind::Syntax, format!("the template is too deep: more than {CHAIN_MAX} {what}"))
}

/// Refuses one expression that is too deep to walk.
fn bounded_chain(source: &str) -> Result<(), EvalError> {
    if source.len() <= CHAIN_MAX {
        return Ok(());
    }
    let mut open: Vec<usize> = vec![0];
    let mut total = 0;
    let mut quote = None;
    let mut word = String::new();
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(q) => {
                if c == '\\' {
                    chars.next();
                } else if c == q {
                    quote = None;
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            None => {}
        }
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        let mut links = usize::from(matches!(
            std::mem::take(&mut word).as_str(),
            "not" | "and" | "or" | "is" | "in" | "if"
        ));
        match c {
            '(' | '[' | '{' => {
                links += 1;
                open.push(0);
            }
            ')' | ']' | '}' => {
                total -= open.pop().unwrap_or(0);
                if open.is_empty() {
                    open.push(0);
                }
            }
            ',' => {
                if let Some(top) = open.last_mut() {
                    total -= std::mem::take(top);
                }
            }
            '+' | '-' | '*' | '/' | '%' | '~' | '|' | '.' | '<' | '>' | '=' => links += 1,
            _ => {}
        }
        if let Some(top) = open.last_mut() {
            *top += links;
        }
        total += links;
        if total > CHAIN_MAX {
            return Err(too_deep("operators, filters and attributes in one chain"));
        }
    }
    Ok(())
}

fn syntax_error(error: &minijinja::Error, source: &str) -> EvalError {
    let detail = error.detail().unwrap_or("cannot be read").to_owned();
    let line = error.line().filter(|line| *line > 0).unwrap_or(1);
    let text = source.lines().nth(line - 1).unwrap_or_default().trim();
    let shown: String = text.chars().take(120).collect();
    let place = if source.lines().count() > 1 { format!("line {line}: ") } else { String::new() };
    let message = format!("{place}{detail}, in `{shown}`");
    let result = EvalError::new(ErrorKind::Syntax, message);
    if detail.contains("unexpected `=`") {
        return result.hint("compare with `==`");
    }
    if detail.contains("unexpected `&") || detail.contains("unexpected character") && shown.contains('&') {
        return result.hint("write `and`, `or`, `not`");
    }
    result
}

/// Doubles the backslashes in string literals, so that they stand for themselves.
///
/// In playbooks YAML has already processed escapes, and Ansible keeps `'\d'` in an expression as it is. Files of the
/// `template` module are not treated so.
pub fn raw_backslashes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end =
            if tag.starts_with("{#") { tag.find("#}").map_or(tag.len(), |e| e + 2) } else { tag_end(tag) };
        let (tag, after) = tag.split_at(end);
        if tag.starts_with("{#") {
            out.push_str(tag);
        } else {
            double_in_strings(tag, &mut out);
        }
        rest = after;
        let word = tag.trim_start_matches(['{', '%', '-', '+', ' ']);
        if tag.starts_with("{%") && word.starts_with("raw") {
            let end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Doubles the backslashes in string literals of a bare expression; see [`raw_backslashes`].
pub fn raw_backslashes_of_expression(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    double_in_strings(text, &mut out);
    Cow::Owned(out)
}

/// Returns where the tag that `tag` begins with is closed, strings and braces inside it respected.
fn tag_end(tag: &str) -> usize {
    let close = if tag.starts_with("{{") { "}}" } else { "%}" };
    let mut quote: Option<u8> = None;
    let mut depth = 0_usize;
    let bytes = tag.as_bytes();
    let mut at = 2;
    while let Some(byte) = bytes.get(at) {
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(q), b) if *b == q => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(*byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, _) if depth == 0 && tag.as_bytes()[at..].starts_with(close.as_bytes()) => return at + 2,
            (None, _) => {}
        }
        at += 1;
    }
    tag.len()
}

fn double_in_strings(text: &str, out: &mut String) {
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(_) if c == '\\' => {
                // Jinja takes the character behind a backslash into the string whatever it is, and so does this.
                out.push_str("\\\\");
                match chars.next() {
                    Some('\\') => out.push_str("\\\\"),
                    Some(next) => out.push(next),
                    None => {}
                }
                continue;
            }
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backslashes_in_literals_are_doubled() {
        let table = [
            (r"a\b {{ 'c\d' }} e\f", r"a\b {{ 'c\\d' }} e\f"),
            (r"{{ x | regex_replace('(a)', '\\1') }}", r"{{ x | regex_replace('(a)', '\\\\1') }}"),
            (r"{{ {'a': {'b': '\d'}} }}\n", r"{{ {'a': {'b': '\\d'}} }}\n"),
            (r"{# it's \ #}{{ '\d' }}", r"{# it's \ #}{{ '\\d' }}"),
            (r"{% raw %}{{ '\d' }}{% endraw %}", r"{% raw %}{{ '\d' }}{% endraw %}"),
        ];
        for (text, expected) in table {
            assert_eq!(raw_backslashes(text), expected);
        }
    }
}
