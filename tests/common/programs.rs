//! Puts programs to where tests run them.
//!
//! By a process of its own: while a file is open for writing here, any process that another test starts meanwhile has it
//! open too, and a program that somebody writes cannot be executed ("Text file busy").

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program that anybody may run.
pub fn put(path: &Path, content: &[u8]) {
    let script = "cat > \"$0\" && chmod 755 \"$0\"";
    let mut child = Command::new("sh").args(["-c", script]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().expect("piped").write_all(content).unwrap();
    assert!(child.wait().unwrap().success(), "{} cannot be written", path.display());
}

/// Copies a program; anybody may run the copy.
pub fn copy(from: &Path, to: &Path) {
    let done = Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap();
    assert!(done.success(), "{} cannot be copied to {}", from.display(), to.display());
}
