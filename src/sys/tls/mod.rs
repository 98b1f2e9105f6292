//! TLS for both ends of a connection, from PEM files. Every certificate is read when a [`Client`] or [`Server`] is made,
//! so making one anew is how a changed file comes into force.

mod key;
mod verify;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, RootCertStore};
use tokio::net::TcpStream;

use self::key::private_key;
use crate::sys::secret::Secret;

/// Where systems keep the authorities that everybody trusts.
const SYSTEM_ANCHORS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A client's side of a connection.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// A server's side of a connection.
pub type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} holds no certificate in PEM form")]
    NoCertificate { path: PathBuf },
    #[error("{path} holds no private key in PEM form")]
    NoKey { path: PathBuf },
    #[error("{path} holds an encrypted private key, and no password of it is configured")]
    NoPassword { path: PathBuf },
    #[error("the configured password does not open the private key in {path}")]
    Decrypt {
        path: PathBuf,
        #[source]
        source: pkcs8::Error,
    },
    #[error(
        "the private key in {path} is encrypted in OpenSSL's old form, which is not read here; write it anew: openssl pkcs8 -topk8 -in {path} -out NEW_FILE"
    )]
    TraditionalKey { path: PathBuf },
    #[error("no file with this system's authorities is found; name one")]
    NoAnchors,
    #[error("the certificates cannot be used")]
    Unusable(#[source] rustls::Error),
    #[error("the authorities for clients' certificates cannot be used")]
    Clients(#[source] rustls::server::VerifierBuilderError),
}

/// What a client checks of the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// That an authority vouches for it, and for this name.
    #[default]
    Name,
    /// That an authority vouches for it.
    Chain,
    Nothing,
}

/// What a client is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientFiles {
    /// The authorities; None: this system's.
    pub anchors: Option<PathBuf>,
    /// The certificate to show; its key may be in the same file.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Of a key that is encrypted.
    pub key_password: Option<Secret>,
    pub check: Check,
}

impl ClientFiles {
    /// Returns what the members of a cluster are asked with. `insecure` checks nothing; but whoever shows a certificate
    /// is in a cluster with an authority of its own, and then only names go unchecked.
    pub fn for_members(
        anchors: Option<&PathBuf>,
        certificate: Option<&PathBuf>,
        key: Option<&PathBuf>,
        insecure: bool,
    ) -> ClientFiles {
        let check = match (insecure, certificate, anchors) {
            (false, _, _) => Check::Name,
            (true, Some(_), Some(_)) => Check::Chain,
            (true, _, _) => Check::Nothing,
        };
        ClientFiles {
            anchors: anchors.cloned(),
            certificate: certificate.cloned(),
            key: key.cloned(),
            key_password: None,
            check,
        }
    }
}

/// Makes connections.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<rustls::ClientConfig>,
}

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read or holds something else.
    pub fn load(files: &ClientFiles) -> Result<Client, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let anchors = match (&files.anchors, files.check) {
            (_, Check::Nothing) => Vec::new(),
            (Some(path), _) => certificates(path)?,
            // A system without any trusts nobody, which harms only whoever meets TLS.
            (None, _) => system_anchors().map_or_else(|_| Ok(Vec::new()), |path| certificates(&path))?,
        };
        let verifier = verify::server(anchors, files.check, provider.clone())?;
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &files.certificate {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let key = private_key(files.key.as_ref().unwrap_or(path), files.key_password.as_ref())?;
                builder.with_client_auth_cert(certificates(path)?, key).map_err(TlsError::Unusable)?
            }
        };
        Ok(Client { config: Arc::new(config) })
    }

    /// Begins TLS on an open connection to `host`, a name or an address.
    ///
    /// # Errors
    /// The other side does not speak it, or its certificate is refused.
    pub async fn connect<S>(&self, host: &str, stream: S) -> std::io::Result<ClientStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?,
        };
        tokio_rustls::TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}

/// Whether a server asks for a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ask {
    #[default]
    Nobody,
    /// One that is shown must be good.
    Optional,
    Everybody,
}

