//! etcd's v3 API, as far as the product needs it: reads, fenced transactions, leases, watches, membership.
//!
//! Start at [`Client`]. Each endpoint has a connection of its own ([`node`]); calls go to the preferred one and move on.
//!
//! Invariant: *unknown is not absent*. Whatever is not an answer of the pinned cluster at least as new as what was
//! seen before is an [`EtcdError`]; only an answered, linearizable read says that a key is absent.

mod client;
mod error;
pub mod membership;
pub mod mirror;
mod node;
mod seen;
mod txn;
pub mod versions;
pub mod watch;

pub use client::{Client, Config, Granted, Kv, Range, Renewal, TlsFiles};
pub use error::EtcdError;
pub use txn::{Compare, Txn, TxnOutcome, Write};
