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
    wal: Vec<Record>,
    /// Where its timelines were left.
    branches: History,
    pub replayed: usize,
    pub state: ControlState,
    pub recovery_signal: bool,
    pub bootstrap_unfinished: bool,
    /// Made by the user's program: its first start leads through a recovery that ends by itself.
    pub restored: bool,
    /// Index of the latest checkpoint record.
    pub checkpoint: usize,
    pub slots: BTreeMap<String, SlotKind>,
    pub sync_names: SyncNames,
}

impl Disk {
    /// What initdb leaves.
    pub fn new(system_id: SystemId) -> Disk {
        Disk {
            system_id,
            wal: Vec::new(),
            branches: History::default(),
            replayed: 0,
            state: ControlState::ShutDown,
            recovery_signal: false,
            bootstrap_unfinished: true,
            restored: false,
            checkpoint: 0,
            slots: BTreeMap::new(),
            sync_names: SyncNames::Off,
        }
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.wal.len()
    }

    /// Tells whether the record at `index` is the one with this identity.
    pub fn holds(&self, index: usize, id: u64) -> bool {
        self.wal.get(index).is_some_and(|record| record.id == id)
    }

    pub fn timeline(&self) -> Timeline {
        Timeline(self.wal.last().map_or(1, |record| record.timeline))
    }

    pub fn end(&self) -> Lsn {
        position(self.wal.len())
    }

    pub fn history(&self) -> &History {
        &self.branches
    }

    /// The timeline of what is replayed: that of the data of a replica.
    fn replayed_timeline(&self) -> Timeline {
        let last = self.replayed.checked_sub(1).and_then(|last| self.wal.get(last));
        Timeline(last.map_or(1, |record| record.timeline))
    }

    fn history_of(&self, timeline: Timeline) -> History {
        History(self.branches.0.iter().filter(|entry| entry.timeline < timeline).cloned().collect())
    }

    /// Removes the WAL of a timeline that is not replayed yet.
    pub fn forget(&mut self, timeline: Timeline) {
        let dead = |record: &Record| record.timeline == timeline.0;
        let first = self.wal.iter().skip(self.replayed).position(dead);
        self.wal.truncate(first.map_or(self.wal.len(), |first| self.replayed + first));
        self.branches = self.history_of(self.timeline());
    }

    pub fn control(&self) -> Control {
        let timeline = if self.recovery_signal { self.replayed_timeline() } else { self.timeline() };
        Control {
            system_id: self.system_id,
            state: self.state,
            timeline,
            checkpoint: position(self.checkpoint),
            history: Some(self.history_of(timeline)),
            minimum_recovery: self.recovery_signal.then(|| (position(self.replayed), timeline)),
            rewindable: true,
            recovery_signal: self.recovery_signal,
            bootstrap_unfinished: self.bootstrap_unfinished,
            restored: self.restored,
            half_rewound: None,
            beyond: (self.timeline() > timeline).then(|| (self.timeline(), self.branches.clone())),
        }
    }

    pub fn append(&mut self, timeline: u32, id: u64) {
        self.push(Record { timeline, id });
        self.replayed = self.wal.len();
    }

    /// Takes the records of `other` that are beyond its own.
    pub fn receive(&mut self, other: &Disk) {
        for record in other.wal.iter().skip(self.wal.len()) {
            self.push(*record);
        }
    }

    fn push(&mut self, record: Record) {
        let before = self.timeline();
        if !self.wal.is_empty() && before.0 != record.timeline {
            self.branches.0.push(HistoryEntry {
                timeline: before,
                switch_point: self.end(),
                reason: "no recovery target specified".to_owned(),
                leader: None,
            });
        }
        self.wal.push(record);
    }

