//! Decides what this member does next.
//!
//! Start at [`Decision`]: what to do ([`Action`]), why ([`Reason`]), when to look again, and what to remember
//! ([`Memory`]).
//!
//! Invariant: nothing here reads a clock, a file or a socket, and nothing logs. See ARCHITECTURE.md, "The agent".

pub mod action;
pub mod memory;
pub mod reason;

pub use action::Action;
pub use memory::Memory;
pub use reason::Reason;

use crate::agent::view::Tick;

/// What a member does next, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Decision {
    /// In order; the first that is not done ends the list.
    pub actions: Vec<Action>,
    pub reason: Reason,
    /// The latest moment of the next look, and what makes it the latest. An event may make it earlier.
    pub look_again: (Tick, Why),
    pub memory: Memory,
}

/// Why the next look is no later than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// `loop_wait` has passed.
    LoopWait,
    /// The lease must be renewed by then, or the stop begins.
    LeaseMargin,
    /// An action was given whose effect is to be seen at once.
    AfterAction,
    /// A server or job is on its way and is looked at often.
    Progress,
    /// A limit comes.
    Limit,
    /// A peer with precedence has had its moment.
    Turn,
    /// A failed attempt may be repeated.
    Backoff,
}
