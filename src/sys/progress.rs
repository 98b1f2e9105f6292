//! Whether a process group does anything: what the kernel has counted of its work changes, or its processes do.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sys::clock::{self, Tick};

/// How often the kernel is asked at most and at least, whatever the limit.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(5);

/// What each process of a group has used of CPU time, in ticks, and what it has read and written.
type Work = BTreeMap<u32, (u64, String)>;

/// When a process group was last seen at work.
#[derive(Debug)]
pub struct Progress {
    group: u32,
    every: Duration,
    work: Work,
    looked: Tick,
    moved: Tick,
}

impl Progress {
    /// Begins to watch a group, closely enough to keep a limit of this length.
    pub fn of(group: u32, limit: Duration) -> Progress {
        let now = clock::now();
        let every = (limit / 10).clamp(SOONEST, LATEST);
        Progress { group, every, work: work_of(group), looked: now, moved: now }
    }

    /// Returns for how long the group has done nothing; `moved` tells of a sign of work that the caller has seen.
    pub fn idle(&mut self, moved: bool) -> Duration {
        let now = clock::now();
        if moved {
            self.moved = now;
        }
        if now.since(self.looked) >= self.every {
            let work = work_of(self.group);
            if work != self.work {
                self.moved = now;
            }
            (self.work, self.looked) = (work, now);
        }
        now.since(self.moved)
    }
}

fn work_of(group: u32) -> Work {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_group = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in parentheses may hold anything; what follows its last one is numbers.
        let numbers: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if numbers.get(2)?.parse() != Ok(group) {
            return None;
        }
        // Its own and those of its children that have ended, in the program and in the kernel.
        let ticks = numbers.get(11..15)?.iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // A process that is not ours to look into still shows its CPU time.
        Some((pid, (ticks, std::fs::read_to_string(entry.path().join("io")).unwrap_or_default())))
    };
    entries.filter_map(of_group).collect()
}
