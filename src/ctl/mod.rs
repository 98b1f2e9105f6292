//! The commands for people on a running cluster: read and write its keys in etcd, ask its members' REST API.
//!
//! Start at [`Cluster`]. Output in tables and machine formats is that of Patroni's own tool, so that scripts go on
//! working.
//!
//! Invariant: nothing here runs on a member, and nothing here decides who leads: requests are written where the
//! members' agents see them.

pub mod causes;
pub mod change;
pub mod config;
pub mod explain;
pub mod list;
pub mod member;
pub mod standby;
pub mod table;
pub mod topology;

use std::time::Duration;

use crate::contract::config::Credentials;
use crate::contract::keys::Keys;
use crate::contract::rest::ClusterView;
use crate::etcd::{Client, Config, EtcdError, TlsFiles};
use crate::sys::secret::Secret;
use crate::sys::tls::{self, ClientFiles, TlsError};

/// The longest that one question to etcd may take.
const ETCD_LIMIT: Duration = Duration::from_secs(5);

/// Where a cluster is.
#[derive(Debug, Clone)]
pub struct Address {
    pub endpoints: Vec<String>,
    pub protocol: String,
    pub user: Option<String>,
    pub password: Secret,
    pub etcd_tls: TlsFiles,
    pub namespace: String,
    pub scope: String,
    /// For requests to members that change something.
    pub rest: Option<Credentials>,
    /// For members that speak TLS.
    pub rest_tls: ClientFiles,
}

/// A cluster that can be talked to.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub scope: String,
    pub client: Client,
    pub keys: Keys,
    pub rest: Option<Credentials>,
    pub tls: tls::Client,
}

/// Why a command ends without its goal.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The cluster does not allow it, or the request makes no sense; nothing was done.
    #[error("{0}")]
    Refused(String),
    #[error("the members cannot be asked")]
    Tls(#[from] TlsError),
}

impl Cluster {
    /// Makes the handle; connects when first used.
    ///
    /// # Errors
    /// The certificates for members cannot be used.
    pub fn at(address: Address) -> Result<Cluster, CtlError> {
        let Address { endpoints, protocol, user, password, etcd_tls, namespace, scope, rest, rest_tls } =
            address;
        let config = Config { endpoints, protocol, user, password, tls: etcd_tls, limit: ETCD_LIMIT };
        let tls = tls::Client::load(&rest_tls)?;
        Ok(Cluster { keys: Keys::new(&namespace, &scope), scope, client: Client::new(config), rest, tls })
    }

    /// Reads the cluster's keys, linearizably.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn read(&self) -> Result<ClusterView, CtlError> {
        Ok(self.read_at().await?.0)
    }

    /// Reads the cluster's keys with the modification revision of `config` (0: absent).
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn read_at(&self) -> Result<(ClusterView, i64), CtlError> {
        let range = self.client.get_prefix(self.keys.prefix()).await?;
        let view =
            ClusterView::read(&self.keys, range.kvs.iter().map(|kv| (kv.key.as_str(), kv.value.as_str())));
        let config = self.keys.config();
        let revision = range.kvs.iter().find(|kv| kv.key == config).map_or(0, |kv| kv.mod_revision);
        Ok((view, revision))
    }
}
