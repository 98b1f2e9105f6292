//! Text to typed values: inventories, playbooks and roles, and the desired-state file `cluster.yml`.
//!
//! Start at [`load`], which reads everything into a [`Deployment`] and says all that is wrong with it at once.
//! [`playbook::tree`] is what the compiler works on; [`desired`] is what the variable `keddah` is made of.
//!
//! Invariant: files are read here, hosts are not known: nothing in this room opens a connection or runs a program.

mod check;
pub mod deployment;
pub mod desired;
mod extra_vars;
pub mod files;
pub mod inventory;
pub mod load;
pub mod playbook;
mod resolve;
mod words;

pub use deployment::{Deployment, FileKind};
pub use load::{Request, load};
