//! Calls with limits: the preferred endpoint first, the others when it is silent.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::error::{Attempt, EtcdError};
use super::node::{Endpoint, Node};
use super::seen::{Before, Header, Seen};
use super::txn::{Compare, Txn, TxnOutcome, Write};
use crate::sys::clock::{self, Tick};
use crate::sys::secret::Secret;

/// After this long without an answer the request also goes to the next endpoint.
///
/// Measured: through a follower of a frozen etcd leader a request hangs for 7 s, while another endpoint answers.
const HEDGE_AFTER: Duration = Duration::from_millis(300);

/// The certificates of a connection to etcd. They are read with each new connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// The authority of etcd's certificates; None: this system's.
    pub anchors: Option<PathBuf>,
    /// This client's certificate; the key may be in the same file.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port` or URLs, in the order of the configuration.
    pub endpoints: Vec<String>,
    /// `http` or `https`, for endpoints that do not say.
    pub protocol: String,
    pub user: Option<String>,
    pub password: Secret,
    /// For endpoints with `https`.
    pub tls: TlsFiles,
    /// Longest time one call may take, all endpoints together.
    pub limit: Duration,
}

/// A key with its value and what fences are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kv {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// How often it was written since it was created.
    pub version: i64,
    /// 0: bound to none.
    pub lease: i64,
}

impl Kv {
    pub(super) fn from_library(kv: &etcd_client::KeyValue) -> Kv {
        Kv {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            value: String::from_utf8_lossy(kv.value()).into_owned(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
            version: kv.version(),
            lease: kv.lease(),
        }
    }
}

/// An answered, linearizable read: what is not in `kvs` does not exist at `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub kvs: Vec<Kv>,
    pub revision: i64,
}

/// A lease, with what its deadline is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    pub lease: i64,
    /// What etcd granted, which may be more than was asked for.
    pub ttl: Duration,
    /// Read before the request was handed over.
    pub sent: Tick,
}

/// An answered keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    pub ttl: Duration,
    /// Read before the request was handed over.
    pub sent: Tick,
}

/// etcd, through all its endpoints. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    nodes: Vec<Arc<Node>>,
    /// The number of the endpoint that calls begin with; told when it changes, so that a watch moves with the calls.
    preferred: watch::Sender<usize>,
    seen: Seen,
}

impl Client {
    /// Makes a client; connections are opened when they are needed, and live on the runtime in which it was made,
    /// whoever needs them.
    pub fn new(config: Config) -> Client {
        let home = Handle::try_current().ok();
        let nodes = config
            .endpoints
            .iter()
            .map(|text| Arc::new(Node::new(Endpoint::parse(text, &config.protocol), home.clone())))
            .collect();
        Client {
            inner: Arc::new(Inner { config, nodes, preferred: watch::Sender::new(0), seen: Seen::default() }),
        }
    }

    /// Pins the cluster: answers of another one are no answers. Without it the first answer pins.
    pub fn pin(&self, cluster_id: u64) {
        self.inner.seen.pin(cluster_id);
    }

    /// Returns the id of the cluster that answered first, 0 before any answer.
    pub fn cluster_id(&self) -> u64 {
        self.inner.seen.cluster_id()
    }

    /// Makes the next calls begin with another endpoint than the one preferred at present.
    fn prefer_next(&self) {
        let next = |index: usize| (index + 1) % self.inner.nodes.len().max(1);
        self.inner.preferred.send_if_modified(|index| {
            let before = std::mem::replace(index, next(*index));
            before != *index
        });
    }

    /// Reads one key, linearizably. `Ok(None)` says that it does not exist.
    ///
    /// # Errors
    /// etcd did not answer, or refuses.
    pub async fn get(&self, key: &str) -> Result<Option<Kv>, EtcdError> {
        let range = self.read(key, false).await?;
        Ok(range.kvs.into_iter().next())
    }

