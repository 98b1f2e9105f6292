//! `keddah/NAME`: ours. The last reasons of a member, newest last, so that they can be told when the member is gone.

use serde::{Deserialize, Serialize};

/// How many are kept.
pub const KEPT: usize = 32;

/// Why a member did, or did not do, something; written when the reason changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// ISO time of the member's wall clock.
    pub time: String,
    /// etcd's revision that the member had looked at; 0 if etcd had not answered.
    pub revision: i64,
    /// The reason's stable name.
    pub reason: String,
    /// The sentence.
    pub text: String,
    /// What it chose to do, each with its stable name.
    pub actions: Vec<String>,
}

/// What is told beside the decisions, and says nothing of what a member does.
const NOTES: [&str; 3] = ["DiskScarce", "DiskAmple", "UpgradeRefused"];

impl Told {
    /// Tells whether this is no decision's reason.
    pub fn is_note(&self) -> bool {
        NOTES.contains(&self.reason.as_str())
    }
}

/// The value of the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Where the member can be asked, also when its member key is gone.
    pub api_url: Option<String>,
    pub told: Vec<Told>,
}

impl Account {
    /// Reads the value; what is not ours to read gives nothing.
    pub fn parse(text: &str) -> Account {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Returns the reasons of decisions, oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Told> {
        self.told.iter().filter(|told| !told.is_note())
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}
