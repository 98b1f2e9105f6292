//! The process that is Postgres's parent, holds the lease's deadline, and is the gate to everything writable.
//!
//! Its rule is a state: *no armed deadline in the future and not released ⇒ no writable server in this data
//! directory*. Start at `gate` for the rule, `serve` for the loop that applies it.
//!
//! Invariant: the guard decides nothing and waits for nobody. It knows neither etcd nor the network nor a runtime;
//! `client` is the agent's side and the only file here that may use tokio.

mod agents;
pub mod client;
pub mod detach;
pub mod gate;
mod group;
mod instance;
mod log;
mod packet;
pub mod place;
mod protect;
pub mod protocol;
pub mod serve;
mod server;
mod sight;
mod stages;
pub mod succession;
mod watchdog;
