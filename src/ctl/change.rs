//! `switchover` and `failover`: write the request, wait for the outcome, measure how long nobody was primary.

use std::time::Duration;

use crate::cluster::UnixMs;
use crate::contract::document::Document;
use crate::contract::failover::to_text;
use crate::contract::requests::{self, Kind};
use crate::contract::rest::ClusterView;
use crate::ctl::{Cluster, CtlError};
use crate::sys::clock::{self, Tick};
use crate::sys::http::{Request, send};
use crate::sys::tls;

/// How often the outcome is looked for.
const POLL: Duration = Duration::from_millis(100);

/// How often members are asked who is primary, which bounds the precision of the gap.
const WATCH: Duration = Duration::from_millis(10);

/// How long after the end of a request its reason is waited for.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// The reason by which a leader names what may delay.
const HAMPERED: &str = "HandOverHampered";

/// The reasons by which a leader tells that it had begun and leads again.
const PUT_BACK: [&str; 2] = ["HandOverUndone", "TakingLockBack"];

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Another member leads. `gap`: how long no member said that it was primary, as far as it could be seen.
    /// `hazards`: what the leader before named as possible delays.
    Done { leader: String, gap: Option<Duration>, hazards: Option<String> },
    /// The leader did not begin it: nothing was touched.
    Refused { why: String },
    /// The leader began it, gave it up, and leads again.
    PutBack { why: String },
    /// It will happen at its time.
    Scheduled,
    /// Nothing can be said yet.
    Unknown { waited: Duration },
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    pub leader: Option<String>,
    pub candidate: Option<String>,
    pub scheduled_at: Option<String>,
}

impl Cluster {
    /// Asks for another leader and waits for the outcome.
    ///
    /// # Errors
    /// The cluster does not allow it, or etcd did not answer.
    pub async fn change_leader(&self, kind: Kind, wish: &Wish, limit: Duration) -> Result<Outcome, CtlError> {
        let before = self.read().await?;
        let mut document = Document::default();
        let leader = match (kind, &wish.leader) {
            (_, Some(leader)) => Some(leader.clone()),
            (Kind::Switchover, None) => {
                let current = before.leader.clone();
                Some(current.ok_or_else(|| CtlError::Refused("this cluster has no leader".to_owned()))?)
            }
            (Kind::Failover, None) => None,
        };
        document.set_or_remove("leader", leader);
        document.set_or_remove("candidate", wish.candidate.clone());
        document.set_or_remove("scheduled_at", wish.scheduled_at.clone());
        let now = UnixMs(clock::wall().as_millisecond());
        let (_, request) = requests::check(kind, &document, &before, now)
            .map_err(|refusal| CtlError::Refused(refusal.text))?;
        let watcher = Watcher::start(
            &self.tls,
            before
                .members
                .iter()
                .filter_map(|(_, member)| Some(member.api_url()?.replace("/patroni", "/primary"))),
        );
        let asked = self.client.put(&self.keys.failover(), &to_text(&request), None).await?;
        if request.scheduled_at.is_some() {
            return Ok(Outcome::Scheduled);
        }
        let began = clock::now();
        while clock::now().since(began) < limit {
            tokio::time::sleep(POLL).await;
            let Ok(view) = self.read().await else {
                continue;
            };
            let Some(leader) = view.leader.clone() else {
                continue;
            };
            if Some(&leader) != before.leader.as_ref() && view.runs_as_leader(&leader) {
                // The last answers are on their way.
                tokio::time::sleep(WATCH * 5).await;
                let hazards = before.leader.as_ref().and_then(|old| told(&view, old, asked, HAMPERED));
                return Ok(Outcome::Done { leader, gap: watcher.gap(), hazards });
            }
            if Some(&leader) == before.leader.as_ref() && view.failover.is_none() {
                return Ok(self.not_done(&leader, asked).await);
            }
        }
        Ok(Outcome::Unknown { waited: limit })
    }

    /// Reads why the leader still leads. It clears the request first and tells its reason then.
    async fn not_done(&self, leader: &str, asked: i64) -> Outcome {
        let began = clock::now();
        while clock::now().since(began) < TOLD_WITHIN {
            if let Ok(view) = self.read().await {
                if let Some(why) = PUT_BACK.iter().find_map(|reason| told(&view, leader, asked, reason)) {
                    return Outcome::PutBack { why };
                }
                if let Some(why) = told(&view, leader, asked, "SwitchoverRefused") {
                    return Outcome::Refused { why };
                }
                if view.member_named(leader).is_some_and(|member| member.keddah().is_none()) {
                    return Outcome::PutBack {
                        why: format!("{leader} still leads; its Patroni's log tells why"),
                    };
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Outcome::PutBack {
            why: format!(
                "{leader} still leads and does not tell why; the request may have been removed by hand"
            ),
        }
    }
}

/// Returns the last sentence of this reason that a member told of something it saw at or after a revision.
fn told(view: &ClusterView, member: &str, since: i64, reason: &str) -> Option<String> {
    let told = view.reasons.get(member)?.told.iter().rev();
    told.filter(|told| told.reason == reason && told.revision >= since).map(|told| told.text.clone()).next()
}

/// Asks all members all the time who is primary, and remembers the longest time in which nobody was.
#[derive(Debug)]
struct Watcher {
    seen: std::sync::Arc<std::sync::Mutex<Vec<Tick>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Watcher {
    fn start(tls: &tls::Client, urls: impl Iterator<Item = String>) -> Watcher {
        let seen: std::sync::Arc<std::sync::Mutex<Vec<Tick>>> = std::sync::Arc::default();
        let tasks = urls
            .map(|url| {
                let (seen, tls) = (seen.clone(), tls.clone());
                tokio::spawn(async move {
                    loop {
                        let answer = send(&Request::get(&url, Duration::from_millis(500)).over(&tls)).await;
                        if answer.is_ok_and(|reply| reply.status == 200) {
                            seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(clock::now());
                        }
                        tokio::time::sleep(WATCH).await;
                    }
                })
            })
            .collect();
        Watcher { seen, tasks }
    }

    /// Returns the longest time between two answers of a primary; None where nobody answered before and after.
    fn gap(&self) -> Option<Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        seen.sort_unstable();
        seen.windows(2).filter_map(|pair| Some(pair.get(1)?.since(*pair.first()?))).max()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
