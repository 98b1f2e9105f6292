//! YAML as PyYAML writes it, which is what `to_yaml` and `to_nice_yaml` promise to roles.

use crate::expr::emit;
use crate::expr::regex::Flags;
use crate::expr::regex::Pattern;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::source::NodeValue;
use crate::source::scalar;

/// Longest key that is written as `key: value`; PyYAML's limit.
const SIMPLE_KEY_MAX_CHARS: usize = 128;

/// How YAML is written.
#[derive(Debug, Clone)]
pub struct YamlStyle {
    pub indent: usize,
    /// Column from which long text is folded.
    pub width: usize,
    pub sort_keys: bool,
    /// Lines for everything, `[…]` and `{…}` for everything, or (`None`) the latter for what holds only scalars.
    pub block: Option<bool>,
    pub explicit_start: bool,
    pub explicit_end: bool,
}

impl Default for YamlStyle {
    fn default() -> YamlStyle {
        YamlStyle {
            indent: 2,
            width: 80,
            sort_keys: true,
            block: None,
            explicit_start: false,
            explicit_end: false,
        }
    }
}

/// Writes one document. Ends with a newline.
pub fn yaml(value: &Value, style: &YamlStyle) -> String {
    let indent_step = if (2..10).contains(&style.indent) { style.indent } else { 2 };
    let width = if style.width > indent_step * 2 { style.width } else { 80 };
    let mut writer = Writer {
        style,
        indent_step,
        width,
        out: String::new(),
        column: 0,
        indent: None,
        whitespace: true,
        indention: true,
        flow_level: 0,
    };
    if style.explicit_start {
        writer.indicator("---", true, false, false);
        let is_block = matches!(value.data, Data::List(_) | Data::Dict(_)) && !writer.is_flow(value);
        if is_block {
            writer.line_indent();
        }
    }
    writer.node(value, Context::Root);
    if style.explicit_end {
        writer.line_break();
        writer.out.push_str("...");
    }
    if !writer.out.ends_with('\n') {
        writer.out.push('\n');
    }
    writer.out
}

#[derive(Clone, Copy, PartialEq)]
enum Context {
    Root,
    Sequence,
    Mapping,
    Key,
}

struct Writer<'s> {
    style: &'s YamlStyle,
    indent_step: usize,
    width: usize,
    out: String,
    column: usize,
    indent: Option<usize>,
    whitespace: bool,
    indention: bool,
    flow_level: usize,
}

