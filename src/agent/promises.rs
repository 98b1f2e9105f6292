//! What members promise each other while etcd is silent: this member's promise not to take the lock, on disk before it
//! is given, and the questions of a leader that asks for promises.
//!
//! Invariant: a promise and a transaction that takes the lock exclude each other (see [`Promises::begin_taking`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::view::Promise;
use crate::cluster::{Lsn, MemberName};
use crate::sys::children::boot_id;
use crate::sys::clock::{self, Tick};
use crate::sys::files::{self, Attributes, FileError};
use crate::sys::secret::Secret;
use crate::sys::{http, tls};

/// How long a member may take to answer a leader.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The word by which a member promises.
pub const ACCEPTED: &str = "Accepted";

/// The header that says for how many milliseconds a promise holds. Patroni's members lack it; theirs hold for a ttl.
pub const PROMISE: &str = "promise";

/// The header that says how far a member's WAL goes.
pub const LSN: &str = "lsn";

/// The file's content. Durable between versions: fields are only added, optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    /// Moments of another boot are counted on another clock.
    boot_id: String,
    /// None: an earlier process may have promised.
    leader: Option<String>,
    until_ms: u64,
}

#[derive(Debug, Default)]
struct Inner {
    promise: Option<Promise>,
    slots: BTreeMap<String, Lsn>,
    /// A transaction that takes the lock may be under way, or its outcome has not been read back.
    taking: bool,
}

/// This member's promise. Clones share it.
#[derive(Debug, Clone)]
pub struct Promises {
    path: Arc<PathBuf>,
    inner: Arc<Mutex<Inner>>,
}

/// Why a promise is not given.
#[derive(Debug, thiserror::Error)]
pub enum PromiseError {
    #[error("Running as a leader")]
    Leading,
    #[error("the promise cannot be written")]
    File(#[from] FileError),
}

/// Returns the path of the file beside the guard's.
pub fn path(state_path: &Path) -> PathBuf {
    state_path.with_extension("promise")
}

impl Promises {
    /// Reads what an earlier process has promised. Where nothing tells, it may have promised anything: this member
    /// keeps still for a whole `ttl`.
    pub fn load(path: PathBuf, ttl: Duration) -> Promises {
        let read = || -> Option<Written> {
            let written: Written = serde_json::from_slice(&files::read_if_there(&path).ok()??).ok()?;
            (written.boot_id == boot_id()).then_some(written)
        };
        let promise = match read() {
            Some(written) => Promise {
                leader: written.leader.and_then(|name| name.parse().ok()),
                until: Tick(written.until_ms),
            },
            None => {
                let promise = Promise { leader: None, until: clock::now() + ttl };
                if let Err(error) = save(&path, &promise) {
                    tracing::warn!(error = %crate::sys::chain(&error), "no promise can be written; none will be given");
                }
                promise
            }
        };
        let inner = Inner { promise: Some(promise), ..Inner::default() };
        Promises { path: Arc::new(path), inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the promise given last.
    pub fn current(&self) -> Option<Promise> {
        self.inner().promise.clone()
    }

    /// Returns the positions of slots that the leader told last, while its promise holds.
    pub fn slots(&self, now: Tick) -> BTreeMap<String, Lsn> {
        let inner = self.inner();
        let holds = inner.promise.as_ref().is_some_and(|promise| now < promise.until);
        if holds { inner.slots.clone() } else { BTreeMap::new() }
    }

    /// Promises `leader` not to take the lock for `ttl`. It is on disk when this returns.
    ///
    /// # Errors
    /// This member may just be taking the lock, or the file cannot be written.
    pub fn give(
        &self,
        leader: MemberName,
        slots: BTreeMap<String, Lsn>,
        ttl: Duration,
    ) -> Result<(), PromiseError> {
        let mut inner = self.inner();
        if inner.taking {
            return Err(PromiseError::Leading);
        }
        let promise = Promise { leader: Some(leader), until: clock::now() + ttl };
        save(&self.path, &promise)?;
        inner.promise = Some(promise);
        inner.slots = slots;
        Ok(())
    }

    /// This member leads, with etcd's word: whomever it has promised anything leads no more.
    pub fn release(&self) {
        let mut inner = self.inner();
        let now = clock::now();
        if let Some(promise) = inner.promise.clone().filter(|promise| now < promise.until) {
            let ended = Promise { until: now, ..promise };
            match save(&self.path, &ended) {
                Ok(()) => inner.promise = Some(ended),
                Err(error) => {
                    tracing::warn!(error = %crate::sys::chain(&error), "a promise that has ended stays written");
                }
            }
        }
    }

    /// Tells whether `me` is free to take the lock, and if so gives no promise until [`Promises::end_taking`].
    pub fn begin_taking(&self, me: &MemberName) -> bool {
        let mut inner = self.inner();
        let now = clock::now();
        let bound = inner
            .promise
            .as_ref()
            .is_some_and(|promise| now < promise.until && promise.leader.as_ref() != Some(me));
        inner.taking |= !bound;
        !bound
    }

    /// Etcd has been read since: whether this member leads is known.
    pub fn end_taking(&self) {
        self.inner().taking = false;
    }
}

fn save(path: &Path, promise: &Promise) -> Result<(), FileError> {
    let written = Written {
        boot_id: boot_id(),
        leader: promise.leader.as_ref().map(|name| name.as_str().to_owned()),
        until_ms: promise.until.0,
    };
    let text = serde_json::to_vec(&written).unwrap_or_default();
    files::replace(path, &text, Attributes::OWNER_ONLY)
}

/// What a leader asks with.
#[derive(Debug)]
pub struct Asker<'a> {
    pub name: &'a str,
    pub conn_url: &'a str,
    pub api_url: &'a str,
    pub user: Option<(&'a str, &'a Secret)>,
    pub tls: &'a tls::Client,
}

/// A round in which everybody has promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The shortest promise.
    pub lasts: Duration,
    /// How far each member's WAL goes, as far as it said.
    pub positions: BTreeMap<MemberName, Lsn>,
}

/// Asks the members at these addresses; None unless all of them promise. Who does not is asked once more. `ttl` is the
/// length of a promise that does not say its own.
pub async fn ask(
    members: &BTreeMap<MemberName, String>,
    slots: &BTreeMap<String, Lsn>,
    ttl: Duration,
    asker: &Asker<'_>,
) -> Option<Round> {
    let slots: Map<String, Value> = slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into())).collect();
    let body = serde_json::json!({
        "name": asker.name, "conn_url": asker.conn_url, "api_url": asker.api_url, "slots": slots,
    })
    .to_string();
    let questions = members.iter().map(async |(name, url)| {
        let answer = match ask_one(url, &body, asker).await {
            Some(answer) => Some(answer),
            None => ask_one(url, &body, asker).await,
        };
        (name, answer)
    });
    let mut round = Round { lasts: ttl, positions: BTreeMap::new() };
    let mut all = true;
    for (name, answer) in futures_util::future::join_all(questions).await {
        match answer {
            Some((lasts, lsn)) => {
                round.lasts = round.lasts.min(lasts.unwrap_or(ttl));
                round.positions.extend(lsn.map(|lsn| (name.clone(), lsn)));
            }
            None => {
                tracing::warn!(member = %name, "does not promise to leave the lock to me");
                all = false;
            }
        }
    }
    all.then_some(round)
}

