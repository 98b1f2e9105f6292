//! What an agent and its guard say to each other. Durable: an old agent meets a new guard, and the reverse.
//!
//! One packet of a `SOCK_SEQPACKET` Unix socket is one JSON document. An agent sends an [`Ask`]; each is answered by
//! one [`Reply`] with the same `id`. A reply with `id` 0 answers nothing: the guard sends it by itself when its server
//! or its gate changed. Every reply, a refusal too, carries the whole [`Status`], so nothing has to be asked twice.
//!
//! Rules for changing it: fields are only added, optional, with a meaning when absent; readers pass over fields that
//! they do not know; a verb that the other side does not know is answered by [`Refusal::UnknownVerb`]. A change that
//! breaks this raises [`VERSION`], and `hello` tells both sides.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::clock::Tick;

/// The version that this build speaks.
pub const VERSION: u32 = 1;

/// The oldest version that this build understands.
pub const OLDEST: u32 = 1;

/// Tells whether this build and one that speaks `version` understand each other.
pub fn is_spoken(version: u32) -> bool {
    (OLDEST..=VERSION).contains(&version)
}

/// Longest packet, both ways. A postmaster's arguments are a few kilobytes; the limit only stops nonsense.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// One packet from agent to guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the agent, not 0; comes back in the reply.
    pub id: u64,
    pub ask: Request,
}

/// What an agent may ask. All but `hello` and `status` are only done for the agent that the guard serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Says who speaks, and makes it the served agent. May be repeated when what it holds has changed.
    Hello {
        version: u32,
        pid: u32,
        #[serde(default)]
        hold: Option<Hold>,
    },
    /// Only asks for the status.
    Status,
    /// Promises that the lease lives until `deadline`: a server may be writable until then.
    ///
    /// A smaller deadline than the last one is obeyed too. A lease whose deadline has passed is dead for ever.
    Arm {
        deadline: Tick,
        margins: Margins,
        lease: i64,
        /// When the keepalive (or grant) was sent that this deadline rests on.
        sent: Tick,
    },
    /// Takes the promise back: a writable server is stopped in stages, from this moment.
    Disarm,
    /// Opens the gate until the next `arm` or `disarm` (pause).
    Release,
    /// Starts the server.
    Start {
        #[serde(rename = "as")]
        start_as: StartAs,
        /// Program and arguments, the whole command line.
        argv: Vec<String>,
        /// The whole environment; nothing is inherited.
        env: Vec<(String, String)>,
        /// The file that gets the server's standard output and error; the guard's own where absent.
        #[serde(default)]
        output: Option<String>,
    },
    /// Ends recovery, as `pg_promote()` does.
    Promote,
    /// Stops the server: `mode` first, past `limit_ms` the next one, and so on until nobody is left.
    Stop { mode: StopMode, limit_ms: u64 },
    /// Says which watchdog device is to be fed, and how.
    Watchdog(WatchdogSettings),
    /// Executes `program` in the guard's place, with the guard's own arguments: the same process, so the same parent of
    /// the server, under the same promise. The program that takes over answers.
    Upgrade { program: String },
    /// Says whether this guard is a fence (`guard.mode`). Off, no deadline stops a server, and the watchdog is fed with
    /// each `arm` and not in between: both are the agent's, by Patroni's rules.
    Fence { on: bool },
}

/// The proof of leadership that decides between two agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub lease: i64,
    /// The create revision of the leader key; the greater one is the newer leadership.
    pub create_revision: i64,
}

/// How long before the deadline each stage of the stop begins, in milliseconds. Each at least as long as the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Margins {
    pub fast_ms: u64,
    pub immediate_ms: u64,
    pub kill_ms: u64,
}

impl Margins {
    /// The margins of the shortest leases, used where nobody has named others.
    pub const SHORTEST: Margins = Margins { fast_ms: 1_200, immediate_ms: 600, kill_ms: 300 };

    /// Tells whether the stages come in their order and each has some time.
    pub fn are_ordered(self) -> bool {
        self.fast_ms >= self.immediate_ms && self.immediate_ms >= self.kill_ms && self.kill_ms > 0
    }

    pub fn fast(self) -> Duration {
        Duration::from_millis(self.fast_ms)
    }

    pub fn immediate(self) -> Duration {
        Duration::from_millis(self.immediate_ms)
    }

