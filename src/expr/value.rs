//! The one value type of variables, parameters, results and templates.

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::expr::emit;
use crate::source::Node;
use crate::source::NodeValue;
use crate::source::Span;

/// Keys are texts: Ansible's rare other keys (ints, bools) are kept as the text Python prints for them.
pub type Dict = IndexMap<Arc<str>, Value>;

/// A value with what is known about it.
///
/// `==` compares the data alone, and strictly (`1` is not `1.0`); Python's equality is [`Value::equals`].
#[derive(Clone, Serialize, Deserialize)]
pub struct Value {
    pub data: Data,
    pub marks: Marks,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Data {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    List(Arc<Vec<Value>>),
    Dict(Arc<Dict>),
    /// Access to a name or key that is not there; `hint` says which. May be chained and given to `default`; any other use is an error.
    Undefined {
        hint: Arc<str>,
    },
    /// The result of something that plan and check did not do. Never equal to anything, never replaced by `default`.
    Unknown {
        reason: Arc<str>,
    },
    /// Ansible's `omit`: the parameter or element that holds it is left out.
    Omit,
}

/// What goes with a value through every template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// Written by the user in a playbook, a variables file or the inventory: only such text is a template.
    pub trusted: bool,
    /// Made from a secret: never shown.
    pub secret: bool,
    /// Where it was written. Not carried over the wire as a place to show: the controller keeps the map.
    pub origin: Option<Span>,
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.data == other.data
    }
}

/// Shows the data, and stars in place of what is secret.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.marks.secret { f.write_str("***") } else { fmt::Debug::fmt(&self.data, f) }
    }
}

/// Prints the value as Python's `str()` does, and stars in place of what is secret.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&emit::to_text(&self.redacted()))
    }
}

impl Default for Value {
    fn default() -> Value {
        Value::none()
    }
}

impl From<Data> for Value {
    fn from(data: Data) -> Value {
        Value { data, marks: Marks::default() }
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Data::Bool(flag).into()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Data::Int(number).into()
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Data::Float(number).into()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Data::Str(Arc::from(text)).into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Data::Str(Arc::from(text)).into()
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Value {
        Data::Str(text).into()
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Data::List(Arc::new(items)).into()
    }
}

impl From<Dict> for Value {
    fn from(entries: Dict) -> Value {
        Data::Dict(Arc::new(entries)).into()
    }
}

impl<K: Into<Arc<str>>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Value {
    fn from(entries: [(K, V); N]) -> Value {
        entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect::<Dict>().into()
    }
}

impl<V: Into<Value>> FromIterator<V> for Value {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Value {
        items.into_iter().map(Into::into).collect::<Vec<Value>>().into()
    }
}

impl Value {
    pub fn none() -> Value {
        Data::None.into()
    }

    pub fn str(text: impl Into<Arc<str>>) -> Value {
        Data::Str(text.into()).into()
    }

    /// Text that is a template if it holds one: what a user wrote.
    pub fn template(text: impl Into<Arc<str>>) -> Value {
        Value { data: Data::Str(text.into()), marks: Marks { trusted: true, ..Marks::default() } }
    }

    pub fn undefined(hint: impl Into<Arc<str>>) -> Value {
        Data::Undefined { hint: hint.into() }.into()
    }

    pub fn unknown(reason: impl Into<Arc<str>>) -> Value {
        Data::Unknown { reason: reason.into() }.into()
    }

    pub fn omit() -> Value {
        Data::Omit.into()
    }

    pub fn is_none(&self) -> bool {
        matches!(self.data, Data::None)
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self.data, Data::Undefined { .. })
    }

    pub fn is_omit(&self) -> bool {
        matches!(self.data, Data::Omit)
    }

