//! Rules about hosts, addresses, ports and versions.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::input::desired::members::Member;
use crate::input::desired::topology::{Facts, Finding};
use crate::input::desired::variable;
use crate::source::Span;

fn sorted(members: &[Member]) -> String {
    members.iter().map(|m| m.name.as_ref()).collect::<Vec<_>>().join(", ")
}

/// Returns where a part's group is chosen, else the first line of the deployment's name.
fn group_place(span: Option<Span>, facts: &Facts<'_>) -> Option<Span> {
    span.or(facts.desired.name.span)
}

pub(super) fn parts_without_hosts(facts: &Facts<'_>) -> Vec<Finding> {
    let parts = [
        ("etcd", &facts.desired.etcd.value.group, &facts.parts.etcd),
        ("postgres", &facts.desired.postgres.value.group, &facts.parts.postgres),
    ];
    let empty = parts.into_iter().filter(|(_, _, members)| members.is_empty());
    let finding = |(part, group, _): (&str, &crate::input::desired::shape::Setting<Arc<str>>, _)| {
        let message = format!("the inventory group `{}` has no hosts, so there is no {part}", group.value);
        let hint = format!("put hosts into the group, or name another one: `{part}: {{group: NAME}}`");
        Finding::new(message, group_place(group.span, facts)).hint(hint)
    };
    empty.map(finding).collect()
}

pub(super) fn etcd_size(facts: &Facts<'_>) -> Vec<Finding> {
    let members = &facts.parts.etcd;
    let count = members.len();
    if count == 0 || count == 3 || count == 5 {
        return Vec::new();
    }
    let survives = (count - 1) / 2;
    let words = match count {
        1 => "etcd has one member: its loss stops every write to Postgres".to_owned(),
        _ => format!("etcd has {count} members ({}) and survives the loss of {survives}", sorted(members)),
    };
    let span = members.last().and_then(|m| m.span);
    vec![Finding::new(words, span).hint("use three members, or five")]
}

pub(super) fn same_address(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (part, members) in
        [("etcd", &facts.parts.etcd), ("postgres", &facts.parts.postgres), ("haproxy", &facts.parts.haproxy)]
    {
        let mut seen: IndexMap<&str, &Member> = IndexMap::new();
        for member in members {
            match seen.get(member.address.as_ref()) {
                Some(first) => {
                    let message = format!(
                        "`{}` and `{}` of {part} have the same address {}",
                        first.name, member.name, member.address
                    );
                    let finding =
                        Finding::new(message, member.address_span).label(first.address_span, "the first one");
                    findings
                        .push(finding.hint("give each member its own machine, and its own `ansible_host`"));
                }
                None => {
                    seen.insert(&member.address, member);
                }
            }
        }
    }
    findings
}

pub(super) fn etcd_beside_postgres(facts: &Facts<'_>) -> Vec<Finding> {
    let both = facts.parts.etcd.iter().filter_map(|etcd| {
        let other =
            facts.parts.postgres.iter().find(|pg| pg.name == etcd.name || pg.address == etcd.address)?;
        let message = format!("`{}` is an etcd member and a Postgres host (`{}`)", etcd.name, other.name);
        Some(
            Finding::new(message, etcd.span)
                .label(other.span.filter(|s| Some(*s) != etcd.span), "the Postgres host"),
        )
    });
    both.collect()
}

