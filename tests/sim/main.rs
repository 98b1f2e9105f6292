//! The agent's world, simulated: real `decide`, and everything else made of arithmetic and a seed.
//!
//! One seed is one run and replays exactly: `SEED=17 cargo test --test sim -- seeds --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod act;
mod etcd;
mod faults;
mod host;
mod network;
mod oracle;
mod postgres;
mod rng;
mod world;

mod seeds;
mod stories;
