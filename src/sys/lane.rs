//! A thread with a runtime of its own: what blocks there holds up nobody else, and what stays there wakes nobody else.

use std::future::pending;
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Starts one, for tasks that are spawned on its handle. It ends with the process.
///
/// # Errors
/// The operating system refused a thread or an epoll descriptor.
pub fn start(name: &str) -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}
