//! How a part of `cluster.yml` is declared: one line per key gives its type, default and limits, and from that line come
//! the reader, the JSON Schema and the value that roles see.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use crate::expr::{Data, Dict, Value};
use crate::source::{Diagnostic, Diagnostics, Node, NodeValue, Span, suggest};

/// A value that can be read from a node, described by a schema, and shown to roles.
pub trait Shape: Sized {
    /// Reads the node; `at` is the path of keys for messages (`postgres.port`). `None` when it was refused.
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Self>;

    fn schema() -> Json;

    fn to_value(&self) -> Value;
}

/// A key's value, and where it was written; without a place it is the default.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<T> {
    pub value: T,
    pub span: Option<Span>,
}

impl<T> Setting<T> {
    pub fn default_of(value: T) -> Setting<T> {
        Setting { value, span: None }
    }
}

/// What a value must keep to beyond its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    None,
    /// The key must be written.
    Required,
    /// A number in this range, ends included.
    Range(i64, i64),
    /// A text that may be a key or a name in etcd, DNS and file names.
    Name,
    /// Both of them.
    RequiredName,
    /// A path from the root.
    AbsolutePath,
}

pub const PORT: Limit = Limit::Range(1, 65_535);

impl Limit {
    pub fn is_required(self) -> bool {
        matches!(self, Limit::Required | Limit::RequiredName)
    }

    fn schema(self, schema: &mut Map<String, Json>) {
        match self {
            Limit::None | Limit::Required => {}
            Limit::Range(min, i64::MAX) => {
                schema.insert("minimum".into(), min.into());
            }
            Limit::Range(min, max) => {
                schema.insert("minimum".into(), min.into());
                schema.insert("maximum".into(), max.into());
            }
            Limit::Name | Limit::RequiredName => {
                schema.insert("pattern".into(), "^[A-Za-z0-9][A-Za-z0-9_.-]*$".into());
            }
            Limit::AbsolutePath => {
                schema.insert("pattern".into(), "^/".into());
            }
        }
    }

