//! Host patterns: `a:b` or `a,b`, `:&` and `:!`, `*`, `~regex`, `group[0]`, `group[0:1]`.

use std::sync::Arc;

use indexmap::IndexSet;

use crate::input::inventory::{Host, Inventory};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    #[error("the pattern `{pattern}` is no valid regular expression: {problem}")]
    Regex { pattern: String, problem: String },
    #[error("the pattern `{pattern}` has an index that is no number: `{index}`")]
    Index { pattern: String, index: String },
}

/// The hosts a pattern means, and those parts of it that meant none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    pub hosts: Vec<Arc<str>>,
    /// Parts that name no host and no group. Not an error: Ansible warns, and so does `validate`.
    pub unmatched: Vec<String>,
}

/// Finds the hosts of `pattern`: inclusions first, then `&`, then `!`, whatever the order of writing.
///
/// `localhost`, `127.0.0.1` and `::1` mean this machine even when they are not in the inventory.
///
/// # Errors
/// A `~` part that does not compile, or an index that is no number.
pub fn hosts(inventory: &Inventory, pattern: &str) -> Result<Matched, PatternError> {
    let parts = split(pattern);
    let (exclude, rest): (Vec<&str>, Vec<&str>) =
        parts.iter().map(String::as_str).partition(|p| p.starts_with('!'));
    let (intersect, include): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|p| p.starts_with('&'));
    let mut matched = Matched::default();
    let mut chosen: IndexSet<Arc<str>> = IndexSet::new();
    let include = if include.is_empty() { vec!["all"] } else { include };
    for part in include {
        chosen.extend(one(inventory, part, &mut matched.unmatched)?);
    }
    for part in intersect {
        let kept: IndexSet<Arc<str>> =
            one(inventory, part.trim_start_matches('&'), &mut matched.unmatched)?.into_iter().collect();
        chosen.retain(|host| kept.contains(host));
    }
    for part in exclude {
        let dropped: IndexSet<Arc<str>> =
            one(inventory, part.trim_start_matches('!'), &mut matched.unmatched)?.into_iter().collect();
        chosen.retain(|host| !dropped.contains(host));
    }
    matched.hosts = chosen.into_iter().collect();
    Ok(matched)
}

/// Splits at `,`, or else at those `:` that stand neither in brackets nor in an IPv6 address.
fn split(pattern: &str) -> Vec<String> {
    let trimmed = |parts: std::str::Split<'_, char>| -> Vec<String> {
        parts.map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect()
    };
    if pattern.contains(',') {
        return trimmed(pattern.split(','));
    }
    if pattern.starts_with('~') || pattern.parse::<std::net::Ipv6Addr>().is_ok() {
        return vec![pattern.trim().to_owned()];
    }
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for c in pattern.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == ':' && depth == 0 {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts.iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn one(
    inventory: &Inventory,
    part: &str,
    unmatched: &mut Vec<String>,
) -> Result<Vec<Arc<str>>, PatternError> {
    let (name, index) = match part.strip_suffix(']').and_then(|p| p.rsplit_once('[')) {
        Some((name, index)) if !part.starts_with('~') && !name.is_empty() => (name, Some(index)),
        _ => (part, None),
    };
    let mut found = named(inventory, name)?;
    if found.is_empty() {
        unmatched.push(part.to_owned());
        return Ok(found);
    }
    if let Some(index) = index {
        found = pick(&found, index)
            .ok_or_else(|| PatternError::Index { pattern: part.to_owned(), index: index.to_owned() })?;
    }
    Ok(found)
}

fn named(inventory: &Inventory, name: &str) -> Result<Vec<Arc<str>>, PatternError> {
    let matches: Box<dyn Fn(&str) -> bool> = if let Some(regex) = name.strip_prefix('~') {
        // Ansible matches at the start of the name, not anywhere in it.
        let regex = fancy_regex::Regex::new(&format!("^(?:{regex})"))
            .map_err(|error| PatternError::Regex { pattern: name.to_owned(), problem: error.to_string() })?;
        Box::new(move |candidate| regex.is_match(candidate).unwrap_or(false))
    } else if name.contains(['*', '?', '[']) {
        let name = name.to_owned();
        Box::new(move |candidate| glob(name.as_bytes(), candidate.as_bytes()))
    } else if name == "all" {
        return Ok(inventory.hosts.keys().cloned().collect());
    } else {
        let name = name.to_owned();
        Box::new(move |candidate| candidate == name)
    };
    let mut found: IndexSet<Arc<str>> = IndexSet::new();
    for group in inventory.groups.values().filter(|g| matches(&g.name)) {
        found.extend(inventory.hosts_of_group(&group.name));
    }
    found.extend(inventory.hosts.keys().filter(|h| matches(h)).cloned());
    if found.is_empty() && Host::LOCAL_NAMES.contains(&name) {
        found.insert(name.into());
    }
    Ok(found.into_iter().collect())
}

impl Host {
    /// Names that mean this machine when no inventory has them.
    pub const LOCAL_NAMES: [&'static str; 3] = ["localhost", "127.0.0.1", "::1"];
}

/// Picks `n`, `-n`, `a:b` or `a-b` (both ends included) out of a list; `None` for what is no number.
fn pick(hosts: &[Arc<str>], index: &str) -> Option<Vec<Arc<str>>> {
    let length = i64::try_from(hosts.len()).ok()?;
    let absolute = |n: i64| if n < 0 { n + length } else { n };
    let range = index.split_once(':').or_else(|| index.trim_start_matches('-').split_once('-'));
    let (first, last) = match range {
        Some((first, last)) => {
            let first = if first.is_empty() { 0 } else { absolute(first.parse().ok()?) };
            (first, if last.is_empty() { length - 1 } else { absolute(last.parse().ok()?) })
        }
        None => {
            let n = absolute(index.parse().ok()?);
            (n, n)
        }
    };
    Some(
        (first..=last)
            .filter_map(|n| usize::try_from(n).ok())
            .filter_map(|n| hosts.get(n))
            .cloned()
            .collect(),
    )
}

/// Matches shell wildcards `*`, `?` and `[abc]` against a whole name.
pub fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            (0..=name.len()).any(|skip| name.get(skip..).is_some_and(|left| glob(rest, left)))
        }
        ([b'?', rest @ ..], [_, left @ ..]) => glob(rest, left),
        ([b'[', rest @ ..], [c, left @ ..]) => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let (set, after) = rest.split_at(end);
                in_set(set, *c) && glob(after.get(1..).unwrap_or_default(), left)
            }
            None => *c == b'[' && glob(rest, left),
        },
        ([p, rest @ ..], [c, left @ ..]) => p == c && glob(rest, left),
        _ => false,
    }
}

