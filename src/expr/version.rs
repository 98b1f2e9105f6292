//! Versions as the `version` test compares them.

use std::cmp::Ordering;

use crate::expr::error::EvalError;

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Number(u128),
    Word(String),
}

/// Compares two versions by an operator such as `>=` or `ge`.
///
/// # Errors
/// The operator or kind does not exist, or a loose comparison meets a number and a word, which have no order.
pub(crate) fn compare(
    left: &str,
    right: &str,
    operator: &str,
    strict: Option<bool>,
    kind: Option<&str>,
) -> Result<bool, EvalError> {
    if right.is_empty() || left.is_empty() {
        return Err(EvalError::value("a version to compare is empty"));
    }
    let order = match (kind, strict) {
        (Some("semver" | "semantic"), _) => semantic(left, right)?,
        (Some("strict"), _) | (None, Some(true)) => strictly(left)?.cmp(&strictly(right)?),
        (Some("loose"), _) | (None, _) => loosely(left, right)?,
        (Some("pep440"), _) => pep440(left)?.cmp(&pep440(right)?),
        (Some(other), _) => {
            return Err(EvalError::value(format!("there is no version type `{other}`"))
                .hint("loose, strict, semver or pep440"));
        }
    };
    Ok(match operator {
        "==" | "=" | "eq" => order.is_eq(),
        "!=" | "<>" | "ne" => order.is_ne(),
        "<" | "lt" => order.is_lt(),
        "<=" | "le" => order.is_le(),
        ">" | "gt" => order.is_gt(),
        ">=" | "ge" => order.is_ge(),
        other => {
            let message = format!("`{other}` is no operator");
            return Err(EvalError::value(message).hint("==, !=, <, <=, >, >= or eq, ne, lt, le, gt, ge"));
        }
    })
}

fn parts(version: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = version;
    while let Some(first) = rest.chars().next() {
        let same: fn(char) -> bool = match first {
            c if c.is_ascii_digit() => |c| c.is_ascii_digit(),
            c if c.is_ascii_lowercase() => |c| c.is_ascii_lowercase(),
            '.' => |_| false,
            _ => |c| !c.is_ascii_digit() && !c.is_ascii_lowercase() && c != '.',
        };
        let end = rest.find(|c| !same(c)).unwrap_or(rest.len()).max(first.len_utf8());
        let (part, after) = rest.split_at(end);
        match part.parse() {
            Ok(number) => parts.push(Part::Number(number)),
            Err(_) if part == "." => {}
            Err(_) => parts.push(Part::Word(part.to_owned())),
        }
        rest = after;
    }
    parts
}

fn loosely(left: &str, right: &str) -> Result<Ordering, EvalError> {
    let (a, b) = (parts(left), parts(right));
    for (a, b) in a.iter().zip(&b) {
        let order = match (a, b) {
            (Part::Number(a), Part::Number(b)) => a.cmp(b),
            (Part::Word(a), Part::Word(b)) => a.cmp(b),
            _ => {
                let message =
                    format!("versions '{left}' and '{right}' have a number and a word at the same place");
                return Err(EvalError::value(message));
            }
        };
        if order.is_ne() {
            return Ok(order);
        }
    }
    Ok(a.len().cmp(&b.len()))
}

/// Major, minor, patch, and for a pre-release its letter and number.
type Strict = (u64, u64, u64, (bool, char, u64));

/// `1.2`, `1.2.3`, `1.2a1`: the final version is after its pre-releases.
fn strictly(version: &str) -> Result<Strict, EvalError> {
    let wrong = || {
        EvalError::value(format!("'{version}' is no strict version"))
            .hint("a strict version is 1.2, 1.2.3 or 1.2b1")
    };
    let at = version.find(['a', 'b']).unwrap_or(version.len());
    let (numbers, pre) = version.split_at(at);
    let numbers: Result<Vec<u64>, EvalError> =
        numbers.split('.').map(|n| n.parse().map_err(|_| wrong())).collect();
    let pre = match pre.chars().next() {
        None => (true, ' ', 0),
        Some(letter) => (false, letter, pre.get(1..).unwrap_or_default().parse().map_err(|_| wrong())?),
    };
    match numbers?.as_slice() {
        [major, minor] => Ok((*major, *minor, 0, pre)),
        [major, minor, patch] => Ok((*major, *minor, *patch, pre)),
        _ => Err(wrong()),
    }
}

fn semantic(left: &str, right: &str) -> Result<Ordering, EvalError> {
    let (a, pre_a) = semantic_parts(left)?;
    let (b, pre_b) = semantic_parts(right)?;
    Ok(a.cmp(&b).then_with(|| match (pre_a.is_empty(), pre_b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let field =
                |text: &str| text.parse::<u64>().map_or((1, 0, text.to_owned()), |n| (0, n, String::new()));
            pre_a.split('.').map(field).cmp(pre_b.split('.').map(field))
        }
    }))
}

fn semantic_parts(version: &str) -> Result<([u64; 3], &str), EvalError> {
    let wrong = || {
        EvalError::value(format!("'{version}' is no semantic version"))
            .hint("a semantic version is 1.2.3 or 1.2.3-rc.1")
    };
    let plain = version.split('+').next().unwrap_or_default();
    let (numbers, pre) = plain.split_once('-').unwrap_or((plain, ""));
    let numbers: Result<Vec<u64>, EvalError> =
        numbers.split('.').map(|n| n.parse().map_err(|_| wrong())).collect();
    match numbers?.as_slice() {
        [major, minor, patch] => Ok(([*major, *minor, *patch], pre)),
        _ => Err(wrong()),
    }
}

/// Numbers without trailing zeros, then development, pre-, final and post-release.
fn pep440(version: &str) -> Result<(Vec<u64>, i8, u64), EvalError> {
    let wrong = || EvalError::value(format!("'{version}' is no version of PEP 440"));
    let clean = version.trim().trim_start_matches('v').to_lowercase();
    let at = clean.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(clean.len());
    let (numbers, tail) = clean.split_at(at);
    let numbers: Result<Vec<u64>, EvalError> =
        numbers.trim_end_matches('.').split('.').map(|n| n.parse().map_err(|_| wrong())).collect();
    let mut numbers = numbers?;
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    let letters: String = tail.chars().filter(char::is_ascii_alphabetic).collect();
    let digits: String = tail.chars().filter(char::is_ascii_digit).collect();
    let phase = match letters.as_str() {
        "" => 0,
        "dev" => -4,
        "a" | "alpha" => -3,
        "b" | "beta" => -2,
        "rc" | "c" | "pre" | "preview" => -1,
        "post" | "rev" | "r" => 1,
        _ => return Err(wrong()),
    };
    Ok((numbers, phase, digits.parse().unwrap_or(0)))
}
