//! The program as a user sees it: what is typed, what is printed, how it exits. One file per command.
#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program and write its input; the doors are for the product"
)]

mod agent;
mod inventory;
mod patroni;
mod schema;
mod validate;
mod world;