    /// Reads all keys that begin with `prefix`, linearizably, as of one revision.
    ///
    /// # Errors
    /// etcd did not answer, or refuses.
    pub async fn get_prefix(&self, prefix: &str) -> Result<Range, EtcdError> {
        self.read(prefix, true).await
    }

    async fn read(&self, key: &str, prefix: bool) -> Result<Range, EtcdError> {
        self.hedged(|mut client| async move {
            let options = prefix.then(|| etcd_client::GetOptions::new().with_prefix());
            let answer = client.get(key, options).await?;
            let header = Header::of(answer.header());
            let kvs = answer.kvs().iter().map(Kv::from_library).collect();
            Ok((Range { kvs, revision: header.map_or(0, |header| header.revision) }, header))
        })
        .await
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// etcd did not answer, so that whether it was applied is not known; or it refuses.
    pub async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, EtcdError> {
        self.once(0, |mut client| async move {
            let compares: Vec<_> = txn.compares.iter().map(Compare::to_library).collect();
            let writes: Vec<_> = txn.writes.iter().map(Write::to_library).collect();
            let answer = client.txn(etcd_client::Txn::new().when(compares).and_then(writes)).await?;
            let header = Header::of(answer.header());
            let revision = header.map_or(0, |header| header.revision);
            let outcome = if answer.succeeded() {
                TxnOutcome::Applied { revision }
            } else {
                TxnOutcome::Fenced { revision }
            };
            Ok((outcome, header))
        })
        .await
    }

    /// Writes one key without a condition; returns the revision.
    ///
    /// # Errors
    /// etcd did not answer, so that whether it is written is not known; or it refuses.
    pub async fn put(&self, key: &str, value: &str, lease: Option<i64>) -> Result<i64, EtcdError> {
        self.once(lease.unwrap_or(0), |mut client| async move {
            let options = lease.map(|lease| etcd_client::PutOptions::new().with_lease(lease));
            let answer = client.put(key, value, options).await?;
            let header = Header::of(answer.header());
            Ok((header.map_or(0, |header| header.revision), header))
        })
        .await
    }

    /// Deletes all keys that begin with `prefix`.
    ///
    /// # Errors
    /// etcd did not answer, so that whether they are deleted is not known; or it refuses.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<(), EtcdError> {
        self.once(0, |mut client| async move {
            let options = etcd_client::DeleteOptions::new().with_prefix();
            let answer = client.delete(prefix, Some(options)).await?;
            Ok(((), Header::of(answer.header())))
        })
        .await
    }

