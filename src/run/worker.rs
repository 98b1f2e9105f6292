//! One connection: messages from the dispatcher to a host and back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::executor::client::Client;
use crate::executor::wire::{FromHost, ToHost};
use crate::transport::Connector;
use crate::transport::options::{Defaults, Target};

/// To a host.
#[derive(Debug)]
pub enum Command {
    Work(Box<ToHost>),
    /// Finish the change in flight.
    Cancel,
    /// End programs in flight too.
    Kill,
}

/// From a place: a message, or that it is lost.
pub type Incoming = (Arc<str>, Result<FromHost, String>);

/// Speaks to a connected host; dropping it closes the connection.
pub type Link = mpsc::UnboundedSender<Command>;

/// How a host is reached, as a text for each of its connection variables.
pub type ConnectionVars<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// Makes connections. The transport does in earnest, tests with a thread.
pub trait Connect: Sync {
    /// Connects to `host`; what it says goes to `inbox`.
    fn connect<'a>(
        &'a self,
        host: &'a Arc<str>,
        vars: ConnectionVars<'a>,
        inbox: mpsc::UnboundedSender<Incoming>,
    ) -> Pin<Box<dyn Future<Output = Result<Link, String>> + Send + 'a>>;

    /// Lets hosts ask for the content of a file.
    fn offer(&self, sha256: [u8; 32], path: &std::path::Path);
}

/// Connections over SSH, or to this machine itself.
#[derive(Debug)]
pub struct Network {
    pub connector: Connector,
    pub defaults: Defaults,
}

impl Connect for Network {
    fn connect<'a>(
        &'a self,
        host: &'a Arc<str>,
        vars: ConnectionVars<'a>,
        inbox: mpsc::UnboundedSender<Incoming>,
    ) -> Pin<Box<dyn Future<Output = Result<Link, String>> + Send + 'a>> {
        Box::pin(async move {
            let target =
                Target::from_vars(host, vars, &self.defaults).map_err(|error| crate::sys::chain(&error))?;
            let client = self.connector.connect::<ToHost, FromHost>(&target).await;
            let client = client.map_err(|error| crate::sys::chain(&error))?;
            let (link, commands) = mpsc::unbounded_channel();
            tokio::spawn(serve(host.clone(), client, commands, inbox));
            Ok(link)
        })
    }

    fn offer(&self, sha256: [u8; 32], path: &std::path::Path) {
        self.connector.offers().add(sha256, path);
    }
}

/// Carries messages both ways until the dispatcher lets go or the connection is lost.
async fn serve(
    host: Arc<str>,
    mut client: Client<ToHost, FromHost>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    inbox: mpsc::UnboundedSender<Incoming>,
) {
    let sender = client.sender();
    loop {
        let sent = tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Work(message)) => sender.send(*message).await,
                Some(Command::Cancel) => sender.cancel().await,
                Some(Command::Kill) => sender.kill().await,
                None => break,
            },
            message = client.next() => match message {
                Ok(message) => {
                    if inbox.send((host.clone(), Ok(message))).is_err() {
                        break;
                    }
                    Ok(())
                }
                Err(lost) => Err(lost),
            },
        };
        if let Err(lost) = sent {
            inbox.send((host.clone(), Err(lost.to_string()))).ok();
            return;
        }
    }
    drop(sender);
    client.close().await;
}
