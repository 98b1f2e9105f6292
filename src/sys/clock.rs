//! The one place that reads clocks.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment: milliseconds on `CLOCK_BOOTTIME`, which runs on while the machine is suspended.
///
/// Comparable between processes of one boot, and of no meaning across boots.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Tick(pub u64);

impl Tick {
    /// Returns how long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, rhs: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Tick {
    type Output = Tick;
    fn sub(self, rhs: Duration) -> Tick {
        Tick(self.0.saturating_sub(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What the wall clock said at a tick, in a process that prints moments for people.
static WALL: OnceLock<(Tick, jiff::Timestamp)> = OnceLock::new();

/// From now on this process prints ticks as the time of day (UTC): a long-running program's words are read beside other
/// logs, and a count of seconds since boot says nothing there. A clock that is set later does not move them.
pub fn print_as_wall() {
    let _first = WALL.set((now(), wall()));
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = WALL.get().and_then(|(tick, time)| {
            let (before, after) = (tick.since(*self), self.since(*tick));
            time.checked_add(after).ok()?.checked_sub(before).ok()
        });
        match time {
            Some(time) => write!(f, "{}", time.strftime("%H:%M:%S.%3fZ")),
            None => write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000),
        }
    }
}

/// Returns the present moment.
pub fn now() -> Tick {
    // CLOCK_BOOTTIME exists on every kernel that the product supports (2.6.39 and later); a refusal would be a broken kernel.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    Tick(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Returns the wall-clock time, for people and documents; never for deadlines.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
