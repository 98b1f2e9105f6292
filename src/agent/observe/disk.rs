//! The volumes of data and WAL: asked once in a look, and who takes the space only where it is scarce.

use std::path::Path;
use std::time::Duration;

use crate::agent::disk::{self, Gauge, Limits, Reading, Readings, Taker};
use crate::agent::view::{Room, Tick};
use crate::cluster::{Lsn, SegmentSize};
use crate::contract::disk::DiskSection;
use crate::sys::files;
use crate::sys::volume::{self, Volume};

/// Looks that follow each other more closely share their numbers, while a server runs.
const APART: Duration = Duration::from_millis(200);

/// The part of a volume that slots may fill with WAL: one that the WAL has for itself, and one that holds the data too.
const CAP_PART: u64 = 2;
const SHARED_CAP_PART: u64 = 4;

/// A cap is a multiple of this, and stays while the volume's size changes by less than a part of it: some file systems
/// count their size anew all the time.
const CAP_STEP: u64 = 64 << 20;
const CAP_STAYS_PART: u64 = 8;

/// What is known of the volumes from look to look.
#[derive(Debug, Default)]
pub struct Volumes {
    data: Gauge,
    wal: Gauge,
    looked: Option<Tick>,
    readings: Readings,
    told: Option<(Room, Taker)>,
    slot_wal_cap: Option<u64>,
}

/// What has come of a look and is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It has become worse, or who takes the space is known.
    Scarce(String),
    Ample,
}

impl Volumes {
    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    /// Returns how many bytes of WAL slots may keep, so that a consumer that is gone does not fill the volume.
    pub fn slot_wal_cap(&self) -> Option<u64> {
        self.slot_wal_cap
    }

    /// Looks. `server` is, where one runs, the slot that keeps the most WAL.
    pub fn look(
        &mut self,
        data_dir: &Path,
        section: DiskSection,
        segment: SegmentSize,
        server: Option<Option<(String, u64)>>,
        now: Tick,
    ) {
        if server.is_some() && self.looked.is_some_and(|at| now.since(at) < APART) {
            return;
        }
        self.looked = Some(now);
        let wal_dir = data_dir.join("pg_wal");
        let (data, wal) = (ask(data_dir), ask(&wal_dir));
        let apart = matches!((data, wal), (Some(data), Some(wal)) if data.device != wal.device);
        if let Some(volume) = wal.or(data) {
            self.slot_wal_cap = Some(capped(self.slot_wal_cap, volume.size, apart));
        }
        let read = |gauge: &mut Gauge, volume: Volume, holds_wal: bool| -> Reading {
            let limits = Limits {
                warn: section.warn.of(volume.size),
                brake: section.brake.of(volume.size),
                least: disk::least(segment, holds_wal),
            };
            let spare = || if holds_wal { spare_segments(&wal_dir) } else { 0 };
            gauge.read(now, (volume.size, volume.free), limits, spare)
        };
        let data = data.map(|volume| read(&mut self.data, volume, !apart));
        let wal = wal.filter(|_| apart).map(|volume| read(&mut self.wal, volume, true));
        let scarce = [&data, &wal].into_iter().flatten().any(|reading| reading.room >= Room::Scarce);
        let taker = match wal.as_ref().or(data.as_ref()) {
            Some(reading) if scarce => {
                let used = reading.size.saturating_sub(reading.free);
                Taker::of(server.flatten(), waiting_files(&wal_dir), segment, used)
            }
            Some(_) | None => Taker::Load,
        };
        self.readings = Readings { data, wal, taker };
    }

    /// Returns what is worth a line since it was asked last.
    pub fn news(&mut self) -> Option<News> {
        let room = self.readings.verdict().room;
        let taker = &self.readings.taker;
        let Some(sentence) = self.readings.sentence() else {
            return self.told.take().map(|_| News::Ample);
        };
        let known =
            self.told.as_ref().is_some_and(|(told, known)| *told == room && !taker.is_news_beside(known));
        if known {
            return None;
        }
        self.told = Some((room, taker.clone()));
        Some(News::Scarce(sentence))
    }
}

