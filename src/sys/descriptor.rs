//! Descriptors that tasks wait for.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes a descriptor one that tasks of the present runtime can wait for. Must be called within a runtime.
///
/// # Errors
/// The kernel takes no more descriptors, or not this one.
#[expect(unsafe_code, reason = "tokio leaves it to the caller that the descriptor stays the same")]
pub fn register(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd answers the same descriptor until it is dropped, and AsyncFd owns it until then.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}
