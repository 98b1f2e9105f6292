//! Transactions: compare, then write all or nothing.

/// One condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent { key: String },
    /// The key exists and was last written at this revision; revision 0 means that it does not exist.
    ModRevision { key: String, revision: i64 },
    /// Nobody has written the key after this revision; it may be absent.
    NotSince { key: String, revision: i64 },
    /// The key exists since this revision.
    CreateRevision { key: String, revision: i64 },
    /// The key has this value.
    Value { key: String, value: String },
    /// The key is bound to this lease.
    Lease { key: String, lease: i64 },
}

impl Compare {
    pub(super) fn to_library(&self) -> etcd_client::Compare {
        use etcd_client::CompareOp::{Equal, Less};
        match self {
            Compare::Absent { key } => etcd_client::Compare::create_revision(key.as_str(), Equal, 0),
            Compare::ModRevision { key, revision } => {
                etcd_client::Compare::mod_revision(key.as_str(), Equal, *revision)
            }
            Compare::NotSince { key, revision } => {
                etcd_client::Compare::mod_revision(key.as_str(), Less, revision.saturating_add(1))
            }
            Compare::CreateRevision { key, revision } => {
                etcd_client::Compare::create_revision(key.as_str(), Equal, *revision)
            }
            Compare::Value { key, value } => etcd_client::Compare::value(key.as_str(), Equal, value.as_str()),
            Compare::Lease { key, lease } => etcd_client::Compare::lease(key.as_str(), Equal, *lease),
        }
    }
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put { key: String, value: String, lease: Option<i64> },
    Delete { key: String },
}

impl Write {
    pub fn put(key: impl Into<String>, value: impl Into<String>) -> Write {
        Write::Put { key: key.into(), value: value.into(), lease: None }
    }

    pub fn put_leased(key: impl Into<String>, value: impl Into<String>, lease: i64) -> Write {
        Write::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    pub(super) fn to_library(&self) -> etcd_client::TxnOp {
        match self {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| etcd_client::PutOptions::new().with_lease(lease));
                etcd_client::TxnOp::put(key.as_str(), value.as_str(), options)
            }
            Write::Delete { key } => etcd_client::TxnOp::delete(key.as_str(), None),
        }
    }
}

/// Writes that happen only if all compares hold, in one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub writes: Vec<Write>,
}

impl Txn {
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Txn {
        self.compares.push(compare);
        self
    }

    #[must_use]
    pub fn then(mut self, write: Write) -> Txn {
        self.writes.push(write);
        self
    }

    /// Joins two that write different keys: both happen or neither.
    #[must_use]
    pub fn and(mut self, other: Txn) -> Txn {
        self.compares.extend(other.compares);
        self.writes.extend(other.writes);
        self
    }
}

/// How a transaction that was answered ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All compares held; everything is written at this revision.
    Applied { revision: i64 },
    /// A compare failed; nothing is written.
    Fenced { revision: i64 },
}
