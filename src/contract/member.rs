//! `members/NAME`: what a member says about itself.

use serde_json::{Map, Value};

use crate::cluster::{Lsn, ReplicationState, Role, State, Tags, Timeline};
use crate::contract::document::Document;
use crate::contract::{ContractError, tags};

/// The Patroni version that the document claims: its members act on it.
pub const SPOKEN_VERSION: &str = "4.1.4";

/// The document of a member; fields that it does not have are not known, not false.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberDocument {
    document: Document,
}

impl MemberDocument {
    /// Reads the value of the key.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn parse(text: &str) -> Result<MemberDocument, ContractError> {
        Ok(MemberDocument { document: Document::parse("the member document", text)? })
    }

    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Returns `postgres://HOST:PORT/postgres` or whatever the member gives.
    pub fn conn_url(&self) -> Option<&str> {
        self.document.text("conn_url")
    }

    pub fn api_url(&self) -> Option<&str> {
        self.document.text("api_url")
    }

    /// Returns host and port of Postgres.
    pub fn host_port(&self) -> Option<(String, u16)> {
        host_port(self.conn_url()?)
    }

    /// Returns the role; `master` is an old spelling of `primary`.
    pub fn role(&self) -> Option<Role> {
        match self.document.text("role")? {
            "master" => Some(Role::Primary),
            word => word.parse().ok(),
        }
    }

    pub fn state(&self) -> Option<State> {
        self.document.text("state")?.parse().ok()
    }

    pub fn timeline(&self) -> Option<Timeline> {
        u32::try_from(self.document.integer("timeline")?).ok().map(Timeline)
    }

    /// Returns the position: flushed on a primary, received or replayed on a replica.
    pub fn xlog_location(&self) -> Option<Lsn> {
        self.document.unsigned("xlog_location").map(Lsn)
    }

    pub fn receive_lsn(&self) -> Option<Lsn> {
        self.document.unsigned("receive_lsn").map(Lsn)
    }

    pub fn replay_lsn(&self) -> Option<Lsn> {
        self.document.unsigned("replay_lsn").map(Lsn)
    }

    pub fn replication_state(&self) -> Option<ReplicationState> {
        self.document.text("replication_state")?.parse().ok()
    }

    pub fn tags(&self) -> Tags {
        self.document.object("tags").map(tags::read).unwrap_or_default()
    }

    pub fn pending_restart(&self) -> bool {
        self.document.boolean("pending_restart").unwrap_or(false)
    }

    pub fn pause(&self) -> bool {
        self.document.boolean("pause").unwrap_or(false)
    }

    /// Tells whether the member has not finished its checkpoint after its promotion.
    pub fn awaits_checkpoint(&self) -> bool {
        self.document.boolean("checkpoint_after_promote") == Some(false)
    }

    /// Returns our own part, which only members of this product have.
    pub fn keddah(&self) -> Option<&Map<String, Value>> {
        self.document.object("keddah")
    }
}

/// Reads host and port from a Postgres URL; without a port 5432.
pub fn host_port(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, 5432),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// What this member publishes, in the order in which Patroni writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub conn_url: String,
    pub api_url: String,
    pub state: State,
    pub role: Role,
    pub proxy_url: Option<String>,
    pub tags: Map<String, Value>,
    pub pending_restart_reason: Map<String, Value>,
    pub xlog_location: Option<Lsn>,
    pub receive_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    pub replication_state: Option<ReplicationState>,
    pub timeline: Option<Timeline>,
    pub pause: bool,
    pub awaits_checkpoint: bool,
    pub scheduled_restart: Option<Value>,
    pub keddah: Map<String, Value>,
}

impl Publication {
    /// Writes the document.
    pub fn to_text(&self) -> String {
        let mut document = Document::default();
        document.set("conn_url", self.conn_url.as_str());
        document.set("api_url", self.api_url.as_str());
        document.set("state", self.state.word());
        document.set("role", self.role.word());
        document.set("version", SPOKEN_VERSION);
        if let Some(url) = &self.proxy_url {
            document.set("proxy_url", url.as_str());
        }
        if !self.tags.is_empty() {
            document.set("tags", self.tags.clone());
        }
        if !self.pending_restart_reason.is_empty() {
            document.set("pending_restart", true);
            document.set("pending_restart_reason", self.pending_restart_reason.clone());
        }
        document.set_or_remove("xlog_location", self.xlog_location.map(|lsn| lsn.0));
        document.set_or_remove("receive_lsn", self.receive_lsn.map(|lsn| lsn.0));
        document.set_or_remove("replay_lsn", self.replay_lsn.map(|lsn| lsn.0));
        document.set_or_remove("replication_state", self.replication_state.map(ReplicationState::word));
        document.set_or_remove("timeline", self.timeline.map(|timeline| timeline.0));
        if self.pause {
            document.set("pause", true);
        }
        if self.awaits_checkpoint {
            document.set("checkpoint_after_promote", false);
        }
        document.set_or_remove("scheduled_restart", self.scheduled_restart.clone());
        document.set("keddah", self.keddah.clone());
        document.to_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_odd_types_do_no_harm() {
        let text = r#"{"conn_url":"postgres://db1:5433/postgres","role":"master","state":7,"timeline":"3","new":{}}"#;

        let member = MemberDocument::parse(text).unwrap();

        assert_eq!(member.host_port(), Some(("db1".to_owned(), 5433)));
        assert_eq!(member.role(), Some(Role::Primary));
        assert_eq!(member.state(), None);
        assert_eq!(member.timeline(), Some(Timeline(3)));
        assert_eq!(member.document().to_text(), text);
    }

    #[test]
    fn addresses_of_six_are_read_from_urls() {
        assert_eq!(host_port("postgres://u:p@[fd00::1]:5433/postgres"), Some(("fd00::1".to_owned(), 5433)));
        assert_eq!(host_port("postgres://db1/postgres"), Some(("db1".to_owned(), 5432)));
    }
}
