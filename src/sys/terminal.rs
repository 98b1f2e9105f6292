//! The terminal at which a person types.

use std::io::BufRead;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Reads a line from standard input; a terminal does not show what is typed. Empty at the end of the input.
///
/// # Errors
/// Nothing can be read.
pub fn read_unseen_line() -> std::io::Result<String> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    let Ok(shown) = tcgetattr(&stdin) else {
        // No terminal: nobody looks on.
        stdin.lock().read_line(&mut line)?;
        return Ok(line);
    };
    let mut unseen = shown.clone();
    unseen.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &unseen)?;
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown)?;
    // The line break that was typed was not shown either.
    eprintln!();
    read?;
    Ok(line)
}
