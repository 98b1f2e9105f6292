//! Keeps why this member did what it did, in the log and in etcd, where it can be read when the member is gone.

use std::time::Duration;

use tokio::sync::watch;

use crate::agent::act::dcs::iso_now;
use crate::agent::decide::Decision;
use crate::agent::view::{Deed, View};
use crate::contract::config::RestSection;
use crate::contract::explain::{Account, KEPT, Told};
use crate::contract::keys::Keys;
use crate::etcd::Client;

/// How long after a failed write the next one begins.
const AGAIN: Duration = Duration::from_secs(1);

/// The last reasons.
#[derive(Debug)]
pub struct Recorder {
    account: Account,
    /// The account holds what was not given to the writer yet.
    unsaved: bool,
    texts: watch::Sender<String>,
}

impl Recorder {
    pub fn new(client: Client, keys: &Keys, name: &str, before: Account) -> Recorder {
        let (texts, newest) = watch::channel(String::new());
        tokio::spawn(write(client, keys.reasons(name), newest));
        Recorder { account: before, unsaved: false, texts }
    }

    /// Takes a decision; a line is logged and kept when its reason differs from the last one. Returns whether it did.
    pub fn take(&mut self, view: &View, decision: &Decision) -> bool {
        let text = decision.reason.to_string();
        let code = decision.reason.code();
        // Moments in a reason move on while nothing else does.
        let ended = ended_request(view, decision);
        let same = |last: &Told| {
            last.reason == code
                && without_numbers(&last.text) == without_numbers(&text)
                && ended.is_none_or(|request| last.revision >= request)
        };
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

    /// Gives to the writer what etcd does not have yet, without waiting for it.
    pub fn save(&mut self, restapi: &RestSection) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        self.account.api_url = Some(restapi.api_url());
        self.texts.send_replace(self.account.to_text());
    }
}

/// Writes the newest text, one at a time so that no older one comes last, until etcd has taken it.
async fn write(client: Client, key: String, mut newest: watch::Receiver<String>) {
    while newest.changed().await.is_ok() {
        let text = newest.borrow_and_update().clone();
        if let Err(error) = client.put(&key, &text, None).await {
            tracing::debug!(error = %crate::sys::chain(&error), "the reasons are not in etcd");
            newest.mark_changed();
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Returns the revision of the request that this decision ends. Whoever waits for its end looks for a reason as late, and the
/// one before may have ended alike.
fn ended_request(view: &View, decision: &Decision) -> Option<i64> {
    let clears = decision.actions.iter().any(|action| action.deed() == Deed::ClearFailover);
    let request = view.dcs.now()?.failover.as_ref().filter(|_| clears)?;
    Some(request.mod_revision.0)
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}
