//! No text makes the readers of YAML and of expressions panic, run away or recurse without bound.

use keddah::expr::Dict;
use keddah::expr::FileOptions;
use keddah::expr::NoLookups;
use keddah::expr::Value;
use keddah::source::FileId;
use keddah::source::yaml;
use proptest::prelude::*;

fn scope() -> Dict {
    let (documents, _) = yaml::read(
        FileId(0),
        "n: 5\ns: 'a b'\nl: [3, 1, [x]]\nd: {a: 1, b: {c: [1]}}\nt: '{{ n }}'\nr: '{{ r }}'\n",
    );
    Value::from_node(&documents[0]).as_dict().unwrap().clone()
}

/// Pieces of which templates are made, so that many samples parse.
fn template_text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{{ ",
        " }}",
        "{% ",
        " %}",
        "{# ",
        " #}",
        "for x in ",
        "endfor",
        "if ",
        "else",
        "endif",
        "set y = ",
        "n",
        "s",
        "l",
        "d",
        "t",
        "r",
        "x",
        "y",
        ".",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ", ",
        ": ",
        " | ",
        " is ",
        " in ",
        " not ",
        " and ",
        " or ",
        "+",
        "-",
        "*",
        "**",
        "//",
        "%",
        "~",
        "==",
        "<",
        "'",
        "\"",
        "\\",
        "0",
        "1",
        "-1",
        "99999999999",
        "1.5",
        "'a'",
        "'%s'",
        "'(.*)'",
        "default",
        "map",
        "select",
        "'upper'",
        "length",
        "join",
        "sort",
        "regex_replace",
        "int",
        "round",
        "to_yaml",
        "to_json",
        "combine",
        "dict2items",
        "flatten",
        "version",
        "append",
        "format",
        "split",
        "range(9)",
        "lookup('vars', ",
        "namespace(",
        "macro m(a)",
        "endmacro",
        "raw",
        "endraw",
        "\n",
        " ",
        "ü",
        "omit",
        "none",
        "true",
        "loop.index",
        "batch",
        "slice",
        "random(seed=1)",
        "human_readable",
        "b64decode",
        "from_yaml",
        "[::-1]",
        "[1:]",
        "indent",
        "truncate",
        "zfill",
        "center",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn yaml_text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "b", ": ", ":", "- ", "-", "\n", "  ", "    ", "\t", "[", "]", "{", "}", ", ", "&x ", "*x",
        "<<: ", "!vault ", "!!str ", "|", ">", "'", "\"", "\\", "#", " # c", "{{ n }}", "1", "0644", "1:30",
        "yes", "~", "---\n", "...\n", "%", "@", "ü", "\u{feff}", "? ",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn templates_never_panic(text in template_text()) {
        let scope = scope();
        let value = Value::template(text.as_str());
        let _ = keddah::expr::template(&value, &scope, &NoLookups);
        let _ = keddah::expr::condition(&value, &scope, &NoLookups);
        let _ = keddah::expr::render_file(&text, &scope, &NoLookups, &FileOptions::default());
        let _ = keddah::expr::names(&text);
        let _ = keddah::expr::check(&text, None);
    }

    #[test]
    fn yaml_never_panics_and_places_are_inside_the_text(text in yaml_text()) {
        let (documents, diagnostics) = yaml::read(FileId(0), &text);
        for problem in diagnostics.sorted() {
            if let Some(span) = problem.span {
                prop_assert!(span.start as usize <= text.len(), "{problem:?}");
            }
        }
        for node in &documents {
            prop_assert!(text.is_char_boundary(node.span.start as usize) && node.span.end as usize <= text.len());
            let _ = Value::from_node(node).to_string();
        }
    }

    #[test]
    fn any_text_is_survived(text in ".{0,80}") {
        let _ = yaml::read(FileId(0), &text);
        let _ = keddah::expr::template(&Value::template(format!("{{{{ {text} }}}}")), &scope(), &NoLookups);
        let _ = keddah::expr::expression(&text, &scope(), &NoLookups);
    }

    #[test]
    fn what_is_written_as_yaml_is_read_back(text in "[a-z0-9:#'\"\\-\\[{,~ü \n]{0,120}") {
        let value = Value::from([("k", Value::from(text.as_str())), ("l", Value::from(vec![Value::from(text.as_str())]))]);
        let written = keddah::expr::emit_yaml::yaml(&value, &keddah::expr::emit_yaml::YamlStyle::default());
        let (documents, diagnostics) = yaml::read(FileId(0), &written);
        prop_assert!(!diagnostics.has_errors(), "{written:?} {diagnostics:?}");
        prop_assert_eq!(Value::from_node(&documents[0]), value, "{}", written);
    }
}

/// Found by the fuzz above, and rare in it.
#[test]
fn a_text_that_ends_in_a_lone_dash_is_read_back_from_a_flow_list() {
    let value = Value::from(vec![Value::from("a -"), Value::from("b -")]);
    let written = keddah::expr::emit_yaml::yaml(&value, &keddah::expr::emit_yaml::YamlStyle::default());
    let (documents, diagnostics) = yaml::read(FileId(0), &written);
    assert!(!diagnostics.has_errors(), "{written:?}");
    assert_eq!(Value::from_node(&documents[0]), value, "{written}");
}

/// Threads have 2 MiB of stack; the deepest nesting that is allowed must fit, unoptimized.
#[test]
fn nesting_ends_in_an_error_and_not_in_a_broken_stack() {
    let mut chain: Dict = Dict::new();
    for at in 0..500 {
        chain.insert(
            format!("v{at}").into(),
            Value::template(format!("{{{{ [v{}] | first | default('x') }}}}", at + 1)),
        );
    }
    let deep = [
        "{{ v0 }}".to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(140), ")".repeat(140)),
        format!("{{{{ {}1{} }}}}", "[".repeat(140), "]".repeat(140)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(5000)),
        format!("{{{{ 'a'{} }}}}", " | upper".repeat(5000)),
        format!("{{{{ n{} }}}}", ".a".repeat(5000)),
        format!("{{{{ {} 1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ {} 1 }}}}", "-".repeat(100_000)),
        format!("{}x{}", "{% if 1 %}".repeat(140), "{% endif %}".repeat(140)),
        "{% macro m(a) %}{{ m(a) }}{% endmacro %}{{ m(1) }}".to_owned(),
        "{{ 'x' * 99999999999 }}{{ range(99999999999) }}".to_owned(),
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% set n = namespace(t='xx') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}"
            .to_owned(),
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ 'x' * 100000 }}{% endfor %}{% endfor %}"
            .to_owned(),
    ];
    for text in deep {
        let shown: String = text.chars().take(40).collect();
        let chain = chain.clone();
        let worker = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(move || {
            let _ = keddah::expr::names(&text);
            keddah::expr::template(&Value::template(text), &chain, &NoLookups).is_ok()
        });
        assert!(worker.unwrap().join().is_ok(), "{shown}");
    }
}