/// Returns the name of the replication slot that Patroni and the agent derive from a member's name.
fn slot_name(name: &str) -> String {
    name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

pub(super) fn same_slot(facts: &Facts<'_>) -> Vec<Finding> {
    let mut seen: IndexMap<String, &Member> = IndexMap::new();
    let mut findings = Vec::new();
    for member in &facts.parts.postgres {
        let slot = slot_name(&member.name);
        match seen.get(&slot) {
            Some(first) => {
                let message = format!(
                    "the members `{}` and `{}` would share the replication slot `{slot}`",
                    first.name, member.name
                );
                let finding = Finding::new(message, member.span).label(first.span, "the first one");
                findings.push(finding.hint("names must differ in more than case, `-`, `.` and `_`"));
            }
            None => {
                seen.insert(slot, member);
            }
        }
    }
    findings
}

pub(super) fn few_replicas(facts: &Facts<'_>) -> Vec<Finding> {
    let members = &facts.parts.postgres;
    let message = match members.len() {
        1 => "the cluster has one Postgres host and no replica: nothing can take over",
        2 => "the cluster has one replica: after a failover there is none",
        _ => return Vec::new(),
    };
    let hint = "use three Postgres hosts or more";
    vec![Finding::new(message, members.last().and_then(|m| m.span)).hint(hint)]
}

pub(super) fn few_proxies(facts: &Facts<'_>) -> Vec<Finding> {
    let members = &facts.parts.haproxy;
    let group = &facts.desired.haproxy.value.group;
    match members.len() {
        0 => {
            let message = format!(
                "the inventory group `{}` has no hosts: clients must find the primary themselves",
                group.value
            );
            let hint =
                "add two HAProxy hosts, or name all hosts in clients with target_session_attrs=read-write";
            vec![Finding::new(message, group_place(group.span, facts)).hint(hint)]
        }
        1 => {
            let message = format!("`{}` is the only HAProxy", sorted(members));
            vec![
                Finding::new(message, members.first().and_then(|m| m.span))
                    .hint("use two, and name both in clients"),
            ]
        }
        _ => Vec::new(),
    }
}

pub(super) fn port_collisions(facts: &Facts<'_>) -> Vec<Finding> {
    let Facts { desired, parts, .. } = facts;
    let (etcd, agent, haproxy) = (&desired.etcd.value, &desired.agent.value, &desired.haproxy.value);
    let postgres_port = variable::postgres_port(desired, &parts.flavour);
    let uses: [(&[Member], &str, i64, Option<Span>); 7] = [
        (&parts.etcd, "etcd's clients", etcd.client_port.value, etcd.client_port.span),
        (&parts.etcd, "etcd's members", etcd.peer_port.value, etcd.peer_port.span),
        (&parts.postgres, "Postgres", postgres_port, desired.postgres.value.port.span),
        (&parts.postgres, "the agent's REST API", agent.port.value, agent.port.span),
        (
            &parts.haproxy,
            "HAProxy's read-write port",
            haproxy.read_write_port.value,
            haproxy.read_write_port.span,
        ),
        (
            &parts.haproxy,
            "HAProxy's read-only port",
            haproxy.read_only_port.value,
            haproxy.read_only_port.span,
        ),
        (&parts.haproxy, "HAProxy's statistics", haproxy.stats_port.value, haproxy.stats_port.span),
    ];
    let mut findings = Vec::new();
    for (index, (members, what, port, span)) in uses.iter().enumerate() {
        for (others, other, other_port, other_span) in uses.iter().skip(index + 1) {
            let shared =
                members.iter().find(|m| others.iter().any(|o| o.name == m.name || o.address == m.address));
            let Some(host) = shared.filter(|_| port == other_port) else { continue };
            let message =
                format!("port {port} would be used twice on `{}`: by {what} and by {other}", host.name);
            let place = other_span.or(*span).or(host.span);
            let label = span.filter(|_| other_span.is_some());
            findings.push(
                Finding::new(message, place)
                    .label(label, "the other one")
                    .hint("choose another port for one of them"),
            );
        }
    }
    findings
}

pub(super) fn loopback_address(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (part, members) in [("etcd", &facts.parts.etcd), ("postgres", &facts.parts.postgres)] {
        for member in members.iter().filter(|_| members.len() > 1) {
            let is_loopback = match member.address.parse::<std::net::IpAddr>() {
                Ok(address) => address.is_loopback() || address.is_unspecified(),
                Err(_) => member.address.as_ref() == "localhost",
            };
            if is_loopback {
                let message = format!(
                    "`{}` of {part} has the address {}, which means something else on every host",
                    member.name, member.address
                );
                findings.push(
                    Finding::new(message, member.address_span)
                        .hint("set `ansible_host` to the address that the other hosts reach it by"),
                );
            }
        }
    }
    findings
}

pub(super) fn no_address(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut told: Vec<&str> = Vec::new();
    for member in [&facts.parts.etcd, &facts.parts.postgres, &facts.parts.haproxy].into_iter().flatten() {
        let given = facts.vars.get(&member.name).is_some_and(|vars| vars.contains_key("ansible_host"));
        if !given && !told.contains(&member.name.as_ref()) {
            told.push(&member.name);
            let message = format!("`{}` has no `ansible_host`", member.name);
            let hint = format!(
                "add `ansible_host: ADDRESS` to `{}`; the roles write it into configurations",
                member.name
            );
            findings.push(Finding::new(message, member.span).hint(hint));
        }
    }
    findings
}

pub(super) fn unknown_version(facts: &Facts<'_>) -> Vec<Finding> {
    let (version, flavour) = (&facts.desired.postgres.value.version, &facts.parts.flavour);
    // A missing version is told by the reader.
    let Some(span) = version.span.filter(|_| !flavour.versions.contains(&version.value)) else {
        return Vec::new();
    };
    let known: Vec<String> = flavour.versions.iter().map(ToString::to_string).collect();
    let message = format!("{} {} is not among the versions known to work", flavour.title, version.value);
    vec![Finding::new(message, Some(span)).hint(format!("known: {}", known.join(", ")))]
}

pub(super) fn faulty_etcd(facts: &Facts<'_>) -> Vec<Finding> {
    let version = &facts.desired.etcd.value.version;
    let Some(text) = &version.value else { return Vec::new() };
    let faults = (facts.etcd_faults)(text);
    let finding = |fault: String| Finding::new(format!("etcd {text}: {fault}"), version.span);
    faults.into_iter().map(finding).collect()
}

/// Parameters that the agent sets by itself, whatever the dynamic configuration says.
const MANAGED: [&str; 10] = [
    "cluster_name",
    "config_file",
    "data_directory",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
];

pub(super) fn managed_parameters(facts: &Facts<'_>) -> Vec<Finding> {
    let given = &facts.desired.postgres.value.parameters.value.0;
    let managed = given.iter().filter(|(name, _)| MANAGED.contains(&name.as_ref()));
    let finding = |(name, (_, span)): (&Arc<str>, &(crate::expr::Value, Span))| {
        Finding::new(format!("`{name}` is decided by the agent"), Some(*span))
            .hint("take it out of `parameters`")
    };
    managed.map(finding).collect()
}
