//! With what a user logs in: keys of the agent and of files, the right one first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{PrivateKey, PublicKey};

use crate::transport::options::Target;

/// A key file that was named and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key {path} that {user}@{host} is to be reached with: {why}")]
    File { path: PathBuf, user: String, host: String, why: String },
    #[error(
        "the key {path} is protected by a passphrase; add it to the SSH agent with `ssh-add {path}`, for nothing here asks"
    )]
    Locked { path: PathBuf },
}

/// Something to log in with.
#[derive(Debug, Clone)]
pub(crate) enum Offer {
    /// The agent signs with it.
    Agent {
        key: PublicKey,
        comment: String,
    },
    File {
        key: Arc<PrivateKey>,
        path: PathBuf,
    },
}

impl Offer {
    pub(crate) fn public(&self) -> &PublicKey {
        match self {
            Offer::Agent { key, .. } => key,
            Offer::File { key, .. } => key.public_key(),
        }
    }

    /// Names it for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Offer::Agent { comment, .. } => format!("the agent's key {comment}"),
            Offer::File { path, .. } => path.display().to_string(),
        }
    }
}

/// Key files that were read, and which key let a user in: it goes first on the next host.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    read: Mutex<BTreeMap<PathBuf, Arc<PrivateKey>>>,
    good: Mutex<BTreeMap<String, PublicKey>>,
}

impl Keyring {
    /// Lists what to offer for this target, best first: the key that worked before, files that were named, the agent's
    /// other keys, usual files.
    pub(crate) async fn offers(&self, target: &Target) -> Result<Vec<Offer>, KeyError> {
        let agent = agent_keys(target).await;
        let mut offers: Vec<Offer> = Vec::new();
        let mut locked = None;
        let mut usual = Vec::new();
        for path in &target.key_files {
            let named = !is_usual(path);
            let offer = match held_by_agent(path, &agent) {
                Some(offer) => Ok(offer),
                None => self.file(path, target),
            };
            match offer {
                Ok(offer) if named => offers.push(offer),
                Ok(offer) => usual.push(offer),
                Err(error @ KeyError::Locked { .. }) => {
                    locked.get_or_insert(error);
                }
                Err(error) if named => return Err(error),
                Err(error) => tracing::debug!(error = %error, "usual key file skipped"),
            }
        }
        if !target.identities_only {
            offers.extend(agent);
            offers.extend(usual);
        }
        if let (true, Some(error)) = (offers.is_empty() && target.password.is_none(), locked) {
            return Err(error);
        }
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner).get(&target.user).cloned();
        let mut unique: Vec<Offer> = Vec::new();
        for offer in offers {
            if !unique.iter().any(|other| other.public().key_data() == offer.public().key_data()) {
                unique.push(offer);
            }
        }
        if let Some(good) = good {
            unique.sort_by_key(|offer| offer.public().key_data() != good.key_data());
        }
        Ok(unique)
    }

    /// Remembers that this key let the user in.
    pub(crate) fn worked(&self, user: &str, key: &PublicKey) {
        self.good.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned(), key.clone());
    }

    fn file(&self, path: &Path, target: &Target) -> Result<Offer, KeyError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = read.get(path) {
            return Ok(Offer::File { key: Arc::clone(key), path: path.to_owned() });
        }
        let key = russh::keys::load_secret_key(path, None).map_err(|error| match error {
            russh::keys::Error::KeyIsEncrypted => KeyError::Locked { path: path.to_owned() },
            error => KeyError::File {
                path: path.to_owned(),
                user: target.user.clone(),
                host: target.address.clone(),
                why: error.to_string(),
            },
        })?;
        let key = Arc::new(key);
        read.insert(path.to_owned(), Arc::clone(&key));
        Ok(Offer::File { key, path: path.to_owned() })
    }
}

fn is_usual(path: &Path) -> bool {
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(file, "id_ed25519" | "id_ecdsa" | "id_rsa") && path.parent().is_some_and(|f| f.ends_with(".ssh"))
}

/// Finds the agent's key that the file's `.pub` names, so that a file with a passphrase need not be opened.
fn held_by_agent(path: &Path, agent: &[Offer]) -> Option<Offer> {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    let key = russh::keys::load_public_key(PathBuf::from(public)).ok()?;
    agent.iter().find(|offer| offer.public().key_data() == key.key_data()).cloned()
}

async fn agent_keys(target: &Target) -> Vec<Offer> {
    let Some(socket) = &target.agent else { return Vec::new() };
    let listed = async {
        let mut agent = AgentClient::connect_uds(socket).await?;
        agent.request_identities().await
    };
    match listed.await {
        Ok(identities) => identities
            .into_iter()
            .filter_map(|identity| match identity {
                AgentIdentity::PublicKey { key, comment } => Some(Offer::Agent { key, comment }),
                AgentIdentity::Certificate { .. } => None,
            })
            .collect(),
        Err(error) => {
            tracing::warn!(socket = %socket.display(), error = %error, "the SSH agent does not answer; its keys are not tried");
            Vec::new()
        }
    }
}
