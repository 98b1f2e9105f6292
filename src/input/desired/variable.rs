//! The variable `keddah`: the desired state with everything that follows from it, as roles and templates see it.

use std::sync::Arc;

use crate::expr::{Dict, Value};
use crate::input::desired::Desired;
use crate::input::desired::agent::SynchronousMode;
use crate::input::desired::flavour::Flavour;
use crate::input::desired::members::Member;
use crate::input::desired::postgres::Role;
use crate::input::desired::shape::Shape;

/// The database user of streaming replication.
pub const REPLICATION_USER: &str = "replicator";

/// The database user of pg_rewind.
pub const REWIND_USER: &str = "rewind";

/// The user of the agent's REST API.
pub const RESTAPI_USER: &str = "keddah";

/// A deployment's parts with their hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    pub flavour: Flavour,
    pub etcd: Vec<Member>,
    pub postgres: Vec<Member>,
    pub haproxy: Vec<Member>,
}

/// Returns the variable's value.
pub fn keddah(desired: &Desired, parts: &Parts) -> Value {
    let name = Value::from(Arc::clone(&desired.name.value));
    Value::from([
        ("name", name.clone()),
        ("scope", name),
        ("namespace", desired.namespace.value.to_value()),
        ("etcd", etcd(desired, parts)),
        ("postgres", postgres(desired, parts)),
        ("agent", extended(&desired.agent.value, [("restapi_user", Value::from(RESTAPI_USER))])),
        ("dynamic", dynamic(desired)),
        ("watchdog", desired.watchdog.value.to_value()),
        ("haproxy", extended(&desired.haproxy.value, [("members", members(&parts.haproxy))])),
    ])
}

/// Returns the port that the server listens on.
pub fn postgres_port(desired: &Desired, flavour: &Flavour) -> i64 {
    desired.postgres.value.port.value.unwrap_or(flavour.port)
}

fn members(members: &[Member]) -> Value {
    members.iter().map(Member::to_value).collect()
}

/// Returns a part's own keys with more, which win.
fn extended<const N: usize>(part: &impl Shape, more: [(&str, Value); N]) -> Value {
    let mut entries: Dict = part.to_value().as_dict().cloned().unwrap_or_default();
    entries.extend(more.into_iter().map(|(name, value)| (Arc::from(name), value)));
    entries.into()
}

fn etcd(desired: &Desired, parts: &Parts) -> Value {
    let etcd = &desired.etcd.value;
    let (client, peer) = (etcd.client_port.value, etcd.peer_port.value);
    let url = |member: &Member, port| format!("http://{}", member.at_port(port));
    let token = etcd.token.value.clone().unwrap_or_else(|| Arc::clone(&desired.name.value));
    let peer_urls: Dict =
        parts.etcd.iter().map(|m| (Arc::clone(&m.name), Value::from(url(m, peer)))).collect();
    extended(
        etcd,
        [
            ("token", Value::from(token)),
            ("members", members(&parts.etcd)),
            ("hosts", parts.etcd.iter().map(|m| m.at_port(client)).collect()),
            ("client_urls", parts.etcd.iter().map(|m| url(m, client)).collect()),
            ("peer_urls", Value::from(peer_urls)),
        ],
    )
}

fn postgres(desired: &Desired, parts: &Parts) -> Value {
    let (postgres, flavour) = (&desired.postgres.value, &parts.flavour);
    let text = |text: &Arc<str>| Value::from(Arc::clone(text));
    let texts = |texts: &[Arc<str>]| texts.iter().map(text).collect::<Value>();
    let initdb = &postgres.initdb.value;
    let mut options: Vec<Value> = vec![
        Value::from([("encoding", text(&initdb.encoding.value))]),
        Value::from([("locale", text(&initdb.locale.value))]),
    ];
    if initdb.data_checksums.value {
        options.push(Value::from("data-checksums"));
    }
    options.extend(flavour.initdb.iter().map(text));
    extended(
        postgres,
        [
            ("title", text(&flavour.title)),
            ("user", text(&flavour.user)),
            ("superuser", text(&flavour.user)),
            ("replication_user", Value::from(REPLICATION_USER)),
            ("rewind_user", Value::from(REWIND_USER)),
            ("port", Value::from(postgres_port(desired, flavour))),
            ("packages", texts(&flavour.packages)),
            ("bin_dir", text(postgres.bin_dir.value.as_ref().unwrap_or(&flavour.bin_dir))),
            ("data_dir", text(postgres.data_dir.value.as_ref().unwrap_or(&flavour.data_dir))),
            ("home", text(&flavour.home)),
            ("socket_dir", text(&flavour.socket_dir)),
            ("units", texts(&flavour.units)),
            ("server_program", text(&flavour.server_program)),
            ("default_database", text(&flavour.default_database)),
            ("initdb", Value::from(options)),
            ("hba", hba(desired, parts)),
            ("roles", parents_first(&postgres.roles.value)),
            ("members", members(&parts.postgres)),
        ],
    )
}

