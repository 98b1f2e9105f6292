//! The inventory of a lab: what `apply -i` reads, with a key, known hosts, secrets and a desired-state file.

use std::path::Path;

use rand::distr::{Alphanumeric, SampleString};

use super::LabError;
use super::host;
use super::state::{HostSpec, State};
use crate::sys::files;

/// Variables that hold the passwords of one deployment.
const SECRETS: &[&str] = &[
    "keddah_superuser_password",
    "keddah_replication_password",
    "keddah_rewind_password",
    "keddah_restapi_password",
    "keddah_haproxy_stats_password",
];

/// Long enough that guessing over a network is hopeless, short enough for every program's limits.
const PASSWORD_LENGTH: usize = 24;

/// Writes the inventory; what a user changed in `cluster.yml`, and the passwords of a first run, are kept.
pub(super) fn write(state: &State, lab: &Path) -> Result<(), LabError> {
    let folder = &state.inventory;
    let variables = folder.join("group_vars/all");
    files::make_folders(&variables)?;
    put(&folder.join("hosts.yml"), &hosts(state), 0o644)?;
    put(&variables.join("connection.yml"), CONNECTION, 0o644)?;
    put(&folder.join("known_hosts"), &known_hosts(state, lab)?, 0o644)?;
    let key = host::user_key(lab)?;
    host::put(&folder.join("id_ed25519"), &files::read(&key)?, 0o600)?;
    put_once(&variables.join("secrets.yml"), &secrets(), 0o600)?;
    // Plain hosts are no deployment: the rules of one would ask for etcd and Postgres.
    if is_deployment(state) {
        put_once(&folder.join("cluster.yml"), &cluster(state), 0o644)?;
    }
    Ok(())
}

fn is_deployment(state: &State) -> bool {
    state.hosts.iter().flat_map(|host| &host.groups).any(|group| group == "postgres" || group == "etcd")
}

/// Takes away what [`write`] and the user's runs left in the lab's inventory folder.
pub(super) fn remove(state: &State) -> Result<(), LabError> {
    // The marker is the lab's own: a folder without it was not made here.
    if !state.inventory.join("known_hosts").exists() || !state.inventory.join("id_ed25519").exists() {
        return Ok(());
    }
    Ok(files::remove(&state.inventory)?)
}

fn put(path: &Path, text: &str, mode: u32) -> Result<(), LabError> {
    Ok(host::put(path, text.as_bytes(), mode)?)
}

fn put_once(path: &Path, text: &str, mode: u32) -> Result<(), LabError> {
    if path.exists() { Ok(()) } else { put(path, text, mode) }
}

const CONNECTION: &str = "\
# How the hosts of this lab are reached.
ansible_user: admin
ansible_ssh_private_key_file: \"{{ inventory_dir }}/id_ed25519\"
ansible_ssh_common_args: \"-o UserKnownHostsFile={{ inventory_dir }}/known_hosts\"
";

fn hosts(state: &State) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for group in state.hosts.iter().flat_map(|host| &host.groups) {
        if !groups.contains(&group.as_str()) {
            groups.push(group);
        }
    }
    let line = |host: &HostSpec, indent: &str| {
        format!("{indent}{}: {{ansible_host: {}}}\n", host.name, host.address)
    };
    let mut text =
        "# Made by `keddah lab up`; `keddah lab down` removes this folder.\nall:\n  children:\n".to_owned();
    for group in &groups {
        text.push_str(&format!("    {group}:\n      hosts:\n"));
        let members = state.hosts.iter().filter(|host| host.groups.iter().any(|g| g == group));
        text.extend(members.map(|host| line(host, "        ")));
    }
    let alone: Vec<&HostSpec> = state.hosts.iter().filter(|host| host.groups.is_empty()).collect();
    if groups.is_empty() {
        text.truncate(text.len() - "  children:\n".len());
    }
    if !alone.is_empty() {
        text.push_str("  hosts:\n");
        text.extend(alone.into_iter().map(|host| line(host, "    ")));
    }
    text
}

fn known_hosts(state: &State, lab: &Path) -> Result<String, LabError> {
    let mut text = String::new();
    for host in &state.hosts {
        let path = host::host_key(host, lab)?.with_extension("pub");
        let key = files::read(&path)?;
        let key = String::from_utf8_lossy(&key);
        let key: Vec<&str> = key.split_whitespace().take(2).collect();
        text.push_str(&format!("{},{} {}\n", host.name, host.address, key.join(" ")));
    }
    Ok(text)
}

fn secrets() -> String {
    let mut text =
        "# Passwords of this deployment, made once. Keep this file as secret as the cluster.\n".to_owned();
    for name in SECRETS {
        text.push_str(&format!(
            "{name}: {}\n",
            Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH)
        ));
    }
    text
}

fn cluster(state: &State) -> String {
    format!(
        "# The desired state of this deployment; `keddah schema` prints everything that can be said here.\n\
         name: {}\n\
         postgres:\n  version: 17\n  hba:\n    # Clients on the lab's network, HAProxy among them.\n    \
         - host all all 10.89.{}.0/24 scram-sha-256\n",
        state.name, state.subnet
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn lab(groups: &[(&str, &[&str])]) -> State {
        let host = |(name, groups): &(&str, &[&str])| HostSpec {
            name: (*name).to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            address: Ipv4Addr::new(10, 89, 1, 11),
        };
        State {
            name: "demo".into(),
            subnet: 1,
            image: "/image".into(),
            inventory: "inventory/lab".into(),
            hosts: groups.iter().map(host).collect(),
        }
    }

    #[test]
    fn hosts_stand_in_their_groups_and_the_others_under_all() {
        let text = hosts(&lab(&[("db1", &["postgres"]), ("bare", &[])]));
        assert!(text.ends_with(
            "all:\n  children:\n    postgres:\n      hosts:\n        db1: {ansible_host: 10.89.1.11}\n  hosts:\n    \
             bare: {ansible_host: 10.89.1.11}\n"
        ));
    }

    #[test]
    fn hosts_for_etcd_or_postgres_are_a_deployment() {
        assert!(is_deployment(&lab(&[("etcd1", &["etcd"]), ("bare", &[])])));
        assert!(!is_deployment(&lab(&[("bare", &[]), ("web", &["web"])])));
    }

    #[test]
    fn each_deployment_has_passwords_of_its_own() {
        assert_ne!(secrets(), secrets());
        assert!(SECRETS.iter().all(|name| secrets().contains(name)));
    }
}
