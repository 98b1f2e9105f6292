//! `keddah schema`: what may be written, for editors.

use crate::world::World;

#[test]
fn the_schema_of_cluster_yml_says_what_must_be_given() {
    let done = World::healthy().run(&["schema"]);

    assert_eq!(done.code, 0);
    let schema: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["name", "postgres"]));
    assert_eq!(schema["additionalProperties"], false);
    let postgres = &schema["properties"]["postgres"];
    assert_eq!(postgres["required"], serde_json::json!(["version"]));
    let ttl = &schema["properties"]["agent"]["properties"]["ttl"];
    assert_eq!((&ttl["default"], &ttl["minimum"]), (&30.into(), &5.into()));
    let every_part_is_described = schema["properties"]
        .as_object()
        .unwrap()
        .values()
        .all(|part| part["description"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(every_part_is_described);
}

#[test]
fn a_module_has_a_schema_and_a_stranger_has_none() {
    let world = World::healthy();

    let done = world.run(&["schema", "file"]);
    let schema: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert!(schema["properties"]["path"].is_object(), "{schema}");

    let done = world.run(&["schema", "fiel"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (1, "error: there is no module `fiel`; did you mean `file`?\n")
    );
}

#[test]
fn what_nobody_reads_on_is_no_panic() {
    let script = format!("{} schema | head -n 1 > /dev/null", env!("CARGO_BIN_EXE_keddah"));
    let done = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();

    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}
