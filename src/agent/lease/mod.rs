//! The lease of this member: its arithmetic and its keeper.

pub mod deadline;
