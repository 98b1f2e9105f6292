//! One SSH connection with one exec on it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, Preferred};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::executor::client::{Ending, Streams};
use crate::sys::names;
use crate::transport::Unreachable;
use crate::transport::host_keys::{HostKeyError, HostKeys};
use crate::transport::keys::{Keyring, Offer};
use crate::transport::options::Target;

/// Most handshakes at a time with one address: an sshd drops connections at random above ten that are not logged in.
const HANDSHAKES_PER_ADDRESS: usize = 8;

/// Parts of the host's output that may wait for their reader before the connection does.
const PARTS_WAITING: usize = 64;

/// What the connections of a run share.
#[derive(Debug, Default)]
pub struct Shared {
    keyring: Keyring,
    knocking: Mutex<BTreeMap<SocketAddr, Arc<Semaphore>>>,
}

impl Shared {
    fn turnstile(&self, address: SocketAddr) -> Arc<Semaphore> {
        let mut knocking = self.knocking.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(HANDSHAKES_PER_ADDRESS));
        Arc::clone(knocking.entry(address).or_insert_with(new))
    }
}

/// Connects, logs in and runs `command`, which lasts as long as the connection.
///
/// # Errors
/// The host cannot be reached, is not believed, or does not let us in.
pub async fn exec(target: &Target, shared: &Shared, command: &str) -> Result<Streams, Unreachable> {
    let host_keys = HostKeys::read(&target.address, target.port, target.checking, &target.known_hosts)?;
    let addresses = names::resolve(&target.address, target.port).await?;
    let mut failure = None;
    for address in addresses {
        let turnstile = shared.turnstile(address);
        let Ok(_turn) = turnstile.acquire().await else { break };
        match tcp(address, target.connect_timeout).await {
            Ok(stream) => {
                return Box::pin(session(target, shared, host_keys, address, stream, command)).await;
            }
            // The first address is the one that a person would try; its failure is the one to tell.
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    Err(failure.unwrap_or_else(|| names::NameError::NotFound(target.address.clone()).into()))
}

async fn tcp(address: SocketAddr, patience: Duration) -> Result<TcpStream, Unreachable> {
    match tokio::time::timeout(patience, TcpStream::connect(address)).await {
        Err(_) => Err(Unreachable::Timeout { address, after: patience }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Unreachable::Refused { address })
        }
        Ok(Err(source)) => Err(Unreachable::Network { address, source }),
        Ok(Ok(stream)) => {
            // Nagle's algorithm would add 40 ms to each small message. Refused only by sockets that are already broken.
            stream.set_nodelay(true).ok();
            Ok(stream)
        }
    }
}

async fn session(
    target: &Target,
    shared: &Shared,
    host_keys: HostKeys,
    address: SocketAddr,
    stream: TcpStream,
    command: &str,
) -> Result<Streams, Unreachable> {
    let config = Arc::new(configuration(target, &host_keys));
    let verdict = Arc::new(Mutex::new(None));
    let judge = Judge { host_keys, verdict: Arc::clone(&verdict) };
    let protocol = |error: &russh::Error| Unreachable::Protocol { address, what: in_words(error) };
    let patience = target.connect_timeout;
    let handshake = tokio::time::timeout(patience, client::connect_stream(config, stream, judge)).await;
    let mut handle = match handshake {
        Err(_) => return Err(Unreachable::NoHandshake { address, after: patience }),
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => {
            let refused = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(refused.map_or_else(|| protocol(&error), Unreachable::HostKey));
        }
    };
    let login = tokio::time::timeout(patience * 3, log_in(&mut handle, target, shared, address)).await;
    login.map_err(|_| Unreachable::NoHandshake { address, after: patience * 3 })??;
    let channel = handle.channel_open_session().await.map_err(|error| protocol(&error))?;
    channel.exec(true, command).await.map_err(|error| protocol(&error))?;
    Ok(pump(handle, channel))
}

fn configuration(target: &Target, host_keys: &HostKeys) -> client::Config {
    let mut preferred = Preferred::default();
    // A host with several keys must show one that we know, if it has one.
    let known = host_keys.algorithms();
    let mut order = preferred.key.to_vec();
    order.sort_by_key(|algorithm| !known.iter().any(|known| same_kind(known, algorithm)));
    preferred.key = order.into();
    client::Config {
        preferred,
        nodelay: true,
        keepalive_interval: (!target.alive_interval.is_zero()).then_some(target.alive_interval),
        keepalive_max: target.alive_count_max,
        ..client::Config::default()
    }
}

fn same_kind(one: &Algorithm, other: &Algorithm) -> bool {
    match (one, other) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (one, other) => one == other,
    }
}

/// Believes or refuses the host's key; its reason is kept, since the library's error has no room for it.
struct Judge {
    host_keys: HostKeys,
    verdict: Arc<Mutex<Option<HostKeyError>>>,
}

impl client::Handler for Judge {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        match self.host_keys.judge(&shown.public_key()) {
            Ok(()) => Ok(true),
            Err(error) => {
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Ok(false)
            }
        }
    }
}

