//! The REST API on 8008: Patroni's paths, codes and documents. Questions are answered from memory.
//!
//! Start at [`serve`] and [`Api::answer`]. [`access`] lets in, [`health`] judges, [`documents`] shows, [`commands`]
//! acts.

pub mod access;
pub mod commands;
pub mod documents;
pub mod health;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::agent::api::access::{Access, Asker};
use crate::agent::api::commands::{Answer, Commands};
use crate::agent::api::documents::Moment;
use crate::agent::observe::probe::Probe;
use crate::agent::promises::{self, PromiseError, Promises};
use crate::agent::shown::{Shown, Window};
use crate::agent::upgrade;
use crate::agent::view::Running;
use crate::cluster::Lsn;
use crate::contract::requests::Kind;
use crate::sys::clock;

pub use server::{Door, serve};

/// Longest request body; the dynamic configuration is some kilobytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// How long `/patroni` and `/metrics` wait for a fresh position before they answer from memory.
const FRESH: Duration = Duration::from_millis(80);

/// What handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    pub scope: String,
    pub window: Window,
    pub commands: Commands,
    pub access: watch::Receiver<Arc<Access>>,
    pub probe: Probe,
    pub promises: Promises,
}

fn respond(answer: &Answer, extra: &[(HeaderName, HeaderValue)]) -> Response<Full<Bytes>> {
    let mut builder = Response::builder().status(answer.status).header(header::CONTENT_TYPE, answer.media);
    if answer.status == 401 {
        builder = builder.header(header::WWW_AUTHENTICATE, "Basic realm=\"keddah\"");
    }
    for (name, value) in &answer.headers {
        builder = builder.header(*name, value);
    }
    for (name, value) in extra {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(Bytes::from(answer.body.clone()))).unwrap_or_default()
}

/// Reads the query; of a repeated key the first value counts.
fn query(uri: &Uri) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for pair in uri.query().unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(decode(key)).or_insert_with(|| decode(value));
    }
    found
}

