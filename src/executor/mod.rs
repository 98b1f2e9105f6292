//! The half of the reconciler that runs on the host: it receives segments, evaluates them and runs modules.
//!
//! Start at [`wire`] for what is said between controller and host, at `segment` for what one task means; [`upload`] is
//! how this binary gets to a host, [`client`] what the controller holds in its hand, [`frame`] how messages are bytes,
//! [`server`] the process on the host and [`identity`] its children.
//!
//! Invariant: nothing here knows playbooks, inventories or other hosts; whatever a segment needs came with it
//! or is asked for by [`wire::Question`].

pub mod client;
pub mod facts;
pub mod frame;
pub mod identity;
pub mod lock;
pub mod runner;
pub mod server;
pub mod upload;
pub mod variables;
pub mod wire;
