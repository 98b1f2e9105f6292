//! Looks at the world and makes a [`View`](crate::agent::view::View) of it. Decides nothing.

pub mod dcs;
pub mod peers;
