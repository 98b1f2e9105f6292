//! The agent's side of the guard's socket: [`Guard`] for plain code, [`Link`] for tasks of a runtime.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, watch};

use crate::guard::packet;
use crate::guard::protocol::{
    Ask, Hold, OLDEST, PACKET_BYTES_MAX, Refusal, Reply, Request, Status, VERSION, is_spoken,
};
use crate::sys::clock::{self, Tick};
use crate::sys::descriptor;

/// Why an ask has no answer that helps.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("cannot reach the guard at {socket}; is `keddah guard` running for this data directory?")]
    Connect {
        socket: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection to the guard broke")]
    Broken(#[source] io::Error),
    #[error("the guard did not answer within {0:?}")]
    Silent(Duration),
    #[error("the guard's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error(
        "the guard (pid {pid}) speaks version {version} of its protocol, this program {OLDEST} to {VERSION}; upgrade the older of the two"
    )]
    OtherVersion { pid: u32, version: u32 },
    /// The guard lives and said no.
    #[error("the guard refused: {refusal}")]
    Refused { refusal: Refusal, status: Box<Status> },
}

impl GuardError {
    /// Returns the guard's reason where it lives and refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            GuardError::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// Tells whether the guard that answered so is understood.
///
/// # Errors
/// It speaks another version.
pub fn understood(status: Status) -> Result<Status, GuardError> {
    if is_spoken(status.version) {
        return Ok(status);
    }
    Err(GuardError::OtherVersion { pid: status.pid, version: status.version })
}

/// Builds the ask that says hello for the calling process.
pub fn hello(hold: Option<Hold>) -> Request {
    Request::Hello { version: VERSION, pid: std::process::id(), hold }
}

fn settle(reply: Reply) -> Result<Status, GuardError> {
    match reply.refusal {
        None => Ok(reply.status),
        Some(refusal) => Err(GuardError::Refused { refusal, status: Box::new(reply.status) }),
    }
}

fn unreachable(socket: &Path, source: io::Error) -> GuardError {
    GuardError::Connect { socket: socket.display().to_string(), source }
}

/// A connection that blocks its caller.
#[derive(Debug)]
pub struct Guard {
    fd: OwnedFd,
    next_id: u64,
    buffer: Vec<u8>,
}

impl Guard {
    /// Connects to the guard that listens at `socket`. Says nothing yet; see [`hello`].
    ///
    /// # Errors
    /// Nobody listens there, or this user may not speak to it.
    pub fn connect(socket: &Path) -> Result<Guard, GuardError> {
        let fd = packet::dial(socket).map_err(|source| unreachable(socket, source))?;
        Ok(Guard { fd, next_id: 1, buffer: vec![0; PACKET_BYTES_MAX] })
    }

    /// Sends `request` and waits up to `limit` for its answer. Notices that come first are passed over.
    ///
    /// # Errors
    /// The guard refused, was silent, or is gone.
    pub fn ask(&mut self, request: Request, limit: Duration) -> Result<Status, GuardError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let text = serde_json::to_vec(&Ask { id, ask: request }).map_err(GuardError::Unreadable)?;
        let until = clock::now() + limit;
        packet::write(self.fd.as_fd(), &text).map_err(GuardError::Broken)?;
        loop {
            match packet::read(self.fd.as_fd(), &mut self.buffer).map_err(GuardError::Broken)? {
                Some(text) => {
                    let reply: Reply = serde_json::from_slice(text).map_err(GuardError::Unreadable)?;
                    if reply.id == id {
                        return settle(reply);
                    }
                }
                None => self.wait(until, limit)?,
            }
        }
    }

    fn wait(&self, until: Tick, limit: Duration) -> Result<(), GuardError> {
        let left = until.since(clock::now());
        if left.is_zero() {
            return Err(GuardError::Silent(limit));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(GuardError::Broken(error.into())),
        }
    }
}

/// A connection for tasks: clones share it, asks may overlap, and dropping an ask's future harms nobody.
#[derive(Debug, Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: AsyncFd<OwnedFd>,
    next_id: AtomicU64,
    /// Held by the one ask that reads for all; answers to others wait in `answers`.
    reading: Mutex<Vec<u8>>,
    answers: std::sync::Mutex<std::collections::BTreeMap<u64, Option<Reply>>>,
    news: tokio::sync::Notify,
    latest: watch::Sender<Option<Status>>,
}

impl Link {
    /// Connects to the guard that listens at `socket`. Must be called within a runtime.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not speak to it.
    pub fn connect(socket: &Path) -> Result<Link, GuardError> {
        let fd = packet::dial(socket).map_err(|source| unreachable(socket, source))?;
        Link::resume(fd, 1)
    }

