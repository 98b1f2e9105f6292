//! `failover`: a person's wish that another member lead.

use serde_json::Value;

use crate::cluster::{FailoverRequest, UnixMs};
use crate::contract::ContractError;
use crate::contract::document::Document;

/// What a spent key holds.
pub const SPENT: &str = "{}";

/// Reads the value of the key: JSON with `leader`, `member` and `scheduled_at`, or the old form `LEADER:CANDIDATE`.
/// `{}` and an empty text ask for nothing.
///
/// # Errors
/// It is JSON, but not an object.
pub fn parse(text: &str) -> Result<FailoverRequest, ContractError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(FailoverRequest::default());
    }
    if !text.starts_with(['{', '[', '"']) {
        let (leader, candidate) = text.split_once(':').unwrap_or((text, ""));
        return Ok(FailoverRequest {
            leader: leader.trim().parse().ok(),
            candidate: candidate.trim().parse().ok(),
            scheduled_at: None,
        });
    }
    let document = Document::parse("the failover key", text)?;
    let name = |key: &str| document.text(key).and_then(|name| name.parse().ok());
    Ok(FailoverRequest {
        leader: name("leader"),
        candidate: name("member").or_else(|| name("candidate")),
        scheduled_at: document.text("scheduled_at").and_then(parse_time),
    })
}

/// Writes the key as Patroni does.
pub fn to_text(request: &FailoverRequest) -> String {
    let mut document = Document::default();
    if let Some(leader) = &request.leader {
        document.set("leader", leader.as_str());
    }
    if let Some(candidate) = &request.candidate {
        document.set("member", candidate.as_str());
    }
    document.set_or_remove("scheduled_at", request.scheduled_at.map(|at| Value::from(format_time(at))));
    document.to_text()
}

/// Reads an ISO 8601 time with its offset; without one it is refused, as its meaning would be a guess.
pub fn parse_time(text: &str) -> Option<UnixMs> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some(UnixMs(timestamp.as_millisecond()))
}

/// Writes a time as Python's `isoformat` does in UTC.
pub fn format_time(at: UnixMs) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_millisecond(at.0) else {
        return String::new();
    };
    let form =
        if at.0.rem_euclid(1000) == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S.%6f+00:00" };
    timestamp.to_zoned(jiff::tz::TimeZone::UTC).strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_key_asks_for_nothing() {
        assert!(parse("{}").unwrap().is_spent());
        assert!(parse("").unwrap().is_spent());
    }

    #[test]
    fn both_spellings_are_read() {
        let json = parse(r#"{"leader":"a","member":"b"}"#).unwrap();

        assert_eq!(json, parse("a:b").unwrap());
        assert_eq!(to_text(&json), r#"{"leader":"a","member":"b"}"#);
    }

    #[test]
    fn times_keep_their_meaning() {
        let at = parse_time("2026-01-31T12:00:00+02:00").unwrap();

        assert_eq!(format_time(at), "2026-01-31T10:00:00+00:00");
        assert_eq!(parse_time("2026-01-31T12:00:00"), None);
    }
}
