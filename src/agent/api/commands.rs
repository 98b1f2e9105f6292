//! What may be asked for by REST: each request is checked, put where the loop sees it, and answered with the outcome.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::agent::observe::dcs::{self, DcsRead};
use crate::agent::schedule::Scheduled;
use crate::agent::shown::Shown;
use crate::agent::view::{JobState, Running, Started};
use crate::cluster::{FailoverRequest, UnixMs};
use crate::contract::document::{Document, boolean, python_json};
use crate::contract::dynamic;
use crate::contract::failover::{self, SPENT};
use crate::contract::keys::Keys;
use crate::contract::requests::{self, Kind};
use crate::etcd::{Client, Compare, EtcdError, Txn, TxnOutcome, Write};
use crate::sys::clock;

/// Something asked of the loop.
#[derive(Debug)]
pub enum Ask {
    Restart {
        only_role: Option<Started>,
        only_if_pending: bool,
        done: oneshot::Sender<bool>,
    },
    /// Answered with whether it is taken: there is one at a time.
    Schedule {
        scheduled: Scheduled,
        done: oneshot::Sender<bool>,
    },
    /// Answered with whether there was one.
    Unschedule {
        done: oneshot::Sender<bool>,
    },
    Reinitialize {
        from_leader: bool,
    },
    Reload,
    /// Answered once the program is about to be executed, or with why not.
    Upgrade {
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Look again: something was written to etcd.
    Look,
}

/// A status and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub media: &'static str,
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, body: body.into(), media: "text/html", headers: Vec::new() }
    }

    /// Blanks are where Patroni has them: scripts search for `"role": "primary"`.
    pub fn json(status: u16, body: &Value) -> Answer {
        Answer { media: "application/json", ..Answer::text(status, python_json(body)) }
    }
}

/// How long a restart is waited for where the request does not say so.
const RESTART_LIMIT: Duration = Duration::from_secs(600);

/// How often the outcome of a switchover is looked for.
const POLL: Duration = Duration::from_millis(50);

/// What commands work with.
#[derive(Debug, Clone)]
pub struct Commands {
    pub client: Client,
    pub keys: Keys,
    pub asks: mpsc::Sender<Ask>,
}

