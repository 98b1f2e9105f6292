//! The `disk` section of the agent's file: below how much free space a member warns, and keeps clients from writing.

/// A part of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Off,
    Bytes(u64),
    Percent(u64),
}

/// What is done about volumes that fill up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSection {
    /// Less free space than this is told.
    pub warn: Share,
    /// With less than this a primary lets clients only read.
    pub brake: Share,
}

impl Default for DiskSection {
    fn default() -> Self {
        DiskSection { warn: Share::Percent(10), brake: Share::Off }
    }
}

/// The units of sizes, as Postgres writes them.
const UNITS: [(&str, u64); 4] = [("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

impl Share {
    /// Reads `10%`, `2GB`, a number of bytes, or `off`; None: it is none of these.
    pub fn parse(text: &str) -> Option<Share> {
        let text = text.trim();
        if matches!(text, "off" | "false") {
            return Some(Share::Off);
        }
        if let Some(number) = text.strip_suffix('%') {
            return number.trim_end().parse().ok().filter(|percent| *percent < 100).map(Share::Percent);
        }
        let unit = UNITS.iter().find_map(|(unit, factor)| {
            let end = text.len().checked_sub(unit.len())?;
            let number = text.get(..end)?;
            text.get(end..)?.eq_ignore_ascii_case(unit).then_some((number, *factor))
        });
        let (number, factor) = unit.unwrap_or((text, 1));
        number.trim_end().parse::<u64>().ok()?.checked_mul(factor).map(Share::Bytes)
    }

    /// Returns the bytes that it is of a volume; 0 where it is off.
    pub fn of(self, size: u64) -> u64 {
        match self {
            Share::Off => 0,
            Share::Bytes(bytes) => bytes,
            Share::Percent(percent) => size / 100 * percent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_they_are_written() {
        let table = [
            ("10%", Some(Share::Percent(10))),
            ("2GB", Some(Share::Bytes(2 << 30))),
            ("64 mb", Some(Share::Bytes(64 << 20))),
            ("1048576", Some(Share::Bytes(1 << 20))),
            ("off", Some(Share::Off)),
            ("100%", None),
            ("-1", None),
            ("MB", None),
            ("much", None),
            ("", None),
            ("99999999999TB", None),
        ];
        for (text, expected) in table {
            assert_eq!(Share::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_share_is_of_a_volume() {
        assert_eq!(Share::Percent(10).of(1_000), 100);
        assert_eq!(Share::Bytes(7).of(1_000), 7);
        assert_eq!(Share::Off.of(1_000), 0);
    }
}
