//! Splitting lines into words as a POSIX shell would (Python's `shlex`), and `k=v` arguments as Ansible does.

use std::ops::Range;

/// A word without its quotes, and where it stands in the line, quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub at: Range<usize>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SplitError {
    #[error("a quote that is opened here is never closed")]
    OpenQuote { at: usize },
    #[error("the line ends with a backslash, after which a character is expected")]
    Backslash { at: usize },
}

/// Splits a line; with `comments`, `#` ends it even in the middle of a word.
///
/// # Errors
/// A quote without its end, or a backslash at the end.
pub fn shell(line: &str, comments: bool) -> Result<Vec<Word>, SplitError> {
    let mut words: Vec<Word> = Vec::new();
    let mut word: Option<Word> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        if c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        if c == '#' && comments {
            break;
        }
        let current = word.get_or_insert_with(|| Word { text: String::new(), at: at..at });
        match c {
            '\'' => loop {
                let Some((_, inner)) = chars.next() else { return Err(SplitError::OpenQuote { at }) };
                if inner == '\'' {
                    break;
                }
                current.text.push(inner);
            },
            '"' => loop {
                let Some((_, inner)) = chars.next() else { return Err(SplitError::OpenQuote { at }) };
                match inner {
                    '"' => break,
                    '\\' => match chars.next() {
                        Some((_, escaped @ ('"' | '\\'))) => current.text.push(escaped),
                        Some((_, other)) => current.text.extend(['\\', other]),
                        None => return Err(SplitError::OpenQuote { at }),
                    },
                    _ => current.text.push(inner),
                }
            },
            '\\' => match chars.next() {
                Some((_, escaped)) => current.text.push(escaped),
                None => return Err(SplitError::Backslash { at }),
            },
            _ => current.text.push(c),
        }
        current.at.end = chars.offset();
    }
    words.extend(word);
    Ok(words)
}

/// Splits arguments at blanks outside quotes and outside `{{ }}`, `{% %}` and `{# #}`; quotes are kept in the text.
pub fn arguments(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut depth = 0_usize;
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        let inside = quote.is_some() || depth > 0;
        if c.is_whitespace() && !inside {
            if let Some(from) = start.take() {
                words.push(Word { text: text.get(from..at).unwrap_or_default().to_owned(), at: from..at });
            }
        } else {
            start.get_or_insert(at);
        }
        match (quote, c) {
            (Some(q), _) if q == c && previous != '\\' => quote = None,
            (None, '\'' | '"') if depth == 0 && previous != '\\' => quote = Some(c),
            (_, '{' | '%' | '#') if previous == '{' => depth += 1,
            (_, '}') if matches!(previous, '}' | '%' | '#') => depth = depth.saturating_sub(1),
            _ => {}
        }
        // `{{{` and `}}}` open and close once.
        previous = if matches!((previous, c), ('{', '{') | ('}', '}')) { ' ' } else { c };
    }
    if let Some(from) = start {
        words.push(Word { text: text.get(from..).unwrap_or_default().to_owned(), at: from..text.len() });
    }
    words
}

/// Takes `k=v` apart when `k` is a plain name; the value loses the quotes around all of it.
pub fn key_value(word: &str) -> Option<(&str, &str)> {
    let (key, value) = word.split_once('=')?;
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
    plain.then(|| (key, unquoted(value)))
}

/// Removes one pair of quotes that stands around the whole text.
pub fn unquoted(text: &str) -> &str {
    let inner = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|w| w.text.as_str()).collect()
    }

    #[test]
    fn a_line_is_split_like_a_shell_does() {
        let words = shell(r#"h1 a='x y' b="q\"r" c=#x d=1"#, true).unwrap();

        assert_eq!(texts(&words), ["h1", "a=x y", "b=q\"r", "c="]);
        assert_eq!(words[1].at, 3..10);
        assert_eq!(shell("a 'b", true), Err(SplitError::OpenQuote { at: 2 }));
    }

    #[test]
    fn arguments_keep_templates_and_quotes_together() {
        let words = arguments(r#"msg="{{ a }} b" path={{ x | default('y z') }} ls -l"#);

        assert_eq!(texts(&words), [r#"msg="{{ a }} b""#, "path={{ x | default('y z') }}", "ls", "-l"]);
        assert_eq!(key_value(&words[0].text), Some(("msg", "{{ a }} b")));
        assert_eq!(key_value("a/b=c"), None);
    }
}
