//! Starting a child, also of a program that was written a moment ago.

use std::io::{self, ErrorKind};
use std::process::{Child, Command};
use std::time::Duration;

use crate::sys::clock;

/// How long a program may be open for writing before that is an error.
const BUSY_LIMIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Starts the child.
///
/// A program that this process has just written may still be open for writing: in the child of another thread, between
/// its fork and its exec. Linux refuses to run it then ("Text file busy"), for well under a millisecond.
///
/// # Errors
/// As [`Command::spawn`]; the program is still open for writing after a second.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let deadline = clock::now() + BUSY_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && clock::now() < deadline => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "what is tested is the start itself")]
mod tests {
    use std::fs::OpenOptions;
    use std::path::PathBuf;

    use super::*;
    use crate::sys::process::Program;

    fn program(folder: &tempfile::TempDir) -> PathBuf {
        let file = folder.path().join("program");
        let line = "printf '#!/bin/sh\nexit 3\n' > $0 && chmod +x $0";
        assert!(Program::new("sh").args(["-c", line]).arg(&file).run().unwrap().exit.is_success());
        file
    }

    #[test]
    fn a_program_that_is_being_written_is_started_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = program(&folder);
        let writer = OpenOptions::new().append(true).open(&file).unwrap();
        assert_eq!(Command::new(&file).spawn().unwrap_err().kind(), ErrorKind::ExecutableFileBusy);

        let mut child = std::thread::scope(|scope| {
            let started = scope.spawn(|| start(&mut Command::new(&file)));
            std::thread::sleep(Duration::from_millis(20));
            drop(writer);
            started.join().unwrap().unwrap()
        });

        assert_eq!(child.wait().unwrap().code(), Some(3));
    }

    #[test]
    fn a_program_that_stays_open_for_writing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = program(&folder);
        let _writer = OpenOptions::new().append(true).open(&file).unwrap();

        let error = start(&mut Command::new(&file)).unwrap_err();

        assert_eq!(error.kind(), ErrorKind::ExecutableFileBusy);
    }
}
