//! The configuration files beside what they should be. Also writes them: what is compared and what is written are one
//! text.
//!
//! Three parts of the main file are not the configuration's and are kept as they stand: the recovery parameters (whom
//! this member follows), `synchronous_standby_names` (whom commits wait for), and the brake (clients may only read).

use crate::agent::instance::{Instance, SYNC_PARAMETER};
use crate::postgres::conf::{self, Parameters};
use crate::postgres::{hba, standby};
use crate::sys::changes::{Stamp, stamp};
use crate::sys::files::{self, FileError};

/// What the main file holds beside the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    pub recovery: Parameters,
    /// None: the user's own value counts.
    pub sync_names: Option<String>,
    /// Clients may only read, though the configuration lets them write.
    pub braked: bool,
}

/// The parameter by which clients may only read.
const BRAKE: &str = "default_transaction_read_only";

/// Reads the parts of the main file that are kept.
pub fn kept(instance: &Instance) -> Kept {
    let text = files::read_if_there(&instance.place.main()).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut kept = Kept::default();
    if !is_ours(&text) {
        return kept;
    }
    for line in text.lines() {
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        let Some(value) = unquote(value) else {
            continue;
        };
        if conf::RECOVERY.contains(&name) {
            kept.recovery.insert(name.to_owned(), value);
        } else if name == SYNC_PARAMETER {
            kept.sync_names = Some(value);
        } else if name == BRAKE {
            kept.braked = value == "on" && instance.parameters().get(BRAKE) != Some(&value);
        }
    }
    if kept.sync_names.as_deref() == Some(instance.own_sync_names().as_str()) {
        kept.sync_names = None;
    }
    // Whom it follows is kept; how the archive is read is the configuration's. A recovery to a target is nobody's
    // but its own.
    if let Some(conninfo) = kept.recovery.get("primary_conninfo") {
        let pairs = standby::parse_conninfo(conninfo).unwrap_or_default();
        let place = |key: &str| pairs.get(key).map(String::as_str).unwrap_or_default();
        let extra = instance.recovery_extra(is_remote(instance, place("host"), place("port")));
        kept.recovery.retain(|name, _| !EXTRA.contains(&name.as_str()));
        kept.recovery.extend(extra);
    }
    kept
}

/// The parameters of recovery that the configuration names.
const EXTRA: [&str; 4] =
    ["archive_cleanup_command", "recovery_end_command", "recovery_min_apply_delay", "restore_command"];

fn is_remote(instance: &Instance, host: &str, port: &str) -> bool {
    instance.remote().is_some_and(|remote| remote.host == host && remote.port.to_string() == port)
}

fn is_ours(text: &str) -> bool {
    text.starts_with("# Written by the node agent")
}

/// Undoes the quoting of the file that is ours.
fn unquote(value: &str) -> Option<String> {
    let inner = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        match c {
            '\'' => text.extend(characters.next().filter(|next| *next == '\'')),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                other => text.push(other),
            },
            c => text.push(c),
        }
    }
    Some(text)
}

fn render(instance: &Instance, include: &str, kept: &Kept) -> String {
    let (_, mut file) = conf::split(&instance.parameters());
    let own = instance.own_sync_names();
    match &kept.sync_names {
        Some(names) => {
            file.insert(SYNC_PARAMETER.to_owned(), names.clone());
        }
        None if !own.is_empty() => {
            file.insert(SYNC_PARAMETER.to_owned(), own);
        }
        None => {}
    }
    if kept.braked {
        file.insert(BRAKE.to_owned(), "on".to_owned());
    }
    conf::render(&instance.defaults(), include, &file, &kept.recovery)
}

/// The last judgement of [`is_in_step`], which stands until a file or the configuration changes.
#[derive(Debug, Default)]
pub struct Judged {
    found: Option<(Vec<Option<Stamp>>, Found)>,
}

/// What the files say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What the configuration wants.
    pub in_step: bool,
    /// Clients may only read, by the brake.
    pub braked: bool,
}

impl Judged {
    /// Returns what the files say.
    pub fn look(&mut self, instance: &Instance) -> Found {
        let place = &instance.place;
        let files = [place.main(), place.config_dir.join(HBA), place.config_dir.join(IDENT)];
        let stamps: Vec<_> = files.iter().map(|path| stamp(path).ok().flatten()).collect();
        match &self.found {
            Some((of, found)) if *of == stamps => *found,
            Some(_) | None => {
                let found = Found { in_step: is_in_step(instance), braked: kept(instance).braked };
                self.found = Some((stamps, found));
                found
            }
        }
    }
}

const HBA: &str = "pg_hba.conf";
const IDENT: &str = "pg_ident.conf";

/// Tells whether the files say what the configuration wants.
fn is_in_step(instance: &Instance) -> bool {
    let text = files::read_if_there(&instance.place.main()).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let Some(include) = text.lines().find_map(|line| unquote(line.strip_prefix("include ")?)) else {
        return false;
    };
    text == render(instance, &include, &kept(instance)) && lists_are_in_step(instance)
}

fn lists_are_in_step(instance: &Instance) -> bool {
    let holds = |name: &str, lines: Option<Vec<String>>| {
        let Some(lines) = lines else { return true };
        let text =
            files::read_if_there(&instance.place.config_dir.join(name)).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let found: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let wanted: Vec<&str> = lines
            .iter()
            .flat_map(|line| line.trim_end().lines())
            .filter(|line| !line.starts_with('#'))
            .collect();
        found == wanted
    };
    holds(HBA, instance.hba()) && holds(IDENT, instance.ident())
}

/// Writes all configuration files. Returns whether anything changed; a reload makes it count.
///
/// # Errors
/// A folder may not be written.
pub fn write(instance: &Instance, kept: &Kept) -> Result<bool, FileError> {
    let mut changed = write_main(instance, kept)?;
    if let Some(lines) = instance.hba() {
        changed |= hba::write(&instance.place, &lines)?;
    }
    if let Some(lines) = instance.ident() {
        changed |= hba::write_ident(&instance.place, &lines)?;
    }
    changed |= conf::clean_auto(instance.data_dir())?;
    conf::keep_copies(&instance.place)?;
    Ok(changed)
}

/// Writes the main file alone. Returns whether it changed.
///
/// # Errors
/// A folder may not be written.
pub fn write_main(instance: &Instance, kept: &Kept) -> Result<bool, FileError> {
    let include = conf::settle_base(&instance.place, None)?;
    conf::write(&instance.place, &render(instance, &include, kept))
}

/// Returns the recovery parameters of a server that follows `upstream`.
pub fn recovery(instance: &Instance, upstream: Option<&standby::Upstream>) -> Parameters {
    let follows_remote =
        upstream.is_some_and(|upstream| is_remote(instance, &upstream.host, &upstream.port.to_string()));
    standby::recovery_parameters(upstream, &instance.recovery_extra(follows_remote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_undone() {
        for text in ["", "it's", "a\\b", "a\\nb", "x\ny", "2 (\"a\",\"b\")"] {
            assert_eq!(unquote(&conf::quote(text)).as_deref(), Some(text), "{text}");
        }
    }
}
