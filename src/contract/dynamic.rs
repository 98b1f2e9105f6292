//! Dynamic configuration: what `config` in etcd holds, how it is patched, and what it means for one member.

use serde_json::{Map, Value};

/// Changes `target` by `patch`: objects go deep, null removes, everything else replaces. Returns whether anything
/// changed. Equal numbers and texts (`5` and `"5"`) count as a change, as they are written.
pub fn patch(target: &mut Map<String, Value>, changes: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, value) in changes {
        match value {
            Value::Null => changed |= target.shift_remove(key).is_some(),
            Value::Object(inner) => match target.get_mut(key) {
                Some(Value::Object(existing)) => changed |= patch(existing, inner),
                // With the nulls in it, which then are values: so permanent slots without attributes may be written.
                _ => {
                    target.insert(key.clone(), value.clone());
                    changed = true;
                }
            },
            other => {
                if target.get(key) != Some(other) {
                    target.insert(key.clone(), other.clone());
                    changed = true;
                }
            }
        }
    }
    changed
}

/// Parameters of Postgres that only the dynamic configuration sets, since all members must agree on them.
pub const GLOBAL_PARAMETERS: [&str; 10] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_replication_slots",
    "wal_level",
    "wal_log_hints",
    "hot_standby",
    "track_commit_timestamp",
];

/// Returns the `postgresql` section that counts for a member: the dynamic one, over which the member's own file wins.
/// `parameters` are joined key by key; global ones are taken from the dynamic configuration alone.
pub fn effective_postgresql(dynamic: &Value, local: &Map<String, Value>) -> Map<String, Value> {
    let mut section = dynamic.get("postgresql").and_then(Value::as_object).cloned().unwrap_or_default();
    // Where Postgres is, and who signs in, is the member's own.
    for key in [
        "listen",
        "connect_address",
        "proxy_address",
        "data_dir",
        "config_dir",
        "bin_dir",
        "pgpass",
        "authentication",
    ] {
        section.shift_remove(key);
    }
    for (key, value) in local {
        if key == "parameters" {
            let mut parameters =
                section.get("parameters").and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in value.as_object().into_iter().flatten() {
                if !GLOBAL_PARAMETERS.contains(&name.as_str()) {
                    parameters.insert(name.clone(), value.clone());
                }
            }
            section.insert(key.clone(), Value::Object(parameters));
        } else {
            section.insert(key.clone(), value.clone());
        }
    }
    section
}

/// Returns a parameter's value as it is written in postgresql.conf, or none for null.
pub fn parameter_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) => Some(items.iter().filter_map(parameter_text).collect::<Vec<_>>().join(",")),
        Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("not an object") };
        map
    }

    #[test]
    fn patching_goes_deep_and_null_removes() {
        let mut target = map(json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}}}));

        let changed = patch(&mut target, &map(json!({"ttl": null, "postgresql": {"parameters": {"b": 3}}})));

        assert!(changed);
        assert_eq!(Value::Object(target), json!({"postgresql": {"parameters": {"a": 1, "b": 3}}}));
    }

    #[test]
    fn nulls_in_what_is_new_are_values() {
        let mut target = map(json!({"ttl": 30}));

        assert!(patch(&mut target, &map(json!({"slots": {"a": null}}))));
        assert_eq!(Value::Object(target.clone()), json!({"ttl": 30, "slots": {"a": null}}));

        assert!(patch(&mut target, &map(json!({"slots": {"a": null, "b": {"type": "physical"}}}))));
        assert_eq!(Value::Object(target), json!({"ttl": 30, "slots": {"b": {"type": "physical"}}}));
    }

    #[test]
    fn a_patch_that_changes_nothing_says_so() {
        let mut target = map(json!({"ttl": 30}));

        assert!(!patch(&mut target, &map(json!({"ttl": 30, "absent": null}))));
    }

    #[test]
    fn the_file_wins_except_for_what_all_must_agree_on() {
        let dynamic = json!({"postgresql": {"parameters": {"max_connections": 50, "work_mem": "4MB"}, "bin_dir": "/x"}});
        let local = map(json!({"bin_dir": "/y", "parameters": {"max_connections": 99, "work_mem": "8MB"}}));

        let section = effective_postgresql(&dynamic, &local);

        assert_eq!(
            Value::Object(section),
            json!({"parameters": {"max_connections": 50, "work_mem": "8MB"}, "bin_dir": "/y"})
        );
    }
}
