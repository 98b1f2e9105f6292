//! What systemd says of a unit, in one question.

use std::collections::BTreeMap;

use crate::sys::process::Program;

/// A unit's properties, as `systemctl show` prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    pub properties: BTreeMap<String, String>,
}

/// The endings that make a name a unit's full name.
const SUFFIXES: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

/// Returns the full name: `etcd` is `etcd.service`.
pub fn full_name(name: &str) -> String {
    if SUFFIXES.iter().any(|s| name.ends_with(s)) { name.to_owned() } else { format!("{name}.service") }
}

/// Returns the question for all properties of a unit.
pub fn show(scope: &[&str], name: &str) -> Program {
    Program::new("systemctl").args(["show", "--no-pager"]).args(scope.iter().copied()).args(["--", name])
}

impl Unit {
    /// Reads `Key=Value` lines; a value that goes over several lines keeps only its first.
    pub fn parse(text: &str) -> Unit {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Unit { properties: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    pub fn get(&self, key: &str) -> &str {
        self.properties.get(key).map_or("", String::as_str)
    }

    /// Whether systemd knows a file for it, or has it loaded.
    pub fn is_known(&self) -> bool {
        !matches!(self.get("LoadState"), "not-found" | "")
    }

    pub fn is_masked(&self) -> bool {
        self.get("LoadState") == "masked" || self.get("UnitFileState").starts_with("masked")
    }

    /// Whether it runs, or is on its way there; waiting to be started again after a failure is neither.
    pub fn is_running(&self) -> bool {
        match self.get("ActiveState") {
            "active" | "reloading" | "refreshing" => true,
            "activating" => self.get("SubState") != "auto-restart",
            _ => false,
        }
    }

    /// Whether nothing of it runs and nothing will by itself.
    pub fn is_stopped(&self) -> bool {
        matches!(self.get("ActiveState"), "inactive" | "failed" | "")
    }

    /// Whether it starts at boot; `None` where that is not a property of it: static and generated units.
    pub fn is_enabled(&self) -> Option<bool> {
        match self.get("UnitFileState") {
            "enabled" | "enabled-runtime" | "linked" | "linked-runtime" => Some(true),
            "disabled" | "masked" | "masked-runtime" | "bad" | "" => Some(false),
            // static, alias, indirect, generated, transient: what starts it is another unit.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_waits_to_be_restarted_does_not_run() {
        let unit = Unit::parse(
            "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=static\n",
        );

        assert!(unit.is_known() && !unit.is_running() && !unit.is_stopped());
        assert_eq!(unit.is_enabled(), None);
        assert_eq!(full_name("etcd"), "etcd.service");
        assert_eq!(full_name("a.timer"), "a.timer");
    }
}
