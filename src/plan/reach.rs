//! Which variables a text can reach: every identifier in it, and in the variables of those names, and so on.
//!
//! The scan is of words, not of meaning, so it finds too many names rather than too few: also those in quotes, as in
//! `lookup('vars', 'x')`. Names that are put together while a template runs are not seen; a text that could do so
//! reaches everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::expr::{Data, Dict, Value};

/// Names that texts can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    names: BTreeSet<Arc<str>>,
    /// Names in texts that speak of other hosts.
    of_hosts: BTreeSet<Arc<str>>,
    everything: bool,
}

impl Reach {
    /// Adds what is in a template or an expression, and everything when it puts names together itself.
    pub fn text(&mut self, text: &str) {
        let words: Vec<&str> = words(text).collect();
        if words.contains(&"vars") {
            self.everything = true;
        }
        let of_hosts = words.contains(&"hostvars");
        for word in words {
            if of_hosts {
                self.of_hosts.insert(Arc::from(word));
            }
            if !self.names.contains(word) {
                self.names.insert(Arc::from(word));
            }
        }
    }

    /// Adds every trusted text in `value`.
    pub fn value(&mut self, value: &Value) {
        match &value.data {
            Data::Str(text) if value.marks.trusted && (text.contains("{{") || text.contains("{%")) => {
                self.text(text);
            }
            Data::List(values) => values.iter().for_each(|value| self.value(value)),
            Data::Dict(values) => values.values().for_each(|value| self.value(value)),
            Data::Str(_)
            | Data::None
            | Data::Bool(_)
            | Data::Int(_)
            | Data::Float(_)
            | Data::Undefined { .. }
            | Data::Unknown { .. }
            | Data::Omit => {}
        }
    }

    /// Adds a bare expression, as conditions are.
    pub fn expression(&mut self, value: &Value) {
        match &value.data {
            Data::Str(text) => self.text(text),
            Data::List(values) => values.iter().for_each(|value| self.expression(value)),
            _ => {}
        }
    }

    /// Adds a plain name.
    pub fn name(&mut self, name: &str) {
        self.names.insert(Arc::from(name));
    }

    /// Gives up: the text is not known.
    pub fn all(&mut self) {
        self.everything = true;
    }

    /// Adds what the variables of reached names reach, until nothing new is found.
    pub fn close(&mut self, layers: &[&Dict]) {
        let mut seen: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            let fresh: Vec<Arc<str>> = self.names.difference(&seen).cloned().collect();
            if fresh.is_empty() || self.everything {
                return;
            }
            for name in &fresh {
                for value in layers.iter().filter_map(|layer| layer.get(name)) {
                    self.value(value);
                }
            }
            seen.extend(fresh);
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }

    /// Returns the names that may be asked of other hosts; `None` when none can be reached.
    pub fn of_hosts(&self) -> Option<&BTreeSet<Arc<str>>> {
        if self.everything {
            Some(&self.names)
        } else {
            Some(&self.of_hosts).filter(|names| !names.is_empty())
        }
    }

    /// Returns the reached part of a layer.
    pub fn part(&self, layer: &Dict) -> Dict {
        layer
            .iter()
            .filter(|(name, _)| self.has(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.split(move |c: char| !is_part(c))
        .filter(|word| word.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(pairs: &[(&str, &str)]) -> Dict {
        pairs.iter().map(|(name, text)| (Arc::from(*name), Value::template(*text))).collect()
    }

    #[test]
    fn names_are_followed_through_the_variables_they_mean() {
        let vars =
            layer(&[("a", "{{ b['c'] }}"), ("b", "{{ d }}"), ("c", "x"), ("d", "1"), ("e", "{{ a }}")]);
        let mut reach = Reach::default();
        reach.value(&Value::template("{{ a | default('q') }}"));

        reach.close(&[&vars]);

        let part = reach.part(&vars);
        let names: Vec<&str> = part.keys().map(|name| &**name).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_text_that_looks_names_up_by_name_reaches_everything() {
        let mut reach = Reach::default();
        reach.value(&Value::template("{{ lookup('vars', 'x' ~ y) }}"));
        assert!(reach.has("anything"));
    }

    #[test]
    fn text_that_is_no_template_reaches_nothing() {
        let mut reach = Reach::default();
        reach.value(&Value::template("plain words"));
        reach.value(&Value::str("{{ untrusted }}"));
        assert!(!reach.has("words") && !reach.has("untrusted"));
    }
}
