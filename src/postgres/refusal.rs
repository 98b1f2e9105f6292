//! Which parameters a release of the server would not start with: it is asked, so that nothing here has to know its list.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::postgres::conf::Parameters;
use crate::postgres::{Installation, ProgramError};

/// The server judges its command line before it looks for its data, which is never there.
const NOWHERE: &str = "/dev/null/none";

/// Some milliseconds on an idle machine; whoever asks waits for it.
const LIMIT: Duration = Duration::from_secs(2);

/// The server names one at a time. Whoever has more in one change finds the rest in its log.
const MOST: usize = 16;

/// Not judged: they say where the server's configuration is, or hide what it says to this question.
const LEFT_OUT: [&str; 7] = [
    "config_file",
    "data_directory",
    "hba_file",
    "ident_file",
    "lc_messages",
    "log_destination",
    "log_min_messages",
];

/// Returns the parameters that the server refuses, each with its own words.
///
/// # Errors
/// The server cannot be run.
pub fn refused(
    installation: &Installation,
    parameters: &Parameters,
) -> Result<BTreeMap<String, String>, ProgramError> {
    let mut left = parameters.clone();
    left.retain(|name, _| !LEFT_OUT.contains(&name.to_ascii_lowercase().as_str()));
    let mut refused = BTreeMap::new();
    while refused.len() < MOST {
        let mut program = installation.program(&installation.server).arg("-D").arg(NOWHERE).limit(LIMIT);
        for (name, value) in &left {
            program = program.arg("-c").arg(format!("{name}={value}"));
        }
        let name = program.name();
        let output = program.run().map_err(|source| ProgramError::Run(name, source))?;
        let Some((name, why)) = complaint(&String::from_utf8_lossy(&output.stderr), &left) else { break };
        left.remove(&name);
        refused.insert(name, why);
    }
    Ok(refused)
}

/// Reads which of the parameters the server complains about; None: it has none to complain about.
fn complaint(said: &str, parameters: &Parameters) -> Option<(String, String)> {
    let why = said.lines().find_map(|line| Some(line.split_once("FATAL:")?.1.trim()))?;
    let (named, _) = why.split_once("parameter \"")?.1.split_once('"')?;
    let name = parameters.keys().find(|name| name.eq_ignore_ascii_case(named))?;
    Some((name.clone(), why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_says_what_it_does_not_take() {
        let parameters: Parameters = ["max_connections", "fsync", "nosuch", "timezone"]
            .map(|name| (name.to_owned(), "x".to_owned()))
            .into();
        let named = |said: &str| complaint(said, &parameters).map(|(name, _)| name);
        let at = "2026-01-31 12:00:00.000 GMT [7] FATAL:  ";

        let cases = [
            ("unrecognized configuration parameter \"nosuch\"", Some("nosuch")),
            (
                "0 is outside the valid range for parameter \"max_connections\" (1 .. 262143)",
                Some("max_connections"),
            ),
            ("parameter \"fsync\" requires a Boolean value", Some("fsync")),
            ("invalid value for parameter \"TimeZone\": \"x\"", Some("timezone")),
            ("invalid value for parameter \"work_mem\": \"x\"", None),
        ];
        for (said, expected) in cases {
            assert_eq!(named(&format!("{at}{said}\n")).as_deref(), expected, "{said}");
        }
        assert_eq!(named("postgres: could not access directory \"/dev/null/none\": Not a directory\n"), None);
    }
}
