//! `keddah inventory`: hosts, groups and merged variables.

use insta::assert_snapshot;

use crate::world::World;

#[test]
fn the_graph_shows_groups_and_hosts() {
    let world = World::healthy().file("extra.ini", "lone\n[sites:children]\neast\n[east]\nweb[01:02]\n");

    let done = world.run(&["inventory", "-i", "inventory", "-i", "extra.ini", "--graph"]);

    assert_eq!(done.code, 0);
    assert_snapshot!(done.out, @r#"
    @all:
      |--@etcd:
      |  |--etcd1
      |  |--etcd2
      |  |--etcd3
      |--@postgres:
      |  |--db1
      |  |--db2
      |  |--db3
      |--@haproxy:
      |  |--lb1
      |  |--lb2
      |--@ungrouped:
      |  |--lone
      |--@sites:
      |  |--@east:
      |  |  |--web01
      |  |  |--web02
    "#);
}

#[test]
fn a_host_has_the_variables_that_win_and_hides_secrets() {
    let world = World::healthy()
        .file("inventory/group_vars/postgres.yml", "level: group\nshared: [1, yes, '{{ x }}']\n")
        .file("inventory/host_vars/db1.yml", "level: host\n")
        .file("inventory/cluster.yml", "");

    let done = world.run(&["inventory", "-i", "inventory/hosts.yml", "--host", "db1"]);

    assert_eq!(done.code, 1, "an empty cluster.yml is an error");
    assert!(done.err.contains("the desired-state file is empty"), "{}", done.err);
    let world = world.file("inventory/cluster.yml", "name: orders\npostgres: {version: 17}\n");
    let done = world.run(&["inventory", "-i", "inventory/hosts.yml", "--host", "db1"]);
    let mut shown: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let keddah = shown.as_object_mut().unwrap().remove("keddah").unwrap();
    assert_snapshot!(shown.to_string(), @r#"
    {"keddah_superuser_password":"***","keddah_replication_password":"***","keddah_rewind_password":"***","keddah_restapi_password":"***","keddah_haproxy_stats_password":"***","level":"host","shared":[1,true,"{{ x }}"],"ansible_host":"10.0.0.21"}
    "#);
    assert_eq!(keddah["postgres"]["members"][2]["address"], "10.0.0.23");
    assert_eq!(keddah["etcd"]["client_urls"][0], "http://10.0.0.11:2379");
    assert_eq!(keddah["dynamic"]["ttl"], 30);
}

#[test]
fn the_list_has_the_form_of_ansible_inventory() {
    let done = World::healthy().run(&["inventory", "-i", "inventory", "--list"]);

    let document: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(document["etcd"]["hosts"], serde_json::json!(["etcd1", "etcd2", "etcd3"]));
    assert_eq!(document["_meta"]["hostvars"]["db2"]["ansible_host"], "10.0.0.22");
    assert_eq!(document["_meta"]["hostvars"]["db2"]["keddah_superuser_password"], "***");
    assert!(!done.out.contains("\"one\""));
}

#[test]
fn a_host_that_is_not_there_is_told_with_the_nearest() {
    let done = World::healthy().run(&["inventory", "-i", "inventory", "--host", "bd1"]);

    assert_eq!(done.code, 1);
    assert_snapshot!(done.err, @r#"
    error: there is no host `bd1` in the inventory; did you mean `db1`?
    "#);
}

/// `ansible/inventory-2.19.json` is what ansible-inventory of ansible-core 2.19 printed for the same files.
#[test]
fn hosts_groups_and_variables_are_those_that_ansible_sees() {
    let world = World::healthy()
        .file("hosts", include_str!("ansible/hosts"))
        .file("group_vars/all.yml", "top: file\ng: all\nm: 0644\no: 1:30\nd: 2026-01-02\ns: 1e3\n")
        .file("group_vars/pg.yml", "g: pg\n")
        .file("group_vars/cluster", "g: cluster\n")
        .file("host_vars/p2.yml", "g: host\n");

    let done = world.run(&["inventory", "-i", "hosts", "--list"]);

    let ours: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let ansible: serde_json::Value =
        serde_json::from_str(include_str!("ansible/inventory-2.19.json")).unwrap();
    for (host, vars) in ansible["_meta"]["hostvars"].as_object().unwrap() {
        assert_eq!(&ours["_meta"]["hostvars"][host], vars, "{host}");
    }
    for (group, body) in ansible.as_object().unwrap().iter().filter(|(name, _)| *name != "_meta") {
        assert_eq!(&ours[group], body, "{group}");
    }
}
