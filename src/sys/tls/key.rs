//! Private keys of PEM files, also those that a password encrypts.

use std::path::Path;

use base64::Engine;
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{TlsError, read};
use crate::sys::secret::Secret;

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

/// What the lines of an encrypted key begin with in the form that OpenSSL wrote before PKCS#8.
const TRADITIONAL: &str = "Proc-Type: 4,ENCRYPTED";

/// Reads the first private key of a file; the password is for one that is encrypted.
pub(super) fn private_key(
    path: &Path,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = Zeroizing::new(read(path)?);
    let text = String::from_utf8_lossy(&pem);
    let path = path.to_owned();
    if text.contains(TRADITIONAL) {
        return Err(TlsError::TraditionalKey { path });
    }
    let Some(encrypted) = encrypted(&text) else {
        return PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey { path });
    };
    let Some(password) = password.filter(|password| !password.reveal().is_empty()) else {
        return Err(TlsError::NoPassword { path });
    };
    let der = base64::engine::general_purpose::STANDARD.decode(encrypted).unwrap_or_default();
    let key = EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
        .and_then(|key| key.decrypt(password.reveal()))
        .map_err(|source| TlsError::Decrypt { path, source })?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

/// Returns what stands between the lines of an encrypted key, without its line breaks.
fn encrypted(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(BEGIN)?;
    let (body, _) = rest.split_once(END)?;
    Some(body.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, password: Option<&str>) -> Result<PrivateKeyDer<'static>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        crate::sys::files::replace(&path, text.as_bytes(), crate::sys::files::Attributes::default()).unwrap();
        let key = private_key(&path, password.map(Secret::new).as_ref());
        key.map_err(|error| crate::sys::chain(&error).replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn an_encrypted_key_is_the_one_that_was_encrypted() {
        let plain = key(include_str!("fixtures/self-signed-ca.pem"), Some("not needed")).unwrap();

        for text in [
            include_str!("fixtures/encrypted-ca.pem"),
            include_str!("fixtures/encrypted-des3.pem"),
            include_str!("fixtures/encrypted-scrypt.pem"),
        ] {
            assert_eq!(key(text, Some("open sesame")).unwrap().secret_der(), plain.secret_der());
        }
    }

    #[test]
    fn a_key_that_stays_shut_says_what_it_lacks() {
        let encrypted = include_str!("fixtures/encrypted-ca.pem");
        let told = |text: &str, password| key(text, password).unwrap_err();

        let wanted = "FILE holds an encrypted private key, and no password of it is configured";
        assert_eq!(told(encrypted, None), wanted);
        assert_eq!(told(encrypted, Some("")), wanted);
        let wrong = told(encrypted, Some("open barley"));
        assert!(
            wrong.starts_with("the configured password does not open the private key in FILE"),
            "{wrong}"
        );
        assert!(!wrong.contains("barley"), "{wrong}");
        let old = told(include_str!("fixtures/encrypted-traditional.pem"), Some("open sesame"));
        assert!(old.contains("openssl pkcs8 -topk8 -in FILE -out "), "{old}");
        assert_eq!(told("nothing", None), "FILE holds no private key in PEM form");
    }
}
