//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use crate::cluster::ParseError;

/// A position in the write-ahead log, in bytes since the cluster was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Returns how many bytes of WAL `self` is ahead of `other`; zero if it is not.
    ///
    /// Both positions must be of the same timeline; compare timelines first (see
    /// [`History`](crate::cluster::History)).
    /// Source: PostgreSQL documentation, "System Administration Functions", `pg_wal_lsn_diff`.
    pub fn bytes_ahead_of(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let part = |digits: &str| {
            let hex =
                !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(part(high)? << 32 | part(low)?)))
            .ok_or_else(|| ParseError::new(text, "a WAL position like 0/3000148"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_that_of_postgres() {
        assert_eq!(Lsn(0x1_0300_0148).to_string(), "1/3000148");
        assert_eq!("FF/0000000A".parse(), Ok(Lsn(0xFF_0000_000A)));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "0", "/", "0/", "/0", "0/123456789", "0/-1", "0/+1", "g/0", "0/0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
    }
}
