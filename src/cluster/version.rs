//! Versions of Postgres and identifiers of database clusters.

use std::fmt;
use std::str::FromStr;

use crate::cluster::ParseError;

/// A version of Postgres as `server_version_num` gives it: 150010 is 15.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgVersion(pub u32);

impl PgVersion {
    /// Returns the major version, which names binaries and catalog layouts.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Returns the minor version.
    pub fn minor(self) -> u32 {
        self.0 % 10_000
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl FromStr for PgVersion {
    type Err = ParseError;

    /// Reads `15.10`, or `15` as its first release.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(text, "a version of Postgres like 15.10");
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let major: u32 = major.parse().map_err(|_| wrong())?;
        let minor: u32 = minor.parse().map_err(|_| wrong())?;
        if !(10..=999).contains(&major) || minor > 9_999 {
            return Err(wrong());
        }
        Ok(PgVersion(major * 10_000 + minor))
    }
}

/// The identifier that initdb gave to a database cluster; its replicas share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for SystemId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(SystemId).map_err(|_| ParseError::new(text, "a system identifier"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_number_and_text_agree() {
        assert_eq!(PgVersion(150_010).to_string(), "15.10");
        assert_eq!("17".parse(), Ok(PgVersion(170_000)));
        assert!("15.x".parse::<PgVersion>().is_err());
        assert!("4294967295".parse::<PgVersion>().is_err());
    }
}
