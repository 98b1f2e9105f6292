//! The controller as a host: the same executor, started as a child of this process.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;

use crate::executor::client::{Ending, Streams};
use crate::executor::upload::Marker;

/// Starts `program` as an executor.
///
/// # Errors
/// The operating system refused.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the door for the one child that lives as long as the session and is spoken with all the while"
)]
pub fn exec(program: &Path, marker: &Marker) -> io::Result<Streams> {
    let mut child = tokio::process::Command::new(program)
        .arg("executor")
        .arg(marker.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let missing = || io::Error::other("a pipe to the executor is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let mut stderr = child.stderr.take().ok_or_else(missing)?;
    let ending = Ending::default();
    let told = ending.clone();
    tokio::spawn(async move {
        let mut bytes = vec![0; 4096];
        while let Ok(length @ 1..) = stderr.read(&mut bytes).await {
            told.stderr(bytes.get(..length).unwrap_or_default());
        }
        match child.wait().await {
            Ok(status) => told.ended(format!("the executor ended with {status}")),
            Err(error) => told.ended(format!("the executor's end is not known: {error}")),
        }
    });
    Ok(Streams { stdin: Box::new(stdin), stdout: Box::new(stdout), ending })
}
