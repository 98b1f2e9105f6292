//! The doors to the operating system: each effect has one, and clippy bolts the others.

pub mod clock;
pub mod files;
pub mod names;
pub mod process;
pub mod secret;
pub mod users;
