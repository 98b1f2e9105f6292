//! Reads a task's parameters into a module's own type, with Ansible's coercions: `yes` is a boolean, `5` is a text where
//! one is asked for, `a,b` is a list. Unknown names are refused with the nearest one.

use std::cell::Cell;

use serde::Deserializer;
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};

use crate::expr::{Data, Dict, Value};
use crate::modules::outcome::{Fault, FaultKind};
use crate::source::suggest::did_you_mean;
use crate::source::{Diagnostic, Diagnostics, Span};

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

/// A deserializer that bends as Ansible does.
#[derive(Clone, Copy)]
struct Lenient<'a> {
    value: &'a Value,
}

impl<'a> Lenient<'a> {
    fn top(value: &'a Value) -> Lenient<'a> {
        Lenient { value }
    }

    /// Gives a text for every scalar, as Python prints it.
    fn text(&self) -> Option<String> {
        match &self.value.data {
            Data::Str(text) => Some(text.to_string()),
            Data::Int(number) => Some(number.to_string()),
            Data::Float(number) => Some(python_float(*number)),
            Data::Bool(true) => Some("True".to_owned()),
            Data::Bool(false) => Some("False".to_owned()),
            _ => None,
        }
    }

    fn boolean(&self) -> Option<bool> {
        match &self.value.data {
            Data::Bool(is) => Some(*is),
            Data::Int(0) => Some(false),
            Data::Int(1) => Some(true),
            Data::Float(number) if *number == 0.0 => Some(false),
            Data::Float(number) if (*number - 1.0).abs() < f64::EPSILON => Some(true),
            Data::Str(text) => match text.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" | "on" | "1" | "true" | "t" | "1.0" => Some(true),
                "n" | "no" | "off" | "0" | "false" | "f" | "0.0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    fn integer(&self) -> Option<i64> {
        match &self.value.data {
            Data::Int(number) => Some(*number),
            Data::Bool(is) => Some(i64::from(*is)),
            Data::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                format!("{number:.0}").parse().ok()
            }
            Data::Str(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        }
    }

    fn float(&self) -> Option<f64> {
        match &self.value.data {
            Data::Float(number) => Some(*number),
            Data::Str(text) => text.trim().parse().ok(),
            _ => self.integer().map(|number| {
                #[expect(clippy::cast_precision_loss, reason = "parameters are small numbers")]
                let float = number as f64;
                float
            }),
        }
    }

    fn kind(&self) -> String {
        match &self.value.data {
            Data::None => "nothing".to_owned(),
            Data::Bool(_) => "a boolean".to_owned(),
            Data::Int(_) => "a number".to_owned(),
            Data::Float(_) => "a fraction".to_owned(),
            Data::Str(_) => "a text".to_owned(),
            Data::List(_) => "a list".to_owned(),
            Data::Dict(_) => "a dictionary".to_owned(),
            Data::Undefined { hint } => format!("something undefined ({hint})"),
            Data::Unknown { reason } => format!("something that is not known before apply ({reason})"),
            Data::Omit => "`omit`".to_owned(),
        }
    }

    fn expected(&self, what: &str) -> ParamError {
        let error = ParamError::wrong(format!("expected {what}, found {}", self.kind()));
        ParamError { span: self.value.marks.origin, ..error }
    }
}

fn python_float(number: f64) -> String {
    let text = number.to_string();
    if text.contains('.') || text.contains("inf") || text.contains("NaN") {
        text
    } else {
        format!("{text}.0")
    }
}

macro_rules! lenient_integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
            match self.integer() {
                Some(number) => visitor.visit_i64(number),
                None => Err(self.expected("a whole number")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Lenient<'de> {
    type Error = ParamError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match &self.value.data {
            Data::None | Data::Omit => visitor.visit_unit(),
            Data::Bool(is) => visitor.visit_bool(*is),
            Data::Int(number) => visitor.visit_i64(*number),
            Data::Float(number) => visitor.visit_f64(*number),
            Data::Str(text) => visitor.visit_str(text),
            Data::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Data::Dict(dict) => {
                visitor.visit_map(Entries { entries: dict.iter(), current: None, skip_empty: false })
            }
            Data::Undefined { .. } | Data::Unknown { .. } => Err(self.expected("a value")),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match self.boolean() {
            Some(is) => visitor.visit_bool(is),
            None => Err(self.expected("a boolean (yes, no, true, false, on, off, 1, 0)")),
        }
    }

    lenient_integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match self.float() {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.expected("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match self.text() {
            Some(text) => visitor.visit_string(text),
            None => Err(self.expected("a text")),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match self.text() {
            Some(text) => visitor.visit_byte_buf(text.into_bytes()),
            None => Err(self.expected("a text")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match &self.value.data {
            Data::None | Data::Omit => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match &self.value.data {
            Data::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Data::Str(text) => {
                let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
                visitor.visit_seq(Parts(parts.map(Value::str).collect::<Vec<_>>().into_iter()))
            }
            Data::Int(_) | Data::Float(_) | Data::Bool(_) | Data::Dict(_) => {
                visitor.visit_seq(Items { items: std::slice::from_ref(self.value).iter(), index: 0 })
            }
            _ => Err(self.expected("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match &self.value.data {
            Data::Dict(dict) => {
                visitor.visit_map(Entries { entries: dict.iter(), current: None, skip_empty: false })
            }
            Data::Str(text) if text.trim_start().starts_with('{') => {
                let json: serde_json::Value = serde_json::from_str(text).map_err(|error| {
                    ParamError::wrong(format!("expected a dictionary, found text that is no JSON: {error}"))
                })?;
                json.deserialize_map(visitor).map_err(|error| ParamError::wrong(error.to_string()))
            }
            _ => Err(self.expected("a dictionary")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        match &self.value.data {
            // A parameter that is null or omitted counts as not given.
            Data::Dict(dict) => {
                visitor.visit_map(Entries { entries: dict.iter(), current: None, skip_empty: true })
            }
            _ => Err(self.expected("a dictionary")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        let text = match (&self.value.data, self.text()) {
            // YAML reads the plain words yes, no, on and off as booleans before they reach a word list.
            (Data::Bool(is), _) => {
                let words: &[&str] =
                    if *is { &["yes", "on", "true", "True"] } else { &["no", "off", "false", "False"] };
                variants.iter().find(|v| words.contains(*v)).map(|v| (*v).to_owned())
            }
            (_, text) => text,
        };
        match text {
            Some(text) => visitor.visit_enum(de::value::StringDeserializer::new(text)),
            None => Err(self.expected(&format!("one of {}", variants.join(", ")))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_unit()
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = ParamError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ParamError> {
        let Some(value) = self.items.find(|v| !matches!(v.data, Data::Omit)) else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Lenient { value })
            .map(Some)
            .map_err(|e| e.below(&index.to_string(), value.marks.origin))
    }
}

/// The parts of a text that stands for a list, read as leniently as any other value.
struct Parts(std::vec::IntoIter<Value>);

impl<'de> de::SeqAccess<'de> for Parts {
    type Error = ParamError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ParamError> {
        self.0.next().map(|value| seed.deserialize(Part(value))).transpose()
    }
}

/// One part; it owns its text, since nobody else does.
struct Part(Value);

macro_rules! part_integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
            let lenient = Lenient::top(&self.0);
            match lenient.integer() {
                Some(number) => visitor.visit_i64(number),
                None => Err(lenient.expected("a whole number")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Part {
    type Error = ParamError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_string(Lenient::top(&self.0).text().unwrap_or_default())
    }

    part_integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor
            .visit_enum(de::value::StringDeserializer::new(Lenient::top(&self.0).text().unwrap_or_default()))
    }

    serde::forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

struct Entries<'de> {
    entries: indexmap::map::Iter<'de, std::sync::Arc<str>, Value>,
    current: Option<(&'de str, &'de Value)>,
    skip_empty: bool,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = ParamError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ParamError> {
        let skip = self.skip_empty;
        let next = self
            .entries
            .find(|(_, v)| !(matches!(v.data, Data::Omit) || skip && matches!(v.data, Data::None)));
        let Some((key, value)) = next else { return Ok(None) };
        self.current = Some((key.as_ref(), value));
        let name: de::value::StrDeserializer<'de, ParamError> = key.as_ref().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ParamError> {
        let Some((key, value)) = self.current.take() else {
            return Err(ParamError::wrong("a value was asked for before its key"));
        };
        seed.deserialize(Lenient { value }).map_err(|e| e.below(key, value.marks.origin))
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