/// Returns the cap for a WAL volume of this size, or the one before where that is near.
fn capped(before: Option<u64>, size: u64, apart: bool) -> u64 {
    let part = size / if apart { CAP_PART } else { SHARED_CAP_PART };
    let cap = (part / CAP_STEP).max(1) * CAP_STEP;
    before.filter(|before| before.abs_diff(cap) <= cap / CAP_STAYS_PART).unwrap_or(cap)
}

fn ask(path: &Path) -> Option<Volume> {
    match volume::of(path) {
        Ok(volume) => volume,
        Err(error) => {
            tracing::debug!(error = %crate::sys::chain(&error), "the volume does not tell how full it is");
            None
        }
    }
}

/// Counts the WAL files that wait for `archive_command`.
fn waiting_files(wal_dir: &Path) -> u64 {
    let names = files::list(&wal_dir.join("archive_status")).unwrap_or_default();
    let waiting = names.iter().filter(|name| name.to_str().is_some_and(|name| name.ends_with(".ready")));
    u64::try_from(waiting.count()).unwrap_or(u64::MAX)
}

/// As many spare segments as this are all the room that is asked for.
const SPARE_SEGMENTS: usize = 4;

/// Returns the bytes of segments that were written before and wait to be written again. They are those with the highest
/// names; their first page still says where it was.
fn spare_segments(wal_dir: &Path) -> u64 {
    let mut names: Vec<String> = files::list(wal_dir)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .collect();
    names.sort_unstable_by(|a, b| b.get(8..).cmp(&a.get(8..)));
    let spare = names.iter().take(SPARE_SEGMENTS).map_while(|name| spare_bytes(wal_dir, name));
    spare.sum()
}

/// Returns the size of a segment that holds no WAL of its name; None: it does, or cannot be read.
fn spare_bytes(wal_dir: &Path, name: &str) -> Option<u64> {
    let path = wal_dir.join(name);
    let size = files::stat_followed(&path).ok()??.size;
    let (_, Lsn(start)) = SegmentSize::new(size)?.parse(name)?;
    // Magic, flags and timeline take eight bytes; the address of the page comes after them.
    let page = files::read_start(&path, 16).ok()?;
    let address = u64::from_ne_bytes(page.get(8..16)?.try_into().ok()?);
    (address != start).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::disk::Share;
    use crate::sys::files::Attributes;

    const SIZE: u64 = 1 << 20;

    /// Writes a segment whose first page says that it begins at `address`.
    fn segment(folder: &Path, name: &str, address: u64) {
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        content[8..16].copy_from_slice(&address.to_ne_bytes());
        files::replace(&folder.join(name), &content, Attributes::default()).unwrap();
    }

    #[test]
    fn spare_segments_are_those_whose_first_page_is_older_than_their_name() {
        let temp = tempfile::tempdir().unwrap();
        segment(temp.path(), "000000010000000000000005", 5 * SIZE);
        assert_eq!(spare_segments(temp.path()), 0);

        segment(temp.path(), "000000010000000000000006", 2 * SIZE);
        segment(temp.path(), "000000010000000000000007", 0);

        assert_eq!(spare_segments(temp.path()), 2 * SIZE);
    }

    #[test]
    fn slots_may_keep_a_part_of_the_volume_that_does_not_tremble() {
        const GB: u64 = 1 << 30;

        assert_eq!(capped(None, 100 * GB, true), 50 * GB);
        assert_eq!(capped(None, 100 * GB, false), 25 * GB);
        assert_eq!(capped(Some(50 * GB), 104 * GB, true), 50 * GB);
        assert_eq!(capped(Some(50 * GB), 200 * GB, true), 100 * GB);
        assert_eq!(capped(None, 1, true), CAP_STEP);
    }

    #[test]
    fn a_change_is_told_once() {
        let temp = tempfile::tempdir().unwrap();
        let mut volumes = Volumes::default();
        let always = DiskSection { warn: Share::Bytes(u64::MAX), brake: Share::Off };
        let never = DiskSection { warn: Share::Off, brake: Share::Off };
        let mut look = |section, second: u64| {
            volumes.look(temp.path(), section, SegmentSize::default(), None, Tick(second * 1_000));
            volumes.news()
        };

        assert_eq!(look(never, 0), None);
        assert!(matches!(look(always, 1), Some(News::Scarce(_))));
        assert_eq!(look(always, 2), None);
        assert_eq!(look(never, 3), Some(News::Ample));
        assert_eq!(look(never, 4), None);
    }
}
