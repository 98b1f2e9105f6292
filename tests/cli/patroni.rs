//! The program called as `patroni` and as `patronictl`.

use crate::world::World;

#[test]
fn patroni_tells_the_version_that_it_speaks() {
    let done = World::healthy().run_as("patroni", &["--version"]);

    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.starts_with("patroni 4."), "{}", done.out);
}

#[test]
fn patroni_makes_a_configuration_that_it_finds_valid() {
    let world = World::healthy();

    let made = world.run_as("patroni", &["--generate-sample-config", "agent.yml"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let valid = world.run_as("patroni", &["--validate-config", "agent.yml"]);
    assert_eq!((valid.code, valid.out.as_str()), (0, ""), "{}", valid.err);
    let valid = world.run(&["agent", "--validate-config", "agent.yml"]);
    assert_eq!((valid.code, valid.out.as_str()), (0, ""), "{}", valid.err);

    let broken = world.edit("agent.yml", "data_dir:", "data_dri:");
    let refused = broken.run_as("patroni", &["--validate-config", "agent.yml"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.out.contains("agent.yml:") && refused.out.contains("postgresql.data_dir"),
        "{}",
        refused.out
    );
}

#[test]
fn patronictl_is_patronis_tool() {
    let world = World::healthy();

    let version = world.run_as("patronictl", &["version"]);
    assert!(version.out.starts_with("patronictl version 4."), "{}", version.out);
    let nothing = world.run_as("patronictl", &["-d", "etcd3://127.0.0.1:1", "list"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.err.contains("Missing argument 'CLUSTER_NAME'"), "{}", nothing.err);
    let missing = world.run_as("patronictl", &["-c", "nowhere.yml", "list", "demo"]);
    assert!(missing.err.starts_with("Error: Provided config file nowhere.yml"), "{}", missing.err);
}
