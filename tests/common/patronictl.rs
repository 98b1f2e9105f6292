//! The reference itself and its tool, from its package registry, for comparisons and clusters of both.

use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Made once for a machine.
const VENV: &str = "/var/tmp/keddah-patroni-venv";

/// Returns the tool, fetched if it is not there yet.
pub fn program() -> String {
    fetched("patronictl")
}

/// Returns a program of the package, fetched if it is not there yet.
pub fn fetched(name: &str) -> String {
    let program = format!("{VENV}/bin/{name}");
    // Tests run side by side, and so do whole runs: one makes it, the others wait.
    let turn = File::create(format!("{VENV}.lock")).unwrap();
    turn.lock().unwrap();
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
