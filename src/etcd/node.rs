//! One endpoint: its connection and its keepalive stream, made when first needed and dropped when they fail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::client::{Config, TlsFiles};
use super::error::{Attempt, EtcdError};
use crate::sys::tls::{self, TlsError};
use crate::sys::{chain, names};

/// Longest wait for a TCP connection to one address.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A connection with a request or a watch on it is probed this often, if nothing comes over it.
///
/// A watch on a stopped or vanished endpoint hears nothing at all otherwise. An agent's lease is renewed over the same
/// connection more often than that, and its watch moves with the calls; at rest, a probe at that pace would be a fifth of
/// what the agent does. Connections that only wait to be needed are not probed: a call on one that is dead is hedged.
const PROBE: Duration = Duration::from_secs(30);

/// A probe unanswered for so long ends the connection.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

pub(super) type KeepAlive = (i64, etcd_client::LeaseKeeper, etcd_client::LeaseKeepAliveStream);

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Endpoint {
    /// Reads `host:port`, `[v6]:port` or a URL; without a port 2379 is meant.
    pub(super) fn parse(text: &str, default_scheme: &str) -> Endpoint {
        let (scheme, rest) = text.split_once("://").unwrap_or((default_scheme, text));
        let rest = rest.split('/').next().unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().unwrap_or(2379))
            }
            _ => (rest, 2379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Endpoint { scheme: scheme.to_owned(), host: host.to_owned(), port }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Endpoint { scheme: _, host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Invariant: no lock is held across a wait. A call that is not polled for a moment (it lost a race, or its caller waits
/// for something else) would stop every other call to this endpoint.
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    /// Where its connections live; None: with whom opens them.
    home: Option<Handle>,
    connection: Mutex<Option<etcd_client::Client>>,
    /// Taken out while a request is on it, so that a request given up never leaves its answer to the next one.
    keepalive: Mutex<Option<KeepAlive>>,
}

fn locked<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn new(endpoint: Endpoint, home: Option<Handle>) -> Node {
        Node { endpoint, home, connection: Mutex::new(None), keepalive: Mutex::new(None) }
    }

    /// Returns the open connection, or opens one. Calls that find none at the same time open one each; the last stays.
    pub(super) async fn connect(&self, config: &Config) -> Result<etcd_client::Client, Attempt> {
        let open = locked(&self.connection).clone();
        if let Some(client) = open {
            return Ok(client);
        }
        let client = self.open(config).await?;
        *locked(&self.connection) = Some(client.clone());
        Ok(client)
    }

    /// Forgets the connection, so that the next call resolves, connects and signs in again.
    pub(super) fn drop_connection(&self) {
        locked(&self.connection).take();
        locked(&self.keepalive).take();
    }

    pub(super) fn take_keepalive(&self, lease: i64) -> Option<KeepAlive> {
        locked(&self.keepalive).take().filter(|(id, _, _)| *id == lease)
    }

    pub(super) fn put_keepalive(&self, stream: KeepAlive) {
        *locked(&self.keepalive) = Some(stream);
    }

    async fn open(&self, config: &Config) -> Result<etcd_client::Client, Attempt> {
        let Endpoint { scheme, host, port } = &self.endpoint;
        let addresses =
            names::resolve(host, *port).await.map_err(|error| Attempt::NotSent(error.to_string()))?;
        let mut why = Attempt::NotSent(format!("{host} has no address"));
        for address in addresses {
            // A plain connection first: it fails at once with the system's own words, where the library's would wait.
            match tokio::time::timeout(CONNECT_LIMIT, tokio::net::TcpStream::connect(address)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    why = Attempt::NotSent(error.to_string());
                    continue;
                }
                Err(_) => {
                    why = Attempt::NotSent("no connection".to_owned());
                    continue;
                }
            }
            let mut options = etcd_client::ConnectOptions::new()
                .with_connect_timeout(CONNECT_LIMIT)
                .with_keep_alive(PROBE, PROBE_LIMIT)
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            if let Some(user) = &config.user {
                options = options.with_user(user, config.password.reveal());
            }
            if scheme == "https" {
                let tls = tls_of(&config.tls, host).map_err(|error| Attempt::NotSent(chain(&error)))?;
                options = options.with_tls(tls);
            }
            let url = format!("{scheme}://{address}");
            let opening = etcd_client::Client::connect([url], Some(options));
            let opened = match &self.home {
                Some(home) => {
                    home.spawn(opening).await.map_err(|error| Attempt::NotSent(error.to_string()))?
                }
                None => opening.await,
            };
            return match opened {
                Ok(client) => Ok(client),
                Err(error) => Err(match Attempt::from_library(&error, 0) {
                    // Signing in writes nothing, so the request itself was not sent.
                    Attempt::Silent(text) => Attempt::NotSent(text),
                    Attempt::NotSent(text) => Attempt::NotSent(text),
                    Attempt::Final(EtcdError::Refused(text)) => Attempt::Final(EtcdError::Access(text)),
                    Attempt::Final(error) => Attempt::Final(error),
                }),
            };
        }
        Err(why)
    }
}

/// Reads the certificates. The name that is checked is the configured one, whatever address it leads to.
fn tls_of(files: &TlsFiles, host: &str) -> Result<etcd_client::TlsOptions, TlsError> {
    let anchors = tls::pem_text(files.anchors.as_deref())?;
    let mut options = etcd_client::TlsOptions::new()
        .domain_name(host)
        .ca_certificate(etcd_client::Certificate::from_pem(anchors));
    if let Some(certificate) = &files.certificate {
        let key = files.key.as_ref().unwrap_or(certificate);
        let read = |path: &std::path::Path| tls::pem_text(Some(path));
        options = options.identity(etcd_client::Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_all_their_spellings() {
        let show = |text: &str| Endpoint::parse(text, "http").to_string();

        assert_eq!(show("db1"), "db1:2379");
        assert_eq!(show("db1:4001"), "db1:4001");
        assert_eq!(show("http://10.0.0.1:2379/"), "10.0.0.1:2379");
        assert_eq!(show("[fd00::1]:2379"), "[fd00::1]:2379");
        assert_eq!(show("fd00::1"), "[fd00::1]:2379");
    }
}
