//! Commands on a live cluster print what Patroni's own tool prints for it.

use std::process::Command;

use crate::agents::{Agents, SLOW, within};
use crate::patronictl;

#[test]
fn lists_are_those_of_patronictl() {
    let agents = Agents::start("");
    lists_agree(&agents);
}

/// Waits until both tools print the same about a cluster.
pub fn lists_agree(agents: &Agents) {
    let patronictl = patronictl::program();
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
