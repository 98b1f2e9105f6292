//! `sync`: the agreed synchronous set.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cluster::{MemberName, SyncState};
use crate::contract::ContractError;
use crate::contract::document::Document;

/// Reads the value of the key.
///
/// # Errors
/// It is not a JSON object.
pub fn parse(text: &str) -> Result<SyncState, ContractError> {
    let document = Document::parse("the sync key", text)?;
    let standbys = document.text("sync_standby").unwrap_or_default();
    Ok(SyncState {
        leader: document.text("leader").and_then(|name| name.parse().ok()),
        standbys: standbys.split(',').filter_map(|name| name.trim().parse().ok()).collect(),
        quorum: u32::try_from(document.integer("quorum").unwrap_or(0)).unwrap_or(0),
    })
}

/// Writes the key as Patroni does: names sorted, with commas; an empty set is null.
pub fn to_text(state: &SyncState) -> String {
    let mut document = Document::default();
    let name = |name: &MemberName| Value::from(name.as_str());
    document.set("leader", state.leader.as_ref().map_or(Value::Null, name));
    document.set("sync_standby", join(&state.standbys).map_or(Value::Null, Value::from));
    document.set("quorum", state.quorum);
    document.to_text()
}

fn join(names: &BTreeSet<MemberName>) -> Option<String> {
    let names: Vec<&str> = names.iter().map(MemberName::as_str).collect();
    (!names.is_empty()).then(|| names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_patroni_writes_is_read_and_written_alike() {
        for text in [
            r#"{"leader":"db1","sync_standby":"db2,db3","quorum":0}"#,
            r#"{"leader":"db1","sync_standby":null,"quorum":0}"#,
        ] {
            assert_eq!(to_text(&parse(text).unwrap()), text);
        }
    }
}
