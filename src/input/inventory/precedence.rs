//! Which of several values a host gets: the inventory's part of Ansible's order of precedence.

use crate::expr::Dict;
use crate::input::inventory::{Inventory, VarFiles};

/// Merges all that inventory, `group_vars` and `host_vars` say about the host; later layers replace whole values.
///
/// `beside_playbook` are the variable files in the folder of the playbook. The order, lowest first: inline variables of
/// groups, `group_vars/all` of the inventory, of the playbook, other `group_vars` of the inventory, of the playbook, inline
/// variables of the host, `host_vars` of the inventory, of the playbook.
pub fn merge(inventory: &Inventory, beside_playbook: Option<&VarFiles>, host: &str) -> Dict {
    let groups = inventory.groups_of_host(host);
    let mut merged = Dict::new();
    for group in &groups {
        put(&mut merged, Some(&group.vars));
    }
    let beside_inventory = || inventory.adjacent.iter();
    for files in beside_inventory().chain(beside_playbook) {
        put(&mut merged, files.groups.get("all"));
    }
    for layer in [beside_inventory().collect::<Vec<_>>(), beside_playbook.into_iter().collect()] {
        for group in groups.iter().filter(|g| g.name.as_ref() != "all") {
            for files in &layer {
                put(&mut merged, files.groups.get(&group.name));
            }
        }
    }
    put(&mut merged, inventory.hosts.get(host).map(|h| &h.vars));
    for files in beside_inventory().chain(beside_playbook) {
        put(&mut merged, files.hosts.get(host));
    }
    merged
}

fn put(merged: &mut Dict, layer: Option<&Dict>) {
    for (name, value) in layer.into_iter().flatten() {
        merged.insert(name.clone(), value.clone());
    }
}