/// What a server is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFiles {
    /// The certificate and what leads to its authority; the key may be in the same file.
    pub certificate: PathBuf,
    pub key: Option<PathBuf>,
    /// Of a key that is encrypted.
    pub key_password: Option<Secret>,
    /// The authorities of clients' certificates; None: this system's.
    pub anchors: Option<PathBuf>,
    pub ask: Ask,
    /// OpenSSL's names of the suites of TLS 1.2 to use, with colons; None: all that are safe.
    pub ciphers: Option<String>,
}

/// Accepts connections.
#[derive(Debug, Clone)]
pub struct Server {
    config: Arc<rustls::ServerConfig>,
}

impl Server {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read or holds something else.
    pub fn load(files: &ServerFiles) -> Result<Server, TlsError> {
        let mut provider = rustls::crypto::ring::default_provider();
        if let Some(ciphers) = &files.ciphers {
            choose_suites(&mut provider, ciphers);
        }
        let provider = Arc::new(provider);
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?;
        let builder = match files.ask {
            Ask::Nobody => builder.with_no_client_auth(),
            Ask::Optional | Ask::Everybody => {
                let anchors = match &files.anchors {
                    Some(path) => certificates(path)?,
                    None => certificates(&system_anchors()?)?,
                };
                builder.with_client_cert_verifier(verify::clients(
                    anchors,
                    files.ask == Ask::Everybody,
                    provider,
                )?)
            }
        };
        let key = private_key(files.key.as_ref().unwrap_or(&files.certificate), files.key_password.as_ref())?;
        let config =
            builder.with_single_cert(certificates(&files.certificate)?, key).map_err(TlsError::Unusable)?;
        Ok(Server { config: Arc::new(config) })
    }

    /// Begins TLS on an accepted connection.
    ///
    /// # Errors
    /// The other side does not speak it, or refuses this server's certificate or its own is refused.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<ServerStream> {
        tokio_rustls::TlsAcceptor::from(self.config.clone()).accept(stream).await
    }
}

/// Tells whether the client has shown a certificate; one that is shown has been checked.
pub fn has_client_certificate(stream: &ServerStream) -> bool {
    stream.get_ref().1.peer_certificates().is_some_and(|shown| !shown.is_empty())
}

/// Reads all certificates of a file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if found.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn system_anchors() -> Result<PathBuf, TlsError> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = SYSTEM_ANCHORS.iter().map(PathBuf::from);
    named.into_iter().chain(known).find(|path| path.exists()).ok_or(TlsError::NoAnchors)
}

/// Returns the PEM text of a file, or of this system's authorities.
///
/// # Errors
/// It cannot be read.
pub fn pem_text(path: Option<&Path>) -> Result<Vec<u8>, TlsError> {
    match path {
        Some(path) => read(path),
        None => read(&system_anchors()?),
    }
}

fn store(anchors: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(anchors.iter().cloned());
    store
}

/// Leaves of the suites of TLS 1.2 those that are named. Those of TLS 1.3 stay, as with OpenSSL. Words that name
/// groups of suites mean sets that are all weaker or the same, so a list without a known name changes nothing.
fn choose_suites(provider: &mut rustls::crypto::CryptoProvider, names: &str) {
    let names: Vec<&str> = names.split([':', ',', ' ']).collect();
    let wanted = |suite: CipherSuite| openssl_name(suite).is_some_and(|name| names.contains(&name));
    if provider.cipher_suites.iter().any(|suite| wanted(suite.suite())) {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted(suite.suite()));
    }
}

fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PAIR: &str = include_str!("fixtures/self-signed-ca.pem");
    const STRANGER: &str = include_str!("fixtures/stranger.pem");
    const EXPIRED: &str = include_str!("fixtures/expired-ca.pem");

    struct Bed {
        _folder: tempfile::TempDir,
        pair: PathBuf,
        stranger: PathBuf,
        expired: PathBuf,
    }

    fn bed() -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            crate::sys::files::replace(&path, text.as_bytes(), crate::sys::files::Attributes::default())
                .unwrap();
            path
        };
        let (pair, stranger, expired) =
            (put("pair.pem", PAIR), put("stranger.pem", STRANGER), put("expired.pem", EXPIRED));
        Bed { _folder: folder, pair, stranger, expired }
    }

    /// Sends one byte there and back; returns whether both sides took the other's certificate.
    async fn works(server: &ServerFiles, client: &ClientFiles) -> bool {
        let server = Server::load(server).unwrap();
        let client = Client::load(client).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut stream = server.accept(stream).await?;
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
            stream.flush().await
        });
        let asked = async {
            let mut stream = client.connect("127.0.0.1", TcpStream::connect(address).await?).await?;
            stream.write_u8(7).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let told = asked.await;
        serving.abort();
        told.is_ok_and(|byte| byte == 7)
    }

    fn server(certificate: &Path, anchors: Option<&Path>, ask: Ask) -> ServerFiles {
        ServerFiles {
            certificate: certificate.to_owned(),
            anchors: anchors.map(Path::to_owned),
            ask,
            ..ServerFiles::default()
        }
    }

    fn client(certificate: Option<&Path>, anchors: &Path, check: Check) -> ClientFiles {
        ClientFiles {
            anchors: Some(anchors.to_owned()),
            certificate: certificate.map(Path::to_owned),
            key: None,
            key_password: None,
            check,
        }
    }

    #[tokio::test]
    async fn an_authority_that_is_its_own_leaf_serves_as_everything() {
        let bed = bed();
        let everybody = server(&bed.pair, Some(&bed.pair), Ask::Everybody);

        assert!(works(&everybody, &client(Some(&bed.pair), &bed.pair, Check::Name)).await);
        assert!(!works(&everybody, &client(None, &bed.pair, Check::Name)).await);
        assert!(!works(&everybody, &client(Some(&bed.stranger), &bed.pair, Check::Name)).await);
        let optional = server(&bed.pair, Some(&bed.pair), Ask::Optional);
        assert!(works(&optional, &client(None, &bed.pair, Check::Name)).await);
    }

    #[tokio::test]
    async fn a_stranger_and_another_name_are_refused_where_they_are_checked() {
        let bed = bed();
        // The stranger is an authority of its own, for another name.
        let stranger = server(&bed.stranger, None, Ask::Nobody);

        assert!(!works(&stranger, &client(None, &bed.pair, Check::Chain)).await);
        assert!(!works(&stranger, &client(None, &bed.stranger, Check::Name)).await);
        assert!(works(&stranger, &client(None, &bed.stranger, Check::Chain)).await);
        assert!(works(&stranger, &client(None, &bed.pair, Check::Nothing)).await);
    }

    #[tokio::test]
    async fn an_anchor_as_leaf_has_dates_too() {
        let bed = bed();
        let expired = server(&bed.expired, None, Ask::Nobody);

        assert!(!works(&expired, &client(None, &bed.expired, Check::Chain)).await);
    }

    #[tokio::test]
    async fn suites_are_chosen_by_openssls_names() {
        let mut provider = rustls::crypto::ring::default_provider();
        let before = provider.cipher_suites.len();
        choose_suites(&mut provider, "HIGH:!aNULL");
        assert_eq!(provider.cipher_suites.len(), before);

        choose_suites(&mut provider, "ECDHE-RSA-AES128-GCM-SHA256");
        let old = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count();
        assert_eq!(old, 1);
    }

    #[test]
    fn what_is_missing_is_named() {
        let bed = bed();
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::File::create(&empty).unwrap();

        let none = Server::load(&server(&empty, None, Ask::Nobody)).unwrap_err();
        assert!(matches!(none, TlsError::NoKey { .. } | TlsError::NoCertificate { .. }), "{none}");
        let gone = Client::load(&client(None, Path::new("/nowhere.pem"), Check::Name)).unwrap_err();
        assert!(gone.to_string().contains("/nowhere.pem"), "{gone}");
        drop(bed);
    }
}
