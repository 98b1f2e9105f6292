//! `history`: where each timeline was left, why, when and who led next.

use serde_json::Value;

use crate::cluster::{History, HistoryEntry, Lsn, Timeline};
use crate::contract::ContractError;

/// One line: the timeline that ended, with the time and the leader that came next where they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    pub entry: HistoryEntry,
    pub time: Option<String>,
    pub leader: Option<String>,
}

/// Reads the value of the key; lines that make no sense are left out.
///
/// # Errors
/// It is not a JSON list.
pub fn parse(text: &str) -> Result<Vec<HistoryLine>, ContractError> {
    let wrong = |why: String| ContractError { what: "the history key", expected: "a JSON list", why };
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let Value::Array(lines) = value else {
        return Err(wrong("it is something else".to_owned()));
    };
    Ok(lines.iter().filter_map(line).collect())
}

fn line(value: &Value) -> Option<HistoryLine> {
    let fields = value.as_array()?;
    let text = |index: usize| fields.get(index).and_then(Value::as_str).map(str::to_owned);
    Some(HistoryLine {
        entry: HistoryEntry {
            timeline: Timeline(u32::try_from(fields.first()?.as_u64()?).ok()?),
            switch_point: Lsn(fields.get(1)?.as_u64()?),
            reason: text(2).unwrap_or_default(),
            leader: None,
        },
        time: text(3),
        leader: text(4),
    })
}

/// Writes the lines as Patroni does.
pub fn to_text(lines: &[HistoryLine]) -> String {
    to_json(lines).to_string()
}

/// Returns the lines as Patroni shows them.
pub fn to_json(lines: &[HistoryLine]) -> Value {
    let lines = lines.iter().map(|HistoryLine { entry, time, leader }| {
        let mut fields = vec![
            Value::from(entry.timeline.0),
            Value::from(entry.switch_point.0),
            Value::from(entry.reason.as_str()),
        ];
        fields.extend(time.as_deref().map(Value::from));
        fields.extend(time.as_ref().and(leader.as_deref()).map(Value::from));
        Value::Array(fields)
    });
    Value::Array(lines.collect())
}

/// Returns what decisions need of it.
pub fn to_history(lines: &[HistoryLine]) -> History {
    let entry = |line: &HistoryLine| HistoryEntry {
        leader: line.leader.as_ref().and_then(|name| name.parse().ok()),
        ..line.entry.clone()
    };
    History(lines.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_time_are_kept() {
        let text = r#"[[1,50331808,"no recovery target specified"],[2,67109024,"no recovery target specified","2026-01-31T12:00:00.123456+00:00","db2"]]"#;

        assert_eq!(to_text(&parse(text).unwrap()), text);
    }
}
