//! The node agent: observe → [`view::View`] → [`decide`] → act.
//!
//! Start at [`view`] for what is known and at [`decide`] for what follows from it.

pub mod view;

pub mod instance;

pub mod shown;

pub mod observe;

pub mod act;

pub mod api;

pub mod decide;

pub mod lease;