async fn ask_one(url: &str, body: &str, asker: &Asker<'_>) -> Option<(Option<Duration>, Option<Lsn>)> {
    let url = format!("{}/failsafe", url.trim_end_matches('/').trim_end_matches("/patroni"));
    let request = http::Request {
        method: "POST",
        body: Some(body.to_owned()),
        user: asker.user,
        ..http::Request::get(&url, ASK_LIMIT).over(asker.tls)
    };
    let reply = http::send(&request).await.ok()?;
    let number = |name: &str| reply.header(name).and_then(|text| text.parse::<u64>().ok());
    (reply.status == 200 && reply.body == ACCEPTED)
        .then(|| (number(PROMISE).map(Duration::from_millis), number(LSN).map(Lsn)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(20);

    fn name(text: &str) -> MemberName {
        text.parse().unwrap()
    }

    #[test]
    fn whatever_an_earlier_process_promised_binds_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("agent.promise");
        let first = Promises::load(path.clone(), Duration::ZERO);
        assert!(first.begin_taking(&name("b")));
        first.end_taking();

        first.give(name("a"), BTreeMap::new(), TTL).unwrap();
        let next = Promises::load(path, Duration::ZERO);

        assert_eq!(next.current(), first.current());
        assert!(!next.begin_taking(&name("b")));
        assert!(next.begin_taking(&name("a")), "a promise to itself binds nobody");
    }

    #[test]
    fn without_a_trace_of_the_past_a_member_keeps_still_for_a_ttl() {
        let temp = tempfile::tempdir().unwrap();
        let fresh = Promises::load(temp.path().join("agent.promise"), TTL);

        assert_eq!(fresh.current().unwrap().leader, None);
        assert!(!fresh.begin_taking(&name("b")));

        fresh.release();
        assert!(fresh.begin_taking(&name("b")), "it leads, so nobody else does");
    }

    #[test]
    fn who_may_be_taking_the_lock_promises_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let promises = Promises::load(temp.path().join("agent.promise"), Duration::ZERO);

        assert!(promises.begin_taking(&name("b")));
        let refused = promises.give(name("a"), BTreeMap::new(), TTL).unwrap_err();
        promises.end_taking();

        assert_eq!(refused.to_string(), "Running as a leader");
        promises.give(name("a"), [("x".to_owned(), Lsn(7))].into(), TTL).unwrap();
        assert_eq!(promises.slots(clock::now()).len(), 1);
    }
}
