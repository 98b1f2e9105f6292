//! Host ranges `db[1:3]`, `db[01:10]`, `db[a:c]`, `db[1:9:2]`, and ports behind a colon.

/// Most hosts that one range line may stand for; a slip of the pen should not fill the memory.
const HOSTS_MAX: usize = 100_000;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError {
    #[error("the range `[{0}]` is neither of numbers nor of single letters")]
    Malformed(String),
    #[error("the range `[{0}]` ends before it begins")]
    Backwards(String),
    #[error("the bounds of the range `[{0}]` have leading zeros, but not the same width")]
    Width(String),
    #[error("the range `[{0}]` has a step of zero")]
    Step(String),
    #[error("the ranges stand for more than {HOSTS_MAX} hosts")]
    Many,
}

/// Returns the names that a host entry stands for; of several ranges the first one changes slowest.
///
/// # Errors
/// A range that is malformed, or ranges that stand for too many hosts.
pub fn expand(pattern: &str) -> Result<Vec<String>, RangeError> {
    let Some((before, inside, after)) = first_range(pattern) else { return Ok(vec![pattern.to_owned()]) };
    let tails = expand(after)?;
    let values = values(inside)?;
    if values.len().saturating_mul(tails.len()) > HOSTS_MAX {
        return Err(RangeError::Many);
    }
    Ok(values
        .iter()
        .flat_map(|value| tails.iter().map(move |tail| format!("{before}{value}{tail}")))
        .collect())
}

/// Takes `name:2222` apart; an IPv6 address must stand in brackets to have a port.
pub fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            let closed = name.matches('[').count() == name.matches(']').count();
            let is_v6 = name.contains(':') && !name.contains('[');
            match port.parse() {
                Ok(port) if closed && !is_v6 => (name, Some(port)),
                _ => (entry, None),
            }
        }
        _ => (entry, None),
    }
}

fn first_range(pattern: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = pattern.split_once('[')?;
    let (inside, after) = rest.split_once(']')?;
    // `[2001:db8::1]` is an address in brackets, no range.
    let is_address = inside.parse::<std::net::Ipv6Addr>().is_ok();
    (inside.contains(':') && !is_address).then_some((before, inside, after))
}

fn values(inside: &str) -> Result<Vec<String>, RangeError> {
    let malformed = || RangeError::Malformed(inside.to_owned());
    let mut parts = inside.split(':');
    let (first, last) = (parts.next().ok_or_else(malformed)?, parts.next().ok_or_else(malformed)?);
    let first = if first.is_empty() { "0" } else { first };
    let step: usize = parts.next().map_or(Ok(1), str::parse).map_err(|_| malformed())?;
    if parts.next().is_some() {
        return Err(malformed());
    }
    if step == 0 {
        return Err(RangeError::Step(inside.to_owned()));
    }
    let backwards = || RangeError::Backwards(inside.to_owned());
    if let (Ok(from), Ok(to)) = (first.parse::<usize>(), last.parse::<usize>()) {
        let width = if first.len() > 1 && first.starts_with('0') { first.len() } else { 0 };
        if width > 0 && width != last.len() {
            return Err(RangeError::Width(inside.to_owned()));
        }
        if from > to {
            return Err(backwards());
        }
        if (to - from) / step > HOSTS_MAX {
            return Err(RangeError::Many);
        }
        return Ok((from..=to).step_by(step).map(|n| format!("{n:0width$}")).collect());
    }
    let letter = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii_alphabetic() => Some(*byte),
        _ => None,
    };
    match (letter(first), letter(last)) {
        (Some(from), Some(to)) if from <= to => {
            Ok((from..=to).step_by(step).map(|b| char::from(b).to_string()).collect())
        }
        (Some(_), Some(_)) => Err(backwards()),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_their_width_and_know_letters_and_steps() {
        assert_eq!(expand("h[1:3]").unwrap(), ["h1", "h2", "h3"]);
        assert_eq!(expand("h[08:10].x").unwrap(), ["h08.x", "h09.x", "h10.x"]);
        assert_eq!(expand("h[a:c]").unwrap(), ["ha", "hb", "hc"]);
        assert_eq!(expand("h[1:9:4]").unwrap(), ["h1", "h5", "h9"]);
        assert_eq!(expand("r[1:2]h[a:b]").unwrap(), ["r1ha", "r1hb", "r2ha", "r2hb"]);
        assert_eq!(expand("plain").unwrap(), ["plain"]);
        assert_eq!(expand("[2001:db8::1]").unwrap(), ["[2001:db8::1]"]);
    }

    #[test]
    fn broken_ranges_are_named() {
        assert_eq!(expand("h[3:1]"), Err(RangeError::Backwards("3:1".into())));
        assert_eq!(expand("h[1:x]"), Err(RangeError::Malformed("1:x".into())));
        assert_eq!(expand("h[01:100]"), Err(RangeError::Width("01:100".into())));
        assert_eq!(expand("h[1:999999999]"), Err(RangeError::Many));
    }

    #[test]
    fn a_port_is_told_from_a_range_and_from_an_address() {
        assert_eq!(split_port("h1:2222"), ("h1", Some(2222)));
        assert_eq!(split_port("h[1:3]:22"), ("h[1:3]", Some(22)));
        assert_eq!(split_port("h[1:3]"), ("h[1:3]", None));
        assert_eq!(split_port("2001:db8::1"), ("2001:db8::1", None));
    }
}
