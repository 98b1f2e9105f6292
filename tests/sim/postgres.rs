//! A Postgres made of a list of records: each has an identity, so two servers that wrote different things at the same
//! position are told apart, as bytes would be.

use std::collections::{BTreeMap, BTreeSet};

use keddah::agent::view::*;
use keddah::cluster::slot::SlotKind;
use keddah::cluster::*;

const FIRST: u64 = 0x100_0000;
const SIZE: u64 = 0x80;

/// One record of WAL. Its identity is unique in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub timeline: u32,
    pub id: u64,
}

/// Where the record at `index` begins; the end of WAL for the index after the last.
pub fn position(index: usize) -> Lsn {
    Lsn(FIRST + index as u64 * SIZE)
}

/// What survives a crash.
#[derive(Debug, Clone)]
pub struct Disk {
    pub system_id: SystemId,
    pub wal: Vec<Record>,
    pub replayed: usize,
    pub state: ControlState,
    pub recovery_signal: bool,
    pub bootstrap_unfinished: bool,
    /// Index of the latest checkpoint record.
    pub checkpoint: usize,
    pub slots: BTreeSet<String>,
    pub sync_names: SyncNames,
}

impl Disk {
    pub fn timeline(&self) -> Timeline {
        Timeline(self.wal.last().map_or(1, |record| record.timeline))
    }

    pub fn end(&self) -> Lsn {
        position(self.wal.len())
    }

    pub fn history(&self) -> History {
        let mut entries = Vec::new();
        for (index, pair) in self.wal.windows(2).enumerate() {
            if pair[0].timeline != pair[1].timeline {
                entries.push(HistoryEntry {
                    timeline: Timeline(pair[0].timeline),
                    switch_point: position(index + 1),
                    reason: "no recovery target specified".to_owned(),
                });
            }
        }
        History(entries)
    }

    pub fn control(&self) -> Control {
        Control {
            system_id: self.system_id,
            state: self.state,
            timeline: self.timeline(),
            checkpoint: position(self.checkpoint),
            minimum_recovery: self.recovery_signal.then(|| (position(self.replayed), self.timeline())),
            rewindable: true,
            recovery_signal: self.recovery_signal,
            bootstrap_unfinished: self.bootstrap_unfinished,
            restored: false,
        }
    }

    pub fn append(&mut self, timeline: u32, id: u64) {
        self.wal.push(Record { timeline, id });
        self.replayed = self.wal.len();
    }

    /// Tells whether all of this is the beginning of `other`. Records are unique, so the last one tells.
    pub fn is_prefix_of(&self, other: &Disk) -> bool {
        match self.wal.last() {
            None => true,
            last => other.wal.get(self.wal.len() - 1) == last,
        }
    }
}

/// The postmaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    Stopped,
    Crashed,
    Starting { role: Started, since: u64, until: u64 },
    Running(Started),
    Stopping { mode: StopMode, since: u64, until: u64, was: Option<Started> },
}

/// A commit that a client waits for.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub id: u64,
    /// Index of its record.
    pub index: usize,
}

#[derive(Debug, Clone)]
pub struct Postgres {
    pub disk: Option<Disk>,
    pub unfinished: bool,
    pub process: Process,
    pub upstream: Upstream,
    pub streaming: bool,
    pub promoting_until: Option<u64>,
    pub checkpoint_pending_until: Option<u64>,
    pub waiting: Vec<Waiting>,
    /// The postmaster ignores signals and its backends go on; only a kill ends it.
    pub deaf: bool,
    /// Replays one record in so many chances.
    pub slow_replay: bool,
    /// The next starts take this long.
    pub start_takes: Option<u64>,
    /// Starts that fail.
    pub broken_starts: u32,
}

impl Postgres {
    pub fn new() -> Postgres {
        Postgres {
            disk: None,
            unfinished: false,
            process: Process::Stopped,
            upstream: Upstream::Nobody,
            streaming: false,
            promoting_until: None,
            checkpoint_pending_until: None,
            waiting: Vec::new(),
            deaf: false,
            slow_replay: false,
            start_takes: None,
            broken_starts: 0,
        }
    }

    /// Accepts writes: also while a deaf postmaster is being stopped.
    pub fn writable(&self) -> bool {
        match &self.process {
            Process::Running(role) => *role == Started::Primary,
            Process::Stopping { was, .. } => self.deaf && *was == Some(Started::Primary),
            Process::Stopped | Process::Crashed | Process::Starting { .. } => false,
        }
    }

    pub fn runs_as(&self, role: Started) -> bool {
        self.process == Process::Running(role)
    }

    pub fn may_become_writable(&self) -> bool {
        match &self.process {
            Process::Running(role) => *role == Started::Primary || self.promoting_until.is_some(),
            Process::Starting { role, .. } => *role == Started::Primary,
            Process::Stopping { was, .. } => *was == Some(Started::Primary),
            Process::Stopped | Process::Crashed => false,
        }
    }

    /// Ends at once, without a trace of an orderly stop.
    pub fn die(&mut self, crashed: bool) {
        self.process = if crashed { Process::Crashed } else { Process::Stopped };
        self.promoting_until = None;
        self.checkpoint_pending_until = None;
        self.waiting.clear();
        self.streaming = false;
        self.deaf = false;
    }

    pub fn data(&self) -> Data {
        match (&self.disk, self.unfinished) {
            (Some(disk), _) => Data::Present(disk.control()),
            (None, true) => Data::Unfinished,
            (None, false) => Data::Empty,
        }
    }

    pub fn slots(&self, active: &BTreeSet<String>) -> BTreeMap<String, Slot> {
        let slots = self.disk.iter().flat_map(|disk| &disk.slots);
        let lsn = self.disk.as_ref().map(Disk::end);
        let seen = |slot: &String| Slot {
            kind: SlotKind::Physical,
            active: active.contains(slot),
            lsn,
            has_xmin: false,
            lost: false,
            failover: false,
        };
        slots.map(|slot| (slot.clone(), seen(slot))).collect()
    }
}
