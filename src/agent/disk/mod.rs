//! What free space means: a pace, limits with hysteresis, and who takes the space.
//!
//! Invariant: pure; the numbers come from `observe::disk`, and moments are arguments.

mod gauge;
mod trend;

use std::fmt;
use std::time::Duration;

use crate::agent::view::{Disk, Room};
use crate::cluster::SegmentSize;

pub use gauge::{Gauge, Limits, Reading, least};

/// The volumes of this member, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readings {
    /// The volume of the data directory; None: it could not be looked at.
    pub data: Option<Reading>,
    /// The volume of the WAL, where it is another one.
    pub wal: Option<Reading>,
    /// Who takes the space, where it is scarce.
    pub taker: Taker,
}

/// Who takes the most of the space that could be given back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Taker {
    /// WAL that is written, and data: nothing keeps it but its own use.
    #[default]
    Load,
    /// WAL that a replication slot keeps.
    Slot { name: String, bytes: u64 },
    /// WAL that waits for `archive_command`.
    Archive { files: u64, bytes: u64 },
}

impl Taker {
    /// Returns the one that keeps more, if it keeps enough to matter on a volume of which so much is used.
    pub fn of(slot: Option<(String, u64)>, waiting_files: u64, segment: SegmentSize, used: u64) -> Taker {
        let archive = waiting_files.saturating_mul(segment.bytes());
        let matters = |bytes: u64| bytes >= 2 * segment.bytes() && bytes >= used / 10;
        match slot {
            Some((name, bytes)) if matters(bytes) && bytes >= archive => Taker::Slot { name, bytes },
            Some(_) | None if matters(archive) => Taker::Archive { files: waiting_files, bytes: archive },
            Some(_) | None => Taker::Load,
        }
    }

    /// Tells whether it is worth another word beside `before`: a keeper of WAL that was not named yet.
    pub fn is_news_beside(&self, before: &Taker) -> bool {
        match (self, before) {
            (Taker::Load, _) | (Taker::Archive { .. }, Taker::Archive { .. }) => false,
            (Taker::Slot { name, .. }, Taker::Slot { name: known, .. }) => name != known,
            (Taker::Slot { .. } | Taker::Archive { .. }, _) => true,
        }
    }
}

impl fmt::Display for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Taker::Load => f.write_str("what is written takes it"),
            Taker::Slot { name, bytes } => write!(f, "the slot {name} keeps {} of WAL", Bytes(*bytes)),
            Taker::Archive { files, bytes } => {
                write!(f, "{files} WAL files ({}) wait for archive_command", Bytes(*bytes))
            }
        }
    }
}

impl Readings {
    /// Returns the volume that the WAL is on.
    pub fn wal_volume(&self) -> Option<&Reading> {
        self.wal.as_ref().or(self.data.as_ref())
    }

    /// Returns the volumes with what each is called.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Reading)> {
        let data = if self.wal.is_some() { "data volume" } else { "volume of data and WAL" };
        let data = self.data.as_ref().map(|reading| (data, reading));
        data.into_iter().chain(self.wal.as_ref().map(|reading| ("WAL volume", reading)))
    }

    /// Returns what decisions rest on.
    pub fn verdict(&self) -> Disk {
        let all = || self.named().map(|(_, reading)| reading);
        Disk {
            room: all().map(|reading| reading.room).max().unwrap_or_default(),
            brake: all().any(|reading| reading.brake),
            left: all().filter_map(|reading| reading.next_limit).min(),
        }
    }

    /// Says how the scarcest volume is and who takes the space; None: there is room.
    pub fn sentence(&self) -> Option<String> {
        let (name, reading) = self
            .named()
            .filter(|(_, reading)| reading.room >= Room::Scarce)
            .max_by_key(|(_, reading)| (reading.room, std::cmp::Reverse(reading.free)))?;
        let Reading { size, free, pace, left, .. } = reading;
        let pace = match (pace, left) {
            (0, _) | (_, None) => String::new(),
            (pace, Some(left)) => format!(" and is full in {}, at {}/s", Span(*left), Bytes(*pace)),
        };
        Some(format!("the {name} has {} of {} left{pace}; {}", Bytes(*free), Bytes(*size), self.taker))
    }
}

/// Bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes(bytes) = *self;
        let units = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
        match units.into_iter().find(|(_, unit)| bytes >= *unit) {
            // Below ten, one figure more: 1.5 GB.
            Some((name, unit)) if bytes / unit < 10 => {
                write!(f, "{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
            }
            Some((name, unit)) => write!(f, "{} {name}", bytes / unit),
            None => write!(f, "{bytes} B"),
        }
    }
}

/// A span of time for people.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{seconds} s"),
            120..7_200 => write!(f, "{} min", seconds / 60),
            7_200..172_800 => write!(f, "{} h", seconds / 3_600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn reading(room: Room, free_mb: u64) -> Reading {
        Reading {
            size: 1_000 * MB,
            free: free_mb * MB,
            pace: 3 * MB,
            left: Some(Duration::from_secs(free_mb / 3)),
            next_limit: None,
            room,
            brake: false,
        }
    }

    #[test]
    fn who_keeps_the_most_is_named_if_it_matters() {
        let slot = |mb: u64| Some(("s".to_owned(), mb * MB));
        let kept = |mb: u64| Taker::Slot { name: "s".to_owned(), bytes: mb * MB };
        let table = [
            (slot(500), 3, 16, 900, kept(500)),
            (slot(20), 3, 16, 300, Taker::Archive { files: 3, bytes: 48 * MB }),
            (slot(20), 3, 1, 30, kept(20)),
            (slot(20), 3, 64, 300, Taker::Archive { files: 3, bytes: 192 * MB }),
            (slot(60), 3, 16, 900, Taker::Load),
            (None, 0, 16, 900, Taker::Load),
        ];
        for (slot, files, segment_mb, used_mb, expected) in table {
            let segment = SegmentSize::new(segment_mb * MB).unwrap();
            let taker = Taker::of(slot.clone(), files, segment, used_mb * MB);
            assert_eq!(taker, expected, "{slot:?} {files} {segment_mb}");
        }
    }

    #[test]
    fn the_sentence_is_of_the_scarcest_volume_and_says_how_long() {
        let readings = Readings {
            data: Some(reading(Room::Ample, 900)),
            wal: Some(reading(Room::Scarce, 300)),
            taker: Taker::Slot { name: "cdc".to_owned(), bytes: 1536 * MB },
        };

        assert_eq!(
            readings.sentence().unwrap(),
            "the WAL volume has 300 MB of 1000 MB left and is full in 100 s, at 3.0 MB/s; the slot cdc keeps 1.5 GB of WAL"
        );
        assert_eq!(Readings { wal: None, ..readings }.sentence(), None);
    }

    #[test]
    fn the_worse_volume_counts() {
        let readings = Readings {
            data: Some(Reading { next_limit: Some(Duration::from_secs(9)), ..reading(Room::Full, 1) }),
            wal: Some(Reading { brake: true, ..reading(Room::Ample, 900) }),
            taker: Taker::Load,
        };

        let expected = Disk { room: Room::Full, brake: true, left: Some(Duration::from_secs(9)) };
        assert_eq!(readings.verdict(), expected);
        assert_eq!(Readings::default().verdict(), Disk::default());
    }

    #[test]
    fn a_keeper_of_wal_is_news_once() {
        let slot = |name: &str| Taker::Slot { name: name.to_owned(), bytes: MB };
        let archive = |files| Taker::Archive { files, bytes: MB };

        assert!(slot("a").is_news_beside(&Taker::Load));
        assert!(slot("a").is_news_beside(&slot("b")));
        assert!(!slot("a").is_news_beside(&slot("a")));
        assert!(!archive(3).is_news_beside(&archive(2)));
        assert!(!Taker::Load.is_news_beside(&slot("a")));
    }
}