    pub fn kill(self) -> Duration {
        Duration::from_millis(self.kill_ms)
    }
}

/// As what a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAs {
    /// It may become writable by itself: needs an open gate.
    Primary,
    /// It stays in recovery: needs `standby.signal` or `recovery.signal`.
    Replica,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// SIGINT: clients are disconnected, then a shutdown checkpoint.
    Fast,
    /// SIGQUIT: no checkpoint; recovery at the next start.
    Immediate,
    /// SIGKILL for every process of the instance.
    Kill,
}

/// Whether a watchdog device must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogMode {
    Off,
    /// Used where it works.
    #[default]
    Automatic,
    /// Without a working one the gate stays shut.
    Required,
}

/// How a watchdog is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogDriver {
    /// The kernel's ioctls.
    #[default]
    Default,
    /// A pipe that is told in text what would have been done.
    Testing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogSettings {
    pub mode: WatchdogMode,
    pub device: String,
    #[serde(default)]
    pub driver: WatchdogDriver,
    /// The device resets the host after so many seconds without food.
    pub timeout_s: u32,
    /// The longest timeout that keeps the promise: ttl − 2 s.
    pub timeout_s_max: u32,
}

/// One packet from guard to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The `id` of the ask, or 0 for a notice.
    pub id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    pub status: Status,
}

/// Why the guard did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Refusal {
    #[error(
        "too late: at {now} the guard's deadline {deadline} is nearer than the time that a stop takes; renew the lease first"
    )]
    TooLate { deadline: Tick, now: Tick },
    #[error("the gate is shut: no lease is armed; arm the guard with a living lease first")]
    NotArmed,
    #[error("lease {lease:x} died at {died}; only another lease opens the gate again")]
    LeaseDead { lease: i64, died: Tick },
    #[error("margins or deadline make no sense; nothing was changed")]
    Malformed,
    #[error("the guard serves the agent with pid {pid}; end that one first")]
    Busy { pid: u32 },
    #[error("another agent with a newer leadership has taken this guard over")]
    Displaced,
    #[error("say hello first")]
    NoHello,
    #[error("the server runs already (pid {pid})")]
    Running { pid: u32 },
    #[error("processes of an earlier server still end; ask again in a moment")]
    StillEnding,
    #[error("no server runs in this data directory")]
    NotRunning,
    #[error(
        "the data directory has neither standby.signal nor recovery.signal: the server would become writable"
    )]
    NotAStandby,
    #[error("the watchdog is required and cannot be used: {problem}")]
    WatchdogUnusable { problem: String },
    #[error("the guard could not {what}: {problem}")]
    Failed { what: String, problem: String },
    #[error("the guard is ending")]
    Ending,
    #[error("the guard speaks versions {oldest} to {newest} of its protocol; upgrade the older of the two")]
    OtherVersion { oldest: u32, newest: u32 },
    #[error("a server is being stopped; ask again when that is done")]
    Stopping,
    /// The guard is older than this verb, or the client older than this reason.
    #[error("the guard speaks another version of its protocol; upgrade the older of the two")]
    #[serde(other)]
    UnknownVerb,
}

/// Everything that the guard knows at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    /// The guard's own process.
    pub pid: u32,
    pub now: Tick,
    pub gate: Gate,
    #[serde(default)]
    pub server: Option<ServerStatus>,
    /// How the last server ended that this guard saw ending.
    #[serde(default)]
    pub last_exit: Option<ServerExit>,
    /// The stage that a running fence has reached.
    #[serde(default)]
    pub stage: Option<StopMode>,
    /// True where it is proven that no process of an instance is left.
    pub nobody_left: bool,
    pub watchdog: WatchdogStatus,
    /// What the guard asked of the kernel and did not get, in words; empty is best.
    #[serde(default)]
    pub lacking: Vec<String>,
    /// True where the instance has a control group of its own, which can be frozen and killed as one.
    #[serde(default)]
    pub control_group: bool,
    /// True where an agent has said that this guard is no fence.
    #[serde(default)]
    pub fence_off: bool,
    /// The version of the document in which this guard hands over to another program; None: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succession: Option<u32>,
}

