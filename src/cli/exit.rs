//! The exit codes of every command, one table.

use std::process::ExitCode;

/// How a command ended. The numbers are a contract with scripts and CI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; converged.
    Ok,
    /// The input is wrong, or a cluster command was refused; nothing was touched.
    Input,
    /// plan, check: changes pending, drift or unknown steps. apply: a host failed.
    Pending,
    /// A cluster command failed and was put back.
    PutBack,
    /// A host could not be reached; wins over `Pending`.
    Unreachable,
    /// A cluster command whose outcome is not known.
    Unknown,
    /// The exit code of a program that was run for the user, passed on.
    Passed(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Input => 1,
            Exit::Pending => 2,
            Exit::PutBack => 3,
            Exit::Unreachable => 4,
            Exit::Unknown => 5,
            Exit::Passed(code) => code,
        })
    }
}