    /// Returns why the value itself is unknown; see [`Value::find_unknown`] for what is inside.
    pub fn as_unknown(&self) -> Option<&Arc<str>> {
        match &self.data {
            Data::Unknown { reason } => Some(reason),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::Str(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self.data {
            Data::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self.data {
            Data::Int(number) => Some(number),
            _ => None,
        }
    }

    /// Returns a number or a boolean as Python's arithmetic sees it.
    pub fn as_number(&self) -> Option<f64> {
        match self.data {
            Data::Int(number) => Some(number as f64),
            Data::Float(number) => Some(number),
            Data::Bool(flag) => Some(f64::from(u8::from(flag))),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match &self.data {
            Data::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_dict(&self) -> Option<&Dict> {
        match &self.data {
            Data::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// Returns the value under `key`, or `None` if this is no dict or has no such key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_dict()?.get(key)
    }

    /// Returns the type in the words of Python: `str`, `int`, `list`, `dict`, `NoneType`.
    pub fn type_name(&self) -> &'static str {
        match self.data {
            Data::None => "NoneType",
            Data::Bool(_) => "bool",
            Data::Int(_) => "int",
            Data::Float(_) => "float",
            Data::Str(_) => "str",
            Data::List(_) => "list",
            Data::Dict(_) => "dict",
            Data::Undefined { .. } => "Undefined",
            Data::Unknown { .. } => "Unknown",
            Data::Omit => "Omit",
        }
    }

    /// Python's truth of a value, or `None` where there is none: undefined, unknown, omit.
    pub fn truth(&self) -> Option<bool> {
        Some(match &self.data {
            Data::None => false,
            Data::Bool(flag) => *flag,
            Data::Int(number) => *number != 0,
            Data::Float(number) => *number != 0.0,
            Data::Str(text) => !text.is_empty(),
            Data::List(items) => !items.is_empty(),
            Data::Dict(entries) => !entries.is_empty(),
            Data::Undefined { .. } | Data::Unknown { .. } | Data::Omit => return None,
        })
    }

    /// Python's `==`: `1 == 1.0 == True`, lists in order, dicts in any order.
    pub fn equals(&self, other: &Value) -> bool {
        match (&self.data, &other.data) {
            (Data::None, Data::None) | (Data::Omit, Data::Omit) => true,
            (Data::Str(a), Data::Str(b)) => a == b,
            (Data::Int(a), Data::Int(b)) => a == b,
            (Data::List(a), Data::List(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b))
            }
            (Data::Dict(a), Data::Dict(b)) => {
                a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| a.equals(b)))
            }
            _ => match (self.as_number(), other.as_number()) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }

    #[must_use]
    pub fn with_origin(mut self, origin: Span) -> Value {
        self.marks.origin = Some(origin);
        self
    }

    /// Marks this value, and all that is in it, as a secret.
    #[must_use]
    pub fn secret(self) -> Value {
        self.each(&|marks| marks.secret = true)
    }

    /// Marks all text in this value as written by the user: templates in it will be evaluated.
    #[must_use]
    pub fn trusted(self) -> Value {
        self.each(&|marks| marks.trusted = true)
    }

    /// Takes the trust from all text in this value: templates in it stay text.
    #[must_use]
    pub fn untrusted(self) -> Value {
        self.each(&|marks| marks.trusted = false)
    }

    /// Gives this value, and all that is in it, the same marks.
    #[must_use]
    pub fn with_marks(self, marks: Marks) -> Value {
        self.each(&|old| *old = marks)
    }

    fn each(self, change: &dyn Fn(&mut Marks)) -> Value {
        let Value { data, mut marks } = self;
        change(&mut marks);
        let data = match data {
            Data::List(items) => Data::List(Arc::new(
                Arc::unwrap_or_clone(items).into_iter().map(|v| v.each(change)).collect(),
            )),
            Data::Dict(entries) => Data::Dict(Arc::new(
                Arc::unwrap_or_clone(entries).into_iter().map(|(key, v)| (key, v.each(change))).collect(),
            )),
            leaf => leaf,
        };
        Value { data, marks }
    }

    /// Returns whether this value or anything in it is secret.
    pub fn has_secret(&self) -> bool {
        self.marks.secret
            || match &self.data {
                Data::List(items) => items.iter().any(Value::has_secret),
                Data::Dict(entries) => entries.values().any(Value::has_secret),
                _ => false,
            }
    }

    /// Returns the reason of the first unknown in this value.
    pub fn find_unknown(&self) -> Option<&Arc<str>> {
        match &self.data {
            Data::Unknown { reason } => Some(reason),
            Data::List(items) => items.iter().find_map(Value::find_unknown),
            Data::Dict(entries) => entries.values().find_map(Value::find_unknown),
            _ => None,
        }
    }

    /// Returns a copy that may be shown: secrets are stars.
    #[must_use]
    pub fn redacted(&self) -> Value {
        if self.marks.secret {
            return Value::from("***");
        }
        let data = match &self.data {
            Data::List(items) => Data::List(Arc::new(items.iter().map(Value::redacted).collect())),
            Data::Dict(entries) => {
                Data::Dict(Arc::new(entries.iter().map(|(key, v)| (key.clone(), v.redacted())).collect()))
            }
            leaf => leaf.clone(),
        };
        Value { data, marks: self.marks }
    }

    /// Returns what a user wrote, each text trusted (unless tagged `!unsafe`) and with its place.
    pub fn from_node(node: &Node) -> Value {
        if node.tag.as_deref() == Some("!vault") {
            let hint = "this value is encrypted by ansible-vault, which Keddah cannot open";
            return Value::undefined(hint).with_origin(node.span).secret();
        }
        let data = match &node.value {
            NodeValue::Null => Data::None,
            NodeValue::Bool(flag) => Data::Bool(*flag),
            NodeValue::Int(number) => Data::Int(*number),
            NodeValue::Float(number) => Data::Float(*number),
            NodeValue::String(text) => Data::Str(text.clone()),
            NodeValue::List(items) => Data::List(Arc::new(items.iter().map(Value::from_node).collect())),
            NodeValue::Map(entries) => {
                let pairs =
                    entries.iter().filter_map(|(key, v)| Some((key.key_text()?, Value::from_node(v))));
                Data::Dict(Arc::new(pairs.collect()))
            }
        };
        let is_unsafe = node.tag.as_deref() == Some("!unsafe");
        let marks = Marks { trusted: !is_unsafe, secret: false, origin: Some(node.span) };
        let value = Value { data, marks };
        if is_unsafe { value.untrusted() } else { value }
    }

    /// Returns data of a machine, never trusted.
    pub fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::none(),
            serde_json::Value::Bool(flag) => Value::from(*flag),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Value::from(whole),
                None => Value::from(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::from(text.as_str()),
            serde_json::Value::Array(items) => items.iter().map(Value::from_json).collect(),
            serde_json::Value::Object(entries) => entries
                .iter()
                .map(|(key, v)| (Arc::from(key.as_str()), Value::from_json(v)))
                .collect::<Dict>()
                .into(),
        }
    }

    /// Returns the value as JSON, secrets in clear (see [`Value::redacted`]).
    ///
    /// What JSON has no form for: undefined, omit and not-a-number are null, an unknown is a text that says so.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.data {
            Data::None | Data::Undefined { .. } | Data::Omit => serde_json::Value::Null,
            Data::Bool(flag) => (*flag).into(),
            Data::Int(number) => (*number).into(),
            Data::Float(number) => (*number).into(),
            Data::Str(text) => text.as_ref().into(),
            Data::List(items) => items.iter().map(Value::to_json).collect(),
            Data::Dict(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, v)| (key.to_string(), v.to_json())).collect(),
            ),
            Data::Unknown { reason } => format!("unknown: {reason}").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_pythons() {
        let list = |items: &[i64]| items.iter().copied().collect::<Value>();

        assert!(Value::from(1).equals(&Value::from(1.0)));
        assert!(Value::from(true).equals(&Value::from(1)));
        assert!(!Value::from("1").equals(&Value::from(1)));
        assert!(list(&[1, 2]).equals(&list(&[1, 2])));
        assert!(!Value::unknown("a").equals(&Value::unknown("a")));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let value = Value::from([("user", Value::from("app")), ("password", Value::from("s3cret").secret())]);

        for shown in [format!("{value:?}"), value.to_string(), value.redacted().to_json().to_string()] {
            assert!(!shown.contains("s3cret") && shown.contains("app"), "{shown}");
        }
    }
}
