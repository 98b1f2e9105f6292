//! One volume over time: its pace, and its limits with hysteresis.

use std::time::Duration;

use crate::agent::view::{Room, Tick};
use crate::cluster::SegmentSize;

use super::trend::Trend;

/// A limit is left for the better only beyond so much more than it, in parts of it.
const HYSTERESIS_PART: u64 = 4;

/// A pace at which the volume lasts longer than this is not worth a word.
const FAR: Duration = Duration::from_secs(7 * 86_400);

/// The limits of one volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub warn: u64,
    /// 0: there is none.
    pub brake: u64,
    /// With less than this, spare segments counted in, Postgres comes to its end.
    pub least: u64,
}

/// Returns what is needed of a volume: where the WAL is, one segment to write on and one for what a recovery or a
/// promotion writes; elsewhere as much as with segments of the usual size, whatever larger ones are.
pub fn least(segment: SegmentSize, holds_wal: bool) -> u64 {
    let segment = if holds_wal { segment } else { segment.min(SegmentSize::default()) };
    2 * segment.bytes()
}

/// One volume at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub size: u64,
    pub free: u64,
    /// Free bytes that go in a second.
    pub pace: u64,
    /// Until it is full, at this pace.
    pub left: Option<Duration>,
    /// Until the least limit that is ahead is reached, at this pace.
    pub next_limit: Option<Duration>,
    pub room: Room,
    pub brake: bool,
}

/// What is remembered of a volume.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    trend: Trend,
    room: Room,
    brake: bool,
}

impl Gauge {
    /// Reads the volume. `spare` are the bytes of WAL segments on it that wait to be written again; they are asked for
    /// only where little is free.
    pub fn read(
        &mut self,
        now: Tick,
        (size, free): (u64, u64),
        limits: Limits,
        spare: impl FnOnce() -> u64,
    ) -> Reading {
        let pace = self.trend.take(now, free);
        let spare = if below(free, limits.least, true) { spare() } else { 0 };
        let full = below(free.saturating_add(spare), limits.least, self.room == Room::Full);
        let scarce = below(free, limits.warn.max(limits.brake), self.room >= Room::Scarce);
        self.room = match (full, scarce) {
            (true, _) => Room::Full,
            (false, true) => Room::Scarce,
            (false, false) => Room::Ample,
        };
        self.brake = limits.brake > 0 && (full || below(free, limits.brake, self.brake));
        let ahead = [limits.warn, limits.brake, limits.least].into_iter().filter(|limit| *limit < free).max();
        let next_limit = ahead.and_then(|limit| lasts(free - limit, pace));
        let left = lasts(free, pace);
        Reading { size, free, pace, left, next_limit, room: self.room, brake: self.brake }
    }
}

/// Tells whether so much is below a limit; once it was, it is until there is clearly more.
fn below(free: u64, limit: u64, was: bool) -> bool {
    let limit = if was { limit.saturating_add(limit / HYSTERESIS_PART) } else { limit };
    free < limit
}

fn lasts(bytes: u64, pace: u64) -> Option<Duration> {
    let seconds = bytes.checked_div(pace)?;
    Some(Duration::from_secs(seconds)).filter(|left| *left < FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;
    const LIMITS: Limits = Limits { warn: 200 * MB, brake: 80 * MB, least: 32 * MB };

    fn rooms(limits: Limits, free_mb: &[u64]) -> Vec<(Room, bool)> {
        let mut gauge = Gauge::default();
        let read = |(second, free): (u64, &u64)| {
            let reading = gauge.read(Tick(second * 1_000), (1_000 * MB, free * MB), limits, || 0);
            (reading.room, reading.brake)
        };
        (0..).zip(free_mb).map(read).collect()
    }

    #[test]
    fn limits_are_left_beyond_where_they_were_entered() {
        assert_eq!(
            rooms(LIMITS, &[900, 199, 210, 249, 250, 79, 99, 100, 20, 39, 40]),
            [
                (Room::Ample, false),
                (Room::Scarce, false),
                (Room::Scarce, false),
                (Room::Scarce, false),
                (Room::Ample, false),
                (Room::Scarce, true),
                (Room::Scarce, true),
                (Room::Scarce, false),
                (Room::Full, true),
                (Room::Full, true),
                (Room::Scarce, true),
            ]
        );
    }

    #[test]
    fn without_a_brake_nobody_is_kept_from_writing() {
        let limits = Limits { brake: 0, ..LIMITS };
        assert_eq!(rooms(limits, &[10]), [(Room::Full, false)]);
    }

    #[test]
    fn segments_that_wait_to_be_written_again_are_room() {
        let mut gauge = Gauge::default();
        let limits = Limits { warn: 0, brake: 0, ..LIMITS };
        let mut room = |spare_mb: u64| gauge.read(Tick(0), (1_000 * MB, MB), limits, || spare_mb * MB).room;

        assert_eq!(room(30), Room::Full);
        assert_eq!(room(48), Room::Ample);
    }

    #[test]
    fn what_is_needed_goes_by_the_segments_where_they_are() {
        let least = |megabytes: u64, holds_wal| {
            super::least(SegmentSize::new(megabytes * MB).unwrap(), holds_wal) / MB
        };

        assert_eq!([1, 16, 64].map(|megabytes| least(megabytes, true)), [2, 32, 128]);
        assert_eq!([1, 16, 64].map(|megabytes| least(megabytes, false)), [2, 32, 32]);
    }

    #[test]
    fn the_time_left_is_that_to_the_next_limit_and_to_the_end() {
        let mut gauge = Gauge::default();
        gauge.read(Tick(0), (1_000 * MB, 300 * MB), LIMITS, || 0);
        let reading = gauge.read(Tick(10_000), (1_000 * MB, 290 * MB), LIMITS, || 0);

        assert_eq!(reading.left, Some(Duration::from_secs(290)));
        assert_eq!(reading.next_limit, Some(Duration::from_secs(90)));
        let still = gauge.read(Tick(400_000), (1_000 * MB, 290 * MB), LIMITS, || 0);
        assert_eq!((still.left, still.next_limit), (None, None));
    }
}