/// Undoes URL encoding; what is not well formed stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok())) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(hex)) if let Ok(byte) = u8::from_str_radix(hex, 16) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Api {
    /// Answers one request.
    async fn answer(&self, asker: Asker, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_end_matches('/');
        let path = if path.is_empty() { "/" } else { path };
        match parts.method {
            Method::GET | Method::HEAD | Method::OPTIONS => {
                self.get(path, &query(&parts.uri), parts.method == Method::GET).await
            }
            _ => match self.refusal(asker, &parts.headers).await {
                Some(refusal) => refusal,
                None => self.write(&parts.method, path, &parts.headers, body).await,
            },
        }
    }

    fn moment(&self, shown: &Shown) -> Moment {
        let ttl = shown.view.settings.ttl;
        let is_primary = self.window.is_primary(shown);
        let limit = if is_primary { ttl } else { ttl * 2 } + shown.view.settings.loop_wait;
        Moment {
            holds_lock: self.window.holds_lock(shown),
            is_primary,
            loop_alive: clock::now().since(shown.looked_at) <= limit,
        }
    }

    /// Returns the last look with positions of this moment, where the server tells them in time.
    async fn fresh(&self, shown: Arc<Shown>) -> Arc<Shown> {
        match tokio::time::timeout(FRESH, self.probe.refresh(&shown)).await {
            Ok(Some(fresh)) => Arc::new(fresh),
            Ok(None) | Err(_) => shown,
        }
    }

    async fn get(&self, path: &str, query: &BTreeMap<String, String>, whole: bool) -> Answer {
        let Some(shown) = self.window.look() else {
            return Answer::text(503, "the agent is starting");
        };
        match path {
            "/patroni" => {
                let shown = self.fresh(shown).await;
                Answer::json(200, &documents::signed(documents::patroni(&shown), &self.scope, &shown).into())
            }
            "/cluster" => self.cluster().await,
            "/history" => match self.commands.read().await {
                Ok(read) => Answer::json(200, &crate::contract::history::to_json(&read.history)),
                Err(error) => Answer::text(503, crate::sys::chain(&error)),
            },
            "/config" => self.commands.config().await,
            "/metrics" => {
                let shown = self.fresh(shown).await;
                let body = documents::metrics(&self.scope, &shown, self.moment(&shown));
                // Prometheus refuses a scrape that calls itself anything else.
                Answer { media: "text/plain", ..Answer::text(200, body) }
            }
            "/failsafe" if shown.view.settings.failsafe_mode => {
                Answer::json(200, &Value::Object(shown.read.failsafe.clone()))
            }
            "/failsafe" => Answer::text(502, "failsafe mode is off"),
            "/upgrade" => Answer::json(200, &upgrade::shown(&shown, self.window.gate.last().as_ref())),
            path => {
                let moment = self.moment(&shown);
                let status = health::status(path, query, &documents::health(&shown, moment));
                if !whole || matches!(path, "/liveness" | "/readiness") {
                    return Answer::text(status, "");
                }
                Answer::json(
                    status,
                    &documents::signed(documents::patroni(&shown), &self.scope, &shown).into(),
                )
            }
        }
    }

    async fn cluster(&self) -> Answer {
        match self.commands.read().await {
            Ok(read) => {
                let mut document = read.shown.to_json();
                document.insert("scope".to_owned(), self.scope.as_str().into());
                Answer::json(200, &Value::Object(document))
            }
            Err(error) => Answer::text(503, crate::sys::chain(&error)),
        }
    }

    /// `POST /failsafe`: a leader that etcd does not answer asks this member not to take the lock.
    fn promise(&self, body: &Map<String, Value>) -> Answer {
        let Some(shown) = self.window.look() else {
            return Answer::text(503, "the agent is starting");
        };
        if !shown.view.settings.failsafe_mode {
            return Answer::text(502, "failsafe mode is off");
        }
        let leader = body.get("name").and_then(Value::as_str).and_then(|name| name.parse().ok());
        let Some(leader) = leader else {
            return Answer::text(400, "`name` must be that of the leader");
        };
        let leads = shown.leader() == Some(&shown.view.me);
        let replica = match shown.running() {
            Some(Running::Primary(_)) => return Answer::text(500, PromiseError::Leading.to_string()),
            _ if leads => return Answer::text(500, PromiseError::Leading.to_string()),
            Some(Running::Replica(facts)) => Some(facts),
            None => None,
        };
        let slots = body.get("slots").and_then(Value::as_object).into_iter().flatten();
        let slots = slots.filter_map(|(name, lsn)| Some((name.clone(), Lsn(lsn.as_u64()?)))).collect();
        let ttl = shown.view.settings.ttl;
        if let Err(error) = self.promises.give(leader, slots, ttl) {
            return Answer::text(500, error.to_string());
        }
        let mut headers = vec![(promises::PROMISE, ttl.as_millis().to_string())];
        headers.extend(replica.map(|facts| (promises::LSN, facts.lsn().0.to_string())));
        Answer { headers, ..Answer::text(200, promises::ACCEPTED) }
    }

    async fn refusal(&self, asker: Asker, headers: &HeaderMap) -> Option<Answer> {
        let access = self.access.borrow().clone();
        let shown = self.window.look();
        let nobody = BTreeMap::new();
        let members = shown.as_ref().map_or(&nobody, |shown| &shown.read.documents);
        access.refusal(asker, headers, members).await
    }

    async fn write(&self, method: &Method, path: &str, headers: &HeaderMap, body: Incoming) -> Answer {
        let has_length = headers.contains_key(header::CONTENT_LENGTH);
        let Ok(bytes) = Limited::new(body, BODY_MAX_BYTES).collect().await.map(|body| body.to_bytes()) else {
            return Answer::text(400, "the request cannot be read");
        };
        let optional = matches!(path, "/restart" | "/reload" | "/reinitialize" | "/upgrade");
        let body: Map<String, Value> = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) if optional || !map.is_empty() => map,
            _ if optional && bytes.is_empty() => Map::new(),
            // A body says nothing here.
            _ if *method == Method::DELETE || path == "/reload" => Map::new(),
            _ if !has_length && bytes.is_empty() => return Answer::text(411, "Length Required"),
            _ => return Answer::text(400, "the body must be a JSON object"),
        };
        let commands = &self.commands;
        match (method, path) {
            (&Method::PATCH, "/config") => commands.patch_config(&body).await,
            (&Method::PUT, "/config") => commands.put_config(&body).await,
            (&Method::POST, "/failsafe") => self.promise(&body),
            (&Method::POST, "/upgrade") => commands.upgrade().await,
            (&Method::POST, "/reload") => commands.reload().await,
            (&Method::POST, "/switchover") => commands.failover(Kind::Switchover, &body).await,
            (&Method::POST, "/failover") => commands.failover(Kind::Failover, &body).await,
            (&Method::DELETE, "/switchover") => commands.cancel_switchover().await,
            (&Method::POST, "/restart") => {
                let shown = self.window.look();
                commands.restart(&body, shown.as_deref()).await
            }
            (&Method::DELETE, "/restart") => commands.cancel_restart().await,
            (&Method::POST, "/reinitialize") => {
                let Some(shown) = self.window.look() else {
                    return Answer::text(503, "the agent is starting");
                };
                commands.reinitialize(&body, &shown).await
            }
            (_, path) => Answer::text(501, format!("Unsupported method or path ({method} {path})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let uri: Uri = "/replica?lag=1%20MB&tag_dc=a+b&bad=%zz".parse().unwrap();

        let found = query(&uri);

        assert_eq!(found.get("lag").map(String::as_str), Some("1 MB"));
        assert_eq!(found.get("tag_dc").map(String::as_str), Some("a b"));
        assert_eq!(found.get("bad").map(String::as_str), Some("%zz"));
    }
}
