//! A value of a Postgres setting as people write it and as the catalogs keep it.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::postgres::query::quote_literal;

/// Settings whose value is a list of names, each of which is quoted by itself.
/// Source: PostgreSQL, src/bin/pg_dump/dumputils.c, `variable_is_guc_list_quote`.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The text of a value; a boolean is `on` or `off`, a list is joined by commas.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "serde_json::Value")]
pub struct Setting(String);

impl Setting {
    /// Writes the value for SQL.
    pub(super) fn quoted(&self, name: &str) -> String {
        if !is_list(name) {
            return quote_literal(&self.0);
        }
        let items: Vec<String> = items(&self.0).iter().map(|item| quote_literal(item)).collect();
        if items.is_empty() { quote_literal("") } else { items.join(", ") }
    }

    /// Tells whether `stored`, as the catalogs have it, is this value.
    pub(super) fn is_stored_as(&self, name: &str, stored: &str) -> bool {
        if is_list(name) { items(&self.0) == items(stored) } else { self.0 == stored }
    }
}

fn is_list(name: &str) -> bool {
    LISTS.iter().any(|list| list.eq_ignore_ascii_case(name))
}

/// Takes a list of names apart; a name in double quotes keeps its capitals, commas and blanks.
fn items(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut item = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            while let Some((part, more)) = rest.split_once('"') {
                item.push_str(part);
                rest = more;
                let Some(more) = rest.strip_prefix('"') else { break };
                item.push('"');
                rest = more;
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            item = rest[..end].trim().to_lowercase();
            rest = &rest[end..];
        }
        items.push(item);
        rest = rest.trim_start().trim_start_matches(',').trim_start();
    }
    items
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Setting, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Setting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting's value: a text, a number, a boolean or a list")
    }

    fn visit_bool<E: de::Error>(self, is: bool) -> Result<Setting, E> {
        Ok(Setting(if is { "on" } else { "off" }.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Setting, E> {
        Ok(Setting(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Setting, E> {
        Ok(Setting(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Setting, E> {
        Ok(Setting(number.to_string()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Setting, E> {
        Ok(Setting(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Setting, A::Error> {
        let mut items = Vec::new();
        while let Some(Setting(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(Setting(items.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(text: &str) -> Setting {
        Setting(text.to_owned())
    }

    #[test]
    fn booleans_numbers_and_lists_become_the_words_of_postgres() {
        let read = |json: &str| serde_json::from_str::<Setting>(json).unwrap().0;
        assert_eq!(["false", "5", "0.5", "\"64MB\""].map(read), ["off", "5", "0.5", "64MB"]);
        assert_eq!(read("[\"app\", \"public\"]"), "app, public");
    }

    #[test]
    fn a_list_of_names_is_quoted_name_by_name_and_compared_so() {
        let path = setting("\"$user\",app , \"Mixed, case\"");
        assert_eq!(path.quoted("search_path"), "'$user', 'app', 'Mixed, case'");
        assert!(path.is_stored_as("search_path", "\"$user\", app, \"Mixed, case\""));
        assert!(!path.is_stored_as("search_path", "app"));
        assert_eq!(setting("").quoted("search_path"), "''");
        assert_eq!(items("\"a\"\"b\", \"\""), ["a\"b", ""]);
        assert_eq!(setting("a, b").quoted("application_name"), "'a, b'");
    }
}
