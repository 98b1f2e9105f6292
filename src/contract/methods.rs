//! The user's own programs that fill a data directory: `bootstrap.method` and `create_replica_methods`.

use serde_json::{Map, Value};

use crate::contract::document::boolean;
use crate::contract::dynamic::parameter_text;

/// The method that is built in.
pub const BASEBACKUP: &str = "basebackup";

/// A program of the user's, with what its section says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    pub name: String,
    /// The command line as it is written.
    pub command: String,
    /// Nothing is added to the command line but the section's own keys.
    pub no_params: bool,
    /// What is in the data directory is left there for the program.
    pub keep_data: bool,
    /// It needs no other member.
    pub no_leader: bool,
    /// What the program left there for the recovery is not touched.
    pub keep_existing_recovery_conf: bool,
    /// Parameters of the recovery that follows.
    pub recovery_conf: Option<Vec<(String, String)>>,
    /// The section's other keys, for the command line.
    extra: Vec<(String, String)>,
}

impl Method {
    /// Reads a section; without a `command` the name is the command.
    pub fn read(name: &str, section: &Map<String, Value>) -> Method {
        let flag = |key: &str| section.get(key).and_then(boolean).unwrap_or(false);
        let recovery = section.get("recovery_conf").and_then(Value::as_object);
        let own = |key: &str| {
            matches!(
                key,
                "command"
                    | "no_params"
                    | "no_leader"
                    | "keep_data"
                    | "keep_existing_recovery_conf"
                    | "recovery_conf"
                    | "scope"
                    | "datadir"
                    | "role"
                    | "connstring"
            )
        };
        Method {
            name: name.to_owned(),
            command: section.get("command").and_then(Value::as_str).unwrap_or(name).to_owned(),
            no_params: flag("no_params"),
            keep_data: flag("keep_data"),
            no_leader: flag("no_leader"),
            keep_existing_recovery_conf: flag("keep_existing_recovery_conf"),
            recovery_conf: recovery.map(|map| {
                map.iter().filter_map(|(name, value)| Some((name.clone(), parameter_text(value)?))).collect()
            }),
            extra: section
                .iter()
                .filter(|(key, _)| !own(key))
                .map(|(key, value)| (key.clone(), argument(value)))
                .collect(),
        }
    }

    /// Returns the words of the command line, with `given` as options unless the section forbids it.
    pub fn words(&self, given: &[(&str, &str)]) -> Vec<String> {
        let option = |(key, value): (&str, &str)| format!("--{key}={value}");
        let mut words = split_words(&self.command);
        if !self.no_params {
            words.extend(given.iter().copied().map(option));
        }
        words.extend(self.extra.iter().map(|(key, value)| option((key, value))));
        words
    }
}

/// Writes a value as it stands on a command line; truth values as Patroni's scripts know them.
fn argument(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Returns the methods that make a replica, in their order; the built-in one where nothing is configured.
///
/// `first` are those of a standby cluster; `section` is the `postgresql` section that counts, in which each method has
/// its own.
pub fn of_replicas(first: Option<&Value>, section: &Map<String, Value>) -> Vec<Method> {
    let names = |value: Option<&Value>| -> Vec<String> {
        match value {
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    };
    let configured = section.get("create_replica_methods").or_else(|| section.get("create_replica_method"));
    let mut chosen = names(first);
    if chosen.is_empty() {
        chosen = names(configured);
    }
    if chosen.is_empty() {
        chosen.push(BASEBACKUP.to_owned());
    }
    let empty = Map::new();
    chosen
        .iter()
        .map(|name| Method::read(name, section.get(name).and_then(Value::as_object).unwrap_or(&empty)))
        .collect()
}

/// Splits a command line as a shell would where it has only words and quotes.
pub fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("not an object") };
        map
    }

    #[test]
    fn commands_are_split_like_a_shell_does() {
        assert_eq!(split_words("psql -w -c \"SELECT 1\""), ["psql", "-w", "-c", "SELECT 1"]);
        assert_eq!(split_words(" a '' 'b c'\\ d "), ["a", "", "b c d"]);
        assert_eq!(split_words("x --dbname=\"port=5 host=/tmp\""), ["x", "--dbname=port=5 host=/tmp"]);
    }

    #[test]
    fn a_section_s_own_keys_become_options() {
        let section = map(json!({
            "command": "restore --fast", "keep_data": true, "level": 3, "verify": true, "scope": "evil",
            "recovery_conf": {"recovery_target_action": "promote"},
        }));
        let method = Method::read("backup", &section);

        assert_eq!(
            method.words(&[("scope", "demo")]),
            ["restore", "--fast", "--scope=demo", "--level=3", "--verify=True"]
        );
        assert!(method.keep_data && !method.no_leader);
        let recovery = [("recovery_target_action".to_owned(), "promote".to_owned())];
        assert_eq!(method.recovery_conf.as_deref(), Some(recovery.as_slice()));
    }

    #[test]
    fn no_params_leaves_out_what_is_given_and_keeps_the_own_keys() {
        let section = map(json!({"command": "x", "no_params": "yes", "a": "b"}));

        assert_eq!(Method::read("m", &section).words(&[("scope", "demo")]), ["x", "--a=b"]);
    }

    #[test]
    fn without_a_choice_replicas_are_made_by_the_built_in_method() {
        let names = |first: Option<Value>, section: Value| -> Vec<String> {
            let methods = of_replicas(first.as_ref(), &map(section));
            methods.into_iter().map(|method| method.name).collect()
        };

        assert_eq!(names(None, json!({})), [BASEBACKUP]);
        assert_eq!(
            names(None, json!({"create_replica_methods": ["wal_e", "basebackup"]})),
            ["wal_e", BASEBACKUP]
        );
        assert_eq!(names(Some(json!(["s"])), json!({"create_replica_methods": ["wal_e"]})), ["s"]);
    }
}
