//! Ansible's meaning of Jinja: minijinja's parser, our evaluation over one value type.
//!
//! Invariant: nothing here reads a file, a clock or a host; lookups are a trait that the caller implements.

pub mod value;

pub use value::{Data, Dict, Value};
