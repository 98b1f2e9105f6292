//! The one YAML reader: text to nodes that know their place.

use std::collections::BTreeMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use crate::source::diagnostic::{Diagnostic, Diagnostics};
use crate::source::node::{Node, NodeValue};
use crate::source::scalar;
use crate::source::span::{FileId, Span};

mod syntax;

/// Most nodes that aliases (`*name`) may add to one file.
///
/// Nine lines of nested aliases stand for a billion nodes; real inventories share some hundreds.
const ALIAS_NODES_MAX: usize = 100_000;

/// Deepest nesting that is read; whoever walks a node may recurse.
const DEPTH_MAX: usize = 100;

/// Reads all documents of `text`. What was complete before a syntax error is returned beside it.
pub fn read(file: FileId, text: &str) -> (Vec<Node>, Diagnostics) {
    let mut builder = Builder::new(file, text);
    let mut parser = Parser::new_from_str(builder.text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => {
                if builder.event(event, span).is_err() {
                    break;
                }
            }
            Err(error) => {
                builder.syntax_error(&error);
                break;
            }
        }
    }
    (builder.documents, builder.diagnostics)
}

/// A collection that is not closed.
struct Open {
    span: Span,
    anchor: usize,
    tag: Option<Arc<str>>,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<(Node, Node)>, key: Option<Node> },
}

/// Reading cannot go on; the reason is among the diagnostics.
struct Stop;

struct Builder<'a> {
    file: FileId,
    text: &'a str,
    /// Bytes of a byte order mark before `text`.
    skipped: usize,
    /// Byte offset of every character, or `None` where both are the same.
    offsets: Option<Vec<usize>>,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    alias_nodes: usize,
    diagnostics: Diagnostics,
}

