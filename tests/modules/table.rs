//! What holds for every row of the table of modules.

use std::fs;
use std::path::Path;

use keddah::expr::Value;
use keddah::modules::{self, AnyModule};

fn header(module: &dyn AnyModule) -> String {
    // Two modules of one file share its header.
    let file = if module.name() == "shell" { "command" } else { module.name() };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/modules").join(format!("{file}.rs"));
    let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{}: no such file", path.display()));
    let lines = text.lines().take_while(|l| l.starts_with("//!")).map(|l| l.trim_start_matches("//!"));
    lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_module_says_what_it_manages_observes_and_never_does() {
    for module in modules::MODULES {
        let header = header(*module);
        for heading in ["# What it manages", "# Example", "# What it observes", "# What it never does"] {
            assert!(header.contains(heading), "src/modules/{}.rs: no heading `{heading}`", module.name());
        }
    }
}

#[test]
fn every_example_is_understood() {
    for module in modules::MODULES {
        let header = header(*module);
        let Some((_, rest)) = header.split_once("```yaml\n") else { panic!("{}: no example", module.name()) };
        let text = rest.split("```").next().unwrap();
        let example: serde_json::Value =
            serde_yaml::from_str(text).unwrap_or_else(|e| panic!("{}: {e}", module.name()));
        let (name, params) = example.as_object().unwrap().iter().next().unwrap();
        let shown = modules::find(name).unwrap_or_else(|| panic!("{}: example of `{name}`", module.name()));
        let found = shown.check(&Value::from_json(params));
        assert!(found.is_empty(), "{}: {:?}", module.name(), found.sorted());
    }
}

#[test]
fn a_misspelled_parameter_is_refused_with_the_right_one() {
    for module in modules::MODULES {
        let names = module.parameters();
        let name = names
            .iter()
            .find(|n| n.len() > 3 && !n.starts_with('_'))
            .unwrap_or_else(|| panic!("{}", module.name()));
        let swapped = format!("{}{}", &name[1..2], &name[0..1]) + &name[2..];
        let params = Value::from_json(&serde_json::json!({ swapped.clone(): "x" }));
        let found = module.check(&params);
        let problem = found.sorted().first().map(|d| (d.message.clone(), d.hint.clone())).unwrap();
        let expected = format!("{}: unknown parameter `{swapped}`", module.name());
        assert_eq!(problem, (expected, Some(format!("did you mean `{name}`?"))));
    }
}

#[test]
fn every_name_is_found_by_itself_and_with_its_collection_and_by_no_other() {
    for module in modules::MODULES {
        for name in std::iter::once(&module.name()).chain(module.aliases()) {
            for full in [(*name).to_owned(), format!("{}.{name}", module.collection())] {
                assert_eq!(modules::find(&full).map(|m| m.name()), Some(module.name()), "{full}");
            }
            assert!(modules::find(&format!("my.corp.{name}")).is_none());
        }
    }
}

#[test]
fn every_schema_describes_an_object_that_takes_no_unknown_key() {
    for module in modules::MODULES {
        let schema = module.schema().to_value();
        assert_eq!(schema["type"], "object", "{}", module.name());
        assert_eq!(
            schema["additionalProperties"],
            false,
            "{}: `deny_unknown_fields` is missing",
            module.name()
        );
    }
}
