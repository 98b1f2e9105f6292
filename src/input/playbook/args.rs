//! A module call: which key of a task is the module, and its parameters in all the ways they may be written.

use std::sync::Arc;

use crate::expr::{Data, Dict, Marks, Value};
use crate::input::words;
use crate::source::{Diagnostic, Diagnostics, Node, NodeValue, Span, Spanned};

/// Modules that take free text beside or instead of `k=v` parameters.
const FREE_FORM: [&str; 14] = [
    "add_host",
    "command",
    "expect",
    "group_by",
    "import_playbook",
    "import_tasks",
    "include",
    "include_tasks",
    "include_vars",
    "meta",
    "raw",
    "script",
    "set_fact",
    "shell",
];

/// Modules whose free text is a command line: only these parameters are taken out of it, any other `k=v` is part of it.
const COMMAND_LINE: [&str; 4] = ["command", "raw", "script", "shell"];
const COMMAND_PARAMETERS: [&str; 7] =
    ["chdir", "creates", "executable", "removes", "stdin", "stdin_add_newline", "strip_empty_ends"];

/// Parameters as written: a dict or one template, and free text.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub args: Spanned<Value>,
    pub free_form: Option<Value>,
}

/// Returns a module's name without the collections that are Ansible's own.
pub fn short_name(module: &str) -> &str {
    ["ansible.builtin.", "ansible.legacy."].iter().find_map(|p| module.strip_prefix(p)).unwrap_or(module)
}

/// Reads the value of a module's key. A module that is not `known` may take free text.
pub fn written(module: &str, known: bool, node: &Node, out: &mut Diagnostics) -> Written {
    let empty = || Value::from(Dict::new()).with_origin(node.span);
    let no_text = |args| Written { args: Spanned::new(args, node.span), free_form: None };
    match &node.value {
        NodeValue::Null => no_text(empty()),
        NodeValue::Map(_) => no_text(Value::from_node(node)),
        NodeValue::String(text) => from_text(module, known, text, node, out),
        NodeValue::Bool(_) | NodeValue::Int(_) | NodeValue::Float(_) if !known || takes_text(module) => {
            let text = node.key_text().unwrap_or_default();
            Written { args: Spanned::new(empty(), node.span), free_form: Some(trusted(&text, node.span)) }
        }
        _ => {
            let message =
                format!("the parameters of `{module}` must be a mapping, and this is {}", node.kind());
            let hint = "write each parameter on a line of its own: `name: value`";
            out.push(Diagnostic::error("parameters", message).at(node.span).hint(hint));
            no_text(empty())
        }
    }
}

fn takes_text(module: &str) -> bool {
    FREE_FORM.contains(&short_name(module))
}

fn trusted(text: &str, span: Span) -> Value {
    Value { data: Data::Str(text.into()), marks: Marks { trusted: true, secret: false, origin: Some(span) } }
}

/// Whether the whole text is one `{{ … }}`.
pub fn is_one_template(text: &str) -> bool {
    let trimmed = text.trim();
    trimmed.starts_with("{{") && trimmed.ends_with("}}") && trimmed.matches("{{").count() == 1
}

fn from_text(module: &str, known: bool, text: &str, node: &Node, out: &mut Diagnostics) -> Written {
    let short = short_name(module);
    let span = node.span;
    if is_one_template(text) && !FREE_FORM.contains(&short) {
        return Written { args: Spanned::new(Value::from_node(node), span), free_form: None };
    }
    let is_command = COMMAND_LINE.contains(&short);
    let mut args = Dict::new();
    let mut free: Vec<&str> = Vec::new();
    let words = words::arguments(text);
    for word in &words {
        match words::key_value(&word.text) {
            Some((key, value)) if !is_command || COMMAND_PARAMETERS.contains(&key) => {
                args.insert(key.into(), trusted(value, span));
            }
            _ => free.push(&word.text),
        }
    }
    let free_form = if is_command && args.is_empty() {
        Some(text.to_owned())
    } else {
        (!free.is_empty()).then(|| free.join(" "))
    };
    if let Some(extra) = &free_form
        && known
        && !takes_text(module)
    {
        let message = format!("`{module}` takes parameters, and `{extra}` is none");
        let hint = "write each parameter on a line of its own below the module: `name: value`";
        out.push(Diagnostic::error("parameters", message).at(span).hint(hint));
    }
    Written {
        args: Spanned::new(Value::from(args).with_origin(span), span),
        free_form: free_form.map(|f| trusted(&f, span)),
    }
}

/// Adds the parameters of `args:`; those written with the module win.
pub fn merge(written: &mut Written, node: &Node, out: &mut Diagnostics) {
    let value = Value::from_node(node);
    match (&value.data, &written.args.value.data) {
        (Data::None, _) => {}
        (Data::Dict(more), Data::Dict(own)) => {
            let mut all = more.as_ref().clone();
            all.extend(own.iter().map(|(name, value)| (Arc::clone(name), value.clone())));
            written.args.value = Value::from(all).with_origin(written.args.span);
        }
        (Data::Str(_), Data::Dict(own)) if own.is_empty() => written.args = Spanned::new(value, node.span),
        _ => {
            let message =
                "`args` must be a mapping, or one template where the module has no other parameters";
            out.push(Diagnostic::error("parameters", message).at(node.span));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{FileId, yaml};

    fn read(module: &str, text: &str) -> (String, Option<String>, bool) {
        let (nodes, _) = yaml::read(FileId(0), text);
        let mut out = Diagnostics::default();
        let written = written(module, true, &nodes[0], &mut out);
        (written.args.value.to_json().to_string(), written.free_form.map(|f| f.to_string()), out.is_empty())
    }

    #[test]
    fn free_text_and_parameters_are_told_apart() {
        let text = Some("ls -l a=b".to_owned());
        assert_eq!(read("command", "ls -l a=b chdir=/tmp"), (r#"{"chdir":"/tmp"}"#.into(), text, true));
        assert_eq!(read("shell", "echo  'a  b'").1, Some("echo  'a  b'".into()));
        assert_eq!(
            read("copy", "src=a dest={{ d | default('x y') }}").0,
            r#"{"src":"a","dest":"{{ d | default('x y') }}"}"#
        );
        assert_eq!(read("ansible.builtin.meta", "flush_handlers").1, Some("flush_handlers".into()));
        assert_eq!(read("debug", "'{{ x }}'").0, r#""{{ x }}""#);
        assert!(!read("copy", "src=a nonsense").2);
    }
}
