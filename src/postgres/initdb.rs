//! Making a database cluster.

use std::path::Path;
use std::time::Duration;

use crate::postgres::{Installation, ProgramError, long_options, run};
use crate::sys::process::Program;
use crate::sys::secret::Secret;

/// initdb copies some 40 MB and fsyncs; a slow disk takes a minute.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What the configuration says about the new cluster.
#[derive(Debug, Clone, Default)]
pub struct Initdb {
    /// Options with their values; None for a bare flag. Names without dashes.
    pub options: Vec<(String, Option<String>)>,
    pub superuser: String,
    pub password: Option<Secret>,
}

/// Options that are the agent's business.
const RESERVED: [&str; 6] = ["pgdata", "nosync", "pwfile", "sync-only", "version", "D"];

/// Makes the cluster.
///
/// # Errors
/// The folder is not vacant, an option is wrong, the disk is full.
pub fn run_initdb(installation: &Installation, data_dir: &Path, what: &Initdb) -> Result<(), ProgramError> {
    let mut program = program(installation, data_dir, what);
    if let Some(password) = &what.password {
        // initdb reads one line; standard input keeps the password off the disk and out of the process list.
        program = program.arg("--pwfile=/dev/stdin").stdin(format!("{}\n", password.reveal()));
    }
    run(&program).map(drop)
}

fn program(installation: &Installation, data_dir: &Path, what: &Initdb) -> Program {
    // The databases get the locale of the environment unless the options name one, as by hand.
    let mut program = installation.program("initdb").env_inherited("LC_ALL").env_inherited("LANG");
    program = program.arg("-D").arg(data_dir).limit(LIMIT);
    if !what.superuser.is_empty() {
        program = program.arg(format!("--username={}", what.superuser));
    }
    let is_allowed = |name: &str| !RESERVED.contains(&name) && name != "username";
    program.args(long_options(what.options.iter().filter(|(name, _)| is_allowed(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_spelled_as_initdb_wants_them() {
        let what = Initdb {
            options: vec![
                ("encoding".into(), Some("UTF8".into())),
                ("data-checksums".into(), None),
                ("pgdata".into(), Some("/etc".into())),
            ],
            superuser: "postgres".into(),
            password: Some(Secret::new("geheim")),
        };

        let argv = program(&Installation::at("/pg"), Path::new("/data"), &what).argv();

        assert_eq!(
            argv,
            ["/pg/initdb", "-D", "/data", "--username=postgres", "--encoding=UTF8", "--data-checksums"]
        );
    }
}
