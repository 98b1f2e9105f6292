//! How fast free space goes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::agent::view::Tick;

/// What lies longer back tells nothing about the pace.
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// Samples are at least this far apart.
const APART: Duration = Duration::from_secs(1);

/// So many samples at most, so that looks in quick succession cost no more.
const SAMPLES: usize = 64;

/// Free space over the last minutes.
#[derive(Debug, Clone, Default)]
pub struct Trend {
    samples: VecDeque<(Tick, u64)>,
}

impl Trend {
    /// Takes the free bytes of this moment. Returns how many go in a second: the larger of what it has been over the
    /// whole window and since the last sample but one, since a load that begins must not look like an old average.
    pub fn take(&mut self, now: Tick, free: u64) -> u64 {
        while self.samples.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            self.samples.pop_front();
        }
        let overall = self.samples.front().map_or(0, |first| pace(*first, (now, free)));
        let recent = self.samples.iter().nth_back(1).map_or(0, |before| pace(*before, (now, free)));
        if self.samples.back().is_none_or(|(at, _)| now.since(*at) >= APART) {
            self.samples.push_back((now, free));
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        overall.max(recent)
    }
}

/// Returns the bytes per second between two moments; 0 where space was won, or too little time lies between.
fn pace(from: (Tick, u64), to: (Tick, u64)) -> u64 {
    let millis = u64::try_from(to.0.since(from.0).as_millis()).unwrap_or(u64::MAX);
    if millis < 500 {
        return 0;
    }
    from.1.saturating_sub(to.1).saturating_mul(1_000) / millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000)
    }

    #[test]
    fn a_steady_load_has_its_pace() {
        let mut trend = Trend::default();
        let paces: Vec<u64> = (0..30).map(|s| trend.take(at(s * 10), 10_000 - s * 100)).collect();

        assert_eq!(paces.first(), Some(&0));
        assert!(paces.iter().skip(1).all(|pace| *pace == 10), "{paces:?}");
    }

    #[test]
    fn a_load_that_begins_is_seen_at_once() {
        let mut trend = Trend::default();
        (0..20).for_each(|s| {
            trend.take(at(s * 10), 10_000);
        });

        trend.take(at(200), 9_000);
        assert_eq!(trend.take(at(210), 8_000), 100);
    }

    #[test]
    fn space_that_comes_back_is_no_pace() {
        let mut trend = Trend::default();
        trend.take(at(0), 100);

        assert_eq!(trend.take(at(10), 500), 0);
    }

    #[test]
    fn quick_looks_do_not_crowd_the_window_out() {
        let mut trend = Trend::default();
        (0..1_000).for_each(|n| {
            trend.take(Tick(n * 10), 1_000_000 - n * 10);
        });

        assert!(trend.samples.len() <= 11, "{}", trend.samples.len());
        assert_eq!(trend.take(at(10), 990_000), 1_000);
    }
}
