//! Tells what changed. A wake-up: whoever is to decide on it reads again; only a [`Mirror`](super::mirror::Mirror) keeps
//! what it says.

use std::time::Duration;

use tokio::sync::mpsc;

use super::client::{Client, Kv};

/// Events that wait for a slow reader; beyond it the watch itself waits, and etcd keeps the rest.
const BACKLOG: usize = 256;

/// Pause before a failed watch is opened anew at the next endpoint; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Kv),
    Deleted {
        key: String,
        mod_revision: i64,
    },
    /// The watch has been interrupted, or begins again after that: anything may have changed.
    Gap,
}

impl Change {
    /// Returns the revision at which it happened; None for a gap.
    pub fn revision(&self) -> Option<i64> {
        match self {
            Change::Put(kv) => Some(kv.mod_revision),
            Change::Deleted { mod_revision, .. } => Some(*mod_revision),
            Change::Gap => None,
        }
    }
}

/// Watches all keys that begin with `prefix` until the receiver is dropped.
///
/// What one transaction has changed comes together. The first message is always [`Change::Gap`]; what happens after it is told. It is at the endpoint that calls are
/// answered by, so that one that is silent is left as soon as a call has gone around it.
pub fn watch(client: &Client, prefix: &str) -> mpsc::Receiver<Vec<Change>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let client = client.clone();
    let prefix = prefix.to_owned();
    tokio::spawn(async move { follow(&client, &prefix, &sender).await });
    receiver
}

async fn follow(client: &Client, prefix: &str, sender: &mpsc::Sender<Vec<Change>>) {
    let mut preferred = client.preferred();
    let mut pause = PAUSE_MIN;
    let mut next_revision = 0;
    // How far it is from the endpoint that is preferred, because those between failed.
    let mut offset = 0;
    loop {
        let index = *preferred.borrow_and_update();
        let opened = client
            .at(index + offset, |mut client| async move {
                let options =
                    etcd_client::WatchOptions::new().with_prefix().with_start_revision(next_revision);
                client.watch(prefix, Some(options)).await
            })
            .await;
        offset += 1;
        if let (_, Ok(mut stream)) = opened {
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    // The client, and the sender with it, lives as long as this task.
                    _ = preferred.changed() => {
                        offset = 0;
                        break;
                    }
                    () = sender.closed() => return,
                };
                let Ok(Some(message)) = message else { break };
                if message.created() && sender.send(vec![Change::Gap]).await.is_err() {
                    return;
                }
                if message.canceled() {
                    // Compacted away or without a leader: the reader looks at everything after the gap.
                    next_revision = 0;
                    break;
                }
                pause = PAUSE_MIN;
                // etcd splits no revision over messages.
                let changes: Vec<Change> =
                    message.events().iter().filter_map(etcd_client::Event::kv).map(change).collect();
                next_revision =
                    changes.last().and_then(Change::revision).map_or(next_revision, |newest| newest + 1);
                if !changes.is_empty() && sender.send(changes).await.is_err() {
                    return;
                }
            }
            if sender.send(vec![Change::Gap]).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn change(kv: &etcd_client::KeyValue) -> Change {
    // etcd gives a deletion no version.
    if kv.version() == 0 {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        Change::Deleted { key, mod_revision: kv.mod_revision() }
    } else {
        Change::Put(Kv::from_library(kv))
    }
}
