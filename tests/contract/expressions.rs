//! Templates and conditions mean what ansible-core says they mean (fixtures/ansible-core-2.19/make.py asks it).

use std::path::Path;

use keddah::expr::Dict;
use keddah::expr::FileOptions;
use keddah::expr::NoLookups;
use keddah::expr::Value;
use keddah::expr::Verdict;
use keddah::source::FileId;
use keddah::source::yaml;

/// A line of a fixture: the text, and the answer, or that there is none.
struct Case {
    text: String,
    name: String,
    answer: Option<(String, serde_json::Value)>,
}

fn fixture(name: &str) -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/fixtures/ansible-core-2.19").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases(file: &str, key: &str) -> Vec<Case> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(&fixture(file)).unwrap();
    rows.into_iter()
        .map(|row| Case {
            text: row[key].as_str().unwrap().to_owned(),
            name: row["name"].as_str().unwrap_or(row[key].as_str().unwrap()).to_owned(),
            answer: row["type"].as_str().map(|kind| (kind.to_owned(), row["result"].clone())),
        })
        .collect()
}

fn variables() -> Dict {
    let (documents, diagnostics) = yaml::read(FileId(0), &fixture("vars.yml"));
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let Value { data: keddah::expr::Data::Dict(all), .. } = Value::from_node(&documents[0]) else {
        panic!("vars.yml is a mapping")
    };
    let mut all = (*all).clone();
    let untrusted = all.shift_remove("untrusted").unwrap().untrusted();
    all.extend(untrusted.as_dict().unwrap().iter().map(|(key, value)| (key.clone(), value.clone())));
    all
}

fn report(what: &str, total: usize, wrong: &[String]) {
    assert!(total > 15, "only {total} {what}");
    assert!(wrong.is_empty(), "{} of {total} {what} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Where Keddah differs on purpose; docs/ansible-differences.md says why.
const DIFFERENCES: &[&str] = &[
    // A dict's key wins over its method of the same name.
    "{{ config.items | default('x') is defined }}",
    // There are no tuples: they are lists from the start.
    "{{ (1, 2) == [1, 2] }}",
];

#[test]
fn expressions_have_the_value_and_type_that_ansible_gives_them() {
    let scope = variables();
    let cases = cases("expressions.json", "template");
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| !DIFFERENCES.contains(&case.text.as_str())) {
        let ours = keddah::expr::template(&Value::template(case.text.as_str()), &scope, &NoLookups);
        match (&case.answer, ours) {
            (Some((kind, expected)), Ok(value)) => {
                if value.type_name() != kind || value.to_json() != *expected {
                    wrong.push(format!(
                        "{}\n  ansible: {kind} {expected}\n  keddah:  {} {}",
                        case.text,
                        value.type_name(),
                        value.to_json()
                    ));
                }
            }
            (Some((kind, expected)), Err(error)) => {
                wrong.push(format!("{}\n  ansible: {kind} {expected}\n  keddah:  error: {error}", case.text));
            }
            (None, Ok(value)) => wrong.push(format!("{}\n  ansible: error\n  keddah:  {value:?}", case.text)),
            (None, Err(_)) => {}
        }
    }
    report("expressions", cases.len(), &wrong);
}

#[test]
fn conditions_have_the_verdict_that_ansible_gives_them() {
    let scope = variables();
    let cases = cases("conditions.json", "condition");
    let mut wrong = Vec::new();
    for case in &cases {
        let ours = keddah::expr::condition(&Value::template(case.text.as_str()), &scope, &NoLookups);
        let expected = case.answer.as_ref().and_then(|(_, answer)| answer.as_bool());
        let fits = match (&ours, expected) {
            (Ok(Verdict::Yes), Some(expected)) => expected,
            (Ok(Verdict::No), Some(expected)) => !expected,
            (Err(_), None) => true,
            _ => false,
        };
        if !fits {
            wrong.push(format!("{}\n  ansible: {expected:?}\n  keddah:  {ours:?}", case.text));
        }
    }
    report("conditions", cases.len(), &wrong);
}

#[test]
fn template_files_become_the_text_that_ansible_writes() {
    let scope = variables();
    let cases = cases("files.json", "text");
    let mut wrong = Vec::new();
    for case in &cases {
        let ours = keddah::expr::render_file(&case.text, &scope, &NoLookups, &FileOptions::default());
        let expected = case.answer.as_ref().and_then(|(_, answer)| answer.as_str());
        let fits = match (&ours, expected) {
            (Ok(text), Some(expected)) => text.as_str() == Some(expected),
            (Err(_), None) => true,
            _ => false,
        };
        if !fits {
            wrong.push(format!("{}\n  ansible: {expected:?}\n  keddah:  {ours:?}", case.name));
        }
    }
    report("files", cases.len(), &wrong);
}
