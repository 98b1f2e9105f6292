//! A JSON object that keeps what it does not know, and the order of its keys.

use serde_json::{Map, Value};

use crate::contract::ContractError;

/// One JSON object as it was read, or as it will be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document(pub Map<String, Value>);

impl Document {
    /// Reads a text that must be a JSON object.
    ///
    /// # Errors
    /// It is not one.
    pub fn parse(what: &'static str, text: &str) -> Result<Document, ContractError> {
        let wrong = |why: String| ContractError { what, expected: "a JSON object", why };
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Document(map)),
            Ok(other) => Err(wrong(format!("found {}", kind(&other)))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Writes it on one line without blanks, as Patroni does.
    pub fn to_text(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Reads a whole number, also one written as text.
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub fn boolean(&self, key: &str) -> Option<bool> {
        boolean(self.get(key)?)
    }

    pub fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        self.get(key)?.as_object()
    }

    /// Sets a field, in place if it is there and at the end otherwise.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Sets a field, or removes it.
    pub fn set_or_remove(&mut self, key: &str, value: Option<impl Into<Value>>) {
        match value {
            Some(value) => self.set(key, value),
            None => {
                self.0.shift_remove(key);
            }
        }
    }
}

/// Reads a truth value as Patroni does: booleans, and the words that Postgres takes.
pub fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Writes JSON as Python's `json.dumps` does, with blanks after commas and colons.
pub fn python_json(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(python_json).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), python_json(value))
            };
            format!("{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Names the kind of a JSON value, with its article.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_blanks_of_python() {
        assert_eq!(
            python_json(&serde_json::json!([{"a": 1, "b": ["x", null]}])),
            r#"[{"a": 1, "b": ["x", null]}]"#
        );
    }
}
