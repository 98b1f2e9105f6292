//! What is wrong with plays and roles and can be told without a host: modules and their parameters, expressions, names,
//! files, handlers.
//!
//! What stands on a path that is surely taken is an error; behind a condition, a loop or a dynamic include it is a warning.

mod handlers;
mod names;
mod walk;

use std::collections::BTreeMap;

use crate::input::Deployment;
use crate::input::playbook::Catalog;
use crate::input::playbook::Play;
use crate::source::{Diagnostic, Diagnostics, Severity, Span, suggest};
use names::Names;
use walk::Walk;

/// Checks everything that was loaded.
pub fn check(deployment: &Deployment, catalog: &dyn Catalog) -> Diagnostics {
    let names = Names::of(deployment);
    let mut out = Diagnostics::default();
    variables(deployment, &mut out);
    let mut walk = Walk::new(deployment, catalog, &names);
    for play in &deployment.plays {
        let sure = hosts(deployment, play, &mut out);
        walk.play(play, sure);
    }
    walk.rest();
    out.extend(walk.out);
    out
}

/// Judges a play's host pattern; returns whether the play surely has hosts.
fn hosts(deployment: &Deployment, play: &Play, out: &mut Diagnostics) -> bool {
    let pattern = play.hosts.value.as_ref();
    if pattern.contains("{{") {
        return false;
    }
    match deployment.hosts_of(pattern) {
        Err(error) => {
            out.push(Diagnostic::error("host-pattern", error.to_string()).at(play.hosts.span));
            false
        }
        Ok(matched) => {
            for part in &matched.unmatched {
                let known = deployment.inventory.groups.keys().chain(deployment.inventory.hosts.keys());
                let plain = part.trim_start_matches(['!', '&']);
                let hint = suggest::did_you_mean(plain, known.map(AsRef::as_ref))
                    .unwrap_or_else(|| "`keddah inventory --graph` shows hosts and groups".to_owned());
                let message = format!("`{plain}` is no host and no group of the inventory");
                out.push(Diagnostic::warning("host-pattern", message).at(play.hosts.span).hint(hint));
            }
            !matched.hosts.is_empty()
        }
    }
}

/// Checks the expressions in variables of files. They are evaluated only when they are used, so that only what cannot be read
/// at all is an error.
fn variables(deployment: &Deployment, out: &mut Diagnostics) {
    let inventory = &deployment.inventory;
    let inline = inventory.groups.values().map(|g| &g.vars).chain(inventory.hosts.values().map(|h| &h.vars));
    let files = inventory.adjacent.iter().chain(deployment.beside_playbooks.values());
    let beside = files.flat_map(|f| f.groups.values().chain(f.hosts.values()));
    let roles = deployment.roles.values().flat_map(|r| r.defaults.values().chain(r.vars.values()));
    let given = [&deployment.extra_vars];
    let all = inline.chain(beside).chain(roles).chain(deployment.vars_files.values()).chain(given);
    for value in all.flat_map(|vars| vars.values()) {
        for problem in crate::expr::check_value(value).sorted() {
            let severity =
                if problem.code == "template-syntax" { Severity::Error } else { Severity::Warning };
            out.push(Diagnostic { severity, ..problem.clone() });
        }
    }
    if let Some(vars) = inventory.groups.values().find_map(|g| g.vars.get("keddah")) {
        reserved(vars.marks.origin, out);
    }
}

fn reserved(span: Option<Span>, out: &mut Diagnostics) {
    let diagnostic =
        Diagnostic::error("reserved-name", "`keddah` is made from cluster.yml and cannot be set");
    out.push(match span {
        Some(span) => diagnostic.at(span),
        None => diagnostic,
    });
}

/// Drops what is said twice, as happens when one file is reached on two ways; the more severe word stays.
pub fn unique(diagnostics: &Diagnostics) -> Diagnostics {
    let mut kept: BTreeMap<(Option<Span>, &str, &str), &Diagnostic> = BTreeMap::new();
    for diagnostic in diagnostics.sorted() {
        let key = (diagnostic.span, diagnostic.code, diagnostic.message.as_str());
        let entry = kept.entry(key).or_insert(diagnostic);
        if diagnostic.severity < entry.severity {
            *entry = diagnostic;
        }
    }
    let mut out = Diagnostics::default();
    kept.into_values().for_each(|diagnostic| out.push(diagnostic.clone()));
    out
}
