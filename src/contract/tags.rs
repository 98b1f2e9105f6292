//! A member's tags: what the file says, what is shown to others, what decisions rest on.

use serde_json::{Map, Value};

use crate::cluster::Tags;
use crate::contract::document::boolean;

/// Tags that are false unless set and are shown only when true.
const SWITCHES: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

/// Reads tags; a value that makes no sense reads as not set.
pub fn read(map: &Map<String, Value>) -> Tags {
    let flag = |key: &str| map.get(key).and_then(boolean).unwrap_or(false);
    let number = |key: &str| match map.get(key)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    Tags {
        nofailover: flag("nofailover"),
        failover_priority: number("failover_priority"),
        noloadbalance: flag("noloadbalance"),
        clonefrom: flag("clonefrom"),
        nosync: flag("nosync"),
        sync_priority: number("sync_priority"),
        replicatefrom: map.get("replicatefrom").and_then(Value::as_str).and_then(|name| name.parse().ok()),
        nostream: flag("nostream"),
    }
}

/// Returns the tags that others are shown: switches only when they are on, but `nofailover` and `nosync` always when
/// a priority is set beside them; everything else as it is written.
pub fn shown(map: &Map<String, Value>) -> Map<String, Value> {
    let contradicted = |key: &str| match key {
        "nofailover" => map.contains_key("failover_priority"),
        "nosync" => map.contains_key("sync_priority"),
        _ => false,
    };
    map.iter()
        .filter(|(key, value)| {
            !SWITCHES.contains(&key.as_str()) || boolean(value) == Some(true) || contradicted(key)
        })
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn switches_that_are_off_are_not_shown() {
        let Value::Object(map) = json!({"nofailover": false, "clonefrom": true, "dc": "a"}) else { panic!() };

        assert_eq!(Value::Object(shown(&map)), json!({"clonefrom": true, "dc": "a"}));
    }

    #[test]
    fn a_contradiction_is_shown_as_written() {
        let Value::Object(map) = json!({"failover_priority": "1", "nofailover": false}) else { panic!() };

        assert_eq!(Value::Object(shown(&map)), json!({"failover_priority": "1", "nofailover": false}));
        assert_eq!(read(&map).failover_priority, Some(1));
    }
}
