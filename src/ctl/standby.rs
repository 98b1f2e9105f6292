//! Making a cluster the standby of another one, and its own again.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cluster::{Role, State};
use crate::contract::rest::ClusterView;
use crate::ctl::{Cluster, CtlError};
use crate::sys::clock;

/// How often the outcome is looked for.
const POLL: Duration = Duration::from_millis(200);

/// What the cluster that is followed is like; at least a place or an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Follows {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub restore_command: Option<String>,
    pub primary_slot_name: Option<String>,
}

impl Follows {
    /// Returns the section of the dynamic configuration.
    ///
    /// # Errors
    /// Nothing says where WAL is to come from.
    pub fn section(&self) -> Result<Map<String, Value>, CtlError> {
        let Follows { host, port, restore_command, primary_slot_name } = self;
        if host.is_none() && port.is_none() && restore_command.is_none() {
            return Err(CtlError::Refused(
                "At least --host, --port or --restore-command should be specified".to_owned(),
            ));
        }
        let mut section = Map::new();
        let texts =
            [("host", host), ("restore_command", restore_command), ("primary_slot_name", primary_slot_name)];
        for (key, value) in texts {
            if let Some(value) = value {
                section.insert(key.to_owned(), value.as_str().into());
            }
        }
        if let Some(port) = port {
            section.insert("port".to_owned(), (*port).into());
        }
        Ok(section)
    }
}

impl Cluster {
    /// Writes `standby_cluster`, or removes it, and waits until the leader is what it then should be. Returns false
    /// where that was not seen within `limit`.
    ///
    /// # Errors
    /// There is no leader, it is so already, or etcd did not answer.
    pub async fn set_standby_cluster(
        &self,
        section: Option<&Map<String, Value>>,
        limit: Duration,
    ) -> Result<bool, CtlError> {
        let wanted = if section.is_some() { Role::StandbyLeader } else { Role::Primary };
        let view = self.read().await?;
        let Some((role, _)) = leader(&view) else {
            return Err(CtlError::Refused(format!("Cluster {} has no leader", self.scope)));
        };
        if role == Some(wanted) {
            return Err(CtlError::Refused("Cluster is already in the required state".to_owned()));
        }
        // What was there before must not be mixed with what is asked for.
        let (mut config, revision) = self.config().await?;
        config.shift_remove("standby_cluster");
        if let Some(section) = section {
            config.insert("standby_cluster".to_owned(), Value::Object(section.clone()));
        }
        self.write_config(&config, revision).await?;
        let began = clock::now();
        while clock::now().since(began) < limit {
            if let Ok(view) = self.read().await
                && leader(&view) == Some((Some(wanted), Some(State::Running)))
            {
                return Ok(true);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(false)
    }
}

/// Returns what the leader says that it is.
fn leader(view: &ClusterView) -> Option<(Option<Role>, Option<State>)> {
    let member = view.member_named(view.leader.as_deref()?)?;
    Some((member.role(), member.state()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_section_says_where_wal_comes_from() {
        let follows = Follows { host: Some("a".into()), port: Some(5433), ..Follows::default() };
        assert_eq!(Value::Object(follows.section().unwrap()), json!({"host": "a", "port": 5433}));

        let slot = Follows { primary_slot_name: Some("s".into()), ..Follows::default() };
        assert!(slot.section().is_err());
    }
}