impl<'a> Builder<'a> {
    fn new(file: FileId, text: &'a str) -> Builder<'a> {
        let body = text.strip_prefix('\u{feff}').unwrap_or(text);
        let offsets = (!body.is_ascii()).then(|| body.char_indices().map(|(at, _)| at).collect());
        Builder {
            file,
            text: body,
            skipped: text.len() - body.len(),
            offsets,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: BTreeMap::new(),
            alias_nodes: 0,
            diagnostics: Diagnostics::default(),
        }
    }

    fn byte(&self, character: usize) -> usize {
        let at = match &self.offsets {
            Some(table) => table.get(character).copied().unwrap_or(self.text.len()),
            None => character.min(self.text.len()),
        };
        at + self.skipped
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        Span::new(self.file, self.byte(span.start.index()), self.byte(span.end.index()))
    }

    fn event(&mut self, event: Event, at: saphyr_parser::Span) -> Result<(), Stop> {
        let span = self.span(at);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node {
                    span,
                    value: scalar_value(&text, style, tag.as_deref()),
                    tag: local(tag.as_deref()),
                };
                self.finished(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(span, anchor, tag.as_deref(), OpenKind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(span, anchor, tag.as_deref(), OpenKind::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let span = Span { end: span.end.max(open.span.end), ..open.span };
                let value = match open.kind {
                    OpenKind::List(items) => NodeValue::List(items),
                    OpenKind::Map { entries, .. } => NodeValue::Map(self.mapping(entries)),
                };
                self.finished(Node { span, value, tag: open.tag }, open.anchor)
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::DocumentStart(_) | Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd => Ok(()),
        }
    }

    fn begin(&mut self, span: Span, anchor: usize, tag: Option<&Tag>, kind: OpenKind) -> Result<(), Stop> {
        if self.open.len() >= DEPTH_MAX {
            let message = format!("lists and mappings are nested more than {DEPTH_MAX} deep");
            self.diagnostics.push(Diagnostic::error("yaml-syntax", message).at(span));
            return Err(Stop);
        }
        self.open.push(Open { span, anchor, tag: local(tag), kind });
        Ok(())
    }

    fn finished(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.documents.push(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    if node.key_text().is_none() {
                        self.diagnostics.push(syntax::collection_as_key(&node));
                        return Err(Stop);
                    }
                    *key = Some(node);
                }
            },
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&anchor) else {
            let message = "this alias stands inside the value it refers to";
            self.diagnostics.push(Diagnostic::error("yaml-syntax", message).at(span));
            return Err(Stop);
        };
        self.alias_nodes += size(node);
        if self.alias_nodes > ALIAS_NODES_MAX {
            let message = format!("the aliases of this file stand for more than {ALIAS_NODES_MAX} values");
            self.diagnostics.push(Diagnostic::error("yaml-syntax", message).at(span));
            return Err(Stop);
        }
        let node = node.clone();
        self.finished(node, 0)
    }

    /// Applies merge keys and drops duplicates. What is merged comes first, as PyYAML builds it.
    fn mapping(&mut self, entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
        let is_merge = |key: &Node| key.as_str() == Some("<<");
        let mut result: Vec<(Node, Node)> = Vec::with_capacity(entries.len());
        let mut places: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (key, value) in entries.iter().filter(|(key, _)| is_merge(key)) {
            match merged(value) {
                Some(pairs) => pairs.into_iter().for_each(|pair| put(&mut result, &mut places, pair)),
                None => {
                    let message =
                        format!("`<<` merges a mapping or a list of mappings, and this is {}", value.kind());
                    self.diagnostics.push(
                        Diagnostic::error("yaml-syntax", message).at(value.span).label(key.span, "merge key"),
                    );
                }
            }
        }
        let mut own: BTreeMap<Arc<str>, Span> = BTreeMap::new();
        for (key, value) in entries.into_iter().filter(|(key, _)| !is_merge(key)) {
            let Some(text) = key.key_text() else { continue };
            if let Some(first) = own.insert(text.clone(), key.span) {
                self.diagnostics.push(
                    Diagnostic::warning(
                        "duplicate-key",
                        format!("`{text}` is set twice in this mapping; the last one counts"),
                    )
                    .at(key.span)
                    .label(first, "first set here")
                    .hint("remove one of the two"),
                );
            }
            put(&mut result, &mut places, (key, value));
        }
        result
    }

    fn syntax_error(&mut self, error: &ScanError) {
        let at = error.marker();
        let start = self.byte(at.index());
        let line = self.text.lines().nth(at.line().saturating_sub(1)).unwrap_or_default();
        let before = self.text.lines().nth(at.line().saturating_sub(2)).unwrap_or_default();
        let (message, hint) = syntax::in_words(error.info(), line, before);
        let mut diagnostic =
            Diagnostic::error("yaml-syntax", message).at(Span::new(self.file, start, start + 1));
        if let Some(open) = self.open.last() {
            let what = match open.kind {
                OpenKind::List(_) => "in the list that begins here",
                OpenKind::Map { .. } => "in the mapping that begins here",
            };
            let begin = Span { end: open.span.start + 1, ..open.span };
            diagnostic = diagnostic.label(begin, what);
        }
        self.diagnostics.push(match hint {
            Some(hint) => diagnostic.hint(hint),
            None => diagnostic,
        });
    }
}

fn put(result: &mut Vec<(Node, Node)>, places: &mut BTreeMap<Arc<str>, usize>, pair: (Node, Node)) {
    let Some(text) = pair.0.key_text() else { return };
    match places.get(&text).and_then(|at| result.get_mut(*at)) {
        Some(slot) => *slot = pair,
        None => {
            places.insert(text, result.len());
            result.push(pair);
        }
    }
}

/// Returns the pairs that a merge key brings in; of a list of mappings, an earlier one counts more.
fn merged(value: &Node) -> Option<Vec<(Node, Node)>> {
    match &value.value {
        NodeValue::Map(pairs) => Some(pairs.clone()),
        NodeValue::List(items) => {
            let mut all = Vec::new();
            for item in items.iter().rev() {
                all.extend(item.as_map()?.iter().cloned());
            }
            Some(all)
        }
        _ => None,
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        NodeValue::List(items) => items.iter().map(size).sum(),
        NodeValue::Map(pairs) => pairs.iter().map(|(key, value)| size(key) + size(value)).sum(),
        _ => 0,
    }
}

fn local(tag: Option<&Tag>) -> Option<Arc<str>> {
    tag.filter(|t| t.handle == "!" && !t.suffix.is_empty()).map(|t| Arc::from(format!("!{}", t.suffix)))
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> NodeValue {
    let string = || NodeValue::String(Arc::from(text));
    match tag {
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "int" | "float" | "bool" | "null" => scalar::resolve(text),
            _ => string(),
        },
        Some(_) => string(),
        None if style == ScalarStyle::Plain => scalar::resolve(text),
        None => string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Node> {
        let (documents, diagnostics) = read(FileId(0), text);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        documents
    }

    fn only_problem(text: &str) -> Diagnostic {
        let (_, diagnostics) = read(FileId(0), text);
        let problems = diagnostics.sorted();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    }

    #[test]
    fn nodes_know_their_bytes_also_behind_wide_characters() {
        let text = "ü: 'ä'\nb: [1, x]\n";

        let root = documents(text).remove(0);

        let marked = |node: &Node| &text[node.span.start as usize..node.span.end as usize];
        assert_eq!(marked(root.get("ü").unwrap()), "'ä'");
        assert_eq!(marked(&root.get("b").unwrap().as_list().unwrap()[1]), "x");
        assert_eq!(marked(root.entry("b").unwrap().0), "b");
    }

    #[test]
    fn merge_keys_are_applied_and_own_keys_win() {
        let root = documents("base: &b {a: 1, c: 3}\nuse:\n  <<: *b\n  a: 2\n").remove(0);

        let used = root.get("use").unwrap();

        assert_eq!(used.get("a").and_then(Node::as_int), Some(2));
        assert_eq!(used.get("c").and_then(Node::as_int), Some(3));
        assert!(used.get("<<").is_none());
    }

    #[test]
    fn local_tags_are_kept_and_core_tags_applied() {
        let root = documents("a: !unsafe '{{ x }}'\nb: !!str 5\nc: !vault |\n  $ANSIBLE\n").remove(0);

        assert_eq!(root.get("a").unwrap().tag.as_deref(), Some("!unsafe"));
        assert_eq!(root.get("b").unwrap().as_str(), Some("5"));
        assert_eq!(root.get("c").unwrap().tag.as_deref(), Some("!vault"));
    }

    #[test]
    fn a_key_written_twice_is_a_warning_with_both_places() {
        let (documents, diagnostics) = read(FileId(0), "a: 1\nb: 2\na: 3\n");

        let problem = diagnostics.sorted()[0];
        assert_eq!(documents[0].get("a").and_then(Node::as_int), Some(3));
        assert_eq!((problem.code, problem.span.unwrap().start), ("duplicate-key", 10));
        assert_eq!(problem.labels[0].span.start, 0);
    }

    #[test]
    fn common_slips_get_a_hint_in_plain_words() {
        let table = [
            ("a:\n\tb: 1\n", "spaces"),
            ("msg: Note: this fails\n", "quotes"),
            ("path: {{ dir }}/file\n", "quotes"),
            ("path: {{ dir }}\n", "quotes"),
            ("a: 'never closed\nb: 1\n", "quote"),
            ("a: \"c:\\dir\"\n", "backslash"),
            ("a: *nothing\n", "anchor"),
            ("a: @home\n", "quotes"),
        ];
        for (text, hint) in table {
            let problem = only_problem(text);
            assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{text:?} gave {problem:?}");
        }
    }

    #[test]
    fn aliases_that_explode_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            let items = vec![before; 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }

        assert!(only_problem(&text).message.contains("aliases"));
    }
}