impl Writer<'_> {
    fn text(&mut self, text: &str) {
        self.column += text.chars().count();
        self.out.push_str(text);
    }

    fn indicator(&mut self, indicator: &str, needs_blank: bool, whitespace: bool, indention: bool) {
        if needs_blank && !self.whitespace {
            self.text(" ");
        }
        self.whitespace = whitespace;
        self.indention = self.indention && indention;
        self.text(indicator);
    }

    fn line_break(&mut self) {
        self.whitespace = true;
        self.indention = true;
        self.column = 0;
        self.out.push('\n');
    }

    fn line_indent(&mut self) {
        let indent = self.indent.unwrap_or(0);
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break();
        }
        if self.column < indent {
            self.whitespace = true;
            let pad = " ".repeat(indent - self.column);
            self.text(&pad);
        }
    }

    /// Goes one level in; the answer is for [`Writer::leave`].
    fn enter(&mut self, is_flow: bool, is_indentless: bool) -> Option<usize> {
        let before = self.indent;
        self.indent = match before {
            None => Some(if is_flow { self.indent_step } else { 0 }),
            Some(indent) if is_indentless => Some(indent),
            Some(indent) => Some(indent + self.indent_step),
        };
        before
    }

    fn leave(&mut self, before: Option<usize>) {
        self.indent = before;
    }

    fn is_flow(&self, value: &Value) -> bool {
        let is_leaf = |v: &Value| v.as_list().is_none() && v.as_dict().is_none();
        let (is_empty, all_leaves) = match &value.data {
            Data::List(items) => (items.is_empty(), items.iter().all(is_leaf)),
            Data::Dict(entries) => (entries.is_empty(), entries.values().all(is_leaf)),
            _ => return false,
        };
        self.flow_level > 0 || is_empty || self.style.block.map_or(all_leaves, |block| !block)
    }

    fn node(&mut self, value: &Value, context: Context) {
        let is_flow = self.is_flow(value);
        match &value.data {
            Data::List(items) if is_flow => {
                self.indicator("[", true, true, false);
                self.flow_level += 1;
                let before = self.enter(true, false);
                for (index, item) in items.iter().enumerate() {
                    self.flow_separator(index);
                    self.node(item, Context::Sequence);
                }
                self.leave(before);
                self.flow_level -= 1;
                self.indicator("]", false, false, false);
            }
            Data::List(items) => {
                let is_indentless = context == Context::Mapping && !self.indention;
                let before = self.enter(false, is_indentless);
                for item in items.iter() {
                    self.line_indent();
                    self.indicator("-", true, false, true);
                    self.node(item, Context::Sequence);
                }
                self.leave(before);
            }
            Data::Dict(entries) => {
                let mut rows: Vec<(&str, &Value)> =
                    entries.iter().map(|(key, v)| (key.as_ref(), v)).collect();
                if self.style.sort_keys {
                    rows.sort_by_key(|(key, _)| *key);
                }
                if is_flow {
                    self.indicator("{", true, true, false);
                    self.flow_level += 1;
                }
                let before = self.enter(is_flow, false);
                for (index, (key, item)) in rows.into_iter().enumerate() {
                    if is_flow {
                        self.flow_separator(index);
                    } else {
                        self.line_indent();
                    }
                    self.entry(key, item);
                }
                self.leave(before);
                if is_flow {
                    self.flow_level -= 1;
                    self.indicator("}", false, false, false);
                }
            }
            Data::Str(text) => self.scalar(text, context),
            Data::None | Data::Undefined { .. } | Data::Omit => self.plain("null", context != Context::Key),
            Data::Bool(flag) => self.plain(if *flag { "true" } else { "false" }, true),
            Data::Int(number) => self.plain(&number.to_string(), true),
            Data::Float(number) => {
                let text = match emit::float(*number).as_str() {
                    "nan" => ".nan".to_owned(),
                    "inf" => ".inf".to_owned(),
                    "-inf" => "-.inf".to_owned(),
                    text if !text.contains('.') => text.replacen('e', ".0e", 1),
                    text => text.to_owned(),
                };
                self.plain(&text, true);
            }
            Data::Unknown { reason } => self.scalar(&format!("unknown: {reason}"), context),
        }
    }

    fn flow_separator(&mut self, index: usize) {
        if index > 0 {
            self.indicator(",", false, false, false);
        }
        if self.column > self.width {
            self.line_indent();
        }
    }

    fn entry(&mut self, key: &str, value: &Value) {
        let is_simple = key.chars().count() < SIMPLE_KEY_MAX_CHARS && !key.contains('\n');
        if is_simple {
            self.scalar(key, Context::Key);
            self.indicator(":", false, false, false);
        } else {
            self.indicator("?", true, false, true);
            self.scalar(key, Context::Mapping);
            if self.flow_level == 0 {
                self.line_indent();
            }
            self.indicator(":", true, false, true);
        }
        self.node(value, Context::Mapping);
    }

    fn scalar(&mut self, text: &str, context: Context) {
        let is_key = context == Context::Key;
        let before = self.enter(true, false);
        let shape = analyze(text);
        let is_string = means_string(text);
        let plain_fits = if self.flow_level > 0 { shape.flow_plain } else { shape.block_plain };
        if is_string && plain_fits && !(is_key && (text.is_empty() || shape.multiline)) {
            self.plain(text, !is_key);
        } else if shape.single_quoted && !(is_key && shape.multiline) {
            self.single_quoted(text, !is_key);
        } else {
            self.double_quoted(text, !is_key);
        }
        self.leave(before);
    }

    fn plain(&mut self, text: &str, may_fold: bool) {
        if text.is_empty() {
            return;
        }
        if !self.whitespace {
            self.text(" ");
        }
        self.whitespace = false;
        self.indention = false;
        self.folded(text, may_fold, false);
    }

    fn single_quoted(&mut self, text: &str, may_fold: bool) {
        self.indicator("'", true, false, false);
        self.folded(text, may_fold, true);
        self.indicator("'", false, false, false);
    }

    /// Writes runs of words, blanks and line ends; a single blank beyond the width becomes a line end.
    fn folded(&mut self, text: &str, may_fold: bool, is_quoted: bool) {
        let chars: Vec<char> = text.chars().collect();
        let kind = |c: char| match c {
            ' ' => 1,
            '\n' | '\u{85}' | '\u{2028}' | '\u{2029}' => 2,
            _ => 0,
        };
        let mut start = 0;
        for run in chars.chunk_by(|a, b| kind(*a) == kind(*b)) {
            let end = start + run.len();
            match run.first().map_or(0, |c| kind(*c)) {
                1 => {
                    let is_inside = !is_quoted || start != 0 && end != chars.len();
                    if run.len() == 1 && self.column > self.width && may_fold && is_inside {
                        self.line_indent();
                        if !is_quoted {
                            self.whitespace = false;
                            self.indention = false;
                        }
                    } else {
                        self.text(&run.iter().collect::<String>());
                    }
                }
                2 => {
                    if run.first() == Some(&'\n') {
                        self.line_break();
                    }
                    for c in run {
                        self.line_break();
                        if *c != '\n' {
                            self.out.pop();
                            self.out.push(*c);
                        }
                    }
                    self.line_indent();
                }
                _ => {
                    let word: String = run.iter().collect();
                    self.text(&if is_quoted { word.replace('\'', "''") } else { word });
                }
            }
            start = end;
        }
    }

    fn double_quoted(&mut self, text: &str, may_fold: bool) {
        self.indicator("\"", true, false, false);
        let chars: Vec<char> = text.chars().collect();
        let is_plain = |c: char| {
            !matches!(c, '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
                && matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        };
        let slice =
            |from: usize, to: usize| chars.get(from..to).unwrap_or_default().iter().collect::<String>();
        let mut start = 0;
        for end in 0..=chars.len() {
            let c = chars.get(end).copied();
            if c.is_none_or(|c| !is_plain(c)) {
                if start < end {
                    self.text(&slice(start, end));
                    start = end;
                }
                if let Some(c) = c {
                    self.text(&escaped(c));
                    start = end + 1;
                }
            }
            let is_between = end > 0 && end + 1 < chars.len();
            let pending = end.saturating_sub(start);
            if is_between
                && (c == Some(' ') || start >= end)
                && self.column + pending > self.width
                && may_fold
            {
                self.text(&(slice(start, end) + "\\"));
                start = start.max(end);
                self.line_indent();
                self.whitespace = false;
                self.indention = false;
                if chars.get(start) == Some(&' ') {
                    self.text("\\");
                }
            }
        }
        self.indicator("\"", false, false, false);
    }
}