    /// Judges what was read, by the node it was read from.
    fn check(self, node: &Node, at: &str, out: &mut Diagnostics) -> bool {
        let problem = match (self, &node.value) {
            (Limit::Range(min, max), NodeValue::Int(n)) if !(min..=max).contains(n) => {
                let bounds =
                    if max == i64::MAX { format!("at least {min}") } else { format!("from {min} to {max}") };
                Some((
                    format!("`{at}` must be {bounds}, and this is {n}"),
                    "choose a number within the bounds",
                ))
            }
            (Limit::Name | Limit::RequiredName, NodeValue::String(text)) if !is_name(text) => Some((
                format!("`{at}` cannot be `{text}`"),
                "use letters, digits, `_`, `.` and `-`, beginning with a letter or digit",
            )),
            (Limit::AbsolutePath, NodeValue::String(text)) if !text.starts_with('/') => {
                Some((format!("`{at}` must be a path that begins with `/`"), "write the whole path"))
            }
            _ => None,
        };
        if let Some((message, hint)) = problem {
            out.push(Diagnostic::error("out-of-range", message).at(node.span).hint(hint));
            return false;
        }
        true
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Says that `node` is not what `at` needs.
pub fn wrong(node: &Node, at: &str, expected: &str, out: &mut Diagnostics) {
    let message = format!("`{at}` must be {expected}, and this is {}", node.kind());
    out.push(Diagnostic::error("wrong-type", message).at(node.span));
}

impl Shape for bool {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<bool> {
        let flag = node.as_bool();
        if flag.is_none() {
            wrong(node, at, "true or false", out);
        }
        flag
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }

    fn to_value(&self) -> Value {
        Value::from(*self)
    }
}

impl Shape for i64 {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<i64> {
        let number = node.as_int();
        if number.is_none() {
            wrong(node, at, "a whole number", out);
        }
        number
    }

    fn schema() -> Json {
        json!({ "type": "integer" })
    }

    fn to_value(&self) -> Value {
        Value::from(*self)
    }
}

impl Shape for Arc<str> {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Arc<str>> {
        match &node.value {
            NodeValue::String(text) if !text.is_empty() => Some(Arc::clone(text)),
            NodeValue::Int(number) => Some(number.to_string().into()),
            NodeValue::Float(_) => {
                // 3.10 would be read as 3.1, so a version needs its quotes.
                let message = format!("`{at}` must be a text, and this is a number with a fraction");
                out.push(
                    Diagnostic::error("wrong-type", message).at(node.span).hint("put it in quotes: \"3.10\""),
                );
                None
            }
            NodeValue::String(_) => {
                let message = format!("`{at}` may not be empty");
                out.push(
                    Diagnostic::error("wrong-type", message)
                        .at(node.span)
                        .hint("leave the key out for its default"),
                );
                None
            }
            _ => {
                wrong(node, at, "a text", out);
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": "string" })
    }

    fn to_value(&self) -> Value {
        Value::from(Arc::clone(self))
    }
}

impl<T: Shape> Shape for Option<T> {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Option<T>> {
        if node.is_null() { Some(None) } else { T::read(node, at, out).map(Some) }
    }

    fn schema() -> Json {
        T::schema()
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or_else(Value::none, Shape::to_value)
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Vec<T>> {
        if node.is_null() {
            return Some(Vec::new());
        }
        let Some(items) = node.as_list() else {
            wrong(node, at, "a list", out);
            return None;
        };
        let read = |(index, item): (usize, &Node)| T::read(item, &format!("{at}[{index}]"), out);
        Some(items.iter().enumerate().filter_map(read).collect())
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }

    fn to_value(&self) -> Value {
        self.iter().map(Shape::to_value).collect()
    }
}

/// A mapping whose keys are the user's: Postgres's parameters, dynamic configuration. Values may hold templates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Free(pub IndexMap<Arc<str>, (Value, Span)>);

impl Shape for Free {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Free> {
        if node.is_null() {
            return Some(Free::default());
        }
        let Some(entries) = node.as_map() else {
            wrong(node, at, "a mapping of names to values", out);
            return None;
        };
        let pairs = entries
            .iter()
            .filter_map(|(key, value)| Some((key.key_text()?, (Value::from_node(value), key.span))));
        Some(Free(pairs.collect()))
    }

    fn schema() -> Json {
        json!({ "type": "object" })
    }

    fn to_value(&self) -> Value {
        let pairs = self.0.iter().map(|(name, (value, _))| (Arc::clone(name), value.clone()));
        Value::from(pairs.collect::<Dict>())
    }
}

/// A text that is never shown; a template that names a variable, as a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretText(pub Value);

impl Shape for SecretText {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<SecretText> {
        if node.key_text().is_none() || node.is_null() {
            wrong(node, at, "a text", out);
            return None;
        }
        let text = node.key_text().unwrap_or_default();
        Some(SecretText(Value { data: Data::Str(text), ..Value::from_node(node) }.secret()))
    }

    fn schema() -> Json {
        json!({ "type": "string" })
    }

    fn to_value(&self) -> Value {
        self.0.clone()
    }
}

/// A mapping of which keys are taken one by one.
#[derive(Debug)]
pub struct Fields<'n> {
    node: &'n Node,
    at: &'n str,
}

impl<'n> Fields<'n> {
    /// Takes a mapping and refuses keys that are not among `known`. An empty node is an empty mapping.
    pub fn of(
        node: &'n Node,
        at: &'n str,
        known: &[&'static str],
        out: &mut Diagnostics,
    ) -> Option<Fields<'n>> {
        let entries = match &node.value {
            NodeValue::Map(entries) => entries.as_slice(),
            NodeValue::Null => &[],
            _ => {
                wrong(node, if at.is_empty() { "cluster.yml" } else { at }, "a mapping", out);
                return None;
            }
        };
        for (key, _) in entries {
            let name = key.key_text().unwrap_or_default();
            if !known.contains(&name.as_ref()) {
                let place = if at.is_empty() { "the file".to_owned() } else { format!("`{at}`") };
                let hint = suggest::did_you_mean(&name, known.iter().copied())
                    .unwrap_or_else(|| format!("it has: {}", known.join(", ")));
                let message = format!("{place} has no key `{name}`");
                out.push(Diagnostic::error("unknown-key", message).at(key.span).hint(hint));
            }
        }
        Some(Fields { node, at })
    }

    pub fn setting<T: Shape>(
        &self,
        name: &str,
        default: T,
        limit: Limit,
        out: &mut Diagnostics,
    ) -> Setting<T> {
        let path = if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) };
        match self.node.entry(name) {
            Some((_, node)) => match T::read(node, &path, out) {
                Some(value) if limit.check(node, &path, out) => Setting { value, span: Some(node.span) },
                _ => Setting { value: default, span: Some(node.span) },
            },
            None => {
                if limit.is_required() {
                    let message = format!("`{path}` is missing");
                    let diagnostic = Diagnostic::error("missing-key", message).hint(format!("add `{name}:`"));
                    let begin = Span { end: self.node.span.start + 1, ..self.node.span };
                    out.push(diagnostic.at(begin));
                }
                Setting { value: default, span: None }
            }
        }
    }
}

/// Describes one key for the schema.
pub fn key_schema<T: Shape>(default: &T, limit: Limit, doc: &[&str]) -> Json {
    let mut schema = T::schema();
    if let Json::Object(entries) = &mut schema {
        limit.schema(entries);
        if !doc.is_empty() {
            let text = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
            entries.insert("description".into(), text.into());
        }
        let shown = default.to_value().to_json();
        let says_nothing = match &shown {
            Json::Null => true,
            Json::Array(items) => items.is_empty(),
            Json::Object(_) => true,
            _ => limit.is_required(),
        };
        if !says_nothing {
            entries.insert("default".into(), shown);
        }
    }
    schema
}

/// Declares a part of `cluster.yml`: `key: type = default, limit;`.
macro_rules! part {
    ($(#[doc = $about:literal])+ pub struct $name:ident {
        $( $(#[doc = $doc:literal])* $field:ident : $ty:ty = $default:expr, $limit:expr; )*
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $crate::input::desired::shape::Setting<$ty>, )*
            /// Where the part was written.
            pub span: Option<$crate::source::Span>,
        }

        impl Default for $name {
            fn default() -> $name {
                $name {
                    $( $field: $crate::input::desired::shape::Setting::default_of($default), )*
                    span: None,
                }
            }
        }

        impl $crate::input::desired::shape::Shape for $name {
            fn read(
                node: &$crate::source::Node,
                at: &str,
                out: &mut $crate::source::Diagnostics,
            ) -> Option<$name> {
                let known = &[$( stringify!($field) ),*];
                let fields = $crate::input::desired::shape::Fields::of(node, at, known, out)?;
                Some($name {
                    $( $field: fields.setting::<$ty>(stringify!($field), $default, $limit, out), )*
                    span: Some(node.span),
                })
            }

            fn schema() -> serde_json::Value {
                use $crate::input::desired::shape::{Limit, key_schema};
                let mut keys = serde_json::Map::new();
                let mut required: Vec<&str> = Vec::new();
                $(
                    keys.insert(stringify!($field).into(), key_schema::<$ty>(&$default, $limit, &[$($doc),*]));
                    if $limit.is_required() {
                        required.push(stringify!($field));
                    }
                )*
                let about = [$($about),+].map(str::trim).join(" ");
                let mut schema = serde_json::json!({
                    "type": "object",
                    "description": about,
                    "additionalProperties": false,
                    "properties": keys,
                });
                if !required.is_empty() && let Some(entries) = schema.as_object_mut() {
                    entries.insert("required".into(), required.into());
                }
                schema
            }

            fn to_value(&self) -> $crate::expr::Value {
                let mut entries = $crate::expr::Dict::new();
                $( entries.insert(
                    stringify!($field).into(),
                    $crate::input::desired::shape::Shape::to_value(&self.$field.value),
                ); )*
                entries.into()
            }
        }
    };
}

/// Declares a set of words, of which a key's value is one. `off` and `on` may be written without quotes.
macro_rules! words {
    ($(#[doc = $about:literal])+ pub enum $name:ident { $( $(#[doc = $doc:literal])* $variant:ident = $word:literal, )* }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $doc])* $variant, )* }

        impl $name {
            pub const WORDS: &[&'static str] = &[$( $word ),*];

            pub fn word(self) -> &'static str {
                match self { $( $name::$variant => $word, )* }
            }
        }

        impl $crate::input::desired::shape::Shape for $name {
            fn read(
                node: &$crate::source::Node,
                at: &str,
                out: &mut $crate::source::Diagnostics,
            ) -> Option<$name> {
                let word = match node.as_bool() {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => node.as_str().unwrap_or_default(),
                };
                match word {
                    $( $word => Some($name::$variant), )*
                    _ => {
                        let message = format!("`{at}` must be one of: {}", Self::WORDS.join(", "));
                        let diagnostic = $crate::source::Diagnostic::error("wrong-word", message).at(node.span);
                        out.push(match $crate::source::suggest::did_you_mean(word, Self::WORDS.iter().copied()) {
                            Some(hint) => diagnostic.hint(hint),
                            None => diagnostic,
                        });
                        None
                    }
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": Self::WORDS })
            }

            fn to_value(&self) -> $crate::expr::Value {
                $crate::expr::Value::from(self.word())
            }
        }
    };
}

pub(crate) use {part, words};
