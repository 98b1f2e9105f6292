//! What a server keeps of a password: the verifier of SCRAM-SHA-256, which tells whether a password is the one it was made of.
//!
//! Source: RFC 5802 and RFC 7677; PostgreSQL documentation, "pg_authid".

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pbkdf2::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::sys::secret::Secret;

const SCHEME: &str = "SCRAM-SHA-256$";

/// As Postgres makes verifiers. Source: src/include/common/scram-common.h.
const ITERATIONS: u32 = 4096;
const SALT_BYTES: usize = 16;

/// A count that no server writes; each iteration is work for whoever compares.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Tells whether a text is a verifier or an MD5 hash, as Postgres itself tells them from passwords.
pub fn is_hashed(text: &str) -> bool {
    let md5 = text.strip_prefix("md5").is_some_and(|hash| {
        hash.len() == 32 && hash.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    });
    md5 || Verifier::parse(text).is_some()
}

/// Returns what to store for a password; what is hashed already stays as it is.
pub fn stored_form(password: &Secret) -> Secret {
    if is_hashed(password.reveal()) {
        return password.clone();
    }
    let salt: [u8; SALT_BYTES] = rand::random();
    Secret::new(Verifier::of(password.reveal(), &salt, ITERATIONS).to_string())
}

/// Tells whether what a server has stored lets `password` in, and is no weaker than SCRAM-SHA-256 unless that is asked for.
pub fn is_of(stored: &str, password: &Secret) -> bool {
    if is_hashed(password.reveal()) {
        return stored == password.reveal();
    }
    Verifier::parse(stored)
        .is_some_and(|kept| kept == Verifier::of(password.reveal(), &kept.salt, kept.iterations))
}

#[derive(PartialEq, Eq)]
struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Verifier {
    fn of(password: &str, salt: &[u8], iterations: u32) -> Verifier {
        // What cannot be prepared is taken as it is, by Postgres too.
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut salted);
        let stored_key = Sha256::digest(keyed(&salted, b"Client Key")).to_vec();
        let server_key = keyed(&salted, b"Server Key");
        Verifier { iterations, salt: salt.to_vec(), stored_key, server_key }
    }

    fn parse(text: &str) -> Option<Verifier> {
        let (parameters, keys) = text.strip_prefix(SCHEME)?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let bytes = |text: &str| BASE64_STANDARD.decode(text).ok();
        let key = |text: &str| bytes(text).filter(|key| key.len() == 32);
        Some(Verifier {
            iterations: iterations.parse().ok().filter(|count| (1..=ITERATIONS_MAX).contains(count))?,
            salt: bytes(salt)?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Verifier { iterations, salt, stored_key, server_key } = self;
        let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        write!(f, "{SCHEME}{iterations}:{}${}:{}", text(salt), text(stored_key), text(server_key))
    }
}

fn keyed(key: &[u8; 32], text: &[u8]) -> Vec<u8> {
    // HMAC fills a short key up with zeros to the length of a block.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut hmac = Hmac::<Sha256>::new(&block.into());
    hmac.update(text);
    hmac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The salt of RFC 7677's example, and what Postgres stores for its password.
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_verifier_tells_its_password_from_others() {
        assert!(is_of(PENCIL, &Secret::new("pencil")));
        assert!(!is_of(PENCIL, &Secret::new("pencil ")));
        assert!(!is_of("", &Secret::new("")));
        assert_eq!(Verifier::parse(PENCIL).unwrap().to_string(), PENCIL);
    }

    #[test]
    fn each_verifier_has_a_salt_of_its_own_and_lets_its_password_in() {
        let (one, two) = (stored_form(&Secret::new("säcret")), stored_form(&Secret::new("säcret")));
        assert_ne!(one, two);
        assert!(is_of(one.reveal(), &Secret::new("säcret")) && is_of(two.reveal(), &Secret::new("säcret")));
    }

    #[test]
    fn a_password_that_is_given_as_a_hash_is_compared_as_a_text() {
        let md5 = Secret::new("md5d8578edf8458ce06fbc5bb76a58c5ca4");
        assert!(is_of(md5.reveal(), &md5) && is_of(PENCIL, &Secret::new(PENCIL)));
        assert_eq!(stored_form(&md5), md5);
        assert!(!is_of(md5.reveal(), &Secret::new("qwerty")), "MD5 is too weak to be left");
    }
}
