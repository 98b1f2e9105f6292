//! Ansible's meaning of Jinja: minijinja's parser, our evaluation over one value type.
//!
//! Start at [`value`] for the data.
//!
//! Invariant: nothing here reads a file, a clock or a host; lookups are a trait that the caller implements.

pub mod emit;
pub mod error;
pub mod scope;
pub mod value;

pub use error::{ErrorKind, EvalError};
pub use scope::{Lookups, NoLookups, Scope};
pub use value::{Data, Dict, Marks, Value};
