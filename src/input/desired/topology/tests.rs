//! Each rule against a deployment that breaks it, and a healthy one that breaks none.

use std::fmt::Write;

use indexmap::IndexMap;

use super::*;
use crate::input::desired::shape::Shape;
use crate::input::desired::{members, variable};
use crate::input::files::Files;
use crate::input::inventory::{Inventory, build, precedence};
use crate::source::{render, yaml};

const HOSTS: &str = "\
all:
  vars:
    keddah_superuser_password: \"{{ a }}\"
    keddah_replication_password: \"{{ a }}\"
    keddah_rewind_password: \"{{ a }}\"
    keddah_restapi_password: \"{{ a }}\"
    keddah_haproxy_stats_password: \"{{ a }}\"
  children:
    etcd: {hosts: {e1: {ansible_host: 10.0.0.1}, e2: {ansible_host: 10.0.0.2}, e3: {ansible_host: 10.0.0.3}}}
    postgres: {hosts: {p1: {ansible_host: 10.0.1.1}, p2: {ansible_host: 10.0.1.2}, p3: {ansible_host: 10.0.1.3}}}
    haproxy: {hosts: {h1: {ansible_host: 10.0.2.1}, h2: {ansible_host: 10.0.2.2}}}
";

const CLUSTER: &str = "name: demo\npostgres: {version: 17}\nagent: {synchronous_mode: on}\n";

fn inventory(files: &mut Files, text: &str) -> Inventory {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts.yml");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&path, text).unwrap();
    build::load(files, &[path])
}

/// Returns the ids of the rules that are broken.
fn broken(hosts: &str, cluster: &str) -> String {
    let mut files = Files::default();
    let inventory = inventory(&mut files, hosts);
    let file = files.sources.add("cluster.yml", cluster);
    let (documents, _) = yaml::read(file, cluster);
    let desired = Desired::read(&documents[0], "", &mut files.out).unwrap();
    assert!(files.out.is_empty(), "{}", render::text(&files.out, &files.sources));
    let vars: IndexMap<_, _> =
        inventory.hosts.keys().map(|h| (h.clone(), precedence::merge(&inventory, None, h))).collect();
    let of = |group: &str| members::of_group(&inventory, &vars, group);
    let postgres = &desired.postgres.value;
    let parts = variable::Parts {
        flavour: postgres.flavour.value.facts(postgres.os_family.value, postgres.version.value),
        etcd: of(&desired.etcd.value.group.value),
        postgres: of(&postgres.group.value),
        haproxy: of(&desired.haproxy.value.group.value),
    };
    let faults =
        |version: &str| if version == "3.4.23" { vec!["loses leases".to_owned()] } else { Vec::new() };
    let facts =
        Facts { desired: &desired, parts: &parts, vars: &vars, open_files: &[], etcd_faults: &faults };
    let mut ids = String::new();
    for found in check(&facts).sorted() {
        let _ = write!(ids, "{} ", found.code);
    }
    ids.trim_end().replace("K144", "").trim().to_owned()
}

fn with_cluster(more: &str) -> String {
    broken(HOSTS, &format!("{CLUSTER}{more}"))
}

#[test]
fn a_recommended_deployment_breaks_no_rule_but_that_of_encryption() {
    assert_eq!(broken(HOSTS, CLUSTER), "");
}

#[test]
fn rules_about_hosts_see_what_is_wrong() {
    let without = |text: &str| broken(&HOSTS.replace(text, ""), CLUSTER);
    assert_eq!(without(", e3: {ansible_host: 10.0.0.3}"), "K101");
    assert_eq!(without(", p3: {ansible_host: 10.0.1.3}"), "K105");
    assert_eq!(without(", h2: {ansible_host: 10.0.2.2}"), "K106");
    assert_eq!(without("ansible_host: 10.0.1.3"), "K109");
    assert_eq!(broken(&HOSTS.replace("10.0.0.3", "10.0.0.2"), CLUSTER), "K102");
    assert_eq!(broken(&HOSTS.replace("10.0.0.3", "10.0.1.1"), CLUSTER), "K103");
    assert_eq!(broken(&HOSTS.replace("10.0.0.3", "127.0.0.1"), CLUSTER), "K108");
    assert_eq!(broken(&HOSTS.replace("p1:", "p-x:").replace("p2:", "P_X:"), CLUSTER), "K104");
    assert_eq!(broken(&HOSTS.replace("etcd:", "etdc:"), CLUSTER), "K100");
    assert_eq!(without("    keddah_rewind_password: \"{{ a }}\"\n"), "K140");
}

#[test]
fn rules_about_the_desired_state_see_what_is_wrong() {
    assert_eq!(with_cluster("haproxy: {stats_port: 5000}\n"), "K107");
    assert_eq!(broken(HOSTS, &CLUSTER.replace("17", "9")), "K110");
    assert_eq!(with_cluster("etcd: {version: 3.4.23}\n"), "K111");
    assert_eq!(with_cluster("etcd: {heartbeat_interval_ms: 500}\n"), "K123");
    assert_eq!(with_cluster("watchdog: {mode: off}\n"), "K127");
    let agent = |keys: &str| broken(HOSTS, &CLUSTER.replace("synchronous_mode: on", keys));
    assert_eq!(agent("synchronous_mode: off"), "K126");
    assert_eq!(agent("synchronous_mode: on, loop_wait: 15"), "K120");
    assert_eq!(agent("synchronous_mode: on, ttl: 8, loop_wait: 2, retry_timeout: 3"), "K122");
    assert_eq!(agent("synchronous_mode: on, ttl: 5, loop_wait: 1, retry_timeout: 2"), "K122");
    assert_eq!(agent("synchronous_mode: on, synchronous_node_count: 3"), "K124");
    let postgres =
        |keys: &str| broken(HOSTS, &CLUSTER.replace("version: 17", &format!("version: 17, {keys}")));
    assert_eq!(postgres("parameters: {port: 1}"), "K112");
    assert_eq!(postgres("roles: [{name: a, password: b}]"), "K142");
    assert_eq!(postgres("roles: [{name: a, password: '{{ b }}'}]"), "");
    assert_eq!(postgres("hba: ['host all all all trust']"), "K143");
    assert_eq!(postgres("databases: [{name: a, owner: b}]"), "K145");
    assert_eq!(postgres("roles: [{name: a}, {name: a}]"), "K146");
    assert_eq!(postgres("roles: [{name: replicator}]"), "K147");
}

#[test]
fn a_short_ttl_is_measured_against_etcds_election() {
    let cluster = "name: demo\npostgres: {version: 17}\netcd: {election_timeout_ms: 5000, heartbeat_interval_ms: 500}\n\
                   agent: {synchronous_mode: on, ttl: 15, loop_wait: 5, retry_timeout: 5}\n";

    assert_eq!(broken(HOSTS, cluster), "K121 K122");
}

#[test]
fn strict_mode_with_one_replica_is_told() {
    let hosts = HOSTS.replace(", p3: {ansible_host: 10.0.1.3}", "");

    let found = broken(
        &hosts,
        &CLUSTER.replace("synchronous_mode: on", "synchronous_mode: on, synchronous_mode_strict: true"),
    );

    assert!(found.contains("K125") && found.contains("K105"), "{found}");
}

#[test]
fn ids_are_unique_and_in_order() {
    assert!(RULES.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(RULES.len() >= 15);
}