fn escaped(c: char) -> String {
    let letter = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        c => {
            let code = u32::from(c);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{letter}")
}

/// Returns whether the text, unquoted, would be read back as this text.
fn means_string(text: &str) -> bool {
    const TIMESTAMP: &str = r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?";
    if matches!(text, "=" | "<<") || !matches!(scalar::resolve(text), NodeValue::String(_)) {
        return false;
    }
    let digits = text.trim_start_matches(['-', '+']);
    let is_huge = digits.len() > 18 && digits.chars().all(|c| c.is_ascii_digit() || c == '_');
    let may_be_date =
        text.len() >= 8 && text.as_bytes().iter().take(4).all(u8::is_ascii_digit) && text.contains('-');
    let is_date = may_be_date
        && Pattern::new(TIMESTAMP, Flags::default())
            .and_then(|p| Ok(p.match_full(text)?.is_some()))
            .unwrap_or(true);
    !is_huge && !is_date
}

struct Shape {
    multiline: bool,
    flow_plain: bool,
    block_plain: bool,
    single_quoted: bool,
}

/// PyYAML's `analyze_scalar`.
fn analyze(text: &str) -> Shape {
    if text.is_empty() {
        return Shape { multiline: false, flow_plain: false, block_plain: true, single_quoted: true };
    }
    let chars: Vec<char> = text.chars().collect();
    let is_break = |c: char| matches!(c, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let is_blank = |c: Option<&char>| c.is_none_or(|c| matches!(c, '\0' | ' ' | '\t' | '\r') || is_break(*c));
    let is_document_mark = text.starts_with("---") || text.starts_with("...");
    let (mut block_indicators, mut flow_indicators) = (is_document_mark, is_document_mark);
    let (mut line_breaks, mut special) = (false, false);
    let (mut break_space, mut space_break) = (false, false);
    for (index, c) in chars.iter().enumerate() {
        let followed_by_blank = is_blank(chars.get(index + 1));
        let before = index.checked_sub(1).and_then(|at| chars.get(at));
        if index == 0 {
            if "#,[]{}&*!|>'\"%@`".contains(*c) || *c == '-' && followed_by_blank {
                flow_indicators = true;
                block_indicators = true;
            }
            if "?:".contains(*c) {
                flow_indicators = true;
                block_indicators |= followed_by_blank;
            }
        } else {
            flow_indicators |= ",?[]{}:".contains(*c);
            block_indicators |= *c == ':' && followed_by_blank;
            if *c == '#' && is_blank(before) {
                flow_indicators = true;
                block_indicators = true;
            }
        }
        line_breaks |= is_break(*c);
        let is_usual = matches!(c, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10fffe}')
            && *c != '\u{feff}';
        special |= !is_usual;
        break_space |= *c == ' ' && before.is_some_and(|b| is_break(*b));
        space_break |= is_break(*c) && before == Some(&' ');
    }
    let is_edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
    let plain = !(is_edge(chars.first())
        || is_edge(chars.last())
        || break_space
        || space_break
        || special
        || line_breaks);
    // Beyond PyYAML: `[a -]` is right and the reader here (saphyr-parser 0.3) takes the `-]` for an entry.
    let ends_as_an_entry = text.ends_with(" -");
    Shape {
        multiline: line_breaks,
        flow_plain: plain && !flow_indicators && !ends_as_an_entry,
        block_plain: plain && !block_indicators,
        single_quoted: !(break_space || space_break || special),
    }
}
