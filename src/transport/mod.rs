//! How the controller reaches a host: one exec and its byte streams, over SSH or on this machine.
//!
//! Start at [`Connector::connect`]. [`options`] is what a user may say about it, [`ssh_config`] where else it may be said,
//! [`host_keys`] whom to believe, [`keys`] with what to log in, [`ssh`] the connection itself, [`local`] the same without one.
//!
//! Invariant: nothing here knows what is said over the streams; that is the executor's matter.

pub mod host_keys;
pub mod keys;
pub mod local;
pub mod options;
pub mod ssh;
pub mod ssh_config;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::executor::client::{self, Client, Offers, StartError};
use crate::executor::frame::Begin;
use crate::executor::upload::{Marker, Payload};
use crate::sys::names::NameError;

use host_keys::HostKeyError;
use keys::KeyError;
use options::{Connection, Target};

/// Why a host cannot be used. Each says what was tried and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(
        "{address} refused the connection: no sshd listens there; check that the host is up and the port is right"
    )]
    Refused { address: SocketAddr },
    #[error(
        "{address} did not answer within {} s: the host is down, or a firewall drops the connection",
        .after.as_secs()
    )]
    Timeout { address: SocketAddr, after: Duration },
    #[error("cannot connect to {address}")]
    Network {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "{address} accepted the connection, but said nothing of SSH within {} s; is it an sshd, and is it overloaded?",
        .after.as_secs()
    )]
    NoHandshake { address: SocketAddr, after: Duration },
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{user}@{address} was not let in; tried {tried}; the server takes {accepted}{}", hint(.dropped))]
    Auth { user: String, address: SocketAddr, tried: String, accepted: String, dropped: bool },
    #[error("the SSH connection to {address} failed: {what}")]
    Protocol { address: SocketAddr, what: String },
    #[error("cannot start this program on this machine")]
    Local(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
}

fn hint(dropped: &bool) -> &'static str {
    if *dropped {
        "; it closed the connection after too many keys: name the right one with ansible_ssh_private_key_file"
    } else {
        "; check ansible_user and ansible_ssh_private_key_file"
    }
}

/// What all connections of a run share: the program to send, keys that were read, who is being knocked at.
#[derive(Debug)]
pub struct Connector {
    payload: Arc<Payload>,
    offers: Offers,
    shared: ssh::Shared,
}

impl Connector {
    /// Makes the connector of a run that starts `payload` on its hosts.
    pub fn new(payload: Payload) -> Connector {
        Connector { payload: Arc::new(payload), offers: Offers::default(), shared: ssh::Shared::default() }
    }

    /// Returns the files that hosts may ask for; add to them before naming them to a host.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Connects to a host and starts the executor there: one TCP connection, one exec.
    ///
    /// # Errors
    /// The host cannot be reached, does not believe us or is not believed, or cannot run the executor.
    pub async fn connect<O, I>(&self, target: &Target) -> Result<Client<O, I>, Unreachable>
    where
        O: Serialize + Send + 'static,
        I: DeserializeOwned + Send + 'static,
    {
        let marker = Marker::random();
        let streams = match target.connection {
            Connection::Ssh => {
                let command = crate::executor::upload::command_line(&marker, self.payload.hash());
                Box::pin(ssh::exec(target, &self.shared, &command)).await?
            }
            Connection::Local => local::exec(self.payload.path(), &marker).map_err(Unreachable::Local)?,
        };
        let begin = Begin {
            become_password: target.become_password.as_ref().map(|secret| secret.reveal().to_owned()),
        };
        // The login shell, its profile and the executor share what remains of patience after the handshake.
        let silence = target.connect_timeout.max(options::CONNECT_TIMEOUT);
        let offers = self.offers.clone();
        Ok(client::start(streams, &marker, &self.payload, begin, offers, silence).await?)
    }
}
