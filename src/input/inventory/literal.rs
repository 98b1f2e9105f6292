//! Python literals, as INI inventories hold them: `1`, `1.5`, `'text'`, `True`, `None`, `[1, 2]`, `{'a': 1}`.

use std::sync::Arc;

use crate::expr::{Data, Dict, Marks, Value};

/// Deepest nesting that is read as a literal; deeper text stays a string.
const DEPTH_MAX: usize = 32;

/// Reads the whole of `text` as one literal; whatever is none (`yes`, `0644`, `a b`) is the string itself.
///
/// Strings get `marks`.
pub fn value(text: &str, marks: Marks) -> Value {
    let mut reader = Reader { rest: text.trim(), marks };
    let whole = reader.literal(0).filter(|_| {
        let rest = reader.rest.trim_start();
        rest.is_empty() || rest.starts_with('#')
    });
    whole.unwrap_or_else(|| Value { data: Data::Str(text.into()), marks })
}

struct Reader<'a> {
    rest: &'a str,
    marks: Marks,
}

impl<'a> Reader<'a> {
    fn literal(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.blanks();
        let data = match self.rest.chars().next()? {
            '[' => Data::List(Arc::new(self.sequence(']', depth)?)),
            '(' => Data::List(Arc::new(self.sequence(')', depth)?)),
            '{' => self.braces(depth)?,
            '\'' | '"' => {
                let mut text = self.string()?;
                self.blanks();
                while self.rest.starts_with(['\'', '"']) {
                    text.push_str(&self.string()?);
                    self.blanks();
                }
                Data::Str(text.into())
            }
            _ => self.word()?,
        };
        Some(Value { data, marks: self.marks })
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.blanks();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sequence(&mut self, close: char, depth: usize) -> Option<Vec<Value>> {
        self.rest = self.rest.get(1..)?;
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.literal(depth + 1)?);
            if !self.eat(',') {
                self.blanks();
                if !self.rest.starts_with(close) {
                    return None;
                }
            }
        }
        Some(items)
    }

    fn braces(&mut self, depth: usize) -> Option<Data> {
        self.rest = self.rest.get(1..)?;
        let mut dict = Dict::new();
        while !self.eat('}') {
            let key = self.literal(depth + 1)?;
            let key: Arc<str> = match key.data {
                Data::Str(text) => text,
                Data::Int(n) => n.to_string().into(),
                Data::Bool(true) => "True".into(),
                Data::Bool(false) => "False".into(),
                Data::None => "None".into(),
                _ => return None,
            };
            if !self.eat(':') {
                return None;
            }
            let value = self.literal(depth + 1)?;
            dict.insert(key, value);
            if !self.eat(',') {
                self.blanks();
                if !self.rest.starts_with('}') {
                    return None;
                }
            }
        }
        Some(Data::Dict(Arc::new(dict)))
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut text = String::new();
        let mut chars = self.rest.get(1..)?.chars();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    other => text.extend(['\\', other]),
                },
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }

    /// Reads a number or one of Python's three words.
    fn word(&mut self) -> Option<Data> {
        let end =
            self.rest.find(|c: char| !(c.is_alphanumeric() || "._+-".contains(c))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" => Some(Data::Bool(true)),
            "False" => Some(Data::Bool(false)),
            "None" => Some(Data::None),
            _ => number(word),
        }
    }
}

fn number(word: &str) -> Option<Data> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || digits.ends_with('_') {
        return None;
    }
    let plain = digits.replace('_', "");
    let lower = plain.to_ascii_lowercase();
    let radix = |prefix, base| lower.strip_prefix(prefix).map(|d| i64::from_str_radix(d, base).ok());
    let magnitude = match radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2)) {
        Some(parsed) => parsed?,
        None if plain.bytes().all(|b| b.is_ascii_digit()) => {
            // Python refuses leading zeros, so that `0644` stays text.
            if plain.len() > 1 && plain.starts_with('0') && plain.bytes().any(|b| b != b'0') {
                return None;
            }
            plain.parse().ok()?
        }
        None => {
            let float: f64 = plain.parse().ok()?;
            return Some(Data::Float(if negative { -float } else { float }));
        }
    };
    Some(Data::Int(if negative { -magnitude } else { magnitude }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Data {
        value(text, Marks::default()).data
    }

    #[test]
    fn literals_are_python_s_and_everything_else_is_text() {
        assert_eq!(read("1"), Data::Int(1));
        assert_eq!(read("-0x1F"), Data::Int(-31));
        assert_eq!(read("1_000 # many"), Data::Int(1000));
        assert_eq!(read("1.0"), Data::Float(1.0));
        assert_eq!(read("True"), Data::Bool(true));
        assert_eq!(read("None"), Data::None);
        assert_eq!(read("\"q\""), Data::Str("q".into()));
        for text in ["yes", "0644", "null", "a b", "[1, x]", "10.0.0.1", "1.2.3", "{{ x }}", "1 2"] {
            assert_eq!(read(text), Data::Str(text.into()), "{text}");
        }
    }

    #[test]
    fn lists_and_dicts_nest() {
        let Data::Dict(dict) = read("{'a': [1, 'x'], 2: (True,)}") else { panic!("no dict") };

        assert_eq!(dict.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "2"]);
        let Data::List(items) = &dict["a"].data else { panic!("no list") };
        assert_eq!(items[0].data, Data::Int(1));
    }
}
