//! Other people's spelling: Patroni's documents in etcd, its REST documents and its configuration file.
//!
//! One file per value. Reading keeps what it does not know and writes it back; a field of another type than expected
//! is kept likewise and reads as not there.
//!
//! Invariant: nothing here opens a file or a socket, and nothing decides.

pub mod config;
pub mod disk;
pub mod document;
pub mod dynamic;
pub mod env;
pub mod explain;
pub mod failover;
pub mod history;
pub mod keys;
pub mod member;
pub mod methods;
pub mod requests;
pub mod rest;
pub mod status;
pub mod sync;
pub mod tags;

pub use config::AgentConfig;
pub use keys::Keys;

/// A document that cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not {expected}: {why}")]
pub struct ContractError {
    /// Which document.
    pub what: &'static str,
    pub expected: &'static str,
    pub why: String,
}
