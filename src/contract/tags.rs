//! A member's tags: what the file says, what is shown to others, what decisions rest on.

use serde_json::{Map, Value};

use crate::cluster::Tags;
use crate::contract::document::boolean;

/// Tags that are false unless set and are shown only when true.
const SWITCHES: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

/// Reads tags; a value that makes no sense reads as not set.
pub fn read(map: &Map<String, Value>) -> Tags {
    let flag = |key: &str| map.get(key).and_then(boolean).unwrap_or(false);
    // A priority that its switch contradicts counts as not given.
    let priority = |switch: &str, key: &str| {
        number(map, key).filter(|priority| *priority > 0 || map.get(switch).and_then(boolean) != Some(false))
    };
    Tags {
        nofailover: flag("nofailover"),
        failover_priority: priority("nofailover", "failover_priority"),
        noloadbalance: flag("noloadbalance"),
        clonefrom: flag("clonefrom"),
        nosync: flag("nosync"),
        sync_priority: priority("nosync", "sync_priority"),
        replicatefrom: map.get("replicatefrom").and_then(Value::as_str).and_then(|name| name.parse().ok()),
        nostream: flag("nostream"),
    }
}

fn number(map: &Map<String, Value>, key: &str) -> Option<i64> {
    match map.get(key)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns a sentence for each switch that says another thing than the priority beside it. The switch counts.
pub fn contradictions(map: &Map<String, Value>) -> Vec<String> {
    let told = |(switch, key): (&str, &str)| {
        let on = map.get(switch).and_then(boolean)?;
        let priority = number(map, key)?;
        let word = if on { "True" } else { "False" };
        (on == (priority > 0)).then(|| {
            format!(
                "Conflicting configuration between {switch}: {word} and {key}: {priority}. Defaulting to {switch}: {word}"
            )
        })
    };
    [("nofailover", "failover_priority"), ("nosync", "sync_priority")].into_iter().filter_map(told).collect()
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
        assert_eq!(contradictions(&map), [""; 0]);
    }

    #[test]
    fn a_switch_beats_the_priority_beside_it() {
        let Value::Object(map) =
            json!({"failover_priority": "0", "nofailover": false, "nosync": true, "sync_priority": 2})
        else {
            panic!()
        };

        assert_eq!((read(&map).failover_priority(), read(&map).sync_priority()), (1, 0));
        assert_eq!(
            contradictions(&map),
            [
                "Conflicting configuration between nofailover: False and failover_priority: 0. Defaulting to nofailover: False",
                "Conflicting configuration between nosync: True and sync_priority: 2. Defaulting to nosync: True",
            ]
        );
    }
}
