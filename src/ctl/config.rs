//! The dynamic configuration: shown, edited, paused and resumed.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::contract::dynamic;
use crate::ctl::{Cluster, CtlError};
use crate::etcd::{Compare, Txn, TxnOutcome, Write};
use crate::sys::clock;

/// How often members are looked at while a pause spreads.
const POLL: Duration = Duration::from_millis(100);

/// How an edit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edited {
    Unchanged,
    Changed,
}

impl Cluster {
    /// Returns the configuration and the revision that an edit must find unchanged.
    ///
    /// # Errors
    /// etcd did not answer, or there is no configuration.
    pub async fn config(&self) -> Result<(Map<String, Value>, i64), CtlError> {
        let (view, revision) = self.read_at().await?;
        if revision == 0 {
            return Err(CtlError::Refused(format!(
                "cluster `{}` has no dynamic configuration in etcd; is its name right?",
                self.scope
            )));
        }
        Ok((view.config, revision))
    }

    /// Writes `config` if nobody has changed it since `revision`.
    ///
    /// # Errors
    /// Somebody has, or etcd did not answer.
    pub async fn write_config(&self, config: &Map<String, Value>, revision: i64) -> Result<(), CtlError> {
        let key = self.keys.config();
        let txn = Txn::default()
            .when(Compare::ModRevision { key: key.clone(), revision })
            .then(Write::put(key, Value::Object(config.clone()).to_string()));
        match self.client.txn(&txn).await? {
            TxnOutcome::Applied { .. } => Ok(()),
            TxnOutcome::Fenced { .. } => Err(CtlError::Refused(
                "somebody else has changed the configuration meanwhile; try again".to_owned(),
            )),
        }
    }

    /// Patches the configuration.
    ///
    /// # Errors
    /// As [`Cluster::write_config`].
    pub async fn patch_config(&self, changes: &Map<String, Value>) -> Result<Edited, CtlError> {
        let (mut config, revision) = self.config().await?;
        if !dynamic::patch(&mut config, changes) {
            return Ok(Edited::Unchanged);
        }
        self.write_config(&config, revision).await?;
        Ok(Edited::Changed)
    }

    /// Pauses or resumes; returns the members that have not followed within `wait`.
    ///
    /// # Errors
    /// It is so already, or etcd did not answer.
    pub async fn set_pause(&self, paused: bool, wait: Duration) -> Result<Vec<String>, CtlError> {
        let view = self.read().await?;
        if view.is_paused() == paused {
            let word = if paused { "already" } else { "not" };
            return Err(CtlError::Refused(format!("Cluster is {word} paused")));
        }
        let mut changes = Map::new();
        changes.insert("pause".to_owned(), if paused { Value::Bool(true) } else { Value::Null });
        self.patch_config(&changes).await?;
        let began = clock::now();
        loop {
            let view = self.read().await?;
            let left: Vec<String> = view
                .members
                .iter()
                .filter(|(_, member)| member.pause() != paused)
                .map(|(name, _)| name.clone())
                .collect();
            if left.is_empty() || clock::now().since(began) >= wait {
                return Ok(left);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Reads `a.b.c=value` as a change; the value is YAML, `null` removes.
///
/// # Errors
/// There is no `=`, or no key before it.
pub fn assignment(text: &str, value: impl FnOnce(&str) -> Value) -> Result<Map<String, Value>, CtlError> {
    let (path, text) = text
        .split_once('=')
        .filter(|(path, _)| !path.trim().is_empty())
        .ok_or_else(|| CtlError::Refused(format!("`{text}` is not KEY=VALUE, e.g. loop_wait=5")))?;
    let mut value = value(text.trim());
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    // Parameters of extensions have a dot in their own name.
    if let [outer, inner, name @ ..] = keys.as_slice()
        && *outer == "postgresql"
        && *inner == "parameters"
        && name.len() > 1
    {
        let at = path.trim().match_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
        keys = vec![outer, inner, path.trim().get(at..).unwrap_or_default()];
    }
    let mut map = Map::new();
    while let Some(key) = keys.pop() {
        map = Map::new();
        map.insert(key.to_owned(), value);
        value = Value::Object(map.clone());
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn assignments_go_deep() {
        let read = |text: &str| Value::Object(assignment(text, |value| json!(value)).unwrap());

        assert_eq!(read("ttl=20"), json!({"ttl": "20"}));
        assert_eq!(
            read("postgresql.parameters.auto_explain.log_min_duration=5"),
            json!({"postgresql": {"parameters": {"auto_explain.log_min_duration": "5"}}})
        );
        assert!(assignment("ttl", |_| Value::Null).is_err());
    }
}
