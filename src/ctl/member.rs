//! What is asked of single members by REST: restart, reload, reinitialize.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::contract::rest::ClusterView;
use crate::ctl::{Cluster, CtlError};
use crate::sys::http::{Request, send};

/// A restart waits for a shutdown checkpoint and a start.
const LIMIT: Duration = Duration::from_secs(660);

/// One member's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub member: String,
    /// None: there was no answer.
    pub status: Option<u16>,
    pub text: String,
}

impl Cluster {
    /// Chooses members by name, or all that `wanted` lets through; leader last, so that redundancy lasts longest.
    ///
    /// # Errors
    /// A name is no member's, or nobody is left.
    pub fn choose(
        &self,
        view: &ClusterView,
        names: &[String],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, CtlError> {
        for name in names {
            if view.member_named(name).is_none() {
                let known: Vec<&str> = view.members.iter().map(|(name, _)| name.as_str()).collect();
                return Err(CtlError::Refused(format!(
                    "`{name}` is no member of cluster `{}`; members are {}",
                    self.scope,
                    known.join(", ")
                )));
            }
        }
        let mut chosen: Vec<String> = view
            .members
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| (names.is_empty() || names.contains(name)) && wanted(name))
            .collect();
        chosen.sort_by_key(|name| (view.leader.as_ref() == Some(name), name.clone()));
        if chosen.is_empty() {
            return Err(CtlError::Refused("no member is left to do this on".to_owned()));
        }
        Ok(chosen)
    }

    /// Sends `POST /path` to a member.
    pub async fn post(
        &self,
        view: &ClusterView,
        member: &str,
        path: &str,
        body: &Map<String, Value>,
    ) -> Reply {
        self.ask_member(view, member, "POST", path, Some(body)).await
    }

    /// Sends a request to a member.
    pub async fn ask_member(
        &self,
        view: &ClusterView,
        member: &str,
        method: &str,
        path: &str,
        body: Option<&Map<String, Value>>,
    ) -> Reply {
        let url = view.member_named(member).and_then(|document| document.api_url());
        let Some(url) = url.map(|url| url.replace("/patroni", path)) else {
            return Reply {
                member: member.to_owned(),
                status: None,
                text: "it has no REST address".to_owned(),
            };
        };
        let user =
            self.rest.as_ref().and_then(|rest| Some((rest.username.as_str(), rest.password.as_ref()?)));
        let request = Request {
            method,
            url: &url,
            body: body.map(|body| Value::Object(body.clone()).to_string()),
            user,
            tls: Some(&self.tls),
            limit: LIMIT,
        };
        match send(&request).await {
            Ok(reply) => Reply { member: member.to_owned(), status: Some(reply.status), text: reply.body },
            Err(error) => Reply { member: member.to_owned(), status: None, text: crate::sys::chain(&error) },
        }
    }
}