    /// Tells whether the number of its timeline was begun by two promotions: its last record lies where `other` has
    /// another one of that number, or the number begins with another record there, at the same place or not.
    pub fn shares_a_number_with(&self, other: &Disk) -> bool {
        let Some(last) = self.wal.last() else { return false };
        let number = last.timeline;
        let differs = |theirs: &Record| theirs.timeline == number && theirs.id != last.id;
        let begun = |disk: &Disk| {
            let first = disk.wal.iter().find(|record| record.timeline == number);
            first.map(|record| record.id)
        };
        other.wal.get(self.wal.len() - 1).is_some_and(differs)
            || begun(other).is_some_and(|theirs| begun(self) != Some(theirs))
    }

    /// Notes who has begun a timeline.
    pub fn sign(&mut self, timeline: Timeline, leader: MemberName) {
        let begun = self.branches.0.iter_mut().find(|entry| entry.timeline.0 + 1 == timeline.0);
        if let Some(entry) = begun {
            entry.leader = Some(leader);
        }
    }

    /// Loses the last records.
    pub fn lose(&mut self, records: usize) {
        self.wal.truncate(self.wal.len().saturating_sub(records));
        self.branches = self.history_of(self.timeline());
        self.replayed = self.wal.len();
    }

    /// Tells whether a server would let this one stream from it, by what Postgres looks at: timelines and positions.
    pub fn may_follow(&self, theirs: &Disk) -> bool {
        let switch = theirs.history().switch_point(self.timeline());
        self.len() <= theirs.len()
            && (self.timeline() == theirs.timeline() || switch.is_some_and(|switch| self.end() <= switch))
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
    /// Nobody can read what lies in the data directory.
    pub spoilt: bool,
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
    /// Nobody has the WAL that it needs next; a copy has.
    pub lacks_wal: bool,
    /// Copies of logical slots, for the next start in recovery.
    pub staged: BTreeMap<String, SlotKind>,
    /// The user of pg_rewind may not read the files of other members.
    pub no_grants: bool,
    /// A copy of another server does not fit here.
    pub too_small: bool,
    /// The next starts take this long.
    pub start_takes: Option<u64>,
    /// Starts that fail.
    pub broken_starts: u32,
    /// The next fast stops take this long: a shutdown checkpoint of much, a WAL receiver that never confirms.
    pub stop_takes: Option<u64>,
    /// Its clients may only read.
    pub braked: bool,
    /// Since when it answers no probe and does no work, though its postmaster lives.
    pub hung_since: Option<u64>,
}

impl Postgres {
    pub fn new() -> Postgres {
        Postgres {
            disk: None,
            unfinished: false,
            spoilt: false,
            process: Process::Stopped,
            upstream: Upstream::Nobody,
            streaming: false,
            promoting_until: None,
            checkpoint_pending_until: None,
            waiting: Vec::new(),
            deaf: false,
            slow_replay: false,
            lacks_wal: false,
            staged: BTreeMap::new(),
            no_grants: false,
            too_small: false,
            start_takes: None,
            broken_starts: 0,
            stop_takes: None,
            braked: false,
            hung_since: None,
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

    pub fn is_down(&self) -> bool {
        matches!(self.process, Process::Stopped | Process::Crashed)
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
        self.hung_since = None;
    }

    pub fn data(&self) -> Data {
        match (&self.disk, self.unfinished) {
            _ if self.spoilt => Data::Unreadable,
            (Some(disk), _) => Data::Present(disk.control()),
            (None, true) => Data::Unfinished,
            (None, false) => Data::Empty,
        }
    }

    pub fn slots(&self, active: &BTreeSet<String>) -> BTreeMap<String, Slot> {
        let slots = self.disk.iter().flat_map(|disk| &disk.slots);
        let lsn = self.disk.as_ref().map(Disk::end);
        let seen = |slot: &String, kind: &SlotKind| Slot {
            kind: kind.clone(),
            active: active.contains(slot),
            lsn,
            has_xmin: false,
            lost: false,
            failover: false,
        };
        slots.map(|(slot, kind)| (slot.clone(), seen(slot, kind))).collect()
    }
}
