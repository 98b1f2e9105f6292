//! The field's nouns: WAL positions, timelines, members, roles, modes. No serde, no I/O.
//!
//! Each noun has one text form, `Display` and `FromStr`; other people's spellings live in the rooms that read them.
//! *Leader* is who holds the key in etcd; *primary* is a Postgres out of recovery.

pub mod control_file;
pub mod failover;
pub mod lsn;
pub mod member;
pub mod role;
pub mod segment;
pub mod slot;
pub mod state;
pub mod sync;
pub mod tags;
pub mod timeline;
pub mod version;

pub use failover::{FailoverRequest, UnixMs};
pub use lsn::Lsn;
pub use member::MemberName;
pub use role::Role;
pub use segment::SegmentSize;
pub use state::{ReplicationState, State};
pub use sync::{SyncMode, SyncNames, SyncState};
pub use tags::Tags;
pub use timeline::{History, HistoryEntry, Timeline};
pub use version::{PgVersion, SystemId};

/// Text that is not the noun it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseError {
    pub text: String,
    /// What it should have been, with its article: "a WAL position like 0/3000148".
    pub expected: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.to_owned(), expected }
    }
}

/// Implements `Display` and `FromStr` of an enum of plain words from one table.
macro_rules! words {
    ($type:ty, $expected:literal, $($variant:ident => $word:literal),+ $(,)?) => {
        impl $type {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the word.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::cluster::ParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::cluster::ParseError::new(text, $expected)),
                }
            }
        }
    };
}
pub(crate) use words;