    /// Makes a lease.
    ///
    /// # Errors
    /// etcd did not answer; a lease made all the same ends by itself.
    pub async fn lease_grant(&self, ttl: Duration) -> Result<Granted, EtcdError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        self.hedged(|mut client| async move {
            let sent = clock::now();
            let answer = client.lease_grant(seconds, None).await?;
            let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0));
            Ok((Granted { lease: answer.id(), ttl, sent }, Header::identity(answer.header())))
        })
        .await
    }

    /// Ends a lease and deletes the keys bound to it.
    ///
    /// # Errors
    /// etcd did not answer, or the lease does not exist.
    pub async fn lease_revoke(&self, lease: i64) -> Result<(), EtcdError> {
        self.once(lease, |mut client| async move {
            let answer = client.lease_revoke(lease).await?;
            Ok(((), Header::identity(answer.header())))
        })
        .await
    }

    /// Renews a lease. Unanswered for 300 ms, the request goes to the next endpoint too, on its own open stream.
    ///
    /// # Errors
    /// etcd did not answer, or the lease does not exist.
    pub async fn keep_alive(&self, lease: i64, limit: Duration) -> Result<Renewal, EtcdError> {
        let config = &self.inner.config;
        self.race(limit, |node| async move {
            if let Some((id, mut keeper, mut answers)) = node.take_keepalive(lease) {
                let sent = clock::now();
                let asked = keeper.keep_alive().await;
                if asked.is_ok()
                    && let Ok(Some(answer)) = answers.message().await
                {
                    let renewal = renewal(&answer, sent, lease)?;
                    node.put_keepalive((id, keeper, answers));
                    return Ok((renewal, Header::identity(answer.header())));
                }
            }
            let mut client = node.connect(config).await?;
            let sent = clock::now();
            let opened = client.lease_keep_alive(lease).await;
            let (mut keeper, mut answers) = opened.map_err(|error| Attempt::from_library(&error, lease))?;
            // Opening asked once already, but hides the answer's time to live: ask again on the open stream.
            keeper.keep_alive().await.map_err(|error| Attempt::from_library(&error, lease))?;
            let answer = answers.message().await.map_err(|error| Attempt::from_library(&error, lease))?;
            let answer = answer.ok_or_else(|| Attempt::Silent("the keepalive stream ended".to_owned()))?;
            let renewal = renewal(&answer, sent, lease)?;
            let header = Header::identity(answer.header());
            node.put_keepalive((lease, keeper, answers));
            Ok((renewal, header))
        })
        .await
    }

    /// Opens connections to all endpoints, so that a hedged call does not have to.
    pub async fn warm_up(&self) {
        let inner = &self.inner;
        futures_util::future::join_all(inner.nodes.iter().map(|node| node.connect(&inner.config))).await;
    }

    /// Returns the number of the endpoint that calls begin with, and is told when that changes.
    pub(super) fn preferred(&self) -> watch::Receiver<usize> {
        self.inner.preferred.subscribe()
    }

    pub(super) fn endpoints(&self) -> usize {
        self.inner.nodes.len()
    }

    /// Runs a call at one endpoint, by number, with nothing checked but the limit.
    pub(super) async fn at<T, F>(
        &self,
        index: usize,
        call: impl FnOnce(etcd_client::Client) -> F,
    ) -> (String, Result<T, EtcdError>)
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let Some(node) = self.inner.nodes.get(index % self.inner.nodes.len().max(1)) else {
            return (String::new(), Err(EtcdError::NoEndpoints));
        };
        let name = node.endpoint.to_string();
        let limit = self.inner.config.limit;
        let attempt = async {
            let client = node.connect(&self.inner.config).await?;
            call(client).await.map_err(|error| Attempt::from_library(&error, 0))
        };
        let outcome = match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Attempt::Final(error))) => Err(error),
            Ok(Err(Attempt::NotSent(text) | Attempt::Silent(text))) => {
                node.drop_connection();
                Err(no_answer(limit, vec![format!("{name}: {text}")]))
            }
            Err(_) => {
                node.drop_connection();
                Err(no_answer(limit, vec![format!("{name}: silent")]))
            }
        };
        (name, outcome)
    }

    /// Runs a call that may be sent more than once without harm, hedged.
    pub(super) async fn hedged<T, F>(&self, call: impl Fn(etcd_client::Client) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<(T, Option<Header>), etcd_client::Error>>,
    {
        let config = &self.inner.config;
        let call = &call;
        self.race(config.limit, |node| async move {
            let client = node.connect(config).await?;
            call(client).await.map_err(|error| Attempt::from_library(&error, 0))
        })
        .await
    }

    /// Runs a call that must not be sent twice: the next endpoint is asked only if nothing went out.
    pub(super) async fn once<T, F>(
        &self,
        lease: i64,
        call: impl Fn(etcd_client::Client) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<(T, Option<Header>), etcd_client::Error>>,
    {
        let inner = &self.inner;
        let mut tried = Vec::new();
        let limit = inner.config.limit;
        for node in self.order() {
            let seen = inner.seen.now();
            let attempt = async {
                let client = node.connect(&inner.config).await?;
                call(client).await.map_err(|error| Attempt::from_library(&error, lease))
            };
            let why = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok((value, header))) => {
                    self.accept(node, header, seen)?;
                    return Ok(value);
                }
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::NotSent(text))) => {
                    tried.push(format!("{}: {text}", node.endpoint));
                    node.drop_connection();
                    continue;
                }
                Ok(Err(Attempt::Silent(text))) => text,
                Err(_) => "silent".to_owned(),
            };
            node.drop_connection();
            self.prefer_next();
            tried.push(format!("{}: {why}", node.endpoint));
            return Err(no_answer(limit, tried));
        }
        if tried.is_empty() { Err(EtcdError::NoEndpoints) } else { Err(no_answer(limit, tried)) }
    }

    /// Asks the endpoints one after the other, each 300 ms after the one before or as soon as that one failed; the
    /// first answer counts.
    async fn race<T, F>(&self, limit: Duration, attempt: impl Fn(Arc<Node>) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<(T, Option<Header>), Attempt>>,
    {
        let inner = &self.inner;
        let order: Vec<Arc<Node>> = self.order().cloned().collect();
        if order.is_empty() {
            return Err(EtcdError::NoEndpoints);
        }
        let mut waiting = order.into_iter();
        let mut running = FuturesUnordered::new();
        let mut tried: Vec<String> = Vec::new();
        let mut settled: Option<EtcdError> = None;
        let started = clock::now();
        loop {
            if let Some(node) = waiting.next() {
                let seen = inner.seen.now();
                let answer = attempt(node.clone());
                running.push(async move { (node, seen, answer.await) });
            }
            let left = limit.saturating_sub(clock::now().since(started));
            let patience = if waiting.len() > 0 { HEDGE_AFTER.min(left) } else { left };
            match tokio::time::timeout(patience, running.next()).await {
                Ok(Some((node, seen, Ok((value, header))))) => match self.accept(&node, header, seen) {
                    Ok(()) => {
                        self.prefer(&node);
                        return Ok(value);
                    }
                    Err(error) => settled = Some(error),
                },
                Ok(Some((_, _, Err(Attempt::Final(error))))) => return Err(error),
                Ok(Some((node, _, Err(Attempt::NotSent(text) | Attempt::Silent(text))))) => {
                    tried.push(format!("{}: {text}", node.endpoint));
                    node.drop_connection();
                }
                Ok(None) if waiting.len() == 0 => {
                    return Err(settled.unwrap_or_else(|| no_answer(limit, tried)));
                }
                Ok(None) => {}
                Err(_) if left <= patience => {
                    self.prefer_next();
                    tried.push("the others: silent".to_owned());
                    return Err(settled.unwrap_or_else(|| no_answer(limit, tried)));
                }
                Err(_) => {}
            }
        }
    }

    /// Checks an answer of `node` against what was seen before it was asked for, and remembers it.
    fn accept(&self, node: &Node, header: Option<Header>, before: Before) -> Result<(), EtcdError> {
        self.inner.seen.accept(header, before, || node.endpoint.to_string())
    }

    fn order(&self) -> impl Iterator<Item = &Arc<Node>> {
        let nodes = &self.inner.nodes;
        let first = *self.inner.preferred.borrow();
        nodes.iter().cycle().skip(first).take(nodes.len())
    }

    fn prefer(&self, node: &Arc<Node>) {
        if let Some(index) = self.inner.nodes.iter().position(|other| Arc::ptr_eq(other, node)) {
            let news = |preferred: &mut usize| std::mem::replace(preferred, index) != index;
            self.inner.preferred.send_if_modified(news);
        }
    }
}

fn no_answer(limit: Duration, tried: Vec<String>) -> EtcdError {
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    EtcdError::NoAnswer { limit_ms, tried: tried.join(", ") }
}

fn renewal(answer: &etcd_client::LeaseKeepAliveResponse, sent: Tick, lease: i64) -> Result<Renewal, Attempt> {
    match u64::try_from(answer.ttl()) {
        Ok(seconds) if seconds > 0 => Ok(Renewal { ttl: Duration::from_secs(seconds), sent }),
        _ => Err(Attempt::Final(EtcdError::LeaseNotFound(lease))),
    }
}
