//! The compiler: plays become an ordered program of tasks, and stretches of it become segments for a host.
//!
//! Start at [`compile`]: static parts are expanded before any host is touched; dynamic includes are tasks that the
//! run expands with the same functions. [`program`] says what a task is and which tasks may
//! travel together.
//!
//! Invariant: nothing here talks to a host or reads a file; what a variable is on a host is known by the run.

pub mod compile;
pub mod handlers;
pub mod order;
pub mod program;
pub mod reach;
pub mod tags;
