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

/// Reads the value of the key; what is not ours to read gives nothing.
pub fn parse(text: &str) -> Vec<Told> {
    serde_json::from_str(text).unwrap_or_default()
}

pub fn to_text(told: &[Told]) -> String {
    serde_json::to_string(told).unwrap_or_else(|_| "[]".to_owned())
}
