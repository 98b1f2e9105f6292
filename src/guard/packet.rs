//! Packets over `SOCK_SEQPACKET`: the one place that reads and writes them, for both sides.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen,
    recv, send, shutdown, socket,
};

/// Asks that wait to be accepted; there is one agent and now and then a person.
const BACKLOG: i32 = 8;

/// Connects to a guard; the descriptor does not block.
pub(super) fn dial(path: &Path) -> io::Result<OwnedFd> {
    let fd = open()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Makes the guard's listening socket, in place of one that a dead guard left. The caller holds the lock.
pub(super) fn serve(path: &Path) -> io::Result<OwnedFd> {
    let fd = open()?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Takes the next caller, if there is one.
pub(super) fn take(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        Ok(fd) => Ok(Some(adopt(fd))),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[expect(unsafe_code, reason = "accept4 answers a bare number")]
fn adopt(fd: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Reads one packet; None where none is there yet.
///
/// # Errors
/// `UnexpectedEof` once the other side has gone; `InvalidData` for a packet longer than `buffer`.
pub(super) fn read<'b>(fd: BorrowedFd<'_>, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
    match recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => match buffer.get(..length) {
            Some(packet) => Ok(Some(packet)),
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ends a connection, whoever else has it open. What was written before is still read by the other side.
pub(super) fn hang_up(fd: BorrowedFd<'_>) {
    // It fails where the other side was first.
    let _over = shutdown(fd.as_raw_fd(), Shutdown::Both);
}

/// Writes one packet, whole or not at all.
///
/// # Errors
/// `WouldBlock` where the other side does not read; never a signal.
pub(super) fn write(fd: BorrowedFd<'_>, packet: &[u8]) -> io::Result<()> {
    send(fd.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}
