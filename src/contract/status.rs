//! `status`: the leader's last known position and its slots.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Lsn, Timeline};
use crate::contract::ContractError;
use crate::contract::document::Document;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusDocument {
    document: Document,
}

impl StatusDocument {
    /// Reads the value of the key; a bare number is an old spelling of the position alone.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<StatusDocument, ContractError> {
        if let Ok(lsn) = text.trim().parse::<u64>() {
            return Ok(StatusDocument::default().with_optime(Lsn(lsn)));
        }
        Ok(StatusDocument { document: Document::parse("the status", text)? })
    }

    /// Returns the last position that the leader wrote.
    pub fn optime(&self) -> Option<Lsn> {
        self.document.unsigned("optime").map(Lsn)
    }

    /// Returns the positions of slots by name.
    pub fn slots(&self) -> BTreeMap<String, Lsn> {
        let slots = self.document.object("slots");
        slots
            .into_iter()
            .flatten()
            .filter_map(|(name, lsn)| Some((name.clone(), Lsn(lsn.as_u64()?))))
            .collect()
    }

    #[must_use]
    pub fn with_optime(mut self, optime: Lsn) -> StatusDocument {
        self.document.set("optime", optime.0);
        self
    }

    /// Returns the slots of members that are kept although the members may be away.
    pub fn retain_slots(&self) -> BTreeSet<String> {
        let list = self.document.0.get("retain_slots").and_then(serde_json::Value::as_array);
        list.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    #[must_use]
    pub fn with_retain_slots(mut self, slots: &BTreeSet<String>) -> StatusDocument {
        let list: Vec<serde_json::Value> = slots.iter().map(|name| name.as_str().into()).collect();
        self.document.set_or_remove("retain_slots", (!list.is_empty()).then_some(list));
        self
    }

    /// Returns the timeline of the primary that wrote it; only members of this product tell it.
    pub fn timeline(&self) -> Option<Timeline> {
        let number = self.document.object("keddah")?.get("timeline")?.as_u64()?;
        u32::try_from(number).ok().map(Timeline)
    }

    #[must_use]
    pub fn with_timeline(mut self, timeline: Option<Timeline>) -> StatusDocument {
        let part = timeline.map(|timeline| serde_json::json!({"timeline": timeline.0}));
        self.document.set_or_remove("keddah", part);
        self
    }

    #[must_use]
    pub fn with_slots(mut self, slots: &BTreeMap<String, Lsn>) -> StatusDocument {
        let slots: serde_json::Map<_, _> =
            slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into())).collect();
        self.document.set_or_remove("slots", (!slots.is_empty()).then_some(slots));
        self
    }

    pub fn to_text(&self) -> String {
        self.document.to_text()
    }
}
