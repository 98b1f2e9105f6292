//! Who may ask for what: addresses, clients' certificates, passwords; and what each answer carries. Read from the
//! configuration, again at each reload.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::agent::api::commands::Answer;
use crate::cluster::MemberName;
use crate::contract::config::{Credentials, RestSection, ServerTokens, VerifyClient};
use crate::contract::member::{MemberDocument, SPOKEN_VERSION};
use crate::sys::names;
use crate::sys::tls::{self, TlsError};

/// What of the `restapi` section requests are judged by.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// None: plain HTTP.
    pub tls: Option<tls::Server>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    authentication: Option<Credentials>,
    allowlist: Vec<IpNet>,
    include_members: bool,
    /// A change needs a client's certificate.
    certificate_wanted: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub address: IpAddr,
    /// It has shown a certificate, and that is good.
    pub certificate: bool,
}

impl Access {
    /// Reads certificates and finds the addresses of the allowlist. A name or header that means nothing is told and
    /// left out.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub async fn of(section: &RestSection) -> Result<Access, TlsError> {
        let mut access = Access {
            authentication: section.authentication.clone(),
            include_members: section.allowlist_include_members,
            ..Access::default()
        };
        if let Some(files) = &section.tls {
            access.certificate_wanted = files.verify_client != VerifyClient::None;
            access.tls = Some(tls::Server::load(&tls::ServerFiles {
                certificate: files.certfile.clone(),
                key: files.keyfile.clone(),
                key_password: files.keyfile_password.clone(),
                anchors: files.cafile.clone(),
                ask: match files.verify_client {
                    VerifyClient::None => tls::Ask::Nobody,
                    VerifyClient::Optional => tls::Ask::Optional,
                    VerifyClient::Required => tls::Ask::Everybody,
                },
                ciphers: files.ciphers.clone(),
            })?);
        }
        for entry in &section.allowlist {
            match networks(entry).await {
                Ok(found) => access.allowlist.extend(found),
                Err(why) => tracing::error!(entry, why, "an entry of restapi.allowlist is left out"),
            }
        }
        let server = match section.server_tokens {
            ServerTokens::Original => None,
            ServerTokens::Minimal => Some(format!("Patroni/{SPOKEN_VERSION}")),
            ServerTokens::ProductOnly => Some("Patroni".to_owned()),
        };
        let server = server.and_then(|text| HeaderValue::try_from(text).ok());
        access.headers.extend(server.map(|value| (header::SERVER, value)));
        for (name, value) in &section.headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => access.headers.push((name, value)),
                _ => tracing::error!(name, "an extra header of the REST API is left out"),
            }
        }
        Ok(access)
    }

    /// Returns the refusal of a request that may not change anything.
    pub async fn refusal(
        &self,
        asker: Asker,
        headers: &HeaderMap,
        members: &BTreeMap<MemberName, MemberDocument>,
    ) -> Option<Answer> {
        if (!self.allowlist.is_empty() || self.include_members) && !self.is_listed(asker, members).await {
            return Some(Answer::text(403, "Access is denied"));
        }
        if self.certificate_wanted && !asker.certificate {
            return Some(Answer::text(403, "client certificate required"));
        }
        self.unauthenticated(headers)
    }

    async fn is_listed(&self, asker: Asker, members: &BTreeMap<MemberName, MemberDocument>) -> bool {
        let address = asker.address.to_canonical();
        if self.allowlist.iter().any(|network| network.contains(&address)) {
            return true;
        }
        if !self.include_members {
            return false;
        }
        for url in members.values().filter_map(MemberDocument::api_url) {
            let host = url.parse::<hyper::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
            let Some(host) = host else { continue };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let found = names::resolve(host, 0).await.unwrap_or_default();
            if found.iter().any(|found| found.ip().to_canonical() == address) {
                return true;
            }
        }
        false
    }

    fn unauthenticated(&self, headers: &HeaderMap) -> Option<Answer> {
        let credentials = self.authentication.as_ref()?;
        let password = credentials.password.as_ref()?;
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|text| text.strip_prefix("Basic "));
        let given = given.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let wanted = format!("{}:{}", credentials.username, password.reveal());
        match given {
            Some(given) if same(&given, wanted.as_bytes()) => None,
            Some(_) => Some(Answer::text(401, "not authenticated")),
            None => Some(Answer::text(401, "no auth header received")),
        }
    }
}

/// Reads a network, an address, or a name with all of its addresses.
async fn networks(entry: &str) -> Result<Vec<IpNet>, String> {
    if entry.contains('/') {
        return entry.parse::<IpNet>().map(|network| vec![network]).map_err(|error| error.to_string());
    }
    let found = names::resolve(entry, 0).await.map_err(|error| crate::sys::chain(&error))?;
    Ok(found.into_iter().map(|address| IpNet::from(address.ip())).collect())
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(address: &str, certificate: bool) -> Asker {
        Asker { address: address.parse().unwrap(), certificate }
    }

    async fn status(access: &Access, asker: Asker, authorization: Option<&'static str>) -> Option<u16> {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(text));
        }
        let document = r#"{"api_url": "https://10.0.0.9:8008/patroni"}"#;
        let members = BTreeMap::from([("a".parse().unwrap(), MemberDocument::parse(document).unwrap())]);
        access.refusal(asker, &headers, &members).await.map(|answer| answer.status)
    }

    #[tokio::test]
    async fn addresses_come_before_certificates_and_certificates_before_passwords() {
        let access = Access {
            authentication: Some(Credentials {
                username: "a".to_owned(),
                password: Some(crate::sys::secret::Secret::new("b")),
                options: Vec::new(),
            }),
            allowlist: networks("192.168.0.0/16").await.unwrap(),
            include_members: true,
            certificate_wanted: true,
            ..Access::default()
        };

        let right = Some("Basic YTpi");
        assert_eq!(status(&access, asker("10.0.0.1", true), right).await, Some(403));
        assert_eq!(status(&access, asker("192.168.7.7", false), right).await, Some(403));
        assert_eq!(status(&access, asker("192.168.7.7", true), None).await, Some(401));
        assert_eq!(status(&access, asker("192.168.7.7", true), Some("Basic YTpj")).await, Some(401));
        assert_eq!(status(&access, asker("::ffff:192.168.7.7", true), right).await, None);
        assert_eq!(status(&access, asker("10.0.0.9", true), right).await, None);
    }

    #[tokio::test]
    async fn answers_name_the_program_as_far_as_the_configuration_says() {
        let address = || crate::contract::config::Address { host: "127.0.0.1".to_owned(), port: 8008 };
        let mut section = RestSection {
            listen: address(),
            connect_address: address(),
            authentication: None,
            tls: None,
            allowlist: Vec::new(),
            allowlist_include_members: false,
            headers: vec![("X-Rack".to_owned(), "7".to_owned())],
            server_tokens: ServerTokens::Original,
            request_queue_size: None,
        };
        for (words, wanted) in [
            (ServerTokens::Original, None),
            (ServerTokens::Minimal, Some("Patroni/4.1.4")),
            (ServerTokens::ProductOnly, Some("Patroni")),
        ] {
            section.server_tokens = words;
            let headers: HeaderMap = Access::of(&section).await.unwrap().headers.into_iter().collect();
            assert_eq!(headers.get(header::SERVER).map(|value| value.to_str().unwrap()), wanted);
            assert!(headers.contains_key("x-rack"));
        }
    }

    #[tokio::test]
    async fn without_rules_everybody_may() {
        assert_eq!(status(&Access::default(), asker("10.0.0.1", false), None).await, None);
    }
}
