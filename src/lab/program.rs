//! The programs that a lab is made with: `ip`, `nft`, `mount`, `systemd-nspawn` and their like.
#![expect(
    clippy::disallowed_methods,
    reason = "root's own tools on this machine, with their own input and output"
)]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::LabError;
use crate::sys::clock;
use crate::sys::process::Program;
pub(super) use crate::sys::process::is_installed as exists;

/// How often a condition is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// debootstrap takes a minute on an idle machine and several on a busy one.
const LIMIT: Duration = Duration::from_secs(1200);
/// `ip` and `nft` may list hundreds of lines that are read whole.
const OUTPUT_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Waits until `condition` holds; returns whether it did within `limit`.
pub(super) fn until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let end = clock::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if clock::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn failed(program: &str, arguments: &[&str], status: &str, said: &str) -> LabError {
    let mut words = vec![program];
    words.extend(arguments);
    let tail: Vec<&str> = said.lines().rev().take(8).collect();
    LabError::Program {
        command: words.join(" ").lines().next().unwrap_or_default().to_owned(),
        status: status.to_owned(),
        said: tail.into_iter().rev().collect::<Vec<_>>().join("\n"),
    }
}

fn finish(program: Program) -> Result<String, LabError> {
    let command = program.argv().join(" ").lines().next().unwrap_or_default().to_owned();
    let output = program.run()?;
    if output.exit.is_success() {
        return Ok(output.stdout_text());
    }
    Err(LabError::Program { command, status: output.exit.to_string(), said: output.last_words(8) })
}

fn program(name: &str, arguments: &[&str]) -> Program {
    Program::new(name)
        .args(arguments.iter().copied())
        .env("DEBIAN_FRONTEND", "noninteractive")
        .limit(LIMIT)
        .keep(OUTPUT_KEPT_BYTES)
}

/// Runs a program and returns what it printed.
pub(super) fn output(program: &str, arguments: &[&str]) -> Result<String, LabError> {
    finish(self::program(program, arguments))
}

/// Runs a program for its effect.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<(), LabError> {
    output(program, arguments).map(|_| ())
}

/// Runs a program with `text` as its input.
pub(super) fn input(program: &str, arguments: &[&str], text: &str) -> Result<(), LabError> {
    finish(self::program(program, arguments).stdin(text)).map(|_| ())
}

/// Runs a program with this process's own input and output; returns its exit code.
pub(super) fn inherited(program: &str, arguments: &[String]) -> Result<u8, LabError> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let status = command(program, &words)
        .status()
        .map_err(|error| failed(program, &words, "not started", &error.to_string()))?;
    // No code: ended by a signal, which a shell shows as 128 and more.
    Ok(status.code().map_or(137, |code| u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Starts a program that outlives this one, in a session of its own, with its output in a file.
pub(super) fn detached(program: &str, arguments: &[&str], log: &Path) -> Result<(), LabError> {
    let start = || {
        let out = File::options().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let words = [&["--fork", program], arguments].concat();
        command("setsid", &words).stdin(Stdio::null()).stdout(out).stderr(err).status()
    };
    start()
        .map(|_| ())
        .map_err(|error: std::io::Error| failed(program, arguments, "not started", &error.to_string()))
}
