//! What a good deployment looks like: one row per rule.
//!
//! Start at [`RULES`]. The checks are in [`layout`] (hosts and ports), [`timing`] (leases and synchronous commits) and
//! [`access`] (passwords, encryption, who may connect).

mod access;
mod layout;
mod timing;

use std::sync::Arc;

use indexmap::IndexMap;

use crate::expr::Dict;
use crate::input::desired::Desired;
use crate::input::desired::variable::Parts;
use crate::source::{Diagnostic, Diagnostics, Severity, Span};

/// What the rules look at.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub desired: &'a Desired,
    pub parts: &'a Parts,
    /// Each host's variables from inventory, `group_vars` and `host_vars`.
    pub vars: &'a IndexMap<Arc<str>, Dict>,
    /// Files that hold a secret and may be read by others than their owner, with the secret's place.
    pub open_files: &'a [(String, Span)],
    /// Names known faults of an etcd version.
    pub etcd_faults: &'a dyn Fn(&str) -> Vec<String>,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("desired", self.desired)
            .field("parts", self.parts)
            .finish_non_exhaustive()
    }
}

/// A deviation that a rule found; the rule adds its id, severity and reason.
#[derive(Debug, Clone)]
pub struct Finding {
    message: String,
    span: Option<Span>,
    labels: Vec<(Span, String)>,
    hint: Option<String>,
}

impl Finding {
    fn new(message: impl Into<String>, span: Option<Span>) -> Finding {
        Finding { message: message.into(), span, labels: Vec::new(), hint: None }
    }

    fn label(mut self, span: Option<Span>, words: impl Into<String>) -> Finding {
        self.labels.extend(span.map(|span| (span, words.into())));
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }
}

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    pub id: &'static str,
    pub title: &'static str,
    pub severity: Severity,
    /// What happens to those who do not follow it.
    pub why: &'static str,
    check: fn(&Facts<'_>) -> Vec<Finding>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.title)
    }
}

