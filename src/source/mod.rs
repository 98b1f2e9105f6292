//! Text with positions: every value the user wrote can say where it was written.
//!
//! Start at [`yaml`] for reading, at [`diagnostic`] for telling what is wrong, at [`render`] for showing it.
//!
//! Invariant: nothing here opens a file or knows what a host, a playbook or a cluster is.

pub mod diagnostic;
mod node;
pub mod render;
pub mod scalar;
pub mod span;
pub mod suggest;
pub mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, Label, Severity};
pub use node::{Node, NodeValue};
pub use span::{FileId, Location, SourceMap, Span, Spanned};
