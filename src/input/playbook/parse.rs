//! Nodes to the syntax tree. Pure: files that an import names are found and read later (`load`).

use std::sync::Arc;

use crate::expr::{Data, Dict, Value};
use crate::input::files;
use crate::input::playbook::keywords::{self, Level, Shape, Standing};
use crate::input::playbook::tree::{Block, Common, Condition, Handler, RoleUse, Statement};
use crate::source::{Diagnostic, Diagnostics, Node, NodeValue, Span, Spanned};

mod task;

/// What the rest of the program knows and this room does not: modules, and versions of etcd.
pub trait Catalog {
    /// Whether there is a module of that name, short or fully qualified.
    fn knows(&self, module: &str) -> bool;

    /// All short names, for suggestions.
    fn names(&self) -> Vec<&str>;

    /// Judges parameters, which may hold templates, without a host.
    fn check(&self, module: &str, params: &Value) -> Diagnostics;

    /// Names the known faults of an etcd version.
    fn etcd_faults(&self, version: &str) -> Vec<String>;
}

/// Reads nodes; what is wrong goes to `out`.
pub struct Parser<'a> {
    pub catalog: &'a dyn Catalog,
    pub out: &'a mut Diagnostics,
}

/// A mapping of which some keys have been taken.
struct Fields<'n> {
    span: Span,
    left: Vec<&'n (Node, Node)>,
}

impl<'n> Fields<'n> {
    fn take(&mut self, name: &str) -> Option<&'n Node> {
        let index = self.left.iter().position(|(key, _)| key.as_str() == Some(name))?;
        Some(&self.left.remove(index).1)
    }
}

