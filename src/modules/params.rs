//! Reads a task's parameters into a module's own type, with Ansible's coercions: `yes` is a boolean, `5` is a text where
//! one is asked for, `a,b` is a list. Unknown names are refused with the nearest one.

use std::cell::Cell;

use serde::Deserializer;
use serde::de::{self, DeserializeOwned, Visitor};

use crate::expr::{Data, Dict, Value};
use crate::modules::outcome::{Fault, FaultKind};
use crate::source::suggest::did_you_mean;
use crate::source::{Diagnostic, Diagnostics, Span};

mod lenient;

use lenient::Lenient;

/// A parameter that is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct ParamError {
    kind: ErrorKind,
    /// The way to it, outermost first.
    path: Vec<String>,
    pub span: Option<Span>,
    pub hint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ErrorKind {
    Unknown(String),
    Missing(String),
    Wrong(String),
}

impl ParamError {
    fn sentence(&self) -> String {
        match &self.kind {
            ErrorKind::Unknown(name) if self.path.is_empty() => format!("unknown parameter `{name}`"),
            ErrorKind::Unknown(name) => format!("unknown key `{name}` in `{}`", self.path.join(".")),
            ErrorKind::Missing(name) if self.path.is_empty() => format!("the parameter `{name}` is missing"),
            ErrorKind::Missing(name) => format!("the key `{name}` is missing in `{}`", self.path.join(".")),
            ErrorKind::Wrong(what) if self.path.is_empty() => what.clone(),
            ErrorKind::Wrong(what) => format!("`{}`: {what}", self.path.join(".")),
        }
    }

    fn wrong(what: impl Into<String>) -> ParamError {
        ParamError { kind: ErrorKind::Wrong(what.into()), path: Vec::new(), span: None, hint: None }
    }

    fn code(&self) -> &'static str {
        match self.kind {
            ErrorKind::Unknown(_) => "unknown-parameter",
            ErrorKind::Missing(_) => "missing-parameter",
            ErrorKind::Wrong(_) => "parameter-value",
        }
    }

    /// Notes that the error is below `key`.
    fn below(mut self, key: &str, span: Option<Span>) -> ParamError {
        self.path.insert(0, key.to_owned());
        self.span = self.span.or(span);
        self
    }
}

