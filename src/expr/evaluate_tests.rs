//! Tests of evaluation: what users rely on, sentence by sentence.

use super::*;
use crate::expr::Dict;
use crate::expr::NoLookups;

fn scope() -> Dict {
    let password = Value::from("s3cret").secret();
    let mut scope = Dict::new();
    scope.insert("password".into(), password.clone());
    scope.insert("user".into(), Value::from([("name", Value::from("app")), ("password", password)]));
    scope.insert("url".into(), Value::template("postgres://app:{{ password }}@db1"));
    scope.insert("skipped".into(), Value::unknown("step 4 was not run"));
    scope.insert(
        "register".into(),
        Value::from([("rc", Value::from(0)), ("stdout", Value::unknown("step 5 was not run"))]),
    );
    scope.insert("n".into(), Value::from(1));
    scope
}

fn evaluated(text: &str) -> Value {
    template(&Value::template(text), &scope(), &NoLookups).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn verdict(text: &str) -> Verdict {
    condition(&Value::template(text), &scope(), &NoLookups).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_is_made_from_a_secret_is_secret() {
    let secret = [
        "{{ password }}",
        "x{{ password }}",
        "{{ url }}",
        "{{ 'a' ~ password }}",
        "{{ password + 'x' }}",
        "{{ password | upper }}",
        "{{ password[1:] }}",
        "{{ password[0] }}",
        "{{ password.upper() }}",
        "{{ user | to_json }}",
        "{{ user.values() | join(',') }}",
        "{{ [user] | map(attribute='password') | join }}",
        "{{ '%s' % password }}",
        "{{ user.password | default('x') }}",
        "{% set p = password %}{{ p }}-",
        "{% for p in [password] %}{{ p }},{% endfor %}",
        "{{ password | b64encode }}",
        "{{ 'md5' ~ (password | hash('md5')) }}",
    ];
    for text in secret {
        let value = evaluated(text);
        assert!(value.has_secret(), "{text} gave {:?}", value.to_json());
        assert!(!format!("{value:?} {value}").contains("s3c"), "{text}");
    }
    let open = [
        "{{ user.name }}",
        "{{ [user] | map(attribute='name') | first }}",
        "{{ password | length > 3 }}",
        "{{ n }}",
    ];
    for text in open {
        assert!(!evaluated(text).has_secret(), "{text}");
    }
    let parts = evaluated("{{ password | list }}");
    assert!(parts.as_list().unwrap().iter().all(|part| part.marks.secret));
    let file = render_file("p = {{ password }}\n", &scope(), &NoLookups, &FileOptions::default()).unwrap();
    assert!(file.marks.secret);
}

#[test]
fn what_depends_on_the_unknown_is_unknown_and_default_does_not_hide_it() {
    let unknown = [
        "{{ skipped }}",
        "{{ skipped | default('x') }}",
        "{{ skipped | default('x', true) }}",
        "{{ skipped.stdout | default('x') }}",
        "{{ skipped.results[0].rc }}",
        "x {{ skipped }}",
        "{{ skipped ~ 'a' }}",
        "{{ skipped + 1 }}",
        "{{ skipped == 1 }}",
        "{{ not skipped }}",
        "{{ skipped is defined }}",
        "{{ skipped is changed }}",
        "{{ [skipped] | join }}",
        "{{ [1, skipped] | select('odd') | list }}",
        "{{ register | to_json }}",
        "{{ register.stdout | trim }}",
        "{{ 'a' if skipped else 'b' }}",
        "{{ skipped.split(',') }}",
        "{% if skipped %}a{% endif %}",
        "{% for x in skipped %}a{% endfor %}",
    ];
    for text in unknown {
        assert!(evaluated(text).as_unknown().is_some(), "{text} gave {:?}", evaluated(text));
    }
    assert_eq!(evaluated("{{ register.rc }}"), Value::from(0));
    assert_eq!(evaluated("{{ [1, skipped] | length }}"), Value::from(2));
    assert!(evaluated("{{ [1, skipped] }}").find_unknown().is_some());
    assert!(matches!(verdict("skipped is changed"), Verdict::Unknown { .. }));
    assert_eq!(verdict("n == 2 and skipped"), Verdict::No);
    assert_eq!(verdict("skipped and n == 2"), Verdict::No);
    assert_eq!(verdict("skipped or n == 1"), Verdict::Yes);
    assert!(matches!(verdict("skipped and n == 1"), Verdict::Unknown { .. }));
    let both = |first: &str, second: &str| {
        let list = Value::from(vec![Value::template(first), Value::template(second)]);
        condition(&list, &scope(), &NoLookups).unwrap()
    };
    assert_eq!(both("skipped", "n == 2"), Verdict::No);
    assert!(matches!(both("skipped", "nope"), Verdict::Unknown { .. }));
}

#[test]
fn only_trusted_text_is_a_template() {
    let mut scope = Dict::new();
    scope.insert("stdout".into(), Value::from("{{ n }}"));
    scope.insert("n".into(), Value::from(1));
    scope.insert("copy".into(), Value::template("{{ stdout }}"));

    let result = template(&Value::template("{{ copy }} {{ n }}"), &scope, &NoLookups).unwrap();

    assert_eq!(result, Value::from("{{ n }} 1"));
    assert_eq!(template(&result, &scope, &NoLookups).unwrap(), result);
}

#[test]
fn a_condition_that_is_no_boolean_says_what_to_write() {
    let refused = |text: &str| condition(&Value::template(text), &scope(), &NoLookups).unwrap_err();

    let error = refused("user.name | length");

    assert_eq!(error.message, "a condition must be true or false, and this is 3 (int)");
    assert_eq!(
        error.hint.as_deref(),
        Some("write `user.name | length != 0`, or `user.name | length | bool`")
    );
    assert!(refused("").message.contains("empty"));
    assert!(!refused("password").message.contains("s3cret"));
    assert!(condition(&Value::from(true), &scope(), &NoLookups).unwrap().is_yes());
}

#[test]
fn a_circle_of_variables_is_named() {
    let mut scope = Dict::new();
    scope.insert("a".into(), Value::template("{{ b }}"));
    scope.insert("b".into(), Value::template("x{{ a }}"));

    let error = template(&Value::template("{{ a }}"), &scope, &NoLookups).unwrap_err();

    assert_eq!(error.kind, ErrorKind::Recursion);
    assert_eq!(error.message, "recursive loop: variable `a` needs its own value (a → b → a)");
}

#[test]
fn errors_keep_the_place_of_the_template_that_failed() {
    let place = crate::source::Span::new(crate::source::FileId(3), 10, 20);
    let mut scope = Dict::new();
    scope.insert("inner".into(), Value::template("{{ 1 / 0 }}").with_origin(place));

    let error = template(&Value::template("{{ inner }}"), &scope, &NoLookups).unwrap_err();

    assert_eq!((error.message.as_str(), error.origin), ("division by zero", Some(place)));
}

/// Another host's variables, with its own name among them.
struct Hosts;

impl Scope for Hosts {
    fn get(&self, name: &str) -> Option<Value> {
        (name == "who").then(|| Value::from("me"))
    }

    fn host(&self, host: &str) -> Option<Arc<dyn Scope>> {
        let other: Dict =
            [("who".into(), Value::from(host)), ("label".into(), Value::template("I am {{ who }}"))].into();
        (host == "db2").then(|| Arc::new(other) as Arc<dyn Scope>)
    }
}

#[test]
fn hostvars_are_evaluated_with_the_variables_of_their_host() {
    let value = |text: &str| template(&Value::template(text), &Hosts, &NoLookups).unwrap();

    assert_eq!(value("{{ who }}: {{ hostvars['db2'].label }}"), Value::from("me: I am db2"));
    assert_eq!(value("{{ hostvars['nope'].label | default('none') }}"), Value::from("none"));
    assert_eq!(value("{{ hostvars.db2.get('nope', 'd') }}"), Value::from("d"));
}

#[test]
fn queries_and_times_are_answered() {
    let mut scope = Dict::new();
    scope.insert(
        "r".into(),
        Value::from([(
            "results",
            Value::from(vec![Value::from([("failed", true)]), Value::from([("failed", false)])]),
        )]),
    );

    let failed =
        template(&Value::template("{{ r | json_query('results[?failed]') | length }}"), &scope, &NoLookups);
    let day = template(&Value::template("{{ '%Y-%m-%d' | strftime(86400) }}"), &scope, &NoLookups);

    assert_eq!(failed.unwrap(), Value::from(1));
    assert_eq!(day.unwrap(), Value::from("1970-01-02"));
}

#[test]
fn other_marks_than_braces_can_be_asked_for() {
    let text = "#jinja2: variable_start_string: '[%', variable_end_string: '%]'\nn={{ n }} [% n %]\n";

    let written = render_file(text, &scope(), &NoLookups, &FileOptions::default()).unwrap();

    assert_eq!(written, Value::from("n={{ n }} 1\n"));
}
