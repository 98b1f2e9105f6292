//! What other programs promise and expect, held against fixtures captured from them.

mod expressions;
mod fuzz;
mod guard_protocol;
mod shipped_roles;
