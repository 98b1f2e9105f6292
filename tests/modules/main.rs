//! The contract of every module: one folder of cases for each row of the table, and what holds for all rows.
//!
//! A case is a host as a folder, parameters, and what must come of them. `cases/file/folder.yml` is a short one.
#![allow(clippy::disallowed_methods, reason = "cases are read and hosts are made here, not by the product")]

mod case;
mod table;
