//! The agent's line to its guard: connects when needed, says hello, keeps the last status.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::guard::client::{GuardError, Link, understood};
use crate::guard::protocol::{Hold, Refusal, Request, Status};
use crate::sys::clock::{self, Tick};
use crate::sys::successor::Estate;

/// How long an ask may take that only changes the guard's memory.
const PROMPT: Duration = Duration::from_millis(1_000);

/// Pause before a guard that is not there is looked for again.
const RECONNECT: Duration = Duration::from_millis(200);

/// The line. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    /// Where all reading and writing is done.
    home: Handle,
    link: tokio::sync::Mutex<Option<Link>>,
    hold: Mutex<Option<Hold>>,
    /// What the guard said last, and when.
    status: Mutex<Option<(Status, Tick)>>,
    /// Told whenever the guard says something that a look should see.
    wake: Arc<Notify>,
}

impl Gate {
    /// Makes the line. It lives on the runtime that this is called in, whoever asks: one asker reads for all, and must
    /// not be held up by a disk meanwhile.
    pub fn new(socket: PathBuf, wake: Arc<Notify>) -> Gate {
        let inner = Inner {
            socket,
            home: Handle::current(),
            link: tokio::sync::Mutex::new(None),
            hold: Mutex::new(None),
            status: Mutex::new(None),
            wake,
        };
        Gate { inner: Arc::new(inner) }
    }

    /// Goes on with the connection of the program before, under the hold that it had shown.
    ///
    /// # Errors
    /// It is no connection; one is made when it is needed.
    pub async fn resume(&self, fd: OwnedFd, next_id: u64, hold: Option<Hold>) -> Result<(), GuardError> {
        *self.inner.link.lock().await = Some(Link::resume(fd, next_id)?);
        *self.inner.hold.lock().unwrap_or_else(PoisonError::into_inner) = hold;
        Ok(())
    }

    /// Gives the connection to the next program, if there is one: its descriptor there, and the number of its next ask.
    ///
    /// # Errors
    /// The process has as many descriptors as it may have.
    pub async fn give(&self, estate: &mut Estate) -> std::io::Result<Option<(i32, u64)>> {
        let slot = self.inner.link.lock().await;
        let Some(link) = slot.as_ref() else { return Ok(None) };
        let (fd, next_id) = link.line();
        Ok(Some((estate.give(fd)?, next_id)))
    }

    /// Returns what this agent shows when it says hello.
    pub fn held(&self) -> Option<Hold> {
        *self.inner.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what this agent shows when it says hello, and says it.
    ///
    /// # Errors
    /// The guard cannot be reached, or serves another agent.
    pub async fn hold(&self, hold: Option<Hold>) -> Result<Status, GuardError> {
        *self.inner.hold.lock().unwrap_or_else(PoisonError::into_inner) = hold;
        self.ask(crate::guard::client::hello(hold), PROMPT).await
    }

    /// Returns the connection, made and greeted if need be.
    ///
    /// # Errors
    /// The guard cannot be reached, or serves another agent.
    async fn link(&self) -> Result<Link, GuardError> {
        let mut slot = self.inner.link.lock().await;
        if let Some(link) = slot.as_ref() {
            return Ok(link.clone());
        }
        let link = Link::connect(&self.inner.socket)?;
        let hold = *self.inner.hold.lock().unwrap_or_else(PoisonError::into_inner);
        let status = understood(link.ask(crate::guard::client::hello(hold), PROMPT).await?)?;
        self.remember(status);
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Asks the guard; a broken connection is made anew once.
    ///
    /// # Errors
    /// The guard cannot be reached, is silent, or refuses.
    pub async fn ask(&self, request: Request, limit: Duration) -> Result<Status, GuardError> {
        let line = self.clone();
        let answer = self.inner.home.spawn(async move { line.ask_at_home(request, limit).await }).await;
        answer.unwrap_or_else(|error| Err(GuardError::Broken(error.into())))
    }

    async fn ask_at_home(&self, request: Request, limit: Duration) -> Result<Status, GuardError> {
        let mut second = false;
        loop {
            let link = match self.link().await {
                Ok(link) => link,
                Err(error) => {
                    self.forget();
                    return Err(error);
                }
            };
            match link.ask(request.clone(), limit).await {
                Ok(status) => {
                    self.remember(status.clone());
                    return Ok(status);
                }
                Err(GuardError::Refused { refusal, status }) => {
                    self.remember((*status).clone());
                    // Displaced agents must not find their way back by reconnecting with an old hold.
                    let greet = matches!(refusal, Refusal::NoHello) && !second;
                    if !greet {
                        return Err(GuardError::Refused { refusal, status });
                    }
                    self.give_up(&link).await;
                }
                // A guard that was stopped for a while goes on with the connection that it has.
                Err(error @ GuardError::Silent(_)) => {
                    self.forget();
                    return Err(error);
                }
                Err(error) => {
                    self.give_up(&link).await;
                    if second {
                        self.forget();
                        return Err(error);
                    }
                }
            }
            second = true;
        }
    }

    /// Ends a connection that is of no use any more, for all who share it.
    async fn give_up(&self, link: &Link) {
        let mut slot = self.inner.link.lock().await;
        // Another asker may have made a new one meanwhile.
        slot.take_if(|current| current.is(link));
        link.cut();
    }

    /// Asks for the status; None where no guard answers.
    pub async fn status(&self) -> Option<Status> {
        match self.ask(Request::Status, PROMPT).await {
            Ok(status) => Some(status),
            Err(GuardError::Refused { status, .. }) => Some(*status),
            Err(_) => None,
        }
    }

    /// Returns what the guard said last; None where it cannot be reached.
    pub fn last(&self) -> Option<Status> {
        self.said().map(|(status, _)| status)
    }

    /// Returns what the guard said last if that is younger than `age`: it tells what changes without being asked.
    pub fn recent(&self, age: Duration) -> Option<Status> {
        self.said().filter(|(_, at)| clock::now().since(*at) < age).map(|(status, _)| status)
    }

    fn said(&self) -> Option<(Status, Tick)> {
        self.inner.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, status: Status) {
        let said = (status, clock::now());
        *self.inner.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }

    fn forget(&self) {
        *self.inner.status.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Listens for what the guard says by itself, for ever, and wakes the loop.
    pub async fn listen(self) {
        loop {
            if let Ok(link) = self.link().await {
                // Heard from before its word is lost: between two words asks may read the connection.
                let mut notices = link.notices();
                while let Ok(status) = notices.next().await {
                    self.remember(status);
                    self.inner.wake.notify_one();
                }
                self.give_up(&link).await;
                self.forget();
                self.inner.wake.notify_one();
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }
}