impl Parser<'_> {
    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.out.push(Diagnostic::error(code, message).at(span).hint(hint));
    }

    /// Reads a list of tasks and blocks; nothing at all is an empty list.
    pub fn statements(&mut self, node: &Node, level: Level) -> Vec<Statement> {
        if node.is_null() {
            return Vec::new();
        }
        let Some(items) = node.as_list() else {
            let message = format!("a list of tasks is expected here, and this is {}", node.kind());
            self.error("not-a-list", node.span, message, "each task begins with `- `");
            return Vec::new();
        };
        items.iter().filter_map(|item| self.statement(item, level)).collect()
    }

    /// Reads a list of handlers.
    pub fn handlers(&mut self, node: &Node) -> Vec<Handler> {
        if node.is_null() {
            return Vec::new();
        }
        let Some(items) = node.as_list() else {
            let message = format!("a list of handlers is expected here, and this is {}", node.kind());
            self.error("not-a-list", node.span, message, "each handler begins with `- `");
            return Vec::new();
        };
        let mut handlers = Vec::new();
        for item in items {
            let listen = item.get("listen").map(texts).unwrap_or_default();
            let listen = listen
                .into_iter()
                .filter_map(|v| {
                    Some(Spanned::new(Arc::from(v.as_str()?), v.marks.origin.unwrap_or(item.span)))
                })
                .collect();
            match self.statement(item, Level::Handler) {
                Some(Statement::Block(block)) => {
                    let hint = "write the tasks into a file of their own, and a handler with `include_tasks`";
                    self.error("handler-block", block.span, "a handler cannot be a block", hint);
                }
                Some(body) => handlers.push(Handler { listen, body }),
                None => {}
            }
        }
        handlers
    }

    fn fields<'n>(&mut self, node: &'n Node, what: &str, hint: &str) -> Option<Fields<'n>> {
        match node.as_map() {
            Some(entries) => Some(Fields { span: node.span, left: entries.iter().collect() }),
            None => {
                let message = format!("{what} is expected here, and this is {}", node.kind());
                self.error("not-a-mapping", node.span, message, hint);
                None
            }
        }
    }

    fn statement(&mut self, node: &Node, level: Level) -> Option<Statement> {
        let mut fields =
            self.fields(node, level.noun(), "a task is a mapping: `- name: …` and a module below it")?;
        if node.get("block").is_some() {
            return Some(Statement::Block(Box::new(self.block(fields))));
        }
        if let Some((key, _)) = node.entry("rescue").or_else(|| node.entry("always")) {
            let hint = "write `block:` with the tasks it belongs to, at the same indentation";
            self.error("block", key.span, "`rescue` and `always` need a `block`", hint);
            return None;
        }
        let common = self.common(&mut fields, level);
        self.task(fields, common, level)
    }

    fn block(&mut self, mut fields: Fields<'_>) -> Block {
        let common = self.common(&mut fields, Level::Block);
        let mut section = |parser: &mut Self, name: &str| {
            fields.take(name).map(|node| parser.statements(node, Level::Task)).unwrap_or_default()
        };
        let block = section(self, "block");
        let rescue = section(self, "rescue");
        let always = section(self, "always");
        self.leftovers(&fields, Level::Block);
        Block { span: place(&fields, &common), common, block, rescue, always }
    }

    /// Names what is no keyword of the level. Only for levels where every key must be one.
    fn leftovers(&mut self, fields: &Fields<'_>, level: Level) {
        for (key, _) in &fields.left {
            self.unknown_keyword(key, level);
        }
    }

    /// Says that a key is no keyword here, with the nearest that is.
    pub fn unknown_keyword(&mut self, key: &Node, level: Level) {
        let name = key.key_text().unwrap_or_default();
        let elsewhere = keywords::levels_of(&name);
        let message = format!("`{name}` is no keyword of {}", level.noun());
        let hint = match keywords::nearest(&name, level) {
            Some(near) => format!("did you mean `{near}`?"),
            None if !elsewhere.is_empty() => format!("`{name}` may be written in {}", elsewhere.join(", ")),
            None => "docs: keywords of plays, blocks and tasks are those of Ansible".to_owned(),
        };
        self.error("unknown-keyword", key.span, message, hint);
    }

    /// Takes the keywords that all levels share, checks the shape of each keyword, and refuses those that are not carried out.
    fn common(&mut self, fields: &mut Fields<'_>, level: Level) -> Common {
        for (key, value) in &fields.left {
            self.keyword(key, value, level);
        }
        fields.left.retain(|(key, _)| {
            let row = key.as_str().and_then(|name| keywords::find(name, level));
            row.is_none_or(|row| matches!(row.standing, Standing::CarriedOut | Standing::Only(..)))
        });
        let mut value = |name: &str| fields.take(name).filter(|n| !n.is_null()).map(Value::from_node);
        let mut common = Common {
            name: value("name"),
            become_: value("become"),
            become_user: value("become_user"),
            become_method: value("become_method"),
            become_flags: value("become_flags"),
            check_mode: value("check_mode"),
            diff: value("diff"),
            no_log: value("no_log"),
            run_once: value("run_once"),
            ignore_errors: value("ignore_errors"),
            any_errors_fatal: value("any_errors_fatal"),
            connection: value("connection"),
            ..Common::default()
        };
        if level != Level::Play {
            common.delegate_to = value("delegate_to");
            common.delegate_facts = value("delegate_facts");
            common.when = fields.take("when").map(|node| self.conditions(node, "when")).unwrap_or_default();
        }
        if let Some(node) = fields.take("vars") {
            common.vars = self.variables(node);
        }
        common.tags = fields.take("tags").map(|node| self.tags(node)).unwrap_or_default();
        if matches!(level, Level::Block | Level::Task | Level::Handler) {
            common.notify = fields.take("notify").map(texts).unwrap_or_default();
        }
        if let Some(node) = fields.take("environment") {
            common.environment = match node.as_list() {
                Some(items) => items.iter().map(Value::from_node).collect(),
                None if node.is_null() => Vec::new(),
                None => vec![Value::from_node(node)],
            };
        }
        if let Some(node) = fields.take("module_defaults") {
            for (key, _) in node.as_map().unwrap_or_default() {
                if key.as_str().is_some_and(|name| name.starts_with("group/")) {
                    let message = "`module_defaults` is carried out for modules, not for groups of them";
                    self.error("refused-keyword", key.span, message, "name each module");
                }
            }
            common.module_defaults = Value::from_node(node).as_dict().cloned().unwrap_or_default();
        }
        common
    }

    /// Checks one key against the table: its shape, and whether it is carried out.
    fn keyword(&mut self, key: &Node, value: &Node, level: Level) {
        let Some(row) = key.as_str().and_then(|name| keywords::find(name, level)) else { return };
        let name = row.name;
        match row.standing {
            Standing::CarriedOut => {}
            Standing::Ignored => {
                let message = format!("`{name}` has no meaning here and is left aside");
                self.out.push(Diagnostic::warning("ignored-keyword", message).at(key.span));
                return;
            }
            Standing::Refused(instead) => {
                let message = format!("`{name}` is a keyword of Ansible that Keddah does not carry out");
                self.error("refused-keyword", key.span, message, instead);
                return;
            }
            Standing::Only(words, instead) => {
                if !value.is_null() && !word(value).is_some_and(|word| words.contains(&word)) {
                    let known: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                    let message = format!("Keddah carries out `{name}` only as {}", known.join(", "));
                    self.error("refused-keyword", value.span, message, instead);
                }
                return;
            }
        }
        let is_template = value.as_str().is_some_and(|text| text.contains("{{"));
        let wrong = match row.shape {
            Shape::Bool => (!is_template && !value.is_null() && truth(value).is_none())
                .then_some(("true or false", "write `true` or `false`, or a template that gives one")),
            Shape::Number => (!is_template && !value.is_null() && number(value).is_none())
                .then_some(("a number", "write a number, or a template that gives one")),
            Shape::Text => (value.as_list().is_some() || value.as_map().is_some())
                .then_some(("a text", "put a text that begins with `{`, `[`, `*` or `&` in quotes")),
            Shape::Word => (value.as_str().is_none() || is_template)
                .then_some(("a plain name", "a template cannot stand here")),
            Shape::Dict => {
                (!is_template && !value.is_null() && value.as_map().is_none() && value.as_list().is_none())
                    .then_some(("a mapping", "write `name: value` lines below it"))
            }
            Shape::Statements => (!value.is_null() && value.as_list().is_none())
                .then_some(("a list", "each entry begins with `- `")),
            Shape::Texts => value
                .as_map()
                .is_some()
                .then_some(("a text or a list of texts", "write `- ` before each entry")),
            Shape::Conditions | Shape::Any => None,
        };
        if let Some((expected, hint)) = wrong {
            let message = format!("`{name}` must be {expected}, and this is {}", value.kind());
            self.error("keyword-shape", value.span, message, hint);
        }
    }

    /// Judges `async` and `poll`: every task is waited for, to its end.
    fn job(&mut self, fields: &Fields<'_>) {
        let written = |name: &str| fields.left.iter().find(|(key, _)| key.as_str() == Some(name));
        let Some((key, limit)) = written("async").filter(|(_, node)| !node.is_null()) else { return };
        let is_zero = |node: &Node| number(node) == Some(0.0);
        match written("poll").filter(|(_, node)| is_zero(node)) {
            _ if is_zero(limit) => {}
            Some((_, poll)) => {
                let message = "`poll: 0` would leave the task running behind; Keddah waits for every task";
                let hint = "leave out `async` and `poll`, or start it as a unit of systemd";
                self.error("refused-keyword", poll.span, message, hint);
            }
            None => {
                let message = "the limit of `async` is not kept: the task is waited for to its end";
                let diagnostic = Diagnostic::warning("ignored-keyword", message).at(key.span);
                self.out.push(
                    diagnostic.hint("leave it out, or limit the program: `command: timeout 60 PROGRAM`"),
                );
            }
        }
    }

    /// Reads expressions: one, a bool, or a list of them.
    pub fn conditions(&mut self, node: &Node, keyword: &str) -> Vec<Condition> {
        match &node.value {
            NodeValue::List(items) => items.iter().flat_map(|item| self.conditions(item, keyword)).collect(),
            NodeValue::Bool(flag) => {
                vec![Spanned::new(if *flag { "true" } else { "false" }.into(), node.span)]
            }
            NodeValue::String(text) if !text.trim().is_empty() => {
                vec![Spanned::new(Arc::clone(text), node.span)]
            }
            NodeValue::Int(_) | NodeValue::Float(_) => {
                let message = format!("`{keyword}` must give true or false, and this is a number");
                self.error("condition", node.span, message, "compare it: `n > 0`");
                Vec::new()
            }
            NodeValue::Map(_) => {
                let message = format!("`{keyword}` must be an expression, and this is a mapping");
                let hint = "put an expression that begins with `{` or holds `: ` in quotes";
                self.error("condition", node.span, message, hint);
                Vec::new()
            }
            NodeValue::Null | NodeValue::String(_) => {
                let message = format!("`{keyword}` has no expression");
                self.error("condition", node.span, message, format!("write one, or take `{keyword}` out"));
                Vec::new()
            }
        }
    }

    /// Tags may also be written `a,b`.
    fn tags(&mut self, node: &Node) -> Vec<Value> {
        let texts = texts(node);
        let mut tags = Vec::new();
        for value in texts {
            match &value.data {
                Data::Str(text) if !text.contains("{{") => {
                    let parts = text.split(',').map(str::trim).filter(|t| !t.is_empty());
                    tags.extend(parts.map(|t| Value { data: Data::Str(t.into()), marks: value.marks }));
                }
                Data::Int(n) => {
                    tags.push(Value { data: Data::Str(n.to_string().into()), marks: value.marks });
                }
                _ => tags.push(value),
            }
        }
        tags
    }

    /// Reads variables: a mapping, or a list of mappings that are merged in order.
    pub fn variables(&mut self, node: &Node) -> Dict {
        if let Some(items) = node.as_list() {
            let mut all = Dict::new();
            for item in items {
                all.extend(self.variables(item));
            }
            return all;
        }
        let mut vars = Dict::new();
        for (key, value) in node.as_map().unwrap_or_default() {
            let Some(name) = key.key_text() else { continue };
            if is_name(&name) {
                let (name, value) = files::variable(name, Value::from_node(value));
                vars.insert(name, value);
            } else {
                self.not_a_name(&name, key.span, "variable");
            }
        }
        vars
    }

    fn not_a_name(&mut self, name: &str, span: Span, what: &str) {
        let message = format!("`{name}` cannot be the name of a {what}");
        let hint = "names are letters, digits and `_`, do not begin with a digit and are no words of Python";
        self.error("variable-name", span, message, hint);
    }

    fn word(&mut self, node: Option<&Node>, what: &str) -> Option<Spanned<Arc<str>>> {
        let node = node?;
        let text = node.as_str()?;
        if is_name(text) {
            return Some(Spanned::new(text.into(), node.span));
        }
        // `register: "{{ name }}"` is told by the keyword's shape already.
        if !text.contains("{{") {
            self.not_a_name(text, node.span, what);
        }
        None
    }

    /// Reads an entry of `roles:` or of a role's dependencies: a name, or a mapping.
    pub fn role_use(&mut self, node: &Node) -> Option<RoleUse> {
        if let Some(name) = node.as_str() {
            let name = Spanned::new(name.into(), node.span);
            let (common, params) = (Common::default(), Dict::new());
            return Some(RoleUse { span: node.span, name, path: None, common, params });
        }
        let mut fields = self.fields(
            node,
            "a role's name, or a mapping with `role:`,",
            "write `- NAME` or `- role: NAME`",
        )?;
        let mut common = self.common(&mut fields, Level::Role);
        let named = common.name.take().and_then(|v| Some((v.as_str()?.to_owned(), v.marks.origin?)));
        let role = fields.take("role").and_then(|n| Some((n.as_str()?.to_owned(), n.span)));
        let Some((name, span)) = role.or(named) else {
            self.error("role", node.span, "this entry names no role", "write `- role: NAME`");
            return None;
        };
        let params =
            fields.left.iter().filter_map(|(key, value)| Some((key.key_text()?, Value::from_node(value))));
        let params = params.map(|(name, value)| files::variable(name, value)).collect();
        Some(RoleUse { span, name: Spanned::new(name.into(), span), path: None, common, params })
    }

    /// Takes a play's keywords apart; used by `play`.
    pub(super) fn play_common<'n>(
        &mut self,
        entries: &'n [(Node, Node)],
        span: Span,
    ) -> (Common, Vec<&'n (Node, Node)>) {
        let mut fields = Fields { span, left: entries.iter().collect() };
        let common = self.common(&mut fields, Level::Play);
        (common, fields.left)
    }
}

