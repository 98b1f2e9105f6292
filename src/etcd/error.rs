//! What can be wrong with etcd, as seen by a caller.

/// Why there is no answer, or which answer refuses.
///
/// All but [`EtcdError::LeaseNotFound`] and [`EtcdError::Refused`] mean "etcd did not answer": nothing is known about
/// any key, and a write may or may not have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint answered within the limit.
    #[error("etcd did not answer within {limit_ms} ms ({tried})")]
    NoAnswer { limit_ms: u64, tried: String },
    /// The configuration names no endpoint.
    #[error("no etcd endpoint is configured; set `etcd3.hosts`")]
    NoEndpoints,
    /// An endpoint answered for another cluster than the one that was seen first.
    #[error(
        "{endpoint} belongs to etcd cluster {found:x}, expected {expected:x}; is it a restored or a foreign etcd?"
    )]
    OtherCluster { endpoint: String, expected: u64, found: u64 },
    /// An endpoint answered with a state older than one that was seen.
    #[error("{endpoint} answered with an older state (revision {found}, seen before: {seen})")]
    OlderState { endpoint: String, found: i64, seen: i64 },
    /// User or password is refused, or the user lacks a permission.
    #[error("etcd refuses access: {0}; check etcd3.username, etcd3.password and the user's roles")]
    Access(String),
    /// The lease does not exist: it expired or was revoked.
    #[error("the lease {0:x} does not exist")]
    LeaseNotFound(i64),
    /// etcd understood the request and refuses it.
    #[error("etcd refuses: {0}")]
    Refused(String),
}

impl EtcdError {
    /// Tells whether etcd answered at all.
    pub fn is_answer(&self) -> bool {
        match self {
            EtcdError::LeaseNotFound(_) | EtcdError::Refused(_) => true,
            EtcdError::NoAnswer { .. }
            | EtcdError::NoEndpoints
            | EtcdError::OtherCluster { .. }
            | EtcdError::OlderState { .. }
            | EtcdError::Access(_) => false,
        }
    }
}

/// How one attempt at one endpoint failed.
#[derive(Debug, Clone)]
pub(super) enum Attempt {
    /// Nothing was sent: the next endpoint may be tried, whatever the request was.
    NotSent(String),
    /// It may have been sent, and there is no answer.
    Silent(String),
    /// An answer that settles the matter.
    Final(EtcdError),
}

impl Attempt {
    /// Sorts an error of the client library.
    pub(super) fn from_library(error: &etcd_client::Error, lease: i64) -> Attempt {
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                from_status(i32::from(status.code()), status.message(), lease)
            }
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                Attempt::Final(EtcdError::LeaseNotFound(lease))
            }
            etcd_client::Error::InvalidArgs(text) => Attempt::Final(EtcdError::Refused(text.clone())),
            etcd_client::Error::TransportError(error) => Attempt::Silent(chain(error)),
            other => Attempt::Silent(other.to_string()),
        }
    }
}

/// Sorts a gRPC status by its code (numbers of the gRPC specification) and etcd's text.
fn from_status(code: i32, message: &str, lease: i64) -> Attempt {
    const INVALID_ARGUMENT: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const PERMISSION_DENIED: i32 = 7;
    const FAILED_PRECONDITION: i32 = 9;
    const OUT_OF_RANGE: i32 = 11;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const UNAUTHENTICATED: i32 = 16;
    let text = message.strip_prefix("etcdserver: ").unwrap_or(message).to_owned();
    if text.contains("auth token") || text.contains("auth store is old") {
        return Attempt::Silent(text);
    }
    if message.contains("onnection refused") || message.contains("tcp connect error") {
        return Attempt::NotSent(text);
    }
    match code {
        NOT_FOUND if text.contains("lease") => Attempt::Final(EtcdError::LeaseNotFound(lease)),
        PERMISSION_DENIED | UNAUTHENTICATED => Attempt::Final(EtcdError::Access(text)),
        INVALID_ARGUMENT if text.contains("user") || text.contains("auth") => {
            Attempt::Final(EtcdError::Access(text))
        }
        INVALID_ARGUMENT | NOT_FOUND | FAILED_PRECONDITION | OUT_OF_RANGE | RESOURCE_EXHAUSTED => {
            Attempt::Final(EtcdError::Refused(text))
        }
        _ => Attempt::Silent(text),
    }
}

/// Prints an error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_leader_is_no_answer() {
        let attempt = from_status(14, "etcdserver: no leader", 0);

        assert!(matches!(attempt, Attempt::Silent(text) if text == "no leader"));
    }

    #[test]
    fn a_lost_lease_is_an_answer() {
        let Attempt::Final(error) = from_status(5, "etcdserver: requested lease not found", 7) else {
            panic!("not final");
        };

        assert_eq!(error, EtcdError::LeaseNotFound(7));
        assert!(error.is_answer());
    }

    #[test]
    fn an_expired_token_says_nothing_about_keys() {
        assert!(matches!(from_status(16, "etcdserver: invalid auth token", 0), Attempt::Silent(_)));
    }

    #[test]
    fn a_wrong_password_is_told_as_such() {
        let attempt = from_status(3, "etcdserver: authentication failed, invalid user ID or password", 0);

        assert!(matches!(attempt, Attempt::Final(EtcdError::Access(_))));
    }
}
