//! Carries out decisions. Adds no condition and makes no choice: where a fence does not hold, it says so.

pub mod callbacks;
mod copy;
pub mod dcs;
pub mod job;
pub mod postgres;
pub mod preflight;
mod remote;
mod restored;
mod room;
mod slots;
