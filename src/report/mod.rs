//! Listeners of a run's events: lines for people, documents for programs, the figures at the end.
//!
//! Start at [`human`]. Every listener takes the same events and knows nothing of how a run works.
//!
//! Invariant: nothing here decides anything; what an event holds may be shown, secrets were taken out before.

pub mod human;
pub mod json;
pub mod progress;
pub mod recap;
