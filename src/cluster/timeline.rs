//! Timelines and where each ended.

use std::fmt;
use std::str::FromStr;

use crate::cluster::{Lsn, MemberName, ParseError};

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
    /// Who led when the following timeline was begun, where that is known.
    pub leader: Option<MemberName>,
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

    /// Tells whether both left some timeline, at different points or under different leaders: timelines of one number were
    /// begun twice.
    pub fn contradicts(&self, other: &History) -> bool {
        self.pairs(other).any(|(one, another)| one.switch_point != another.switch_point)
            || self.forks_in_place(other)
    }

    /// Tells whether two leaders have begun a timeline of one number at one point. Postgres sees one timeline there.
    pub fn forks_in_place(&self, other: &History) -> bool {
        self.pairs(other).any(|(one, another)| {
            let leaders = one.leader.as_ref().zip(another.leader.as_ref());
            one.switch_point == another.switch_point && leaders.is_some_and(|(one, another)| one != another)
        })
    }

    /// Returns the lines of both about the same timeline.
    fn pairs<'a>(&'a self, other: &'a History) -> impl Iterator<Item = (&'a HistoryEntry, &'a HistoryEntry)> {
        let same = |entry: &HistoryEntry| other.0.iter().find(|other| other.timeline == entry.timeline);
        self.0.iter().filter_map(move |entry| Some((entry, same(entry)?)))
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
            leader: None,
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
    fn timelines_of_one_number_and_one_beginning_are_told_apart_by_who_led() {
        let led = |leader: Option<&str>| {
            let mut two = history(&[(1, 100)]);
            two.0[0].leader = leader.map(|name| name.parse().unwrap());
            two
        };

        assert!(led(Some("a")).forks_in_place(&led(Some("b"))));
        assert!(led(Some("a")).contradicts(&led(Some("b"))));
        assert!(!led(Some("a")).contradicts(&led(Some("a"))));
        assert!(!led(Some("a")).contradicts(&led(None)), "what is not known says nothing");
        assert!(!led(Some("a")).forks_in_place(&history(&[(1, 101)])), "these differ to Postgres too");
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
