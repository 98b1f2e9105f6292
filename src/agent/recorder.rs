//! Keeps why this member did what it did, in the log and in etcd, where it can be read when the member is gone.

use crate::agent::act::dcs::iso_now;
use crate::agent::decide::Decision;
use crate::agent::view::View;
use crate::contract::config::RestSection;
use crate::contract::explain::{Account, KEPT, Told};
use crate::contract::keys::Keys;
use crate::etcd::Client;

/// The last reasons.
#[derive(Debug)]
pub struct Recorder {
    client: Client,
    key: String,
    account: Account,
    /// What etcd has not taken yet.
    unsaved: bool,
}

impl Recorder {
    pub fn new(client: Client, keys: &Keys, name: &str, before: Account) -> Recorder {
        Recorder { client, key: keys.reasons(name), account: before, unsaved: false }
    }

    /// Takes a decision; a line is logged and kept when its reason differs from the last one. Returns whether it did.
    pub fn take(&mut self, view: &View, decision: &Decision) -> bool {
        let text = decision.reason.to_string();
        let code = decision.reason.code();
        // Moments in a reason move on while nothing else does.
        let same = |last: &Told| last.reason == code && without_numbers(&last.text) == without_numbers(&text);
        if self.account.decisions().next_back().is_some_and(same) {
            return false;
        }
        tracing::info!("{text}");
        let actions = decision.actions.iter().map(|action| format!("{:?}", action.deed())).collect();
        let revision = view.dcs.now().map_or(0, |snapshot| snapshot.revision.0);
        self.keep(Told { time: iso_now(), revision, reason: code.to_owned(), text, actions });
        true
    }

    /// Keeps something that no decision was made about, by one of the names that [`Told::is_note`] knows.
    pub fn note(&mut self, reason: &str, text: &str) {
        let (reason, text) = (reason.to_owned(), text.to_owned());
        self.keep(Told { time: iso_now(), revision: 0, reason, text, actions: Vec::new() });
    }

    fn keep(&mut self, told: Told) {
        let kept = &mut self.account.told;
        kept.push(told);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        self.unsaved = true;
    }

    /// Writes to etcd what it does not have yet, without waiting for it.
    pub fn save(&mut self, restapi: &RestSection) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        self.account.api_url = Some(restapi.api_url());
        let (client, key, text) = (self.client.clone(), self.key.clone(), self.account.to_text());
        tokio::spawn(async move {
            if let Err(error) = client.put(&key, &text, None).await {
                tracing::debug!(error = %crate::sys::chain(&error), "the reasons are not in etcd");
            }
        });
    }
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}
