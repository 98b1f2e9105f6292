//! The listening side: connections, TLS, and HTTP around [`Api::answer`].

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::Backlog;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::agent::api::access::Asker;
use crate::agent::api::{Api, respond};
use crate::sys::tls;

/// A client has so long to begin: for the handshake, and for each request's head.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a failed accept, which is a lack of descriptors, the next one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests that are being answered have so long to end before the door's owner goes on without them.
const SHUT_LIMIT: Duration = Duration::from_millis(500);

/// The listening sockets. Shut, they keep whoever comes waiting, and let go of whom they serve.
#[derive(Debug)]
pub struct Door {
    listeners: Vec<Arc<TcpListener>>,
    shut: watch::Sender<bool>,
}

impl Door {
    pub fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.listeners.iter().map(AsRef::as_ref)
    }

    /// Lets nobody else in, and waits for those who are in to be served.
    pub async fn shut(&self) {
        self.shut.send_replace(true);
        let empty = async {
            // Each listener looks at the door, once more while it may let somebody in, and so does each open connection.
            while self.shut.receiver_count() > self.listeners.len() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Who takes longer is cut off.
        let _late = tokio::time::timeout(SHUT_LIMIT, empty).await;
    }

    pub fn open(&self) {
        self.shut.send_replace(false);
    }
}

/// Serves until the process ends, through listeners that were handed over where they are of these addresses. `queued` is
/// how many clients may wait to be let in.
///
/// # Errors
/// An address cannot be bound.
pub async fn serve(
    api: Api,
    addresses: &[SocketAddr],
    queued: Option<u16>,
    mut handed: Vec<(SocketAddr, std::net::TcpListener)>,
) -> std::io::Result<Door> {
    let api = Arc::new(api);
    let (shut, door) = watch::channel(false);
    let mut kept = Vec::new();
    for address in addresses {
        let at = handed.iter().position(|(known, _)| known == address);
        kept.push((*address, at.map(|at| handed.swap_remove(at).1)));
    }
    // What is not listened at any more is closed before a place is taken that overlaps it.
    drop(handed);
    let mut listeners = Vec::new();
    for (address, handed) in kept {
        let taken_over = handed.is_some();
        let listener = match handed {
            Some(listener) => TcpListener::from_std(listener)?,
            None => TcpListener::bind(address).await?,
        };
        queue(&listener, queued)?;
        let listener = Arc::new(listener);
        tokio::spawn(accept(listener.clone(), api.clone(), door.clone(), taken_over));
        listeners.push(listener);
    }
    Ok(Door { listeners, shut })
}

/// Sets how many clients may wait at a socket that listens already; Linux lets one more wait.
fn queue(listener: &TcpListener, queued: Option<u16>) -> std::io::Result<()> {
    if let Some(queued) = queued {
        nix::sys::socket::listen(listener, Backlog::new(i32::from(queued))?)?;
    }
    Ok(())
}

async fn accept(
    listener: Arc<TcpListener>,
    api: Arc<Api>,
    mut door: watch::Receiver<bool>,
    taken_over: bool,
) {
    if taken_over {
        // Whoever asked the program before had an answer; the first look makes one, and is not far.
        let mut shown = api.window.shown.clone();
        let _ended = shown.wait_for(Option::is_some).await.map(|_| ());
    }
    loop {
        if door.wait_for(|shut| !shut).await.is_err() {
            return;
        }
        let lets_in = door.clone();
        if *lets_in.borrow() {
            continue;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = door.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match accepted {
            Ok((stream, peer)) => {
                // An answer is small; nothing may wait for more.
                let _ = stream.set_nodelay(true);
                tokio::spawn(begin(stream, peer.ip(), api.clone(), lets_in));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the REST API is not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection, under the certificates that count when it begins.
async fn begin(stream: TcpStream, address: IpAddr, api: Arc<Api>, door: watch::Receiver<bool>) {
    let tls = api.access.borrow().tls.clone();
    let Some(tls) = tls else {
        return talk(stream, Asker { address, certificate: false }, api, door).await;
    };
    match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = tls::has_client_certificate(&stream);
            talk(stream, Asker { address, certificate }, api, door).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}

async fn is_shut(door: &mut watch::Receiver<bool>) {
    // A door without an owner is that of an agent that ends.
    let _ended = door.wait_for(|shut| *shut).await.map(|_| ());
}

async fn talk<S>(stream: S, asker: Asker, api: Arc<Api>, mut door: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begun = Arc::new(Notify::new());
    let first = begun.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        begun.notify_one();
        let api = api.clone();
        async move {
            let answer = api.answer(asker, request).await;
            let response: Response<_> = respond(&answer, &api.access.borrow().headers);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        // A connection that is let go before its first request has come would be closed without an answer.
        () = async { is_shut(&mut door).await; first.notified().await } => {
            // The request that is there is answered; another one is not waited for.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(address = %asker.address, %error, "a connection to the REST API ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_wait_in_a_queue_of_the_configured_size() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        queue(&listener, Some(1)).unwrap();
        let address = listener.local_addr().unwrap();

        let mut waiting = Vec::new();
        let refused = loop {
            let begun = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await;
            match begun {
                Ok(stream) => waiting.push(stream.unwrap()),
                Err(elapsed) => break elapsed,
            }
        };
        assert_eq!(waiting.len(), 2, "{refused}");

        queue(&listener, None).unwrap();
        assert!(queue(&listener, Some(u16::MAX)).is_err());
    }
}
