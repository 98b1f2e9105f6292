//! `keddah agent --check`: whether this program could be the agent here.

use crate::world::World;

#[test]
fn what_keeps_an_agent_from_running_is_told_with_place_host_and_what_to_do() {
    let world = World::healthy();
    let made = world.run_as("patroni", &["--generate-sample-config", "agent.yml"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let world = world.edit("agent.yml", "[etcd1:2379, etcd2:2379, etcd3:2379]", "['127.0.0.1:1']");
    let world = world.edit("agent.yml", "/var/lib/postgresql/data", "/nowhere/data");

    for checked in
        [world.run(&["agent", "--check", "agent.yml"]), world.run_as("patroni", &["--check", "agent.yml"])]
    {
        assert_eq!(checked.code, 1);
        let host = nix::unistd::gethostname().unwrap();
        let expected = format!("on {}: etcd at 127.0.0.1:1 was expected to answer", host.to_string_lossy());
        assert!(checked.err.contains(&expected), "{}", checked.err);
        assert!(
            checked.err.contains("agent.yml:10:1: ") && checked.err.contains("(see that it runs"),
            "{}",
            checked.err
        );
    }

    let broken = world.edit("agent.yml", "data_dir:", "data_dri:");
    let refused = broken.run(&["agent", "--check", "agent.yml"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("postgresql.data_dir"), "{}", refused.err);
}
