//! The one HTTP client: short questions to the agents' REST API, each on a connection of its own, each with a limit.

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header;
use hyper_util::rt::TokioIo;

use crate::sys::names;
use crate::sys::secret::Secret;
use crate::sys::tls;

/// Most bytes of an answer that are read; the largest document of the API is the cluster's, some kilobytes.
const BODY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// A question.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, `POST`, `PATCH` …
    pub method: &'a str,
    /// `http://HOST:PORT/PATH`, or with `https`.
    pub url: &'a str,
    /// Sent as JSON.
    pub body: Option<String>,
    pub user: Option<(&'a str, &'a Secret)>,
    /// What `https` is spoken with; None: by this system's authorities.
    pub tls: Option<&'a tls::Client>,
    /// For all of it: name, connection, answer.
    pub limit: Duration,
}

impl<'a> Request<'a> {
    pub fn get(url: &'a str, limit: Duration) -> Request<'a> {
        Request { method: "GET", url, body: None, user: None, tls: None, limit }
    }

    pub fn over(self, tls: &'a tls::Client) -> Request<'a> {
        Request { tls: Some(tls), ..self }
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// Those that are text, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("`{0}` is not a URL like http://10.0.0.1:8008/patroni")]
    Url(String),
    #[error("cannot find {url}")]
    Name {
        url: String,
        #[source]
        source: names::NameError,
    },
    #[error("cannot connect to {url}")]
    Connect {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{url} does not speak TLS as it should")]
    Tls {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no TLS can be spoken")]
    NoTls(#[from] tls::TlsError),
    #[error("{url} broke off")]
    Broken {
        url: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{url} answered with more than {BODY_MAX_BYTES} bytes")]
    TooLong { url: String },
    #[error("{url} did not answer within {limit_ms} ms")]
    Silent { url: String, limit_ms: u64 },
}

/// Asks, and waits for the whole answer.
///
/// # Errors
/// There is none within the limit.
pub async fn send(request: &Request<'_>) -> Result<Reply, HttpError> {
    match tokio::time::timeout(request.limit, exchange(request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(HttpError::Silent {
            url: request.url.to_owned(),
            limit_ms: u64::try_from(request.limit.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}

async fn exchange(request: &Request<'_>) -> Result<Reply, HttpError> {
    let wrong = || HttpError::Url(request.url.to_owned());
    let uri: hyper::Uri = request.url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let (secure, port) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(wrong()),
    };
    let stream = connect(request.url, authority.host(), authority.port_u16().unwrap_or(port)).await?;
    if !secure {
        return talk(request, &uri, stream).await;
    }
    let system;
    let tls = match request.tls {
        Some(tls) => tls,
        None => {
            system = tls::Client::load(&tls::ClientFiles::default())?;
            &system
        }
    };
    let url = || request.url.to_owned();
    let stream = tls.connect(authority.host(), stream).await;
    talk(request, &uri, stream.map_err(|source| HttpError::Tls { url: url(), source })?).await
}

/// Sends the question over an open connection and reads the answer.
async fn talk<S>(request: &Request<'_>, uri: &hyper::Uri, stream: S) -> Result<Reply, HttpError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let wrong = || HttpError::Url(request.url.to_owned());
    let broken = |source| HttpError::Broken { url: request.url.to_owned(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let mut builder = hyper::Request::builder()
        .method(request.method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::CONNECTION, "close");
    if let Some((user, password)) = request.user {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", password.reveal()));
        builder = builder.header(header::AUTHORIZATION, format!("Basic {text}"));
    }
    if request.body.is_some() {
        builder = builder.header(header::CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(request.body.clone().unwrap_or_default()));
    let question = builder.body(body).map_err(|_| wrong())?;
    let answer = sender.send_request(question).await.map_err(broken)?;
    let status = answer.status().as_u16();
    let text = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    let headers = answer.headers().iter().filter_map(text).collect();
    let body = Limited::new(answer.into_body(), BODY_MAX_BYTES).collect().await;
    driver.abort();
    match body {
        Ok(body) => {
            Ok(Reply { status, headers, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
        }
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(source) => broken(*source),
            Err(_) => HttpError::TooLong { url: request.url.to_owned() },
        }),
    }
}

async fn connect(url: &str, host: &str, port: u16) -> Result<tokio::net::TcpStream, HttpError> {
    let addresses =
        names::resolve(host, port).await.map_err(|source| HttpError::Name { url: url.to_owned(), source })?;
    let mut last = std::io::Error::other("no address");
    for address in addresses {
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => {
                // A question is one small segment; nothing may wait for more.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(HttpError::Connect { url: url.to_owned(), source: last })
}
