//! What the first bytes of `global/pg_control` say: the fields that lie at the same place in every supported version.

/// The bytes that [`ControlFile::read`] looks at; the file is longer.
pub const CONTROL_BYTES: usize = 56;

/// The state that Postgres last wrote of itself. It stays when the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlState {
    /// Begins to start for the first time.
    StartingUp,
    /// A primary stopped in order.
    ShutDown,
    /// A replica stopped in order.
    ShutDownInRecovery,
    /// A primary writes its shutdown checkpoint.
    ShuttingDown,
    /// Replays its own WAL after a crash.
    CrashRecovery,
    /// Replays others' WAL: a replica, or a restore.
    ArchiveRecovery,
    /// Out of recovery: writable.
    InProduction,
}

impl ControlState {
    fn from_number(number: u32) -> Option<ControlState> {
        Some(match number {
            0 => ControlState::StartingUp,
            1 => ControlState::ShutDown,
            2 => ControlState::ShutDownInRecovery,
            3 => ControlState::ShuttingDown,
            4 => ControlState::CrashRecovery,
            5 => ControlState::ArchiveRecovery,
            6 => ControlState::InProduction,
            _ => return None,
        })
    }

    /// Returns the words of `pg_controldata`.
    pub const fn words(self) -> &'static str {
        match self {
            ControlState::StartingUp => "starting up",
            ControlState::ShutDown => "shut down",
            ControlState::ShutDownInRecovery => "shut down in recovery",
            ControlState::ShuttingDown => "shutting down",
            ControlState::CrashRecovery => "in crash recovery",
            ControlState::ArchiveRecovery => "in archive recovery",
            ControlState::InProduction => "in production",
        }
    }
}

/// The head of `pg_control`.
///
/// Source: PostgreSQL's `catalog/pg_control.h`, whose first fields are the same from version 11 to 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ControlFile {
    pub system_id: u64,
    pub control_version: u32,
    pub state: ControlState,
    /// Where the latest checkpoint record lies.
    pub checkpoint: u64,
    /// Where its redo begins.
    pub redo: u64,
    pub timeline: u32,
    pub previous_timeline: u32,
}

impl ControlFile {
    /// Reads the head; None where the bytes are too few or are not a `pg_control` of this machine's byte order.
    pub fn read(bytes: &[u8]) -> Option<ControlFile> {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let control_version = u32_at(8)?;
        // 1100 is Postgres 11; a file of the other byte order has these digits in the upper half.
        if !(1_100..10_000).contains(&control_version) {
            return None;
        }
        Some(ControlFile {
            system_id: u64_at(0)?,
            control_version,
            state: ControlState::from_number(u32_at(16)?)?,
            checkpoint: u64_at(32)?,
            redo: u64_at(40)?,
            timeline: u32_at(48)?,
            previous_timeline: u32_at(52)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(state: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7_000_000_000_000_000_001_u64.to_ne_bytes());
        bytes.extend(1300_u32.to_ne_bytes());
        bytes.extend(202_209_061_u32.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(1_700_000_000_i64.to_ne_bytes());
        bytes.extend(0x3000_0148_u64.to_ne_bytes());
        bytes.extend(0x3000_0110_u64.to_ne_bytes());
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(2_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_head_is_read_at_its_places() {
        let read = ControlFile::read(&sample(6)).unwrap();

        assert_eq!(read.state, ControlState::InProduction);
        assert_eq!((read.timeline, read.previous_timeline), (3, 2));
        assert_eq!((read.checkpoint, read.redo), (0x3000_0148, 0x3000_0110));
        assert_eq!(read.system_id, 7_000_000_000_000_000_001);
    }

    #[test]
    fn what_is_no_control_file_is_not_guessed_at() {
        assert_eq!(ControlFile::read(&[]), None);
        assert_eq!(ControlFile::read(&[0; 64]), None);
        assert_eq!(ControlFile::read(&sample(7)), None, "a state that no version has");
        assert_eq!(ControlFile::read(sample(6).get(..CONTROL_BYTES - 1).unwrap()), None);
    }
}
