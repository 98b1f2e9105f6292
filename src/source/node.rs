//! What a YAML text says: values that know their place.

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

/// What a node holds, by the rules of YAML 1.1 as PyYAML reads them ([`crate::source::scalar`]).
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

impl Node {
    pub fn is_null(&self) -> bool {
        matches!(self.value, NodeValue::Null)
    }

    /// Returns the text of a string node; numbers and booleans are no strings (see [`Node::key_text`]).
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            NodeValue::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            NodeValue::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self.value {
            NodeValue::Int(number) => Some(number),
            _ => None,
        }
    }

    /// Returns a float or an int as a float.
    pub fn as_float(&self) -> Option<f64> {
        match self.value {
            NodeValue::Float(number) => Some(number),
            NodeValue::Int(number) => Some(number as f64),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            NodeValue::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&[(Node, Node)]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// Returns the value under a string key, or `None` if this is no map or has no such key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Returns key and value, for messages that point at the key.
    pub fn entry(&self, key: &str) -> Option<(&Node, &Node)> {
        self.as_map()?.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(k, v)| (k, v))
    }

    /// Returns a scalar as the text that Python prints for it (`True`, `None`, `8080`), as which it serves as a key.
    pub fn key_text(&self) -> Option<Arc<str>> {
        Some(match &self.value {
            NodeValue::String(text) => text.clone(),
            NodeValue::Null => Arc::from("None"),
            NodeValue::Bool(true) => Arc::from("True"),
            NodeValue::Bool(false) => Arc::from("False"),
            NodeValue::Int(number) => Arc::from(number.to_string()),
            NodeValue::Float(number) => Arc::from(format!("{number:?}")),
            NodeValue::List(_) | NodeValue::Map(_) => return None,
        })
    }

    /// Returns what the node is, in the words of a message: `a string`, `a list`, `empty`.
    pub fn kind(&self) -> &'static str {
        match self.value {
            NodeValue::Null => "empty",
            NodeValue::Bool(_) => "a boolean",
            NodeValue::Int(_) | NodeValue::Float(_) => "a number",
            NodeValue::String(_) => "a string",
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a mapping",
        }
    }
}
