//! `explain`: what is wrong, and why each member did what it did, also when it is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::contract::rest::ClusterView;
use crate::ctl::causes::{self, Heard};
use crate::ctl::{Cluster, CtlError};
use crate::etcd::{Compare, Txn, TxnOutcome, Write};
use crate::sys::http::{HttpError, Request, send};

/// A member that needs longer does not answer: the whole answer is to be there within a second.
const ASK_LIMIT: Duration = Duration::from_millis(400);

impl Cluster {
    /// Asks everybody who is a member, or ever told something, what it says at this moment.
    pub async fn hear(&self, view: &ClusterView) -> BTreeMap<String, Heard> {
        let mut asked = JoinSet::new();
        for name in causes::names(view) {
            let published = view.member_named(name).and_then(|document| document.api_url());
            let left = || view.reasons.get(name)?.api_url.as_deref();
            let (name, url) = (name.to_owned(), published.or_else(left).map(str::to_owned));
            let tls = self.tls.clone();
            asked.spawn(async move {
                let Some(url) = url else { return (name, Heard::NoAddress) };
                let answer = send(&Request::get(&url, ASK_LIMIT).over(&tls)).await;
                (name, heard(answer.map(|reply| reply.body)))
            });
        }
        let mut all = BTreeMap::new();
        while let Some(done) = asked.join_next().await {
            all.extend(done.ok());
        }
        all
    }

    /// Deletes what a member has told that is gone for good.
    ///
    /// # Errors
    /// It is a member, nothing is kept of it, or etcd did not answer.
    pub async fn forget(&self, name: &str) -> Result<(), CtlError> {
        let key = self.keys.reasons(name);
        if self.client.get(&key).await?.is_none() {
            return Err(CtlError::Refused(format!("nothing is kept of a member `{name}`")));
        }
        let gone =
            Txn::default().when(Compare::Absent { key: self.keys.member(name) }).then(Write::Delete { key });
        match self.client.txn(&gone).await? {
            TxnOutcome::Applied { .. } => Ok(()),
            TxnOutcome::Fenced { .. } => Err(CtlError::Refused(format!(
                "`{name}` is a member: its agent runs, or did within the last ttl"
            ))),
        }
    }
}

fn heard(answer: Result<String, HttpError>) -> Heard {
    match answer {
        Ok(body) => {
            let document: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let text = |key: &str| Some(document.get("keddah")?.get(key)?.as_str()?.to_owned());
            Heard::Answers(text("reason").zip(text("reason_text")))
        }
        Err(HttpError::Connect { source, .. }) => match source.kind() {
            std::io::ErrorKind::ConnectionRefused => Heard::Refuses,
            std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                Heard::Unreachable
            }
            _ => Heard::Silent,
        },
        Err(HttpError::Url(_) | HttpError::Name { .. }) => Heard::NoAddress,
        Err(_) => Heard::Silent,
    }
}

/// Writes what is wrong, the cause first; where nothing is, what last was.
pub fn causes(view: &ClusterView, heard: &BTreeMap<String, Heard>) -> String {
    let found = causes::at_present(view, heard);
    if found.is_empty() {
        let before = causes::last_disturbance(view);
        let before = before.map_or_else(String::new, |text| format!("\nthe last disturbance: {text}"));
        return format!("nothing is wrong{before}");
    }
    let numbered = found.iter().enumerate().map(|(at, text)| format!("{}. {text}", at + 1));
    numbered.collect::<Vec<_>>().join("\n")
}

/// Writes the last reasons of all members, or of one: newest first, or all that are kept in their order.
pub fn explain(view: &ClusterView, member: Option<&str>, all: bool) -> String {
    let mut lines = Vec::new();
    for (name, account) in view.reasons.iter().filter(|(name, _)| member.is_none_or(|member| member == *name))
    {
        let told = &account.told;
        let here = view.member_named(name);
        lines.push(match here {
            Some(here) => {
                format!(
                    "{name} ({}, {}):",
                    view.role(name),
                    here.document().text("state").unwrap_or("unknown")
                )
            }
            None => {
                let last = told
                    .last()
                    .map_or_else(String::new, |last| format!(" since its words of {}, or later", last.time));
                format!("{name} (gone{last}; `keddah remove --member {name}` forgets it):")
            }
        });
        let shown = if all { told.len() } else { 3.min(told.len()) };
        for entry in told.iter().skip(told.len() - shown) {
            let actions = if entry.actions.is_empty() {
                String::new()
            } else {
                format!(" [{}]", entry.actions.join(", "))
            };
            lines.push(format!("  {}  {}  {}{actions}", entry.time, entry.reason, entry.text));
        }
        if told.is_empty() {
            lines.push("  it has told nothing".to_owned());
        }
    }
    lines.join("\n")
}