impl Commands {
    /// Reads the cluster's keys, linearizably.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn read(&self) -> Result<DcsRead, EtcdError> {
        Ok(dcs::read(&self.keys, &self.client.get_prefix(self.keys.prefix()).await?))
    }

    async fn look(&self) {
        let _ = self.asks.send(Ask::Look).await;
    }

    /// `POST /reload`.
    pub async fn reload(&self) -> Answer {
        let _ = self.asks.send(Ask::Reload).await;
        Answer::text(202, "reload scheduled")
    }

    /// `POST /upgrade`. Waits until the program has been checked.
    pub async fn upgrade(&self) -> Answer {
        let (done, answer) = oneshot::channel();
        let _ = self.asks.send(Ask::Upgrade { done }).await;
        match answer.await {
            Ok(Ok(())) => Answer::text(202, "the program is checked and takes over"),
            Ok(Err(reason)) => Answer::text(412, reason),
            Err(_) => Answer::text(503, "the agent is ending"),
        }
    }

    /// `POST /restart`. Waits until Postgres is back, or surely is not.
    pub async fn restart(&self, body: &Map<String, Value>, shown: Option<&Shown>) -> Answer {
        let server_version =
            shown.and_then(|shown| shown.view.postgres.version).map_or(0, |version| version.0);
        let paused = shown.is_some_and(|shown| shown.view.settings.pause);
        if paused && body.contains_key("schedule") {
            return Answer::text(500, "Can't schedule restart in the paused state");
        }
        let mut at = None;
        let mut older_than = None;
        let mut only_role = None;
        let mut only_if_pending = false;
        let mut limit = RESTART_LIMIT;
        for (key, value) in body {
            match key.as_str() {
                "role" => {
                    only_role = match value.as_str() {
                        Some("primary" | "master") => Some(Started::Primary),
                        Some("replica" | "standby_leader") => Some(Started::Replica),
                        _ => {
                            return Answer::text(
                                400,
                                "PostgreSQL role should be either primary, standby_leader, or replica",
                            );
                        }
                    };
                }
                "restart_pending" => only_if_pending = boolean(value).unwrap_or(false),
                "postgres_version" => {
                    let wanted: Option<crate::cluster::PgVersion> =
                        value.as_str().and_then(|text| text.parse().ok());
                    match wanted {
                        Some(wanted) => older_than = Some(wanted.0),
                        None => return Answer::text(400, "postgres_version should be like 15.2"),
                    }
                }
                "timeout" => match requests::seconds(value) {
                    Some(seconds) if seconds > 0 => limit = Duration::from_secs(seconds),
                    _ => return Answer::text(400, "Timeout should be a positive number of seconds"),
                },
                "schedule" => {
                    let now = UnixMs(clock::wall().as_millisecond());
                    match requests::moment(value.as_str().unwrap_or_default(), "restart", now) {
                        Ok(moment) => at = Some(moment),
                        Err(refusal) => return Answer::text(refusal.status, refusal.text),
                    }
                }
                other => {
                    return Answer::text(400, format!("Unknown filter for the scheduled restart: {other}"));
                }
            }
        }
        if let Some(at) = at {
            let started = shown.and_then(|shown| shown.extras.postmaster_start_time.clone());
            let asked = body.clone();
            let scheduled = Scheduled { at, only_role, only_if_pending, older_than, asked, started };
            return self.schedule(scheduled).await;
        }
        if older_than.is_some_and(|limit| server_version >= limit) {
            return Answer::text(503, "restart conditions are not satisfied");
        }
        let unmet = shown.is_some_and(|shown| {
            let role = shown.running().map(Running::started);
            let other_role = only_role.is_some_and(|wanted| role.is_some_and(|role| role != wanted));
            other_role || (only_if_pending && shown.pending_restart_reason.is_empty())
        });
        let (done, outcome) = oneshot::channel();
        if self.asks.send(Ask::Restart { only_role, only_if_pending, done }).await.is_err() {
            return Answer::text(503, "the agent is ending");
        }
        match tokio::time::timeout(limit, outcome).await {
            Ok(Ok(true)) => Answer::text(200, "restarted successfully"),
            Ok(Ok(false)) if unmet => Answer::text(503, "restart conditions are not satisfied"),
            Ok(Ok(false)) => Answer::text(503, "restart failed"),
            Ok(Err(_)) => Answer::text(503, "another restart has taken its place, or the agent is ending"),
            Err(_) => Answer::text(503, "restart is still under way"),
        }
    }

    async fn schedule(&self, scheduled: Scheduled) -> Answer {
        let (done, taken) = oneshot::channel();
        if self.asks.send(Ask::Schedule { scheduled, done }).await.is_err() {
            return Answer::text(503, "the agent is ending");
        }
        match taken.await {
            Ok(true) => Answer::text(202, "Restart scheduled"),
            Ok(false) => Answer::text(409, "Another restart is already scheduled"),
            Err(_) => Answer::text(503, "the agent is ending"),
        }
    }

    /// `DELETE /restart`.
    pub async fn cancel_restart(&self) -> Answer {
        let (done, deleted) = oneshot::channel();
        let _ = self.asks.send(Ask::Unschedule { done }).await;
        match deleted.await {
            Ok(true) => Answer::text(200, "scheduled restart deleted"),
            Ok(false) | Err(_) => Answer::text(404, "no restarts are scheduled"),
        }
    }

    /// `POST /reinitialize`.
    pub async fn reinitialize(&self, body: &Map<String, Value>, shown: &Shown) -> Answer {
        if shown.leader() == Some(&shown.view.me) {
            return Answer::text(503, "I am the leader, can not reinitialize");
        }
        if shown.leader().is_none() {
            return Answer::text(503, "Cluster has no leader, can not reinitialize");
        }
        let force = body.get("force").and_then(boolean).unwrap_or(false);
        let busy = shown.view.job.as_ref().is_some_and(|report| report.state == JobState::Running);
        if busy && !force {
            return Answer::text(503, "reinitialize already in progress");
        }
        let from_leader = body.get("from_leader").and_then(boolean).unwrap_or(false);
        let _ = self.asks.send(Ask::Reinitialize { from_leader }).await;
        Answer::text(200, "reinitialize started")
    }

    /// `GET /config`.
    pub async fn config(&self) -> Answer {
        match self.read().await {
            Ok(DcsRead { config: Some(config), .. }) => Answer::json(200, &Value::Object(config)),
            Ok(_) => Answer::text(502, "there is no dynamic configuration in etcd"),
            Err(error) => unavailable(&error),
        }
    }

    /// `PATCH /config`.
    pub async fn patch_config(&self, changes: &Map<String, Value>) -> Answer {
        let read = match self.read().await {
            Ok(read) => read,
            Err(error) => return unavailable(&error),
        };
        let Some(mut config) = read.config else {
            return Answer::text(503, "there is no dynamic configuration in etcd");
        };
        if dynamic::patch(&mut config, changes) {
            let key = self.keys.config();
            let txn = Txn::default()
                .when(Compare::ModRevision { key: key.clone(), revision: read.snapshot.config.0 })
                .then(Write::put(key, Value::Object(config.clone()).to_string()));
            match self.client.txn(&txn).await {
                Ok(TxnOutcome::Applied { .. }) => {}
                Ok(TxnOutcome::Fenced { .. }) => {
                    return Answer::text(409, "the configuration was changed in between; read it again");
                }
                Err(error) => return unavailable(&error),
            }
        }
        self.look().await;
        Answer::json(200, &Value::Object(config))
    }

    /// `PUT /config`.
    pub async fn put_config(&self, config: &Map<String, Value>) -> Answer {
        let text = Value::Object(config.clone()).to_string();
        match self.client.put(&self.keys.config(), &text, None).await {
            Ok(_) => {
                self.look().await;
                Answer::json(200, &Value::Object(config.clone()))
            }
            Err(error) => Answer::text(502, crate::sys::chain(&error)),
        }
    }

    /// `DELETE /switchover`.
    pub async fn cancel_switchover(&self) -> Answer {
        let read = match self.read().await {
            Ok(read) => read,
            Err(error) => return unavailable(&error),
        };
        let scheduled = read.snapshot.failover.filter(|request| request.value.scheduled_at.is_some());
        let Some(request) = scheduled else {
            return Answer::text(404, "no switchover is scheduled");
        };
        let key = self.keys.failover();
        let txn = Txn::default()
            .when(Compare::ModRevision { key: key.clone(), revision: request.mod_revision.0 })
            .then(Write::put(key, SPENT));
        match self.client.txn(&txn).await {
            Ok(TxnOutcome::Applied { .. }) => Answer::text(200, "scheduled switchover deleted"),
            Ok(TxnOutcome::Fenced { .. }) => Answer::text(409, "the request was changed in between"),
            Err(error) => unavailable(&error),
        }
    }

    /// `POST /switchover` and `POST /failover`: writes the request and waits for its outcome.
    pub async fn failover(&self, kind: Kind, body: &Map<String, Value>) -> Answer {
        let read = match self.read().await {
            Ok(read) => read,
            Err(error) => return unavailable(&error),
        };
        let now = UnixMs(clock::wall().as_millisecond());
        let (kind, request) = match requests::check(kind, &Document(body.clone()), &read.shown, now) {
            Ok(checked) => checked,
            Err(refusal) => return Answer::text(refusal.status, refusal.text),
        };
        let put = self.client.put(&self.keys.failover(), &failover::to_text(&request), None).await;
        if let Err(error) = put {
            return Answer::text(
                503,
                format!("failed to write failover key into DCS: {}", crate::sys::chain(&error)),
            );
        }
        self.look().await;
        if request.scheduled_at.is_some() {
            return Answer::text(202, format!("{} scheduled", kind.title()));
        }
        self.outcome(kind, &request, &read).await
    }

    async fn outcome(&self, kind: Kind, request: &FailoverRequest, before: &DcsRead) -> Answer {
        let leader_before = before.snapshot.leader.as_ref().map(|leader| leader.name.clone());
        let limit = Duration::from_secs(20).max(
            before
                .config
                .as_ref()
                .and_then(|config| config.get("loop_wait"))
                .and_then(Value::as_u64)
                .map_or(Duration::ZERO, |seconds| Duration::from_secs(2 * seconds)),
        );
        let began = clock::now();
        while clock::now().since(began) < limit {
            tokio::time::sleep(POLL).await;
            let Ok(read) = self.read().await else {
                continue;
            };
            let snapshot = &read.snapshot;
            if let Some(leader) = &snapshot.leader
                && Some(&leader.name) != leader_before.as_ref()
            {
                if !read.shown.runs_as_leader(leader.name.as_str()) {
                    continue;
                }
                return match &request.candidate {
                    Some(candidate) if *candidate != leader.name => Answer::text(
                        200,
                        format!(
                            "{}ed over to \"{}\" instead of \"{candidate}\"",
                            kind.stem_title(),
                            leader.name
                        ),
                    ),
                    _ => Answer::text(
                        200,
                        format!("Successfully {}ed over to \"{}\"", kind.stem(), leader.name),
                    ),
                };
            }
            if snapshot.failover.is_none() && snapshot.leader.is_some() {
                return Answer::text(503, format!("{} failed", kind.title()));
            }
        }
        Answer::text(
            503,
            format!(
                "{} status unknown after {} seconds; operation may still be in progress",
                kind.title(),
                limit.as_secs()
            ),
        )
    }
}

fn unavailable(error: &EtcdError) -> Answer {
    Answer::text(503, crate::sys::chain(error))
}
