//! Every template and condition of the shipped roles and playbooks can be read and names only what exists.

use std::path::Path;
use std::path::PathBuf;

use keddah::expr;
use keddah::expr::Value;
use keddah::source::Node;
use keddah::source::SourceMap;
use keddah::source::render;
use keddah::source::yaml;

const CONDITIONS: [&str; 5] = ["when", "changed_when", "failed_when", "until", "that"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn conditions<'n>(node: &'n Node, found: &mut Vec<&'n Node>) {
    for (key, value) in node.as_map().unwrap_or_default() {
        if key.as_str().is_some_and(|key| CONDITIONS.contains(&key)) {
            match value.as_list() {
                Some(items) => found.extend(items),
                None => found.push(value),
            }
        }
        conditions(value, found);
    }
    node.as_list().unwrap_or_default().iter().for_each(|item| conditions(item, found));
}

#[test]
fn every_expression_of_the_shipped_roles_and_playbooks_is_understood() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&top.join("roles"), &mut paths);
    files(&top.join("playbooks"), &mut paths);
    let mut map = SourceMap::default();
    let mut problems = String::new();
    let mut read = 0;
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let file = map.add(path.strip_prefix(top).unwrap(), text.as_str());
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let mut diagnostics = match extension {
            "j2" => expr::check_file(&text, None),
            "yml" => {
                let (documents, mut diagnostics) = yaml::read(file, &text);
                for node in &documents {
                    diagnostics.extend(expr::check_value(&Value::from_node(node)));
                    let mut found = Vec::new();
                    conditions(node, &mut found);
                    for condition in found.iter().filter_map(|node| Some((node.as_str()?, node.span))) {
                        diagnostics.extend(expr::check_expression(condition.0, Some(condition.1)));
                    }
                }
                diagnostics
            }
            _ => continue,
        };
        read += 1;
        problems.push_str(&render::text(&std::mem::take(&mut diagnostics), &map));
    }
    assert!(read > 15, "only {read} files were found");
    assert!(problems.is_empty(), "{problems}");
}
