//! Which tasks `--tags` and `--skip-tags` let run.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::expr::{Data, Value};

/// What was asked for on the command line; without `only`, everything but `never`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub only: BTreeSet<String>,
    pub skip: BTreeSet<String>,
}

impl Selection {
    /// Says whether a task with `tags` runs, by Ansible's rules for `always`, `never`, `all`, `tagged` and `untagged`.
    pub fn selects(&self, tags: &BTreeSet<Arc<str>>) -> bool {
        let has = |name: &str| tags.contains(name);
        let named = |set: &BTreeSet<String>| tags.iter().any(|tag| set.contains(&**tag));
        let tagged = !tags.is_empty();
        let wanted = if self.only.is_empty() || (self.only.contains("all") && !has("never")) {
            !has("never")
        } else {
            has("always") && !has("never")
                || named(&self.only)
                || (self.only.contains("tagged") && tagged && !has("never"))
                || (self.only.contains("untagged") && !tagged)
        };
        let skipped = named(&self.skip)
            || (self.skip.contains("all") && !has("always"))
            || (self.skip.contains("tagged") && tagged)
            || (self.skip.contains("untagged") && !tagged);
        wanted && !skipped
    }
}

/// Returns the words of `tags:` entries: texts, split at commas.
pub fn words(values: &[Value]) -> BTreeSet<Arc<str>> {
    let mut words = BTreeSet::new();
    for value in values {
        collect(value, &mut words);
    }
    words
}

fn collect(value: &Value, words: &mut BTreeSet<Arc<str>>) {
    match &value.data {
        Data::Str(text) => {
            words.extend(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Arc::from));
        }
        Data::Int(number) => {
            words.insert(Arc::from(number.to_string()));
        }
        Data::List(entries) => entries.iter().for_each(|entry| collect(entry, words)),
        Data::None
        | Data::Bool(_)
        | Data::Float(_)
        | Data::Dict(_)
        | Data::Undefined { .. }
        | Data::Unknown { .. }
        | Data::Omit => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &str) -> BTreeSet<Arc<str>> {
        words.split_whitespace().map(Arc::from).collect()
    }

    fn selection(only: &str, skip: &str) -> Selection {
        let split = |text: &str| text.split_whitespace().map(String::from).collect();
        Selection { only: split(only), skip: split(skip) }
    }

    #[test]
    fn without_tags_everything_runs_but_never() {
        let all = selection("", "");
        assert!(all.selects(&set("")));
        assert!(all.selects(&set("a")));
        assert!(!all.selects(&set("never a")));
    }

    #[test]
    fn asked_tags_bring_always_along_and_never_only_by_name() {
        let only = selection("a", "");
        assert!(only.selects(&set("a b")));
        assert!(only.selects(&set("always")));
        assert!(only.selects(&set("never a")));
        assert!(!only.selects(&set("b")));
        assert!(!only.selects(&set("")));
        assert!(selection("never", "").selects(&set("never")));
    }

    #[test]
    fn skipped_tags_win_even_over_always_when_named() {
        assert!(!selection("", "a").selects(&set("a always")));
        assert!(!selection("", "always").selects(&set("always")));
        assert!(selection("tagged", "").selects(&set("x")));
        assert!(!selection("untagged", "").selects(&set("x")));
    }
}
