//! Inventories in YAML form: groups with `hosts`, `vars` and `children`.

use std::path::Path;
use std::sync::Arc;

use crate::expr::Value;
use crate::input::inventory::build::Builder;
use crate::source::{Diagnostic, Node, suggest};

const GROUP_KEYS: [&str; 3] = ["hosts", "vars", "children"];

/// Adds the document's hosts, groups and variables to `builder`.
pub fn read(builder: &mut Builder<'_>, path: &Path, document: &Node) {
    let Some(groups) = document.as_map() else {
        let message = format!("an inventory must be a mapping of groups, and this is {}", document.kind());
        let hint = "write `all:` with `hosts:` and `children:` below it";
        builder.files.out.push(Diagnostic::error("inventory-syntax", message).at(document.span).hint(hint));
        return;
    };
    for (name, body) in groups {
        group(builder, path, name, body);
    }
}

fn group(builder: &mut Builder<'_>, path: &Path, name: &Node, body: &Node) -> Option<Arc<str>> {
    let text = name.key_text()?;
    builder.group(&text, name.span);
    if body.is_null() {
        return Some(text);
    }
    let Some(entries) = body.as_map() else {
        let message = format!("the group `{text}` must be a mapping, and this is {}", body.kind());
        let hint = "below a group stand `hosts:`, `vars:` and `children:`";
        builder.files.out.push(Diagnostic::error("inventory-syntax", message).at(body.span).hint(hint));
        return Some(text);
    };
    for (key, value) in entries {
        match key.as_str().unwrap_or_default() {
            "hosts" => hosts(builder, path, &text, value),
            "vars" => {
                for (name, value) in builder.files.variables_of(value, "`vars` of a group") {
                    builder.group_variable(&text, name, value);
                }
            }
            "children" => children(builder, path, &text, value),
            other => {
                let message = format!("`{other}` is no key of a group");
                let hint = suggest::did_you_mean(other, GROUP_KEYS)
                    .unwrap_or_else(|| "a group has `hosts`, `vars` and `children`".into());
                builder.files.out.push(Diagnostic::error("unknown-key", message).at(key.span).hint(hint));
            }
        }
    }
    Some(text)
}

fn hosts(builder: &mut Builder<'_>, path: &Path, group: &str, node: &Node) {
    if node.is_null() {
        return;
    }
    if let Some(name) = node.as_str() {
        builder.hosts(Some(group), name, node.span, path, Vec::new());
        return;
    }
    let Some(entries) = node.as_map() else {
        let message = format!("`hosts` must be a mapping of host names, and this is {}", node.kind());
        let hint = "write each host as a key: `db1:`, its variables below it";
        builder.files.out.push(Diagnostic::error("inventory-syntax", message).at(node.span).hint(hint));
        return;
    };
    for (name, body) in entries {
        let Some(text) = name.key_text() else { continue };
        if let Some((first, _)) = builder.duplicate_keys.remove(&name.span) {
            builder.twice(group, &text, name.span, first);
        }
        let vars = builder.files.variables_of(body, &format!("what stands below the host `{text}`"));
        builder.hosts(
            Some(group),
            &text,
            name.span,
            path,
            vars.into_iter().collect::<Vec<(Arc<str>, Value)>>(),
        );
    }
}

fn children(builder: &mut Builder<'_>, path: &Path, parent: &str, node: &Node) {
    if node.is_null() {
        return;
    }
    if let Some(name) = node.as_str() {
        builder.child(parent, name, node.span);
        return;
    }
    let Some(entries) = node.as_map() else {
        let message = format!("`children` must be a mapping of groups, and this is {}", node.kind());
        let hint = "write each child as a key: `etcd:`, its hosts below it or elsewhere";
        builder.files.out.push(Diagnostic::error("inventory-syntax", message).at(node.span).hint(hint));
        return;
    };
    for (name, body) in entries {
        if let Some(child) = group(builder, path, name, body) {
            builder.child(parent, &child, name.span);
        }
    }
}