fn in_set(set: &[u8], c: u8) -> bool {
    match set {
        [b'!', rest @ ..] => !in_set(rest, c),
        [from, b'-', to, rest @ ..] => (*from..=*to).contains(&c) || in_set(rest, c),
        [one, rest @ ..] => *one == c || in_set(rest, c),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::inventory::Group;

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        for (group, hosts) in
            [("all", vec![]), ("etcd", vec!["e1", "e2", "e3"]), ("pg", vec!["p1", "p2", "e1"])]
        {
            let hosts: IndexSet<Arc<str>> = hosts.into_iter().map(Arc::from).collect();
            for name in &hosts {
                let host = Host {
                    name: name.clone(),
                    span: None,
                    file: "hosts".into(),
                    vars: crate::expr::Dict::new(),
                };
                inventory.hosts.entry(name.clone()).or_insert(host);
            }
            let group = Group {
                name: group.into(),
                span: None,
                hosts,
                children: indexmap::IndexMap::new(),
                vars: crate::expr::Dict::new(),
                depth: 1,
                priority: 1,
            };
            inventory.groups.insert(group.name.clone(), group);
        }
        inventory
    }

    fn matched(pattern: &str) -> String {
        hosts(&inventory(), pattern).unwrap().hosts.join(" ")
    }

    #[test]
    fn patterns_mean_what_ansible_means() {
        assert_eq!(matched("all"), "e1 e2 e3 p1 p2");
        assert_eq!(matched("etcd:pg"), "e1 e2 e3 p1 p2");
        assert_eq!(matched("pg,&etcd"), "e1");
        assert_eq!(matched("!etcd:pg"), "p1 p2");
        assert_eq!(matched("!etcd"), "p1 p2");
        assert_eq!(matched("e*"), "e1 e2 e3");
        assert_eq!(matched("~e[12]"), "e1 e2");
        assert_eq!(matched("etcd[0]"), "e1");
        assert_eq!(matched("etcd[0:1]"), "e1 e2");
        assert_eq!(matched("etcd[-1]"), "e3");
        assert_eq!(matched("etcd[1:]"), "e2 e3");
        assert_eq!(matched("localhost"), "localhost");
        assert_eq!(matched("p[12]"), "");
    }

    #[test]
    fn parts_that_mean_no_host_are_told() {
        assert_eq!(hosts(&inventory(), "etcd:nope").unwrap().unmatched, vec!["nope"]);
    }

    #[test]
    fn a_broken_pattern_is_an_error() {
        assert!(matches!(hosts(&inventory(), "~("), Err(PatternError::Regex { .. })));
        assert!(matches!(hosts(&inventory(), "etcd[x]"), Err(PatternError::Index { .. })));
    }
}
