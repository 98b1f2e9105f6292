//! The agent's world, simulated: real `decide`, and everything else made of arithmetic and a seed.
//!
//! One seed is one run and replays exactly: `SEED=17 cargo test --test sim -- seeds --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod act;
mod agent;
mod always;
mod chance;
mod etcd;
mod faults;
mod host;
mod keeper;
mod network;
mod oracle;
mod other;
mod postgres;
mod rng;
mod server;
mod stream;
mod talk;
mod view;
mod world;

mod edges;
mod seeds;
mod stories;
mod storm;
