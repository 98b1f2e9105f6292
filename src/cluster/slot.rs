//! Replication slots: what they are for, and which ones are nobody's business.

/// What a slot is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    Physical,
    Logical { database: String, plugin: String },
}

impl SlotKind {
    pub fn is_physical(&self) -> bool {
        matches!(self, SlotKind::Physical)
    }
}

/// Describes slots that belong to somebody else; what is None matches any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SlotMatcher {
    pub name: Option<String>,
    pub database: Option<String>,
    pub plugin: Option<String>,
    pub physical: Option<bool>,
}

impl SlotMatcher {
    /// Tells whether everything that is given here is so for the slot.
    pub fn matches(&self, name: &str, kind: &SlotKind) -> bool {
        let same = |wanted: &Option<String>, found: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| Some(wanted) == found)
        };
        let (database, plugin) = match kind {
            SlotKind::Physical => (None, None),
            SlotKind::Logical { database, plugin } => (Some(database), Some(plugin)),
        };
        self.name.as_ref().is_none_or(|wanted| wanted == name)
            && same(&self.database, database)
            && same(&self.plugin, plugin)
            && self.physical.is_none_or(|physical| physical == kind.is_physical())
    }
}

/// Tells whether Postgres takes this as the name of a slot.
pub fn is_slot_name(text: &str) -> bool {
    (1..64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_description_is_enough() {
        let logical = SlotKind::Logical { database: "shop".to_owned(), plugin: "pgoutput".to_owned() };
        let text = |text: &str| Some(text.to_owned());
        let named = SlotMatcher { name: text("cdc"), ..SlotMatcher::default() };
        let typed = SlotMatcher { database: text("shop"), physical: Some(false), ..SlotMatcher::default() };

        assert!(named.matches("cdc", &SlotKind::Physical) && !named.matches("other", &logical));
        assert!(typed.matches("any", &logical) && !typed.matches("any", &SlotKind::Physical));
    }

    #[test]
    fn names_are_those_that_postgres_takes() {
        assert!(is_slot_name("postgres_0"));
        for wrong in ["", "A", "a-b", &"x".repeat(64)] {
            assert!(!is_slot_name(wrong), "{wrong}");
        }
    }
}