impl Status {
    /// Tells whether `self` differs from `earlier` in something that an agent should look at.
    pub fn differs_from(&self, earlier: &Status) -> bool {
        let Status {
            version: _, pid: _, now: _, gate, server, last_exit, stage, nobody_left, watchdog, ..
        } = self;
        let kind = |gate: &Gate| matches!(gate, Gate::Armed { .. } | Gate::Released);
        kind(gate) != kind(&earlier.gate)
            || *server != earlier.server
            || *last_exit != earlier.last_exit
            || *stage != earlier.stage
            || *nobody_left != earlier.nobody_left
            || watchdog.problem != earlier.watchdog.problem
    }
}

/// What the gate lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Gate {
    /// No writable server may be here; one that is has until `deadline`.
    Shut { deadline: Tick },
    /// A writable server may be here until `deadline`.
    Armed { deadline: Tick, lease: i64 },
    /// Anything may be here: the cluster is paused.
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The postmaster's.
    pub pid: u32,
    /// Its start, in clock ticks since boot, as in `/proc/PID/stat`.
    pub start_ticks: u64,
    /// False where somebody else had started it, so that its exit code will not be known.
    pub child: bool,
    /// True where it is, or may become by itself, writable.
    pub writable: bool,
    /// True once a stop has been asked for, or a fence has begun.
    pub stopping: bool,
}

/// How a postmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerExit {
    pub pid: u32,
    pub at: Tick,
    /// The exit code, where it ended by itself and was the guard's child.
    #[serde(default)]
    pub code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
    /// True where the guard had signalled it.
    pub asked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WatchdogStatus {
    /// True while the device is open and would reset the host.
    pub active: bool,
    #[serde(default)]
    pub timeout_s: Option<u32>,
    /// Why there is none, in words, where one was asked for.
    #[serde(default)]
    pub problem: Option<String>,
}

impl fmt::Display for StopMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
            StopMode::Kill => "kill",
        })
    }
}

/// The head of any ask, read where the verb is not known.
#[derive(Debug, Deserialize)]
pub(super) struct AskHead {
    pub(super) id: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_reads_as_documented_and_passes_over_unknown_fields() {
        let text = r#"{"id":7,"colour":1,"ask":{"verb":"arm","deadline":5000,"lease":255,"sent":0,"later":true,
            "margins":{"fast_ms":1200,"immediate_ms":600,"kill_ms":300}}}"#;

        let ask: Ask = serde_json::from_str(text).unwrap();

        let request =
            Request::Arm { deadline: Tick(5000), margins: Margins::SHORTEST, lease: 255, sent: Tick(0) };
        assert_eq!(ask, Ask { id: 7, ask: request });
    }

    #[test]
    fn requests_are_written_as_documented() {
        let start = Request::Start {
            start_as: StartAs::Replica,
            argv: vec!["postgres".into()],
            env: vec![("LANG".into(), "C".into())],
            output: None,
        };
        assert_eq!(
            serde_json::to_string(&Ask { id: 1, ask: start }).unwrap(),
            r#"{"id":1,"ask":{"verb":"start","as":"replica","argv":["postgres"],"env":[["LANG","C"]],"output":null}}"#
        );
        assert_eq!(
            serde_json::to_string(&Request::Hello { version: 1, pid: 2, hold: None }).unwrap(),
            r#"{"verb":"hello","version":1,"pid":2,"hold":null}"#
        );
    }

    #[test]
    fn a_status_of_an_earlier_version_is_that_of_a_fence() {
        let text = r#"{"version":1,"pid":2,"now":3,"gate":{"state":"released"},"nobody_left":true,
            "watchdog":{"active":false}}"#;
        let status: Status = serde_json::from_str(text).unwrap();

        assert!(!status.fence_off);
        assert_eq!(
            serde_json::to_string(&Request::Fence { on: false }).unwrap(),
            r#"{"verb":"fence","on":false}"#
        );
    }

    #[test]
    fn a_refusal_of_a_later_version_is_still_a_refusal() {
        let refusal: Refusal = serde_json::from_str(r#"{"why":"moon_is_full","phase":4}"#).unwrap();
        assert_eq!(refusal, Refusal::UnknownVerb);
    }

    #[test]
    fn margins_out_of_order_are_seen() {
        assert!(Margins::SHORTEST.are_ordered());
        assert!(!Margins { fast_ms: 1, immediate_ms: 2, kill_ms: 1 }.are_ordered());
        assert!(!Margins { fast_ms: 3, immediate_ms: 2, kill_ms: 0 }.are_ordered());
    }
}