const fn row(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
    check: fn(&Facts<'_>) -> Vec<Finding>,
) -> Rule {
    Rule { id, title, severity, why, check }
}

use Severity::{Advice, Error, Warning};

/// All rules, by id.
pub const RULES: &[Rule] = &[
    row(
        "K100",
        Error,
        "a part has no hosts",
        "without etcd no leader can be elected, and without Postgres hosts there is nothing to keep",
        layout::parts_without_hosts,
    ),
    row(
        "K101",
        Advice,
        "etcd has neither three nor five members",
        "a majority of three survives one loss, of five two; an even number survives no more than one less",
        layout::etcd_size,
    ),
    row(
        "K102",
        Error,
        "two members share an address",
        "two members of one part on one machine fail together, and their ports collide",
        layout::same_address,
    ),
    row(
        "K103",
        Advice,
        "etcd member on a Postgres host",
        "a database that fills disk or memory takes the election down with it",
        layout::etcd_beside_postgres,
    ),
    row(
        "K104",
        Error,
        "two members have one name",
        "the name is the member's key in etcd and its replication slot",
        layout::same_slot,
    ),
    row(
        "K105",
        Advice,
        "fewer than two replicas",
        "with one replica, a failover leaves no standby, and synchronous commits wait",
        layout::few_replicas,
    ),
    row(
        "K106",
        Advice,
        "fewer than two HAProxy hosts",
        "a single proxy is one machine whose loss stops all clients",
        layout::few_proxies,
    ),
    row(
        "K107",
        Error,
        "a port is used twice on one host",
        "the second program cannot start",
        layout::port_collisions,
    ),
    row(
        "K108",
        Error,
        "an address that other members cannot reach",
        "members tell each other this address",
        layout::loopback_address,
    ),
    row(
        "K109",
        Warning,
        "a member without an address",
        "members are then named by their inventory name, which every host must be able to resolve",
        layout::no_address,
    ),
    row(
        "K110",
        Warning,
        "Postgres version that is not known to work",
        "packages and folders of an unknown version are guesses",
        layout::unknown_version,
    ),
    row(
        "K111",
        Warning,
        "etcd version with known faults",
        "such a version can lose leases or members",
        layout::faulty_etcd,
    ),
    row(
        "K112",
        Warning,
        "a parameter that the agent decides",
        "the agent sets it itself, and the value here has no effect",
        layout::managed_parameters,
    ),
    row(
        "K120",
        Error,
        "loop_wait + 2 × retry_timeout is above ttl",
        "the lease could end while the leader is still trying to renew it",
        timing::lease_budget,
    ),
    row(
        "K121",
        Warning,
        "ttl too short for etcd's election",
        "when etcd elects a leader, leases must outlive the election: ttl ≥ 3 × election timeout + 2 s",
        timing::ttl_below_election,
    ),
    row(
        "K122",
        Advice,
        "ttl below 20 seconds",
        "a member that is Patroni refuses it, and the guard must be there to keep it",
        timing::short_ttl,
    ),
    row(
        "K123",
        Error,
        "etcd's election timeout is below five heartbeats",
        "etcd refuses to start",
        timing::election_below_heartbeat,
    ),
    row(
        "K124",
        Warning,
        "more synchronous standbys than replicas",
        "the number asked for can never be reached",
        timing::many_synchronous,
    ),
    row(
        "K125",
        Warning,
        "strict synchronous mode with a single replica",
        "writes stop whenever that replica is away",
        timing::strict_with_one_replica,
    ),
    row(
        "K126",
        Advice,
        "commits do not wait for a standby",
        "a failover may lose the last acknowledged commits",
        timing::asynchronous,
    ),
    row(
        "K127",
        Advice,
        "no watchdog",
        "a host whose agent and guard are both stuck is not reset",
        timing::no_watchdog,
    ),
    row(
        "K140",
        Error,
        "a password is missing",
        "roles cannot write the configuration without it",
        access::missing_secrets,
    ),
    row(
        "K141",
        Warning,
        "a file with secrets may be read by others",
        "whoever has an account on this machine has the passwords",
        access::open_files,
    ),
    row(
        "K142",
        Warning,
        "a password in clear in cluster.yml",
        "cluster.yml is meant to be shared and versioned",
        access::clear_passwords,
    ),
    row(
        "K143",
        Warning,
        "pg_hba lets clients in without a password, or with a weak one",
        "`trust` and `password` protect nothing on a network, `md5` little",
        access::weak_hba,
    ),
    row(
        "K144",
        Advice,
        "etcd, the REST API and Postgres speak without encryption",
        "passwords and data can be read on the way; TLS is not part of this version, so keep these ports on a network of their own",
        access::no_tls,
    ),
    row(
        "K145",
        Warning,
        "an owner or a parent role that is not declared",
        "the database or role cannot be made unless it exists already",
        access::unknown_roles,
    ),
    row(
        "K146",
        Error,
        "a role or database is declared twice",
        "one of the two declarations would be lost",
        access::declared_twice,
    ),
    row(
        "K147",
        Error,
        "a role of the deployment itself is declared",
        "its attributes and password are the deployment's own, and the members need them to reach each other",
        access::own_roles,
    ),
];

/// Applies all rules.
pub fn check(facts: &Facts<'_>) -> Diagnostics {
    let mut out = Diagnostics::default();
    for rule in RULES {
        for finding in (rule.check)(facts) {
            let message = format!("{} {}", rule.id, finding.message);
            let mut diagnostic = match rule.severity {
                Severity::Error => Diagnostic::error(rule.id, message),
                Severity::Warning => Diagnostic::warning(rule.id, message),
                Severity::Advice => Diagnostic::advice(rule.id, message),
            };
            if let Some(span) = finding.span {
                diagnostic = diagnostic.at(span);
            }
            for (span, words) in finding.labels {
                diagnostic = diagnostic.label(span, words);
            }
            out.push(diagnostic.hint(finding.hint.unwrap_or_else(|| rule.why.to_owned())));
        }
    }
    out
}

#[cfg(test)]
mod tests;
