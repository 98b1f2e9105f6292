//! Keddah builds, keeps and upgrades highly available Postgres clusters. ARCHITECTURE.md is the map.

// Ground: names and doors, shared by both halves.
pub mod cluster;
pub mod contract;
pub mod etcd;
pub mod expr;
pub mod postgres;
pub mod settings;
pub mod source;
pub mod sys;

// The reconciler.
pub mod executor;
pub mod input;
pub mod modules;
pub mod plan;
pub mod report;
pub mod run;
pub mod transport;

// The node agent.
pub mod agent;
pub mod ctl;
pub mod guard;

// Throwaway hosts.
pub mod lab;

// The front door.
pub mod cli;
