//! The half of the reconciler that runs on the host: it receives segments, evaluates them and runs modules.
//!
//! Start at [`wire`] for what is said between controller and host, at [`task`] for what one task means ([`attempt`]
//! is one item of it, [`segment`] many in a row); [`upload`] is
//! how this binary gets to a host, [`client`] what the controller holds in its hand, [`frame`] how messages are bytes,
//! [`server`] the process on the host and [`identity`] its children.
//!
//! Invariant: nothing here knows playbooks, inventories or other hosts; whatever a segment needs came with it
//! or is asked for by [`wire::Question`].

pub(crate) mod attempt;
pub mod client;
pub(crate) mod evaluate;
pub mod facts;
pub mod frame;
pub mod identity;
pub mod lock;
pub mod runner;
pub mod segment;
pub mod server;
pub(crate) mod supply;
pub mod task;
pub mod upload;
pub mod variables;
pub mod wire;