/// Tries keys, then the password.
async fn log_in(
    handle: &mut Handle<Judge>,
    target: &Target,
    shared: &Shared,
    address: SocketAddr,
) -> Result<(), Unreachable> {
    let user = &target.user;
    let mut tried = Vec::new();
    let mut accepted = String::new();
    for offer in shared.keyring.offers(target).await? {
        tried.push(offer.name());
        match try_key(handle, target, &offer).await {
            Ok(AuthResult::Success) => {
                shared.keyring.worked(user, offer.public());
                return Ok(());
            }
            Ok(AuthResult::Failure { remaining_methods, .. }) => accepted = listed(&remaining_methods),
            Err(what) => tracing::debug!(key = %offer.name(), what, "key not usable"),
        }
        if handle.is_closed() {
            return Err(refused(target, address, &tried, &accepted, true));
        }
    }
    if let Some(password) = &target.password {
        tried.push("the password".to_owned());
        let protocol = |error: russh::Error| Unreachable::Protocol { address, what: in_words(&error) };
        let mut result =
            handle.authenticate_password(user, password.reveal()).await.map_err(protocol)?.success();
        if !result && !handle.is_closed() {
            result = try_questions(handle, user, password.reveal()).await.map_err(protocol)?;
        }
        if result {
            return Ok(());
        }
    }
    if tried.is_empty() {
        tried.push("nothing: there is no key file, no agent and no password".to_owned());
    }
    Err(refused(target, address, &tried, &accepted, handle.is_closed()))
}

fn refused(
    target: &Target,
    address: SocketAddr,
    tried: &[String],
    accepted: &str,
    dropped: bool,
) -> Unreachable {
    Unreachable::Auth {
        user: target.user.clone(),
        address,
        tried: tried.join(", "),
        accepted: if accepted.is_empty() { "something else".to_owned() } else { accepted.to_owned() },
        dropped,
    }
}

fn listed(methods: &russh::MethodSet) -> String {
    let names: Vec<&str> = methods.iter().map(Into::into).collect();
    names.join(", ")
}

async fn try_key(handle: &mut Handle<Judge>, target: &Target, offer: &Offer) -> Result<AuthResult, String> {
    let hash: Option<HashAlg> = match offer.public().algorithm() {
        Algorithm::Rsa { .. } => match handle.best_supported_rsa_hash().await {
            Ok(Some(hash)) => hash,
            Ok(None) | Err(_) => Some(HashAlg::Sha256),
        },
        _ => None,
    };
    let user = target.user.as_str();
    match offer {
        Offer::File { key, .. } => {
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            handle.authenticate_publickey(user, key).await.map_err(|error| in_words(&error))
        }
        Offer::Agent { key, .. } => {
            let socket = target.agent.as_ref().ok_or("there is no agent")?;
            let mut agent = AgentClient::connect_uds(socket).await.map_err(|error| error.to_string())?;
            let tried = handle.authenticate_publickey_with(user, key.clone(), hash, &mut agent).await;
            tried.map_err(|error| error.to_string())
        }
    }
}

/// Answers every question that is not shown with the password, as PAM asks for it where passwords proper are off.
async fn try_questions(handle: &mut Handle<Judge>, user: &str, password: &str) -> Result<bool, russh::Error> {
    let mut answer = handle.authenticate_keyboard_interactive_start(user, None::<String>).await?;
    // A server that goes on asking has not taken the password.
    for _ in 0..4 {
        match answer {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let say = |echo: bool| if echo { String::new() } else { password.to_owned() };
                let responses = prompts.iter().map(|prompt| say(prompt.echo)).collect();
                answer = handle.authenticate_keyboard_interactive_respond(responses).await?;
            }
        }
    }
    Ok(false)
}

fn in_words(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => "the server closed the connection".to_owned(),
        russh::Error::KeepaliveTimeout => "the host has stopped answering".to_owned(),
        other => other.to_string(),
    }
}

/// Splits the channel into streams. The handle lives as long as they do: dropping it closes the connection.
fn pump(handle: Handle<Judge>, channel: Channel<client::Msg>) -> Streams {
    let (mut from_host, to_host) = channel.split();
    let stdin = to_host.make_writer();
    let (parts, waiting) = mpsc::channel(PARTS_WAITING);
    let ending = Ending::default();
    let told = ending.clone();
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = from_host.wait() => message,
                // Nobody reads any more: the session was closed from here.
                () = parts.closed() => None,
            };
            let Some(message) = message else { break };
            match message {
                ChannelMsg::Data { data } => {
                    // A reader that has gone is seen at the next turn.
                    parts.send(data).await.ok();
                }
                ChannelMsg::ExtendedData { data, .. } => told.stderr(&data),
                ChannelMsg::ExitStatus { exit_status } => {
                    told.ended(format!("it ended with exit status {exit_status}"));
                }
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    told.ended(format!("it was ended by signal {signal_name:?}"));
                }
                ChannelMsg::Failure => told.ended("the server does not allow running a command"),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        if handle.is_closed() {
            told.ended("the host or the network went away");
        }
        drop(parts);
        let said = handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
        if let Err(error) = said {
            tracing::trace!(error = %error, "the connection was closed already");
        }
    });
    Streams { stdin: Box::new(stdin), stdout: Box::new(Parts { waiting, rest: Bytes::new() }), ending }
}

/// The host's output as a stream of bytes.
struct Parts {
    waiting: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl AsyncRead for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match self.waiting.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(part)) => self.rest = part,
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}