impl de::Error for ParamError {
    fn custom<T: std::fmt::Display>(what: T) -> ParamError {
        ParamError::wrong(what.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> ParamError {
        let mut error = ParamError {
            kind: ErrorKind::Unknown(field.to_owned()),
            path: Vec::new(),
            span: None,
            hint: None,
        };
        error.hint = Some(suggestion(field, expected));
        error
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> ParamError {
        let mut error = ParamError::wrong(format!("`{variant}` is not a word that is known here"));
        error.hint = Some(suggestion(variant, expected));
        error
    }

    fn missing_field(field: &'static str) -> ParamError {
        ParamError { kind: ErrorKind::Missing(field.to_owned()), path: Vec::new(), span: None, hint: None }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> ParamError {
        ParamError::wrong(format!("expected {expected}, found {}", words(&found)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> ParamError {
        ParamError::wrong(format!("expected {expected}, found {}", words(&found)))
    }
}

/// Says what was found without its content, which may be a secret.
fn words(found: &de::Unexpected<'_>) -> &'static str {
    match found {
        de::Unexpected::Bool(_) => "a boolean",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "a number that does not fit",
        de::Unexpected::Float(_) => "a fraction",
        de::Unexpected::Str(_) | de::Unexpected::Char(_) => "a text",
        de::Unexpected::Seq => "a list",
        de::Unexpected::Map => "a dictionary",
        de::Unexpected::Unit | de::Unexpected::Option => "nothing",
        _ => "something else",
    }
}

fn suggestion(word: &str, known: &[&str]) -> String {
    let public = || known.iter().copied().filter(|k| !k.starts_with('_'));
    did_you_mean(word, public())
        .unwrap_or_else(|| format!("known are: {}", public().collect::<Vec<_>>().join(", ")))
}

/// Reads rendered parameters.
///
/// # Errors
/// A name is unknown, one is missing, or a value does not fit; the message begins with the module's name.
pub fn read<T: DeserializeOwned>(module: &str, params: &Value) -> Result<T, ParamError> {
    T::deserialize(Lenient::top(params)).map_err(|mut error| {
        if let ErrorKind::Wrong(what) = &mut error.kind
            && error.path.is_empty()
        {
            *what = format!("{module}: {what}");
        }
        if let ErrorKind::Unknown(name) | ErrorKind::Missing(name) = &error.kind
            && error.path.is_empty()
        {
            error.span = error.span.or(key_span(params, name)).or(params.marks.origin);
        }
        error
    })
}

impl From<ParamError> for Fault {
    fn from(error: ParamError) -> Fault {
        let mut fault = Fault::new(FaultKind::Params(error.span), error.to_string());
        fault.hint.clone_from(&error.hint);
        fault
    }
}

fn key_span(params: &Value, name: &str) -> Option<Span> {
    match &params.data {
        Data::Dict(dict) => dict.get(name).and_then(|v| v.marks.origin),
        _ => None,
    }
}

/// Judges parameters that may hold templates: all names, and all values that are constants. Returns the parameters too
/// when everything is constant and right.
pub fn check<T: DeserializeOwned>(module: &str, params: &Value) -> (Diagnostics, Option<T>) {
    let mut found = Diagnostics::default();
    let dict = match &params.data {
        Data::Dict(dict) => dict,
        // A template that gives all the parameters, or a text that the module does not take.
        Data::Str(_) if has_template(params) => return (found, None),
        _ => {
            let error = ParamError::wrong(format!("{module}: expected parameters by name"));
            found.push(diagnostic(module, &error, params.marks.origin));
            return (found, None);
        }
    };
    let known = names::<T>();
    let mut constants = Dict::new();
    let mut is_partial = false;
    for (name, value) in dict.iter() {
        if !known.contains(&name.as_ref()) {
            let error = <ParamError as de::Error>::unknown_field(name, known);
            found.push(diagnostic(module, &error, value.marks.origin.or(params.marks.origin)));
        } else if has_template(value) {
            is_partial = true;
        } else {
            constants.insert(name.clone(), value.clone());
        }
    }
    if found.has_errors() {
        return (found, None);
    }
    match read::<T>(module, &Value { data: Data::Dict(constants.into()), marks: params.marks }) {
        Ok(read) => (found, (!is_partial).then_some(read)),
        Err(error) => {
            // What is missing among the constants may be what a template gives under another of its names.
            if !(is_partial && error.path.is_empty() && matches!(error.kind, ErrorKind::Missing(_))) {
                found.push(diagnostic(module, &error, params.marks.origin));
            }
            (found, None)
        }
    }
}

fn diagnostic(module: &str, error: &ParamError, otherwise: Option<Span>) -> Diagnostic {
    let sentence = error.to_string();
    let message = if sentence.starts_with(module) { sentence } else { format!("{module}: {sentence}") };
    let mut diagnostic = Diagnostic::error(error.code(), message);
    if let Some(span) = error.span.or(otherwise) {
        diagnostic = diagnostic.at(span);
    }
    match &error.hint {
        Some(hint) => diagnostic.hint(hint.clone()),
        None => diagnostic,
    }
}

/// Returns whether there is a template in a value, at any depth.
pub fn has_template(value: &Value) -> bool {
    match &value.data {
        Data::Str(text) => text.contains("{{") || text.contains("{%"),
        Data::List(items) => items.iter().any(has_template),
        Data::Dict(dict) => dict.values().any(has_template),
        _ => false,
    }
}

/// Collects the texts in a value that are marked as secret.
pub fn secrets(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect_secrets(value, value.marks.secret, &mut all);
    // Longer ones first, so that a secret that holds another one is taken out whole.
    all.sort_by_key(|s| std::cmp::Reverse(s.len()));
    all.dedup();
    all
}

fn collect_secrets(value: &Value, inherited: bool, all: &mut Vec<String>) {
    let secret = inherited || value.marks.secret;
    match &value.data {
        // Shorter texts occur everywhere; replacing them would tell more than it hides.
        Data::Str(text) if secret && text.trim().len() >= 3 => {
            all.push(text.to_string());
            if text.trim() != text.as_ref() {
                all.push(text.trim().to_owned());
            }
        }
        Data::List(items) => items.iter().for_each(|v| collect_secrets(v, secret, all)),
        Data::Dict(dict) => dict.values().for_each(|v| collect_secrets(v, secret, all)),
        _ => {}
    }
}

/// Returns the names of a struct's fields, aliases included.
pub fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let probe = Probe { fields: Cell::new(&[]) };
    // The probe refuses after it has heard the names.
    drop(T::deserialize(&probe));
    probe.fields.get()
}

struct Probe {
    fields: Cell<&'static [&'static str]>,
}

impl<'de> Deserializer<'de> for &Probe {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("only asks for names"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.fields.set(fields);
        Err(de::Error::custom("only asks for names"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        #[serde(alias = "dest")]
        path: String,
        #[serde(default)]
        force: bool,
        retries: Option<u32>,
        #[serde(default)]
        groups: Vec<String>,
    }

    fn value(json: serde_json::Value) -> Value {
        Value::from_json(&json)
    }

    #[test]
    fn values_bend_as_ansible_bends_them() {
        let given = value(serde_json::json!({"dest": 5, "force": "yes", "retries": "7", "groups": "a, b"}));

        let read: Params = read("x", &given).unwrap();

        let groups = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(read, Params { path: "5".to_owned(), force: true, retries: Some(7), groups });
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_one() {
        let error =
            read::<Params>("x", &value(serde_json::json!({"path": "/a", "froce": true}))).unwrap_err();

        assert_eq!(error.to_string(), "unknown parameter `froce`");
        assert_eq!(error.hint.as_deref(), Some("did you mean `force`?"));
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_without_its_content() {
        let error =
            read::<Params>("x", &value(serde_json::json!({"path": "/a", "force": "perhaps"}))).unwrap_err();

        assert_eq!(
            error.to_string(),
            "`force`: expected a boolean (yes, no, true, false, on, off, 1, 0), found a text"
        );
    }

    #[test]
    fn templates_are_left_out_of_the_judgement_and_constants_are_not() {
        let given = value(serde_json::json!({"path": "{{ p }}", "retries": "many", "forse": "{{ f }}"}));
        let (found, read) = check::<Params>("x", &given);
        assert!(read.is_none());
        let messages: Vec<String> = found.sorted().iter().map(|d| d.message.clone()).collect();
        assert_eq!(messages, ["x: unknown parameter `forse`"]);

        let (found, _) =
            check::<Params>("x", &value(serde_json::json!({"path": "{{ p }}", "retries": "many"})));
        let messages: Vec<String> = found.sorted().iter().map(|d| d.message.clone()).collect();
        assert_eq!(messages, ["x: `retries`: expected a whole number, found a text"]);
    }

    #[test]
    fn nothing_and_omit_count_as_not_given() {
        let error = read::<Params>("x", &value(serde_json::json!({"path": null}))).unwrap_err();

        assert_eq!(error.to_string(), "the parameter `path` is missing");
    }
}
