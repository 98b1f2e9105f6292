//! The permanent slots and the slots to be left alone, as the dynamic configuration writes them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::slot::{SlotKind, SlotMatcher, is_slot_name};
use crate::settings::Complaint;

/// The keys of permanent slots; the first that is there counts.
const PERMANENT: [&str; 3] = ["permanent_replication_slots", "permanent_slots", "slots"];

/// Reads the permanent slots.
pub(super) fn permanent(document: &Value, complaints: &mut Vec<Complaint>) -> BTreeMap<String, SlotKind> {
    let section = PERMANENT.iter().find_map(|key| document.get(key).and_then(Value::as_object));
    let mut slots = BTreeMap::new();
    for (name, value) in section.into_iter().flatten() {
        match kind(value).filter(|_| is_slot_name(name)) {
            Some(kind) => {
                slots.insert(name.clone(), kind);
            }
            None => complaints.push(Complaint::Slot { name: name.clone() }),
        }
    }
    slots
}

/// Returns the kind: what is not said follows from what is; a value without any attribute means physical.
fn kind(value: &Value) -> Option<SlotKind> {
    let map = match value {
        Value::Null | Value::Bool(false) => return Some(SlotKind::Physical),
        Value::Number(number) if number.as_f64() == Some(0.0) => return Some(SlotKind::Physical),
        Value::String(text) if text.is_empty() => return Some(SlotKind::Physical),
        Value::Object(map) => map,
        Value::Bool(true) | Value::Number(_) | Value::String(_) | Value::Array(_) => return None,
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (text("type"), text("database"), text("plugin")) {
        (Some("logical") | None, Some(database), Some(plugin)) => {
            Some(SlotKind::Logical { database: database.to_owned(), plugin: plugin.to_owned() })
        }
        (Some("physical"), _, _) | (None, _, _) => Some(SlotKind::Physical),
        (Some(_), _, _) => None,
    }
}

/// Reads the descriptions of slots that are left alone.
pub(super) fn ignored(document: &Value) -> Vec<SlotMatcher> {
    let list = document.get("ignore_slots").and_then(Value::as_array);
    let matcher = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        SlotMatcher {
            name: text("name"),
            database: text("database"),
            plugin: text("plugin"),
            physical: text("type").map(|kind| kind == "physical"),
        }
    };
    // A description of nothing would match every slot.
    list.into_iter().flatten().map(matcher).filter(|matcher| *matcher != SlotMatcher::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kind_follows_from_what_is_given() {
        let document = json!({"slots": {
            "a": 0, "b": null, "c": {"type": "physical"}, "d": {"database": "x", "plugin": "y"},
            "e": {"type": "logical"}, "Bad-Name": 0, "f": 7,
        }});
        let mut complaints = Vec::new();

        let slots = permanent(&document, &mut complaints);

        let logical = SlotKind::Logical { database: "x".to_owned(), plugin: "y".to_owned() };
        let physical = |name: &str| (name.to_owned(), SlotKind::Physical);
        let expected = [physical("a"), physical("b"), physical("c"), ("d".to_owned(), logical)];
        assert_eq!(slots, expected.into());
        assert_eq!(complaints.len(), 3);
    }

    #[test]
    fn an_older_key_wins_and_an_empty_description_matches_nothing() {
        let document =
            json!({"slots": {"a": 0}, "permanent_slots": {"b": 0}, "ignore_slots": [{}, {"name": "x"}]});

        assert!(permanent(&document, &mut Vec::new()).contains_key("b"));
        assert_eq!(ignored(&document).len(), 1);
    }
}