/// Puts each role behind those it is a member of, and otherwise keeps the file's order; a ring stays for Postgres to refuse.
fn parents_first(roles: &[Role]) -> Value {
    fn place<'r>(role: &'r Role, roles: &'r [Role], seen: &mut Vec<&'r Arc<str>>, placed: &mut Vec<Value>) {
        if seen.contains(&&role.name.value) {
            return;
        }
        seen.push(&role.name.value);
        let is_parent = |other: &&Role| role.member_of.value.contains(&other.name.value);
        for parent in roles.iter().filter(is_parent) {
            place(parent, roles, seen, placed);
        }
        placed.push(role.to_value());
    }
    let (mut seen, mut placed) = (Vec::new(), Vec::new());
    for role in roles {
        place(role, roles, &mut seen, &mut placed);
    }
    placed.into()
}

/// Returns all lines of pg_hba.conf: the cluster's own connections first, then the clients'.
fn hba(desired: &Desired, parts: &Parts) -> Value {
    let mut lines =
        vec!["local all all peer".to_owned(), "host all all 127.0.0.1/32 scram-sha-256".to_owned()];
    for member in &parts.postgres {
        let source = match member.address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(address)) => format!("{address}/32"),
            Ok(std::net::IpAddr::V6(address)) => format!("{address}/128"),
            Err(_) => member.address.to_string(),
        };
        lines.push(format!("host replication {REPLICATION_USER} {source} scram-sha-256"));
        lines.push(format!("host all {REWIND_USER} {source} scram-sha-256"));
    }
    let lines = lines.into_iter().map(Value::from);
    lines
        .chain(desired.postgres.value.hba.value.iter().map(|line| Value::template(Arc::clone(line))))
        .collect()
}

/// Returns the dynamic configuration that should be in etcd, in Patroni's spelling.
fn dynamic(desired: &Desired) -> Value {
    let agent = &desired.agent.value;
    let free = agent.dynamic.value.to_value();
    let mut document: Dict = free.as_dict().cloned().unwrap_or_default();
    let synchronous_mode = match agent.synchronous_mode.value {
        SynchronousMode::Off => Value::from(false),
        SynchronousMode::On => Value::from(true),
        SynchronousMode::Quorum => Value::from("quorum"),
    };
    let said = [
        ("ttl", Value::from(agent.ttl.value)),
        ("loop_wait", Value::from(agent.loop_wait.value)),
        ("retry_timeout", Value::from(agent.retry_timeout.value)),
        ("maximum_lag_on_failover", Value::from(agent.maximum_lag_on_failover.value)),
        ("synchronous_mode", synchronous_mode),
        ("synchronous_mode_strict", Value::from(agent.synchronous_mode_strict.value)),
        ("synchronous_node_count", Value::from(agent.synchronous_node_count.value)),
        ("failsafe_mode", Value::from(agent.failsafe_mode.value)),
        ("primary_start_timeout", Value::from(agent.primary_start_timeout.value)),
    ];
    document.extend(said.into_iter().map(|(name, value)| (Arc::from(name), value)));
    let mut postgresql: Dict =
        document.get("postgresql").and_then(Value::as_dict).cloned().unwrap_or_default();
    let mut parameters: Dict =
        postgresql.get("parameters").and_then(Value::as_dict).cloned().unwrap_or_default();
    if let Some(said) = desired.postgres.value.parameters.value.to_value().as_dict() {
        parameters.extend(said.iter().map(|(name, value)| (Arc::clone(name), value.clone())));
    }
    postgresql.insert("use_pg_rewind".into(), Value::from(agent.use_pg_rewind.value));
    postgresql.insert("use_slots".into(), Value::from(agent.use_slots.value));
    postgresql.insert("parameters".into(), parameters.into());
    document.insert("postgresql".into(), postgresql.into());
    document.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::desired::shape::Setting;

    fn role(name: &str, parents: &[&str]) -> Role {
        Role {
            name: Setting::default_of(name.into()),
            member_of: Setting::default_of(parents.iter().map(|parent| (*parent).into()).collect()),
            ..Role::default()
        }
    }

    #[test]
    fn a_role_stands_behind_those_it_is_a_member_of() {
        let roles = [role("app", &["writers", "x"]), role("bob", &[]), role("writers", &["readers"])];
        let ring = [role("readers", &["writers"])];
        let placed = parents_first(&[roles.as_slice(), &ring].concat());
        let name = |role: &Value| role.get("name").and_then(Value::as_str).map(str::to_owned);
        let names: Vec<String> = placed.as_list().unwrap().iter().filter_map(name).collect();
        assert_eq!(names, ["readers", "writers", "app", "bob"]);
    }
}
