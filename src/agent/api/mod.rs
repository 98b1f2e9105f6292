//! The REST API on 8008: Patroni's paths, codes and documents. Questions are answered from memory.
//!
//! Start at [`serve`]. [`health`] judges, [`documents`] shows, [`commands`] acts.

pub mod commands;
pub mod documents;
pub mod health;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, Response, Uri, header};
use base64::Engine;
use serde_json::{Map, Value};

use crate::agent::api::commands::{Answer, Commands};
use crate::agent::api::documents::Moment;
use crate::agent::observe::postgres::Probe;
use crate::agent::shown::{Shown, Window};
use crate::contract::config::Credentials;
use crate::contract::requests::Kind;
use crate::sys::clock;

/// Longest request body; the dynamic configuration is some kilobytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// How long `/patroni` waits for a fresh position before it answers from memory.
const FRESH: Duration = Duration::from_millis(80);

/// What handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    pub scope: String,
    pub window: Window,
    pub commands: Commands,
    pub authentication: Option<Credentials>,
    pub probe: Probe,
}

/// Serves until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(api: Api, listen: &[SocketAddr]) -> std::io::Result<()> {
    let app = Router::new().fallback(handle).with_state(Arc::new(api));
    for address in listen {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let app = app.clone();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the REST API ended");
            }
        });
    }
    Ok(())
}

async fn handle(State(api): State<Arc<Api>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    let answer = match parts.method {
        Method::GET | Method::HEAD | Method::OPTIONS => {
            api.get(path, &query(&parts.uri), parts.method == Method::GET).await
        }
        _ => match api.refusal(&parts.headers) {
            Some(refusal) => refusal,
            None => api.write(&parts.method, path, &parts.headers, body).await,
        },
    };
    respond(&answer, parts.method == Method::GET)
}

fn respond(answer: &Answer, _get: bool) -> Response<Body> {
    let kind = if answer.json { "application/json" } else { "text/html" };
    let mut builder = Response::builder().status(answer.status).header(header::CONTENT_TYPE, kind);
    if answer.status == 401 {
        builder = builder.header(header::WWW_AUTHENTICATE, "Basic realm=\"keddah\"");
    }
    builder.body(Body::from(answer.body.clone())).unwrap_or_default()
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

    async fn get(&self, path: &str, query: &BTreeMap<String, String>, whole: bool) -> Answer {
        let Some(shown) = self.window.look() else {
            return Answer::text(503, "the agent is starting");
        };
        match path {
            "/patroni" => {
                let fresh = tokio::time::timeout(FRESH, self.probe.refresh(&shown)).await;
                let shown = match fresh {
                    Ok(Some(fresh)) => Arc::new(fresh),
                    Ok(None) | Err(_) => shown,
                };
                Answer::json(200, documents::signed(documents::patroni(&shown), &self.scope, &shown).into())
            }
            "/cluster" => self.cluster().await,
            "/history" => match self.commands.read().await {
                Ok(read) => {
                    Answer { status: 200, body: crate::contract::history::to_text(&read.history), json: true }
                }
                Err(error) => Answer::text(503, crate::sys::chain(&error)),
            },
            "/config" => self.commands.config().await,
            "/metrics" => Answer::text(200, documents::metrics(&self.scope, &shown, self.moment(&shown))),
            "/failsafe" => Answer::text(502, "failsafe mode is off"),
            path => {
                let moment = self.moment(&shown);
                let status = health::status(path, query, &documents::health(&shown, moment));
                if !whole || matches!(path, "/liveness" | "/readiness") {
                    return Answer::text(status, "");
                }
                Answer::json(
                    status,
                    documents::signed(documents::patroni(&shown), &self.scope, &shown).into(),
                )
            }
        }
    }

    async fn cluster(&self) -> Answer {
        match self.commands.read().await {
            Ok(read) => {
                let mut document = read.shown.to_json();
                document.insert("scope".to_owned(), self.scope.as_str().into());
                Answer::json(200, Value::Object(document))
            }
            Err(error) => Answer::text(503, crate::sys::chain(&error)),
        }
    }

    /// Returns the refusal of a request that may not change anything.
    fn refusal(&self, headers: &HeaderMap) -> Option<Answer> {
        let credentials = self.authentication.as_ref()?;
        let password = credentials.password.as_ref()?;
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|text| text.strip_prefix("Basic "));
        let given = given.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let wanted = format!("{}:{}", credentials.username, password.reveal());
        match given {
            Some(given) if same(&given, wanted.as_bytes()) => None,
            Some(_) => Some(Answer::text(401, "not authenticated")),
            None => Some(Answer::text(401, "no auth header received")),
        }
    }

    async fn write(&self, method: &Method, path: &str, headers: &HeaderMap, body: Body) -> Answer {
        let has_length = headers.contains_key(header::CONTENT_LENGTH);
        let Ok(bytes) = axum::body::to_bytes(body, BODY_MAX_BYTES).await else {
            return Answer::text(400, "the request cannot be read");
        };
        let optional = matches!(path, "/restart" | "/reload" | "/reinitialize");
        let body: Map<String, Value> = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) if optional || !map.is_empty() => map,
            _ if optional && bytes.is_empty() => Map::new(),
            _ if *method == Method::DELETE => Map::new(),
            _ if !has_length && bytes.is_empty() => return Answer::text(411, "Length Required"),
            _ => return Answer::text(400, "the body must be a JSON object"),
        };
        let commands = &self.commands;
        match (method, path) {
            (&Method::PATCH, "/config") => commands.patch_config(&body).await,
            (&Method::PUT, "/config") => commands.put_config(&body).await,
            (&Method::POST, "/reload") => commands.reload().await,
            (&Method::POST, "/switchover") => commands.failover(Kind::Switchover, &body).await,
            (&Method::POST, "/failover") => commands.failover(Kind::Failover, &body).await,
            (&Method::DELETE, "/switchover") => commands.cancel_switchover().await,
            (&Method::POST, "/restart") => {
                let shown = self.window.look();
                let version =
                    shown.and_then(|shown| shown.view.postgres.version).map_or(0, |version| version.0);
                commands.restart(&body, version).await
            }
            (&Method::DELETE, "/restart") => Answer::text(404, "no restarts are scheduled"),
            (&Method::POST, "/reinitialize") => {
                let Some(shown) = self.window.look() else {
                    return Answer::text(503, "the agent is starting");
                };
                let is_leader = shown.leader() == Some(&shown.view.me);
                commands.reinitialize(&body, is_leader, shown.leader().is_some()).await
            }
            (_, path) => Answer::text(501, format!("Unsupported method or path ({method} {path})")),
        }
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
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
