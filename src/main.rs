//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    keddah::cli::run().into()
}
