//! etcd versions with known faults in leases or membership. A table, so that `validate` can name them.

/// A range of versions that one should not run a cluster on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFault {
    /// First version with the fault.
    pub since: (u32, u32, u32),
    /// First version without it.
    pub fixed_in: (u32, u32, u32),
    pub what: &'static str,
}

/// Source: etcd issues 12528, 15247; the 3.5 data inconsistency announcement; the 3.6 upgrade guide.
pub const KNOWN_FAULTS: &[KnownFault] = &[
    KnownFault {
        since: (3, 4, 0),
        fixed_in: (3, 4, 31),
        what: "a stopped or slow leader may revoke leases that were renewed (etcd issues 12528 and 15247)",
    },
    KnownFault {
        since: (3, 5, 0),
        fixed_in: (3, 5, 3),
        what: "members may end with different data after a crash",
    },
    KnownFault {
        since: (3, 5, 0),
        fixed_in: (3, 5, 13),
        what: "a stopped or slow leader may revoke leases that were renewed (etcd issues 12528 and 15247)",
    },
];

/// Reads `3.5.16`, also with a suffix (`3.4.23+dfsg`).
pub fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim_start_matches('v').splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next()?;
    let digits = patch.find(|c: char| !c.is_ascii_digit()).unwrap_or(patch.len());
    Some((major, minor, patch.get(..digits)?.parse().ok()?))
}

/// Returns the known faults of a version.
pub fn known_faults(version: (u32, u32, u32)) -> impl Iterator<Item = &'static KnownFault> {
    KNOWN_FAULTS.iter().filter(move |fault| fault.since <= version && version < fault.fixed_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_12_ships_a_faulty_etcd() {
        let version = parse("3.4.23+dfsg").unwrap();

        assert_eq!(known_faults(version).count(), 1);
        assert_eq!(known_faults(parse("3.5.16").unwrap()).count(), 0);
    }
}
