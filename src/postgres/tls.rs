//! TLS between this program and a server, as libpq's keywords ask for it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use crate::sys::secret::Secret;
use crate::sys::tls::{Check, Client, ClientFiles, ClientStream, TlsError};

/// What the keywords say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) mode: SslMode,
    /// A connection without TLS will do, should one with it fail.
    pub(super) plain_will_do: bool,
}

/// Reads `sslmode`. Without it TLS is tried first, as libpq does.
pub(super) fn wish(options: &[(String, String)]) -> Wish {
    let mode = value(options, "sslmode");
    Wish {
        mode: match mode {
            Some("disable" | "allow") => SslMode::Disable,
            None | Some("prefer") => SslMode::Prefer,
            Some(_) => SslMode::Require,
        },
        plain_will_do: matches!(mode, None | Some("prefer")),
    }
}

fn value<'a>(options: &'a [(String, String)], key: &str) -> Option<&'a str> {
    options.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

/// Begins TLS where the server offers it.
#[derive(Debug, Clone)]
pub(super) struct Connector(Client);

impl Connector {
    /// Reads the files that the keywords name.
    pub(super) fn new(options: &[(String, String)]) -> Result<Connector, TlsError> {
        let file = |key| value(options, key).filter(|path| !path.is_empty()).map(Into::into);
        let anchors: Option<std::path::PathBuf> = file("sslrootcert");
        let check = match value(options, "sslmode") {
            Some("verify-full") => Check::Name,
            Some("verify-ca") => Check::Chain,
            // A root certificate that is named is looked at, as libpq does.
            Some("require") if anchors.is_some() => Check::Chain,
            Some(_) | None => Check::Nothing,
        };
        let files = ClientFiles {
            anchors,
            certificate: file("sslcert"),
            key: file("sslkey"),
            key_password: value(options, "sslpassword").map(Secret::new),
            check,
        };
        Client::load(&files).map(Connector)
    }
}

impl<S> MakeTlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<ToHost, io::Error> {
        Ok(ToHost { client: self.0.clone(), host: domain.to_owned() })
    }
}

pub(super) struct ToHost {
    client: Client,
    host: String,
}

impl<S> TlsConnect<S> for ToHost
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream<S>, io::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.client.connect(&self.host, stream).await.map(Stream) })
    }
}

/// An encrypted connection.
pub(super) struct Stream<S>(ClientStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_libpqs() {
        let of = |mode: Option<&str>| {
            let options: Vec<_> =
                mode.map(|mode| ("sslmode".to_owned(), mode.to_owned())).into_iter().collect();
            let wish = wish(&options);
            (wish.mode, wish.plain_will_do)
        };

        assert_eq!(of(None), (SslMode::Prefer, true));
        assert_eq!(of(Some("disable")), (SslMode::Disable, false));
        assert_eq!(of(Some("prefer")), (SslMode::Prefer, true));
        assert_eq!(of(Some("require")), (SslMode::Require, false));
        assert_eq!(of(Some("verify-full")), (SslMode::Require, false));
    }

    #[test]
    fn a_root_certificate_that_is_gone_is_told() {
        let options = [("sslmode", "verify-ca"), ("sslrootcert", "/nowhere.pem")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));

        assert!(Connector::new(&options).unwrap_err().to_string().contains("/nowhere.pem"));
    }
}
