//! The guest tier: a host with a watchdog device of its own, which really resets it.
//!
//! This machine's kernel may have no watchdog, and a test must not reset it. So the host is a guest of QEMU, emulated
//! whole: it needs nothing of the machine but the packages that `make setup-guest` unpacks.
#![allow(clippy::disallowed_methods, reason = "tests start programs and write their files")]

mod host;
mod image;
mod watchdog;
