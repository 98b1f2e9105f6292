//! The keys below a prefix as the last linearizable read showed them, kept in step by the watch.
//!
//! It spares a read while nothing has happened that a decision rests on. What does happen makes it worthless until the
//! next read, so it is never what says that nobody leads.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::{Kv, Range};
use super::watch::Change;
use crate::sys::clock::Tick;

/// See the module. One task feeds it with changes, another seeds and reads it.
#[derive(Debug, Default)]
pub struct Mirror {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    kvs: BTreeMap<String, Kv>,
    revision: i64,
    /// When the read was asked for that it rests on; None: it is worth nothing.
    read: Option<Tick>,
    /// The revision of the last change that is for a read to show.
    concerning: i64,
    /// How often the watch was interrupted.
    gaps: u64,
}

/// What was known before a read: the mirror is not seeded by a read during which the watch was interrupted.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    gaps: u64,
    asked: Tick,
}

impl Kept {
    fn fresh(&self, now: Tick, age: Duration) -> Option<i64> {
        self.read.filter(|read| now.since(*read) < age).map(|_| self.revision)
    }
}

impl Mirror {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes changes, those of one revision together. Where some of them concern decisions none is taken over: they ask
    /// for a read.
    pub fn take(&self, changes: &[Change], concern: bool) {
        let mut kept = self.kept();
        if changes.contains(&Change::Gap) {
            kept.gaps += 1;
            kept.read = None;
        }
        let Some(newest) = changes.iter().filter_map(Change::revision).max() else { return };
        let known = kept.revision;
        if newest <= known {
            return;
        }
        if concern {
            kept.concerning = newest;
            kept.read = None;
            return;
        }
        kept.revision = newest;
        for change in changes.iter().filter(|change| change.revision().is_some_and(|at| at > known)) {
            match change {
                Change::Put(kv) => {
                    kept.kvs.insert(kv.key.clone(), kv.clone());
                }
                Change::Deleted { key, .. } => {
                    kept.kvs.remove(key);
                }
                Change::Gap => {}
            }
        }
    }

    /// To be called before a read that is to seed it.
    pub fn before_read(&self, now: Tick) -> Before {
        Before { gaps: self.kept().gaps, asked: now }
    }

    /// Takes over what a linearizable read showed, unless the watch has told of something since that it lacks.
    pub fn seed(&self, range: &Range, before: Before) {
        let mut kept = self.kept();
        kept.kvs = range.kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
        let missed =
            kept.gaps != before.gaps || kept.concerning > range.revision || kept.revision > range.revision;
        kept.revision = range.revision;
        kept.read = (!missed).then_some(before.asked);
    }

    /// Returns the revision of the keys, on the terms of [`Mirror::range`].
    pub fn revision(&self, now: Tick, age: Duration) -> Option<i64> {
        self.kept().fresh(now, age)
    }

    /// Returns the keys, if the read that they rest on is younger than `age` and nothing asks for another one.
    pub fn range(&self, now: Tick, age: Duration) -> Option<Range> {
        let kept = self.kept();
        let revision = kept.fresh(now, age)?;
        Some(Range { kvs: kept.kvs.values().cloned().collect(), revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(60);

    fn kv(key: &str, value: &str, mod_revision: i64) -> Kv {
        Kv {
            key: key.to_owned(),
            value: value.to_owned(),
            create_revision: 1,
            mod_revision,
            version: 1,
            lease: 0,
        }
    }

    fn seeded(revision: i64) -> Mirror {
        let mirror = Mirror::default();
        let before = mirror.before_read(Tick(0));
        mirror.seed(&Range { kvs: vec![kv("/a", "1", 5)], revision }, before);
        mirror
    }

    fn shown(mirror: &Mirror) -> Option<Vec<(String, String)>> {
        let range = mirror.range(Tick(1), AGE)?;
        Some(range.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
    }

    fn deleted(key: &str, mod_revision: i64) -> Change {
        Change::Deleted { key: key.to_owned(), mod_revision }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn changes_that_concern_nobody_are_taken_over() {
        let mirror = seeded(10);
        mirror.take(&[Change::Put(kv("/b", "2", 11))], false);
        mirror.take(&[Change::Put(kv("/a", "old", 9))], false);
        assert_eq!(shown(&mirror), pairs(&[("/a", "1"), ("/b", "2")]));

        mirror.take(&[deleted("/a", 12)], false);
        assert_eq!(shown(&mirror), pairs(&[("/b", "2")]));
        assert_eq!(mirror.range(Tick(1), AGE).map(|range| range.revision), Some(12));
        assert_eq!(mirror.revision(Tick(1), AGE), Some(12));
    }

    #[test]
    fn all_that_one_transaction_has_written_is_taken_over() {
        let mirror = seeded(10);
        mirror.take(&[Change::Put(kv("/status", "7", 11)), Change::Put(kv("/a", "2", 11))], false);
        assert_eq!(shown(&mirror), pairs(&[("/a", "2"), ("/status", "7")]));

        mirror.take(&[Change::Put(kv("/status", "8", 12)), deleted("/leader", 12)], true);
        assert_eq!(shown(&mirror), None, "the leader key went with the last position");
    }

    #[test]
    fn one_that_concerns_asks_for_a_read_that_shows_it() {
        let mirror = seeded(10);
        let before = mirror.before_read(Tick(1));
        mirror.take(&[deleted("/leader", 12)], true);
        assert_eq!(shown(&mirror), None);

        mirror.seed(&Range { kvs: vec![], revision: 11 }, before);
        assert_eq!(shown(&mirror), None, "the read is older than the change");
        mirror.seed(&Range { kvs: vec![], revision: 12 }, mirror.before_read(Tick(2)));
        assert_eq!(shown(&mirror), pairs(&[]));
    }

    #[test]
    fn nothing_is_worth_anything_after_a_gap_or_a_while() {
        let mirror = seeded(10);
        assert_eq!(mirror.range(Tick(60_000), AGE), None);

        let before = mirror.before_read(Tick(1));
        mirror.take(&[Change::Gap], true);
        mirror.seed(&Range { kvs: vec![], revision: 12 }, before);
        assert_eq!(shown(&mirror), None, "the watch was interrupted during the read");
    }
}
