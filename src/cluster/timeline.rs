//! Timelines and where each ended.

use std::fmt;
use std::str::FromStr;

use crate::cluster::{Lsn, ParseError};

/// The number of a timeline: 1 after initdb, higher after each promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

impl Timeline {
    /// The timeline of a cluster that was never promoted.
    pub const FIRST: Timeline = Timeline(1);
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Timeline {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse()
            .ok()
            .filter(|number| *number > 0)
            .map(Timeline)
            .ok_or_else(|| ParseError::new(text, "a timeline"))
    }
}

/// One line of a timeline history: a timeline, where it was left, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HistoryEntry {
    pub timeline: Timeline,
    /// Where the following timeline branched off.
    pub switch_point: Lsn,
    pub reason: String,
}

/// The ancestors of a timeline, oldest first; empty on timeline 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct History(pub Vec<HistoryEntry>);

impl History {
    /// Returns where `timeline` was left on the way here, or None where it is no ancestor.
    pub fn switch_point(&self, timeline: Timeline) -> Option<Lsn> {
        self.0.iter().find(|entry| entry.timeline == timeline).map(|entry| entry.switch_point)
    }

    /// Returns the last ancestor.
    pub fn last(&self) -> Option<&HistoryEntry> {
        self.0.last()
    }

    /// Tells whether these are the ancestors of `timeline`: the last one is older than it and nothing is missing at
    /// the end. Timelines need not be consecutive, but the contract's writers make them so.
    pub fn leads_to(&self, timeline: Timeline) -> bool {
        match self.last() {
            Some(entry) => entry.timeline.0.checked_add(1) == Some(timeline.0),
            None => timeline == Timeline::FIRST,
        }
    }

    /// Tells whether both left some timeline, at different points: timelines of one number were begun twice.
    pub fn contradicts(&self, other: &History) -> bool {
        let elsewhere = |entry: &HistoryEntry| {
            other.switch_point(entry.timeline).is_some_and(|lsn| lsn != entry.switch_point)
        };
        self.0.iter().any(elsewhere)
    }

    /// Keeps the last `entries` lines only.
    pub fn trimmed(&self, entries: usize) -> History {
        let skip = self.0.len().saturating_sub(entries);
        History(self.0.iter().skip(skip).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(lines: &[(u32, u64)]) -> History {
        let entry = |(timeline, lsn): &(u32, u64)| HistoryEntry {
            timeline: Timeline(*timeline),
            switch_point: Lsn(*lsn),
            reason: "no recovery target specified".to_owned(),
        };
        History(lines.iter().map(entry).collect())
    }

    #[test]
    fn histories_contradict_each_other_where_one_timeline_was_left_at_two_points() {
        let three = history(&[(1, 100), (2, 200)]);

        assert!(three.contradicts(&history(&[(1, 100), (2, 201)])));
        assert!(!three.contradicts(&history(&[(2, 200), (3, 300)])), "what is not there says nothing");
        assert!(!three.contradicts(&History::default()));
    }

    #[test]
    fn a_timeline_ends_where_its_child_began() {
        let three = history(&[(1, 100), (2, 200)]);

        assert_eq!(three.switch_point(Timeline(1)), Some(Lsn(100)));
        assert_eq!(three.switch_point(Timeline(3)), None);
        assert!(three.leads_to(Timeline(3)));
        assert!(!three.leads_to(Timeline(4)), "the line of timeline 3 is missing");
    }

    #[test]
    fn no_history_leads_to_the_first_timeline_only() {
        assert!(History::default().leads_to(Timeline::FIRST));
        assert!(!History::default().leads_to(Timeline(2)));
    }

    #[test]
    fn trimming_keeps_the_newest() {
        assert_eq!(history(&[(1, 1), (2, 2), (3, 3)]).trimmed(1), history(&[(3, 3)]));
    }
}
