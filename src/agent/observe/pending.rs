//! Which parameters wait for a restart of the server.

use serde_json::{Map, Value};

use crate::agent::instance::Instance;

/// What a restart is needed for: name, value, and whether a new value waits for one.
pub(super) type RestartSettings = Vec<(String, String, bool)>;

/// Returns the parameters that wait for a restart, with both values.
pub(super) fn pending_restart(settings: &RestartSettings, instance: &Instance) -> Map<String, Value> {
    let (line, file) = crate::postgres::conf::split(&instance.parameters());
    let mut found = Map::new();
    let mut note = |name: &str, old: &str, new: &str| {
        found.insert(name.to_owned(), serde_json::json!({"old_value": old, "new_value": new}));
    };
    for (name, setting, waits) in settings {
        if let Some(wanted) = line.get(name) {
            if !same_value(wanted, setting) {
                note(name, setting, wanted);
            }
        } else if *waits {
            let wanted = file.get(name).cloned().unwrap_or_default();
            note(name, setting, &wanted);
        }
    }
    found
}

/// Compares a wanted value with what the server shows: numbers as numbers, truth values as truth values.
fn same_value(wanted: &str, shown: &str) -> bool {
    let flag = |text: &str| match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    };
    let number = |text: &str| text.trim().parse::<i64>().ok();
    wanted.eq_ignore_ascii_case(shown)
        || (number(wanted).is_some() && number(wanted) == number(shown))
        || (matches!(shown, "on" | "off") && flag(wanted) == flag(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_as_postgres_means_them() {
        assert!(same_value("on", "on"));
        assert!(same_value("true", "on"));
        assert!(same_value("0100", "100"));
        assert!(!same_value("101", "100"));
        assert!(!same_value("1", "off"));
    }
}
