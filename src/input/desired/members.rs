//! Who belongs to which part, by inventory group.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::expr::{Dict, Value};
use crate::input::inventory::Inventory;
use crate::source::Span;

/// A host in its part of the deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its name in the inventory, in etcd and in the Postgres cluster.
    pub name: Arc<str>,
    /// `ansible_host`, else the name.
    pub address: Arc<str>,
    /// Where the host is first written.
    pub span: Option<Span>,
    /// Where the address is written; the host's place when it has none.
    pub address_span: Option<Span>,
}

impl Member {
    pub fn to_value(&self) -> Value {
        Value::from([
            ("name", Value::from(Arc::clone(&self.name))),
            ("host", Value::from(Arc::clone(&self.name))),
            ("address", Value::from(Arc::clone(&self.address))),
        ])
    }

    /// Returns `ADDRESS:PORT`, an IPv6 address in brackets.
    pub fn at_port(&self, port: i64) -> String {
        if self.address.contains(':') {
            format!("[{}]:{port}", self.address)
        } else {
            format!("{}:{port}", self.address)
        }
    }
}

/// Returns the hosts of a group, in the order of the inventory. `vars` holds each host's merged variables.
pub fn of_group(inventory: &Inventory, vars: &IndexMap<Arc<str>, Dict>, group: &str) -> Vec<Member> {
    let hosts = inventory.hosts_of_group(group).into_iter();
    hosts
        .map(|name| {
            let span = inventory.hosts.get(&name).and_then(|host| host.span);
            let given = vars.get(&name).and_then(|vars| vars.get("ansible_host"));
            let plain = given.and_then(Value::as_str).filter(|text| !text.is_empty() && !text.contains("{{"));
            let address = plain.map_or_else(|| Arc::clone(&name), Arc::from);
            let address_span = given.and_then(|value| value.marks.origin).or(span);
            Member { name, address, span, address_span }
        })
        .collect()
}
