//! The lease of this member: its arithmetic, its keeper, and the line to the guard that obeys it.

pub mod confidence;
pub mod deadline;
pub mod gate;
pub mod keeper;

mod task;