/// Returns a value that is one word; a boolean is `true` or `false`, however it was written.
fn word(node: &Node) -> Option<&str> {
    match truth(node) {
        Some(true) => Some("true"),
        Some(false) => Some("false"),
        None => node.as_str().map(|text| text.strip_prefix("ansible.builtin.").unwrap_or(text)),
    }
}

/// Returns the place by which people know a statement: its name, else its first key.
fn place(fields: &Fields<'_>, common: &Common) -> Span {
    common
        .name
        .as_ref()
        .and_then(|n| n.marks.origin)
        .unwrap_or(Span { end: fields.span.start + 1, ..fields.span })
}

fn texts(node: &Node) -> Vec<Value> {
    match &node.value {
        NodeValue::Null | NodeValue::Map(_) => Vec::new(),
        NodeValue::List(items) => items.iter().flat_map(texts).collect(),
        _ => vec![Value::from_node(node)],
    }
}

/// Drops the extension of a task or variable file's name.
pub fn stem(name: &str) -> Arc<str> {
    let stem = files::YAML_EXTENSIONS.iter().find_map(|e| name.strip_suffix(e)?.strip_suffix('.'));
    stem.unwrap_or(name).into()
}

/// Whether the text may name a variable: a Python identifier that is no keyword.
pub fn is_name(text: &str) -> bool {
    const PYTHON: [&str; 35] = [
        "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
        "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in",
        "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
    ];
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !PYTHON.contains(&text)
}

/// Ansible's words for true and false.
fn truth(node: &Node) -> Option<bool> {
    match &node.value {
        NodeValue::Bool(flag) => Some(*flag),
        NodeValue::Int(0) => Some(false),
        NodeValue::Int(1) => Some(true),
        NodeValue::String(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "y" | "t" | "1" => Some(true),
            "no" | "off" | "false" | "n" | "f" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn number(node: &Node) -> Option<f64> {
    node.as_float().or_else(|| node.as_str().and_then(|t| t.trim().trim_end_matches('%').parse().ok()))
}
