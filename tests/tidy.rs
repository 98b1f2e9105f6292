//! The house rules as tests: each failure says the place and what to do instead.
#![allow(clippy::disallowed_methods, reason = "this test reads the sources themselves")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may use, and uses; the longest matching row counts. `*` = everything.
const LAYERS: &[(&str, &[&str])] = &[
    ("source", &[]),
    ("cluster", &[]),
    ("contract", &["source", "cluster", "sys::secret"]),
    ("settings", &["contract", "cluster"]),
    ("sys", &[]),
    ("expr", &["source"]),
    ("etcd", &["sys"]),
    ("postgres", &["sys", "cluster"]),
    ("input", &["source", "expr", "settings"]),
    ("modules", &["sys", "etcd", "postgres", "contract", "source", "expr"]),
    ("executor", &["modules", "expr", "sys", "source"]),
    ("transport", &["executor", "sys"]),
    ("plan", &["input", "expr", "modules", "executor::wire", "source"]),
    ("run", &["input", "plan", "modules", "executor", "transport", "expr", "source", "sys"]),
    ("report", &["run::event"]),
    ("agent::view", &["cluster", "settings", "sys::clock"]),
    ("agent::decide", &["cluster", "settings", "agent::view"]),
    ("agent::disk", &["cluster", "agent::view"]),
    ("agent::lease::deadline", &["sys::clock"]),
    ("agent", &["etcd", "postgres", "cluster", "contract", "settings", "sys", "source", "guard"]),
    ("guard", &["sys", "cluster"]),
    ("ctl", &["etcd", "contract", "cluster", "sys"]),
    ("lab", &["sys", "source"]),
    ("cli", &["*"]),
];

/// Words that mean unfinished work, and comment words that only make sense next to the change that wrote them.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("];
const DATED: &[&str] = &[" no longer ", " previously ", " for now"];

/// A file above this has two reasons to exist, unless its first lines say `// long because: …`.
const LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// `src/agent/decide/mod.rs` is `agent::decide`, `src/agent/view.rs` is `agent::view`.
fn room(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let parts =
        if parts.last().is_some_and(|last| last == "mod") { &parts[..parts.len() - 1] } else { &parts[..] };
    parts.join("::")
}

fn is_within(room: &str, prefix: &str) -> bool {
    room == prefix || room.starts_with(&format!("{prefix}::"))
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn each_room_uses_the_rooms_below_it_and_no_other() {
    let mut problems = Vec::new();
    let mut walked = BTreeSet::new();
    for path in files("src", "rs") {
        let own = room(&path);
        if matches!(own.as_str(), "lib" | "main") {
            continue;
        }
        let row = LAYERS
            .iter()
            .filter(|(prefix, _)| is_within(&own, prefix))
            .max_by_key(|(prefix, _)| prefix.len());
        let Some((prefix, allowed)) = row else {
            problems.push(format!("{}: room `{own}` has no row in LAYERS of tests/tidy.rs", shown(&path)));
            continue;
        };
        let top = own.split("::").next().unwrap_or_default();
        let pure = prefix.contains("::");
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for used in code.split("crate::").skip(1) {
                if used.starts_with('{') {
                    problems.push(format!(
                        "{}:{}: write one `use crate::room::…` a line",
                        shown(&path),
                        number + 1
                    ));
                    continue;
                }
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
                let used = used.trim_end_matches(':');
                let same = if pure { is_within(used, prefix) } else { is_within(used, top) };
                let below = allowed.iter().find(|room| **room == "*" || is_within(used, room));
                walked.extend(below.map(|room| (*prefix, *room)));
                if !same && below.is_none() {
                    problems.push(format!(
                        "{}:{}: {own} may not use crate::{used}",
                        shown(&path),
                        number + 1
                    ));
                }
            }
        }
    }
    for (prefix, room) in
        LAYERS.iter().flat_map(|(prefix, allowed)| allowed.iter().map(move |room| (*prefix, *room)))
    {
        if !walked.contains(&(prefix, room)) {
            problems.push(format!(
                "LAYERS of tests/tidy.rs: {prefix} uses nothing of {room}; take it out of the row"
            ));
        }
    }
    report(&problems);
}

#[test]
fn the_map_names_every_room_and_no_other() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut problems = Vec::new();
    for entry in fs::read_dir(root().join("src")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !map.contains(&format!("`src/{name}/`")) {
            problems.push(format!("ARCHITECTURE.md: no line for `src/{name}/`"));
        }
    }
    for word in map.split('`').filter(|word| word.starts_with("src/") && word.ends_with('/')) {
        if !root().join(word).is_dir() {
            problems.push(format!("ARCHITECTURE.md: names `{word}`, which does not exist"));
        }
    }
    report(&problems);
}

#[test]
fn every_file_is_one_thing_and_says_what_for() {
    let mut problems = Vec::new();
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > LINES_MAX && !text.contains("// long because: ") {
            problems.push(format!(
                "{}: {lines} lines; is it two things? (or say `// long because: …`)",
                shown(&path)
            ));
        }
        if !text.starts_with("//!") && !text.starts_with("// ") {
            problems
                .push(format!("{}:1: begin with a `//!` line that says what the file is for", shown(&path)));
        }
    }
    report(&problems);
}

#[test]
fn nothing_unfinished_and_no_dated_comment_is_left() {
    let mut problems = Vec::new();
    for path in
        files("src", "rs").into_iter().chain(files("tests", "rs")).filter(|path| !path.ends_with("tidy.rs"))
    {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let place = format!("{}:{}", shown(&path), number + 1);
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{place}: `{word}`: finish it, or file an issue"));
            }
            let comment = line.trim_start().strip_prefix("//").unwrap_or_default();
            for word in DATED.iter().filter(|word| comment.contains(**word)) {
                problems.push(format!("{place}: comments read the same in a year; drop `{}`", word.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn decide_stays_pure() {
    let mut problems = Vec::new();
    for path in files("src/agent/decide", "rs") {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.contains("#[cfg(test)]") {
                break;
            }
            let code = line.split("//").next().unwrap_or_default();
            for word in ["async ", "tracing", "Instant", "HashMap", "format!("] {
                if code.contains(word) {
                    problems.push(format!("{}:{}: decide is pure: no `{word}`", shown(&path), number + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn the_nouns_of_the_field_know_no_serde() {
    let problems: Vec<String> = files("src/cluster", "rs")
        .into_iter()
        .filter(|path| {
            fs::read_to_string(path).unwrap().lines().any(|l| !l.starts_with("//") && l.contains("serde"))
        })
        .map(|path| format!("{}: spellings live in contract, input and executor::wire", shown(&path)))
        .collect();
    report(&problems);
}

#[test]
fn every_test_file_is_in_its_runner() {
    let mut problems = Vec::new();
    for tier in ["cli", "modules", "sim", "contract", "local", "guest", "lab"] {
        let folder = root().join("tests").join(tier);
        let Ok(main) = fs::read_to_string(folder.join("main.rs")) else { continue };
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".rs").filter(|stem| *stem != "main") else { continue };
            if !main.contains(&format!("mod {stem};")) {
                problems.push(format!("tests/{tier}/main.rs: no `mod {stem};`, so its tests never run"));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let reasons = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let mut problems = Vec::new();
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| in_dependencies)
            && !reasons.contains(name)
        {
            problems.push(format!("docs/dependencies.md: why is `{name}` here?"));
        }
    }
    report(&problems);
}
