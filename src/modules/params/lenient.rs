//! A deserializer that bends values as Ansible does.

use serde::Deserializer;
use serde::de::{self, IntoDeserializer, Visitor};

use crate::expr::{Data, Value};

use super::ParamError;

/// A value that is read leniently.
#[derive(Clone, Copy)]
pub(super) struct Lenient<'a> {
    value: &'a Value,
}

impl<'a> Lenient<'a> {
    pub(super) fn top(value: &'a Value) -> Lenient<'a> {
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
