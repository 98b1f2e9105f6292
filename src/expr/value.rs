//! The one value type of variables, parameters, results and templates.

use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::source::Span;

/// Keys are texts: Ansible's rare other keys (ints, bools) are kept as the text Python prints for them.
pub type Dict = IndexMap<Arc<str>, Value>;

/// A value with what is known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
