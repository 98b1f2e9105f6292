//! Looks at the world and makes a [`View`](crate::agent::view::View) of it. Decides nothing.

pub mod configuration;
pub mod dcs;
pub mod disk;
mod facts;
pub mod peers;
mod pending;
pub mod postgres;
pub mod probe;