    /// Goes on with a connection whose next ask has this number. Must be called within a runtime.
    ///
    /// # Errors
    /// It is no connection.
    pub fn resume(fd: OwnedFd, next_id: u64) -> Result<Link, GuardError> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let fd = descriptor::register(fd, both).map_err(GuardError::Broken)?;
        let inner = Inner {
            fd,
            next_id: AtomicU64::new(next_id),
            reading: Mutex::new(vec![0; PACKET_BYTES_MAX]),
            answers: std::sync::Mutex::default(),
            news: tokio::sync::Notify::new(),
            latest: watch::Sender::new(None),
        };
        Ok(Link { inner: Arc::new(inner) })
    }

    /// Returns what [`Link::resume`] goes on with.
    pub fn line(&self) -> (BorrowedFd<'_>, u64) {
        (self.inner.fd.get_ref().as_fd(), self.inner.next_id.load(Ordering::Relaxed))
    }

    /// Ends the connection for everybody who shares it. The guard serves one agent: while a clone of a link is open
    /// somewhere, a new one is turned away.
    pub fn cut(&self) {
        packet::hang_up(self.inner.fd.get_ref().as_fd());
    }

    /// Tells whether both are one connection.
    pub fn is(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Sends `request` and waits up to `limit` for its answer.
    ///
    /// # Errors
    /// The guard refused, was silent, or is gone. After `Silent` the link is as good as before: the guard reads what was
    /// sent once it goes on. After any other error but `Refused` a new link must be made.
    pub async fn ask(&self, request: Request, limit: Duration) -> Result<Status, GuardError> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let text = serde_json::to_vec(&Ask { id, ask: request }).map_err(GuardError::Unreadable)?;
        let waiting = Waiting::new(&self.inner, id);
        match packet::write(self.inner.fd.get_ref().as_fd(), &text) {
            Ok(()) => {}
            // So many asks are unread that no more fit.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(GuardError::Silent(limit)),
            Err(error) => return Err(GuardError::Broken(error)),
        }
        match tokio::time::timeout(limit, self.answer(&waiting)).await {
            Ok(reply) => settle(reply?),
            Err(_) => Err(GuardError::Silent(limit)),
        }
    }

    async fn answer(&self, waiting: &Waiting<'_>) -> Result<Reply, GuardError> {
        loop {
            // Registered before the look, so that an answer that another ask reads in between wakes this one.
            let news = self.inner.news.notified();
            if let Some(reply) = waiting.take() {
                return Ok(reply);
            }
            tokio::select! {
                mut buffer = self.inner.reading.lock() => {
                    if let Some(reply) = waiting.take() {
                        return Ok(reply);
                    }
                    self.inner.read_one(&mut buffer).await?;
                }
                () = news => {}
            }
        }
    }

    /// Returns what the guard tells by itself (its server ended, a fence began). A word that an ask read before, or
    /// reads between two calls of [`Notices::next`], is kept: of several, the last.
    pub fn notices(&self) -> Notices {
        let mut latest = self.inner.latest.subscribe();
        latest.mark_changed();
        Notices { inner: self.inner.clone(), latest }
    }
}

/// What the guard tells by itself.
#[derive(Debug)]
pub struct Notices {
    inner: Arc<Inner>,
    latest: watch::Receiver<Option<Status>>,
}

impl Notices {
    /// Waits for the next word of the guard. Also reads for asks that wait meanwhile.
    ///
    /// # Errors
    /// The connection broke: the guard is gone.
    pub async fn next(&mut self) -> Result<Status, GuardError> {
        loop {
            let inner = &self.inner;
            // Given up as soon as a word is there: whoever reads next finds the connection as it was.
            let read = async { inner.read_one(&mut inner.reading.lock().await).await };
            tokio::select! {
                biased;
                changed = self.latest.changed() => {
                    let seen = self.latest.borrow_and_update().clone();
                    if let (Ok(()), Some(status)) = (changed, seen) {
                        return Ok(status);
                    }
                }
                read = read => read?,
            }
        }
    }
}

impl Inner {
    /// Reads at least what is there, and hands it to whom it concerns.
    async fn read_one(&self, buffer: &mut [u8]) -> Result<(), GuardError> {
        let mut ready = self.fd.readable().await.map_err(GuardError::Broken)?;
        match packet::read(self.fd.get_ref().as_fd(), buffer).map_err(GuardError::Broken)? {
            Some(text) => {
                let reply: Reply = serde_json::from_slice(text).map_err(GuardError::Unreadable)?;
                self.deliver(reply);
            }
            None => ready.clear_ready(),
        }
        Ok(())
    }

    fn deliver(&self, reply: Reply) {
        if reply.id == 0 {
            self.latest.send_replace(Some(reply.status));
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // An answer that nobody waits for any more is dropped.
        if let Some(slot) = answers.get_mut(&reply.id) {
            *slot = Some(reply);
        }
        drop(answers);
        self.news.notify_waiters();
    }
}

/// The place where the answer to one ask is put; gone with its ask.
struct Waiting<'l> {
    inner: &'l Inner,
    id: u64,
}

impl<'l> Waiting<'l> {
    fn new(inner: &'l Inner, id: u64) -> Waiting<'l> {
        let mut answers = inner.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        answers.insert(id, None);
        Waiting { inner, id }
    }

    fn take(&self) -> Option<Reply> {
        let mut answers = self.inner.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        answers.get_mut(&self.id).and_then(Option::take)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut answers = self.inner.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        answers.remove(&self.id);
    }
}
