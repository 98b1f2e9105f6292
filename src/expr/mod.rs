//! Ansible's meaning of Jinja: minijinja's parser, our evaluation over one value type.
//!
//! Start at [`value`] for the data and at [`evaluate`] for what callers ask; `eval` and `statements` walk the tree,
//! `world` evaluates variables when they are reached, and `filters`, `jinja_tests` and `methods` are tables of names.
//!
//! Invariant: nothing here reads a file, a clock or a host; lookups are a trait that the caller implements.

pub mod value;

pub mod error;
pub mod scope;

pub mod evaluate;
pub mod names;
pub mod needed;

pub mod parse;

mod eval;
mod operators;
mod runtime;
mod statements;
mod world;

mod filters;
mod format;
mod jinja_tests;
mod lookups;
mod methods;
pub mod regex;
mod text;
mod version;

pub mod emit;
pub mod emit_yaml;

pub use error::{ErrorKind, EvalError};
pub use evaluate::{FileOptions, TemplateMarks, Verdict, condition, expression, render_file, template};
pub use names::{check, check_expression, check_file, check_value, is_lookup, names};
pub use needed::{needed_by_expression, needed_by_file, needed_by_value};
pub use parse::Whitespace;
pub use scope::{Lookups, NoLookups, Scope, no_such_lookup};
pub use value::{Data, Dict, Marks, Value};
