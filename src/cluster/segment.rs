//! WAL segments: the files that the write-ahead log is cut into, and their names.

use crate::cluster::{Lsn, Timeline};

/// How many bytes a WAL segment has, chosen by initdb: a power of two from 1 MB to 1 GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u64);

impl Default for SegmentSize {
    /// What initdb takes unless it is told otherwise.
    fn default() -> SegmentSize {
        SegmentSize(16 << 20)
    }
}

impl SegmentSize {
    /// Takes a number of bytes; None: no cluster has it.
    pub fn new(bytes: u64) -> Option<SegmentSize> {
        let possible = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        possible.then_some(SegmentSize(bytes))
    }

    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Names the segment that holds `lsn`: the timeline, the position in units of 4 GB, and in segments within those.
    ///
    /// Source: PostgreSQL's `access/xlog_internal.h`, `XLogFileName`.
    pub fn name(self, timeline: Timeline, lsn: Lsn) -> String {
        format!("{:08X}{:08X}{:08X}", timeline.0, lsn.0 >> 32, (lsn.0 & 0xFFFF_FFFF) / self.0)
    }

    /// Returns the timeline of the segment of this name, and where it begins; None: no segment has such a name.
    pub fn parse(self, name: &str) -> Option<(Timeline, Lsn)> {
        if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let timeline = u32::try_from(part(0)?).ok()?;
        let offset = part(16)?.checked_mul(self.0).filter(|offset| *offset <= 0xFFFF_FFFF)?;
        Some((Timeline(timeline), Lsn(part(8)? << 32 | offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(megabytes: u64) -> SegmentSize {
        SegmentSize::new(megabytes << 20).unwrap()
    }

    #[test]
    fn names_are_those_of_postgres() {
        let table = [
            (1, Lsn(0x0300_0028), "000000010000000000000030"),
            (16, Lsn(0x1_0300_0028), "000000010000000100000003"),
            (64, Lsn(0x1_0500_0028), "000000010000000100000001"),
        ];
        for (megabytes, lsn, name) in table {
            assert_eq!(size(megabytes).name(Timeline(1), lsn), name);
        }
    }

    #[test]
    fn other_names_and_sizes_are_refused() {
        let names = [
            "",
            "00000001.history",
            "000000010000000000000003.partial",
            "00000001000000000000010G",
            // No 4 GB have so many segments.
            "000000010000000000000100",
        ];
        for name in names {
            assert_eq!(SegmentSize::default().parse(name), None, "{name}");
        }
        for bytes in [0, 1, (16 << 20) - 1, 3 << 20, 2 << 30] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn a_name_tells_where_its_segment_begins(timeline: u32, lsn: u64, power in 20_u32..=30) {
            let size = SegmentSize::new(1 << power).unwrap();
            let start = Lsn(lsn / size.bytes() * size.bytes());
            prop_assert_eq!(size.parse(&size.name(Timeline(timeline), Lsn(lsn))), Some((Timeline(timeline), start)));
        }
    }
}
