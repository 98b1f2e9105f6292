//! Modules ask servers, too: the one place where a module waits for the network.

use std::future::Future;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::modules::{Fault, Seen, Thing};
use crate::sys::clock;
use crate::sys::http::{self, Reply, Request};
use crate::sys::secret::Secret;
use crate::sys::tls::{Client, ClientFiles};

/// One question to a server on the same network; a server that is busy with a failover answers within seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A server that a step before has restarted, or an agent that has taken a new binary, is back within this time.
pub(super) const RETURN_LIMIT: Duration = Duration::from_secs(15);
/// Where an agent listens, to say what is waited for when nobody answers.
const REST_PORT: u16 = 8008;
/// How often a condition is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs a future to its end on this thread.
///
/// # Errors
/// The operating system refused an epoll descriptor.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Fault::refused(format!("no network loop could be started: {error}")))?;
    Ok(runtime.block_on(future))
}

/// Looks until `look` gives something or the limit is over; returns the last look.
pub(super) fn until<T>(
    limit: Duration,
    mut look: impl FnMut() -> Result<T, Fault>,
    enough: impl Fn(&T) -> bool,
) -> Result<T, Fault> {
    let end = clock::now() + limit;
    loop {
        let found = look()?;
        if enough(&found) || clock::now() >= end {
            return Ok(found);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Reads what an address that begins with `https` is asked with.
///
/// # Errors
/// A file cannot be read, or holds something else.
pub(super) fn client(url: &str, files: &ClientFiles) -> Result<Option<Client>, Fault> {
    if !url.starts_with("https://") {
        return Ok(None);
    }
    Client::load(files).map(Some).map_err(|error| Fault::refused(crate::sys::chain(&error)))
}

/// Says what was seen of an agent: one that does not answer is not there yet.
pub(super) fn seen<T>(answer: Option<T>) -> Seen<T> {
    answer.map_or(Seen::Blocked(Thing::Port(REST_PORT)), Seen::Now)
}

/// An agent's REST API, as a module reaches it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    /// `http://HOST:PORT` or `https://HOST:PORT`, without a path.
    pub url: &'a str,
    pub user: Option<(&'a str, &'a Secret)>,
    pub files: &'a ClientFiles,
}

impl Rest<'_> {
    /// Asks with GET; `None` if nobody answers there.
    pub fn get(&self, path: &str) -> Result<Option<Reply>, Fault> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let tls = client(&url, self.files)?;
        let request = Request { tls: tls.as_ref(), ..Request::get(&url, ANSWER_LIMIT) };
        Ok(block_on(http::send(&request))?.ok())
    }

    /// Asks for a document with GET; `None` if nobody answers there, or with a refusal.
    ///
    /// # Errors
    /// Something else answers there.
    pub fn document<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Fault> {
        let Some(reply) = self.get(path)?.filter(Reply::is_success) else { return Ok(None) };
        serde_json::from_str(&reply.body).map(Some).map_err(|error| {
            Fault::refused(format!("{}{path} answers with something else: {error}", self.url))
        })
    }

    /// Sends a document and waits for the answer, at most for `limit`.
    ///
    /// # Errors
    /// Nobody answers; whether the server acted on it is then not known.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        body: &serde_json::Value,
        limit: Duration,
    ) -> Result<Reply, Fault> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let tls = client(&url, self.files)?;
        let body = Some(body.to_string());
        let request = Request { method, url: &url, body, user: self.user, tls: tls.as_ref(), limit };
        block_on(http::send(&request))?.map_err(|error| Fault::refused(crate::sys::chain(&error)))
    }
}
