//! Splits a command line into words as Python's `shlex` does, and fills in variables as Ansible's `command` does.

/// Splits at blanks outside quotes; quotes and backslashes are taken away as a POSIX shell would.
///
/// # Errors
/// A quote is not closed, or the line ends with a backslash.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(inner) => word.push(inner),
                        None => return Err("a single quote is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(escaped @ ('"' | '\\')) => word.push(escaped),
                            Some(other) => word.extend(['\\', other]),
                            None => return Err("a double quote is not closed"),
                        },
                        Some(inner) => word.push(inner),
                        None => return Err("a double quote is not closed"),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("the line ends with a backslash"),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Replaces `$NAME` and `${NAME}` by what `lookup` says, and a leading `~` by the home folder; unknown names stay.
pub fn expand(word: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    if (word == "~" || word.starts_with("~/"))
        && let Some(home) = lookup("HOME")
    {
        out.push_str(&home);
        rest = word.get(1..).unwrap_or_default();
    }
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        out.push_str(before);
        let after = dollar.get(1..).unwrap_or_default();
        let braced = after.strip_prefix('{').and_then(|a| a.split_once('}'));
        let (name, tail) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        });
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                out.push_str(&value);
                rest = tail;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_those_of_a_shell() {
        assert_eq!(
            split(r#"a 'b c' "d \"e\" \n" f\ g '' "#).unwrap(),
            ["a", "b c", "d \"e\" \\n", "f g", ""]
        );
        assert!(split("a 'b").is_err());
    }

    #[test]
    fn variables_are_filled_in_and_unknown_ones_stay() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/root".to_owned()),
            "A" => Some("x".to_owned()),
            _ => None,
        };
        assert_eq!(expand("~/b-$A-${A}y-$NONE-$", &lookup), "/root/b-x-xy-$NONE-$");
    }
}
