//! Real servers on loopback: what a room says about etcd, Postgres and sshd is true of the real ones.
#![allow(
    clippy::disallowed_methods,
    reason = "tests start servers and write their files; the doors are for the product"
)]

mod agent;
mod agents;
mod apply;
mod bed;
mod birth;
mod ctl;
mod databases;
mod device;
mod disk;
mod errors;
mod etcd;
mod explain;
mod guard;
mod identities;
mod limits;
mod mixed;
mod parted;
#[path = "../common/patronictl.rs"]
mod patronictl;
mod ports;
mod postgres;
#[path = "../common/programs.rs"]
mod programs;
mod rejoin;
mod relay;
mod releases;
mod session;
mod session_end;
mod ssh;
mod sshd;
mod succession;
mod ttl;
mod upgrade;
mod upload;
mod versions;
mod watchdog;
