//! `explain`: why each member did what it did, also when it is gone.

use crate::contract::rest::ClusterView;

/// Writes the last reasons of all members, or of one: newest first, or all that are kept in their order.
pub fn explain(view: &ClusterView, member: Option<&str>, all: bool) -> String {
    let mut lines = Vec::new();
    for (name, told) in view.reasons.iter().filter(|(name, _)| member.is_none_or(|member| member == *name)) {
        let here = view.member_named(name);
        let state = here.and_then(|document| document.document().text("state")).unwrap_or("gone");
        lines.push(format!("{name} ({}, {state}):", view.role(name)));
        let shown = if all { told.len() } else { 3.min(told.len()) };
        for entry in told.iter().skip(told.len() - shown) {
            let actions = if entry.actions.is_empty() {
                String::new()
            } else {
                format!(" [{}]", entry.actions.join(", "))
            };
            lines.push(format!("  {}  {}  {}{actions}", entry.time, entry.reason, entry.text));
        }
        if told.is_empty() {
            lines.push("  it has told nothing".to_owned());
        }
    }
    lines.join("\n")
}
