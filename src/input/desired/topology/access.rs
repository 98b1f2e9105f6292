//! Rules about passwords, encryption, and who may connect as whom.

use std::sync::Arc;

use crate::input::desired::postgres::Role;
use crate::input::desired::topology::{Facts, Finding};
use crate::input::desired::variable::{REPLICATION_USER, REWIND_USER};
use crate::source::{Span, suggest};

/// Variables with passwords, and whom they are for.
const POSTGRES_SECRETS: [&str; 4] = [
    "keddah_superuser_password",
    "keddah_replication_password",
    "keddah_rewind_password",
    "keddah_restapi_password",
];
const HAPROXY_SECRETS: [&str; 1] = ["keddah_haproxy_stats_password"];

pub(super) fn missing_secrets(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let parts = [
        (&facts.parts.postgres, POSTGRES_SECRETS.as_slice()),
        (&facts.parts.haproxy, HAPROXY_SECRETS.as_slice()),
    ];
    for (members, names) in parts {
        for name in names {
            let without = members
                .iter()
                .find(|m| !facts.vars.get(&m.name).is_some_and(|vars| vars.contains_key(*name)));
            if let Some(member) = without {
                let message = format!("the variable `{name}` is not set for `{}`", member.name);
                let hint = format!("set it in group_vars/all/secrets.yml, mode 0600: `{name}: …`");
                findings.push(Finding::new(message, facts.desired.name.span).hint(hint));
            }
        }
    }
    findings
}

pub(super) fn open_files(facts: &Facts<'_>) -> Vec<Finding> {
    let finding = |(path, span): &(String, Span)| {
        let message = format!("`{path}` holds a secret and may be read by every user of this machine");
        Finding::new(message, Some(*span)).hint(format!("chmod 600 {path}"))
    };
    facts.open_files.iter().map(finding).collect()
}

pub(super) fn clear_passwords(facts: &Facts<'_>) -> Vec<Finding> {
    let roles = facts.desired.postgres.value.roles.value.iter();
    let clear = roles.filter_map(|role| {
        let password = role.password.value.as_ref()?;
        let is_template = password.0.as_str().is_some_and(|text| text.contains("{{"));
        let message = format!("the password of the role `{}` stands in clear in this file", role.name.value);
        let hint =
            "put it into group_vars/all/secrets.yml and write `password: \"{{ NAME_OF_THE_VARIABLE }}\"`";
        (!is_template).then(|| Finding::new(message, role.password.span).hint(hint))
    });
    clear.collect()
}

pub(super) fn weak_hba(facts: &Facts<'_>) -> Vec<Finding> {
    let hba = &facts.desired.postgres.value.hba;
    let mut findings = Vec::new();
    for line in &hba.value {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_network = words.first().is_some_and(|kind| kind.starts_with("host"));
        let weak = words.iter().find(|word| ["trust", "password", "md5"].contains(word));
        if let Some(method) = weak.filter(|_| is_network) {
            let message = format!("`{line}` lets clients in by `{method}`");
            findings.push(Finding::new(message, hba.span).hint("use `scram-sha-256`"));
        }
    }
    findings
}

pub(super) fn no_tls(facts: &Facts<'_>) -> Vec<Finding> {
    let message = "etcd, the agents' REST API and Postgres speak without encryption";
    vec![Finding::new(message, facts.desired.name.span)]
}

pub(super) fn unknown_roles(facts: &Facts<'_>) -> Vec<Finding> {
    let postgres = &facts.desired.postgres.value;
    let known = |name: &Arc<str>| {
        *name == facts.parts.flavour.user
            || name.starts_with("pg_")
            || name.contains("{{")
            || postgres.roles.value.iter().any(|role| role.name.value == *name)
    };
    let declare = |name: &str| {
        let names = postgres.roles.value.iter().map(|role| role.name.value.as_ref());
        suggest::did_you_mean(name, names)
            .unwrap_or_else(|| format!("add `- name: {name}` to `postgres.roles`"))
    };
    let mut findings = Vec::new();
    for database in &postgres.databases.value {
        if let Some(owner) = database.owner.value.as_ref().filter(|owner| !known(owner)) {
            let message = format!(
                "the database `{}` is to belong to `{owner}`, which is not among `roles`",
                database.name.value
            );
            findings.push(Finding::new(message, database.owner.span).hint(declare(owner)));
        }
    }
    for role in &postgres.roles.value {
        for parent in role.member_of.value.iter().filter(|parent| !known(parent)) {
            let message = format!(
                "the role `{}` is to be a member of `{parent}`, which is not among `roles`",
                role.name.value
            );
            findings.push(Finding::new(message, role.member_of.span).hint(declare(parent)));
        }
    }
    findings
}

pub(super) fn declared_twice(facts: &Facts<'_>) -> Vec<Finding> {
    let postgres = &facts.desired.postgres.value;
    let roles: Vec<(&Arc<str>, Option<Span>)> =
        postgres.roles.value.iter().map(|r| (&r.name.value, r.name.span)).collect();
    let databases: Vec<(&Arc<str>, Option<Span>)> =
        postgres.databases.value.iter().map(|d| (&d.name.value, d.name.span)).collect();
    let mut findings = Vec::new();
    for (what, names) in [("role", roles), ("database", databases)] {
        for (index, (name, span)) in names.iter().enumerate() {
            if let Some((_, first)) = names.iter().take(index).find(|(other, _)| other == name) {
                let message = format!("the {what} `{name}` is declared twice");
                findings.push(
                    Finding::new(message, *span).label(*first, "first declared here").hint("merge the two"),
                );
            }
        }
    }
    findings
}

pub(super) fn own_roles(facts: &Facts<'_>) -> Vec<Finding> {
    let own = [&*facts.parts.flavour.user, REPLICATION_USER, REWIND_USER];
    let roles = facts.desired.postgres.value.roles.value.iter();
    let declared = roles.filter(|role| own.contains(&&*role.name.value));
    let finding = |role: &Role| {
        let message = format!("the role `{}` is made by the deployment itself", role.name.value);
        Finding::new(message, role.name.span)
            .hint("leave it out; its password is a variable, e.g. `keddah_superuser_password`")
    };
    declared.map(finding).collect()
}
