//! Commands on a live cluster print what Patroni's own tool prints for it.

use std::path::Path;
use std::process::Command;

use crate::agents::{Agents, SLOW, within};

/// Made once for a machine: the package is fetched from its registry.
const VENV: &str = "/var/tmp/keddah-patroni-venv";

fn patronictl() -> String {
    let program = format!("{VENV}/bin/patronictl");
    if !Path::new(&program).exists() {
        let made = Command::new("/usr/bin/python3").args(["-m", "venv", VENV]).status().unwrap();
        assert!(made.success(), "python3-venv is installed by `make setup`");
        let pip = format!("{VENV}/bin/pip");
        let fetched = Command::new(pip)
            .args(["install", "-q", "patroni[etcd3]==4.1.*", "psycopg[binary]"])
            .status()
            .unwrap();
        assert!(fetched.success(), "Patroni could not be fetched from PyPI");
    }
    program
}

#[test]
fn lists_are_those_of_patronictl() {
    let patronictl = patronictl();
    let agents = Agents::start("");
    // Patroni's tool reads the same file as the agent.
    let config = agents.config("a").display().to_string();
    let theirs = |arguments: &[&str]| {
        let output = Command::new(&patronictl).args(["-c", &config]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    let ours = |arguments: &[&str]| {
        let output = agents.keddah(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };

    for arguments in [&["list"][..], &["list", "-f", "json"], &["list", "-f", "tsv"], &["history"]] {
        // Positions move between two looks; when nothing moves, both say the same.
        let mut seen = (String::new(), String::new());
        within(SLOW, "both tools print the same", || {
            seen = (ours(arguments), theirs(arguments));
            if seen.0 != seen.1 {
                eprintln!("ours:\n{}\ntheirs:\n{}", seen.0, seen.1);
            }
            seen.0 == seen.1
        });
    }
}
