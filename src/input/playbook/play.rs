//! Playbooks: a list of plays and of imported playbooks.

use std::path::Path;
use std::sync::Arc;

use crate::expr::{Dict, Value};
use crate::input::playbook::args;
use crate::input::playbook::keywords::{self, Level};
use crate::input::playbook::parse::Parser;
use crate::input::playbook::tree::{Condition, Play, VarsFile};
use crate::source::{Diagnostic, Node, NodeValue, Span, Spanned};

/// An entry of a playbook.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Play(Box<Play>),
    Import(ImportPlaybook),
}

/// `import_playbook`, with what it hands to the plays it brings in.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportPlaybook {
    pub file: Spanned<Arc<str>>,
    pub vars: Dict,
    pub tags: Vec<Value>,
    pub when: Vec<Condition>,
}

/// Reads a playbook's document.
pub fn entries(parser: &mut Parser<'_>, path: &Path, document: &Node) -> Vec<Entry> {
    if document.is_null() {
        return Vec::new();
    }
    let Some(items) = document.as_list() else {
        let message = format!("a playbook is a list of plays, and this is {}", document.kind());
        let hint = "begin each play with `- name:` and `hosts:`";
        parser.out.push(Diagnostic::error("playbook", message).at(document.span).hint(hint));
        return Vec::new();
    };
    items.iter().filter_map(|item| entry(parser, path, item)).collect()
}

fn entry(parser: &mut Parser<'_>, path: &Path, node: &Node) -> Option<Entry> {
    let Some(fields) = node.as_map() else {
        let message = format!("a play is a mapping, and this is {}", node.kind());
        let hint = "begin each play with `- name:` and `hosts:`";
        parser.out.push(Diagnostic::error("playbook", message).at(node.span).hint(hint));
        return None;
    };
    let import =
        fields.iter().find(|(k, _)| k.as_str().is_some_and(|n| args::short_name(n) == "import_playbook"));
    match import {
        Some((key, value)) => import_playbook(parser, node, key, value).map(Entry::Import),
        None => play(parser, path, node.span, fields).map(|play| Entry::Play(Box::new(play))),
    }
}

fn import_playbook(parser: &mut Parser<'_>, node: &Node, key: &Node, value: &Node) -> Option<ImportPlaybook> {
    let Some(file) = value.as_str().filter(|text| !text.contains("{{")) else {
        let message = "`import_playbook` names a file in plain text";
        let hint = "imports happen before any variable is known";
        parser.out.push(Diagnostic::error("import-playbook", message).at(value.span).hint(hint));
        return None;
    };
    let mut found = ImportPlaybook {
        file: Spanned::new(file.into(), value.span),
        vars: Dict::new(),
        tags: Vec::new(),
        when: Vec::new(),
    };
    for (name, value) in node.as_map().unwrap_or_default() {
        match name.as_str().unwrap_or_default() {
            "name" => {}
            "vars" => found.vars = parser.variables(value),
            "when" => found.when = parser.conditions(value, "when"),
            "tags" => {
                let (common, _) =
                    parser.play_common(std::slice::from_ref(&(name.clone(), value.clone())), node.span);
                found.tags = common.tags;
            }
            _ if name.span == key.span => {}
            other => {
                let message = format!("`{other}` is no keyword of `import_playbook`");
                let hint = "it takes `name`, `vars`, `tags` and `when`";
                parser.out.push(Diagnostic::error("unknown-keyword", message).at(name.span).hint(hint));
            }
        }
    }
    Some(found)
}

fn play(parser: &mut Parser<'_>, path: &Path, span: Span, entries: &[(Node, Node)]) -> Option<Play> {
    let (common, left) = parser.play_common(entries, span);
    for (key, _) in &left {
        if key.as_str().is_none_or(|name| keywords::find(name, Level::Play).is_none()) {
            parser.unknown_keyword(key, Level::Play);
        }
    }
    let node = |name: &str| left.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value);
    let value = |name: &str| node(name).filter(|n| !n.is_null()).map(Value::from_node);
    let place =
        common.name.as_ref().and_then(|n| n.marks.origin).unwrap_or(Span { end: span.start + 1, ..span });
    let Some(hosts) = node("hosts").and_then(pattern) else {
        let at = node("hosts").map_or(place, |n| n.span);
        let hint = "add `hosts: GROUP`, a pattern or a list of patterns";
        parser.out.push(Diagnostic::error("no-hosts", "this play names no hosts").at(at).hint(hint));
        return None;
    };
    let statements = |parser: &mut Parser<'_>, name: &str| {
        node(name).map(|node| parser.statements(node, Level::Task)).unwrap_or_default()
    };
    Some(Play {
        span: place,
        playbook: path.to_path_buf(),
        hosts,
        gather_facts: value("gather_facts"),
        gather_subset: value("gather_subset"),
        serial: match node("serial") {
            None => Vec::new(),
            Some(node) => match node.as_list() {
                Some(items) => items.iter().map(Value::from_node).collect(),
                None => vec![Value::from_node(node)],
            },
        },
        max_fail_percentage: value("max_fail_percentage"),
        vars_files: node("vars_files").map(vars_files).unwrap_or_default(),
        pre_tasks: statements(parser, "pre_tasks"),
        roles: match node("roles") {
            None => Vec::new(),
            Some(node) => match node.as_list() {
                Some(items) => items.iter().filter_map(|item| parser.role_use(item)).collect(),
                None if node.is_null() => Vec::new(),
                None => {
                    let message = format!("`roles` must be a list, and this is {}", node.kind());
                    let hint = "begin each role with `- `";
                    parser.out.push(Diagnostic::error("keyword-shape", message).at(node.span).hint(hint));
                    Vec::new()
                }
            },
        },
        tasks: statements(parser, "tasks"),
        post_tasks: statements(parser, "post_tasks"),
        handlers: node("handlers").map(|node| parser.handlers(node)).unwrap_or_default(),
        common,
    })
}

/// Returns `hosts:` as one pattern; a list means the union.
fn pattern(node: &Node) -> Option<Spanned<Arc<str>>> {
    let text: Arc<str> = match &node.value {
        NodeValue::String(text) if !text.trim().is_empty() => Arc::clone(text),
        NodeValue::List(items) if !items.is_empty() => {
            let parts: Option<Vec<Arc<str>>> = items.iter().map(|i| i.as_str().map(Arc::from)).collect();
            parts?.join(",").into()
        }
        _ => return None,
    };
    Some(Spanned::new(text, node.span))
}

fn vars_files(node: &Node) -> Vec<VarsFile> {
    let one = |node: &Node| match node.as_list() {
        Some(items) => VarsFile {
            span: node.span,
            candidates: items.iter().map(Value::from_node).collect(),
            first_found: true,
        },
        None => VarsFile { span: node.span, candidates: vec![Value::from_node(node)], first_found: false },
    };
    match node.as_list() {
        Some(items) => items.iter().map(one).collect(),
        None if node.is_null() => Vec::new(),
        None => vec![one(node)],
    }
}

impl ImportPlaybook {
    /// Hands variables, tags and conditions to a play that came in by this import.
    pub fn apply(&self, play: &mut Play) {
        let mut vars = self.vars.clone();
        vars.extend(std::mem::take(&mut play.common.vars));
        play.common.vars = vars;
        play.common.tags.extend(self.tags.iter().cloned());
        let mut when = self.when.clone();
        when.append(&mut play.common.when);
        play.common.when = when;
    }
}
