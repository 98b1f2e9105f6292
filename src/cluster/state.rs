//! What a member's Postgres is doing.

use crate::cluster::words;

/// The state of a member's Postgres, in the words of the member document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Running,
    Starting,
    StartFailed,
    Restarting,
    RestartFailed,
    Stopping,
    Stopped,
    StopFailed,
    Crashed,
    Initializing,
    InitializeFailed,
    CustomBootstrap,
    CustomBootstrapFailed,
    CreatingReplica,
    Unknown,
}

words!(State, "a state of Postgres, like running or stopped",
    Running => "running",
    Starting => "starting",
    StartFailed => "start failed",
    Restarting => "restarting",
    RestartFailed => "restart failed",
    Stopping => "stopping",
    Stopped => "stopped",
    StopFailed => "stop failed",
    Crashed => "crashed",
    Initializing => "initializing new cluster",
    InitializeFailed => "initdb failed",
    CustomBootstrap => "running custom bootstrap script",
    CustomBootstrapFailed => "custom bootstrap failed",
    CreatingReplica => "creating replica",
    Unknown => "unknown",
);

/// How a replica gets its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicationState {
    Streaming,
    InArchiveRecovery,
}

words!(ReplicationState, "a replication state: streaming, in archive recovery",
    Streaming => "streaming",
    InArchiveRecovery => "in archive recovery",
);
