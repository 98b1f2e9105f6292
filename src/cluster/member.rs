//! Names of members and of their replication slots.

use std::fmt;
use std::str::FromStr;

use crate::cluster::ParseError;

/// The name of a member, as in the configuration key `name`; not empty and without a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(String);

/// Longest name of a replication slot, in bytes: Postgres's NAMEDATALEN less its terminator would be 63, and the
/// contract's other writers cut at 64 characters of their escaped form, which Postgres then cuts again.
const SLOT_NAME_BYTES: usize = 63;

impl MemberName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the replication slot that serves this member.
    ///
    /// Lower case; `-` and `.` become `_`; any other character that slots do not allow becomes `u` and its code
    /// in at least four hexadecimal digits. Source: Patroni 4.1, `slot_name_from_member_name`.
    pub fn slot_name(&self) -> String {
        let mut slot = String::with_capacity(self.0.len());
        for c in self.0.chars().flat_map(char::to_lowercase) {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => slot.push_str(&format!("u{:04x}", u32::from(other))),
            }
        }
        slot.truncate(SLOT_NAME_BYTES); // ASCII only, so every byte is a boundary
        slot
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MemberName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() || text.contains('/') {
            return Err(ParseError::new(text, "a member name: not empty and without a slash"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_are_escaped_as_the_contract_says() {
        let slot = |name: &str| name.parse::<MemberName>().unwrap().slot_name();
        assert_eq!(slot("postgres-0"), "postgres_0");
        assert_eq!(slot("DB1.example"), "db1_example");
        assert_eq!(slot("a b"), "au0020b");
        assert_eq!(slot(&"x".repeat(80)).len(), SLOT_NAME_BYTES);
    }

    #[test]
    fn a_name_with_a_slash_would_be_another_key() {
        assert!("a/b".parse::<MemberName>().is_err());
        assert!("".parse::<MemberName>().is_err());
    }
}
