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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::api::access::Asker;
use crate::agent::api::{Api, respond};
use crate::sys::tls;

/// A client has so long to begin: for the handshake, and for each request's head.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a failed accept, which is a lack of descriptors, the next one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process ends.
///
/// # Errors
/// An address cannot be bound.
pub async fn serve(api: Api, listen: &[SocketAddr]) -> std::io::Result<()> {
    let api = Arc::new(api);
    for address in listen {
        let listener = TcpListener::bind(address).await?;
        tokio::spawn(accept(listener, api.clone()));
    }
    Ok(())
}

async fn accept(listener: TcpListener, api: Arc<Api>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // An answer is small; nothing may wait for more.
                let _ = stream.set_nodelay(true);
                tokio::spawn(begin(stream, peer.ip(), api.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the REST API is not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection, under the certificates that count when it begins.
async fn begin(stream: TcpStream, address: IpAddr, api: Arc<Api>) {
    let tls = api.access.borrow().tls.clone();
    let Some(tls) = tls else {
        return talk(stream, Asker { address, certificate: false }, api).await;
    };
    match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = tls::has_client_certificate(&stream);
            talk(stream, Asker { address, certificate }, api).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}

async fn talk<S>(stream: S, asker: Asker, api: Arc<Api>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let api = api.clone();
        async move {
            let answer = api.answer(asker, request).await;
            let response: Response<_> = respond(&answer, &api.access.borrow().headers);
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(address = %asker.address, %error, "a connection to the REST API ended early");
    }
}
