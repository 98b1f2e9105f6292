//! The one rule beyond the default verifier's: a leaf that is, byte for byte, a configured anchor is accepted.
//!
//! The default refuses an authority as a leaf, and a self-signed certificate that marks itself as one is what many
//! clusters use as everything. Such a refusal comes after the dates were checked, and only that refusal is lifted.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{Check, TlsError, store};

/// Returns what checks a server's certificate.
pub(super) fn server(
    anchors: Vec<CertificateDer<'static>>,
    check: Check,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let algorithms = provider.signature_verification_algorithms;
    if check == Check::Nothing {
        return Ok(Arc::new(Always { verdict: Ok(()), algorithms }));
    }
    // The default verifier cannot be made of nothing.
    if anchors.is_empty() {
        return Ok(Arc::new(Always { verdict: Err(CertificateError::UnknownIssuer), algorithms }));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store(&anchors)), provider)
        .build()
        .map_err(TlsError::Clients)?;
    Ok(Arc::new(Servers { inner, anchors, check }))
}

/// Returns what checks clients' certificates.
pub(super) fn clients(
    anchors: Vec<CertificateDer<'static>>,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store(&anchors)), provider);
    let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
    Ok(Arc::new(Clients { inner: builder.build().map_err(TlsError::Clients)?, anchors }))
}

/// Tells whether `refusal` is lifted for `leaf`.
fn is_anchor_as_leaf(refusal: &Error, leaf: &CertificateDer<'_>, anchors: &[CertificateDer<'_>]) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(why)) = refusal else { return false };
    matches!(why.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
        && anchors.contains(leaf)
}

#[derive(Debug)]
struct Servers {
    inner: Arc<WebPkiServerVerifier>,
    anchors: Vec<CertificateDer<'static>>,
    check: Check,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.inner.verify_server_cert(leaf, chain, name, ocsp, now);
        match verdict {
            Ok(_) => verdict,
            // The name is looked at last: the chain and the dates are good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Chain => Ok(ServerCertVerified::assertion()),
            Err(refusal) if is_anchor_as_leaf(&refusal, leaf, &self.anchors) => {
                if self.check == Check::Name {
                    rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    anchors: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.inner.verify_client_cert(leaf, chain, now) {
            Err(refusal) if is_anchor_as_leaf(&refusal, leaf, &self.anchors) => {
                Ok(ClientCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate, as somebody has asked for, or none, where nobody is trusted; that its owner has the key is
/// checked all the same.
#[derive(Debug)]
struct Always {
    verdict: Result<(), CertificateError>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Always {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verdict.clone().map(|()| ServerCertVerified::assertion()).map_err(Error::InvalidCertificate)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_authorities_trusts_nobody_and_goes_on() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let stranger = CertificateDer::from(vec![1, 2, 3]);
        let name = ServerName::try_from("db1").unwrap();

        let verifier = server(Vec::new(), Check::Name, provider).unwrap();
        let verdict = verifier.verify_server_cert(&stranger, &[], &name, &[], UnixTime::now());

        assert_eq!(verdict.unwrap_err(), Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
}
