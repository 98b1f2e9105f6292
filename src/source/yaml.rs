//! The one YAML reader: text to nodes that know their place.

use std::sync::Arc;

use crate::source::span::Span;

/// One YAML value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub span: Span,
    pub value: NodeValue,
    /// A local tag, `!vault` or `!unsafe`.
    pub tag: Option<Arc<str>>,
}

/// What a node holds, by the rules of YAML 1.1 as PyYAML reads them (`scalar`).
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Arc<str>),
    List(Vec<Node>),
    /// Keys in the order of the file; merge keys (`<<`) are applied, of duplicates the last one stands.
    Map(Vec<(Node, Node)>),
}
