//! What is wrong with the syntax of a YAML text, in the words of people who write playbooks rather than of the parser.

use crate::source::diagnostic::Diagnostic;
use crate::source::node::Node;

/// Says that a list or a mapping stands where a key is expected.
pub(super) fn collection_as_key(node: &Node) -> Diagnostic {
    let is_braces = node.as_map().is_some_and(|pairs| pairs.iter().all(|(_, value)| value.is_null()));
    if is_braces {
        return Diagnostic::error("yaml-syntax", "a value that begins with `{{` is read as a YAML mapping")
            .at(node.span)
            .hint("put the whole value in quotes: \"{{ … }}\"");
    }
    Diagnostic::error("yaml-syntax", format!("a key must be one word or text, and this is {}", node.kind()))
        .at(node.span)
}

/// Says what is wrong in the user's words, and what to do about it where that is known.
pub(super) fn in_words(info: &str, line: &str, before: &str) -> (String, Option<&'static str>) {
    const QUOTE_BRACES: &str = "put the whole value in quotes: \"{{ … }}\"";
    let indent_has_tab = |l: &str| l.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    let bare_braces =
        |l: &str| [": {{", "- {{"].iter().any(|mark| l.contains(mark)) || l.trim_start().starts_with("{{");
    if indent_has_tab(line) || info.contains("tab") && !info.contains("start with") {
        return (
            "a tab is used for indentation".into(),
            Some("indent with spaces; YAML does not allow tabs there"),
        );
    }
    if bare_braces(line) || bare_braces(before) {
        return ("a value that begins with `{{` is read as a YAML mapping".into(), Some(QUOTE_BRACES));
    }
    if info.contains("mapping values are not allowed") || info.contains("illegal placement of ':'") {
        return (
            "`: ` inside a plain value, or a key that is indented deeper than its neighbors".into(),
            Some(
                "put a value that contains `: ` in quotes, and give keys of one mapping the same indentation",
            ),
        );
    }
    if info.contains("unexpected end of stream") || info.contains("in quoted scalar") {
        return (
            "a quote that is opened here is not closed before the text moves to the left".into(),
            Some("add the closing quote"),
        );
    }
    if info.contains("unknown escape character") {
        let hint = "double the backslash, or use single quotes: they keep backslashes as they are";
        return ("a backslash in double quotes begins an escape that does not exist".into(), Some(hint));
    }
    if info.contains("invalid trailing content after double-quoted")
        || info.contains("did not find expected key") && line.contains(['"', '\''])
    {
        let hint = "quote the whole value; use the other kind of quotes outside";
        return ("text follows a closing quote".into(), Some(hint));
    }
    if info.contains("did not find expected key")
        || info.contains("simple key expect")
        || info.contains("could not find expected ':'")
    {
        let hint = "`key: value` needs the colon and a blank, and keys of one mapping the same indentation";
        return ("a key with `:` is expected here".into(), Some(hint));
    }
    if info.contains("'-' indicator") || info.contains("block sequence entries are not allowed") {
        let hint = "entries of one list begin with `- ` at the same indentation";
        return ("a list entry is expected here, or stands where none can be".into(), Some(hint));
    }
    if info.contains("unknown anchor") {
        return (
            "this alias has no anchor".into(),
            Some("write the anchor `&name` at the value it stands for, before the alias"),
        );
    }
    if info.contains("unexpected character") {
        return (format!("YAML: {info}"), Some("put the value in quotes"));
    }
    (format!("YAML: {info}"), None)
}
