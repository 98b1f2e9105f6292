//! How much room this member has on its volumes: that of the data and that of the WAL, which may be one.

use std::fmt;
use std::time::Duration;

/// What decisions rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    /// The worse of the two volumes.
    pub room: Room,
    /// So little is left that clients are to be kept from writing. Never where the configuration sets no such limit.
    pub brake: bool,
    /// How long the least limit ahead is away at the present pace; None: nothing fills up.
    pub left: Option<Duration>,
}

/// How much room a member has, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Room {
    /// Nobody could tell, as of a member that Patroni runs.
    #[default]
    Unknown,
    Ample,
    /// Below the limit that is warned of.
    Scarce,
    /// Too little for Postgres to begin another WAL segment and get through a recovery: a primary ends there, and the
    /// next start with it.
    Full,
}

impl Room {
    pub const fn word(self) -> &'static str {
        match self {
            Room::Unknown => "unknown",
            Room::Ample => "ample",
            Room::Scarce => "scarce",
            Room::Full => "full",
        }
    }

    /// Reads a word; what is no such word is unknown.
    pub fn of_word(word: &str) -> Room {
        [Room::Ample, Room::Scarce, Room::Full]
            .into_iter()
            .find(|room| room.word() == word)
            .unwrap_or_default()
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
