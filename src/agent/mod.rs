//! The node agent: observe → [`view::View`] → [`decide`] → act.
//!
//! Start at [`run`]: the loop. [`view`] is what is known, [`decide`] what follows from it, [`act`] what is done. The
//! lease has a task of its own ([`lease::keeper`]), and Postgres a parent of its own (the guard).
//!
//! Invariant: an event wakes the loop and never acts; only `decide` chooses.

pub mod view;

pub mod decide;

pub mod disk;

pub mod birth;
mod examine;
mod handover;
pub mod instance;

pub mod observe;

pub mod act;

pub mod lease;

pub mod api;

pub mod log;
mod look;
mod mixed;
pub mod promises;
pub mod recorder;
mod requests;
pub mod schedule;
pub mod shown;
mod start;
pub mod state;
pub mod upgrade;
pub mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::agent::act::callbacks::Callbacks;
use crate::agent::act::dcs::{DcsActor, Ground, Particulars};
use crate::agent::act::job::{JobError, Jobs, set_data_aside};
use crate::agent::act::postgres::{ServerActor, Site};
use crate::agent::api::Door;
use crate::agent::api::access::Access;
use crate::agent::api::commands::Ask;
use crate::agent::decide::action::{CallbackEvent, ExitStatus};
use crate::agent::decide::{Action, Decision, Memory, decide};
use crate::agent::instance::Instance;
use crate::agent::lease::deadline::Deadline;
use crate::agent::lease::gate::Gate;
use crate::agent::lease::keeper::Keeper;
use crate::agent::mixed::Kinds;
use crate::agent::observe::dcs::DcsRead;
use crate::agent::observe::disk::Volumes;
use crate::agent::observe::peers;
use crate::agent::observe::postgres::{Looked, Observer};
use crate::agent::promises::{Asker, Promises};
use crate::agent::recorder::Recorder;
use crate::agent::schedule::Scheduled;
use crate::agent::shown::Shown;
use crate::agent::state::State;
use crate::agent::upgrade::Upgrade;
use crate::agent::view::{
    Deed, Outcome, Peers, Promised, ReinitializeRequest, RestartRequest, Seen, Tick, Verdict, View,
};
use crate::agent::wake::Signals;
use crate::cluster::{Lsn, MemberName};
use crate::contract::config::AgentConfig;
use crate::contract::keys::Keys;
use crate::etcd::Client;
use crate::etcd::mirror::Mirror;
use crate::postgres::history;
use crate::settings::Settings;
use crate::sys::alarm::Alarm;
use crate::sys::service_manager::ServiceManager;
use crate::sys::{clock, tls};

pub use examine::examine;
pub use start::{StartError, check_config, run};

/// Looks are at least this far apart, so that a storm of events does not become one of looks.
const BREATH: Duration = Duration::from_millis(5);

/// A look within this is one that something on its way waits for.
const HURRY: Duration = Duration::from_secs(1);

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Clean,
    Failure,
}

/// Everything that the loop holds from look to look.
struct Agent {
    config_path: PathBuf,
    config: AgentConfig,
    me: crate::cluster::MemberName,
    instance: Instance,
    settings: Settings,
    kinds: Kinds,
    /// Patroni runs some of the members.
    mixed: bool,
    client: Client,
    mirror: Arc<Mirror>,
    /// What the other members' REST API is asked with.
    tls: tls::Client,
    access: watch::Sender<Arc<Access>>,
    keys: Keys,
    gate: Gate,
    keeper: Keeper,
    observer: Observer,
    volumes: Volumes,
    jobs: Jobs,
    callbacks: Callbacks,
    dcs: DcsActor,
    server: ServerActor,
    recorder: Recorder,
    memory: Memory,
    peers: Peers,
    outcomes: Vec<Outcome>,
    /// The last answered read; empty before the first.
    read: Arc<DcsRead>,
    /// When etcd last answered, and the wall clock then.
    answered: Option<(Tick, i64)>,
    silent_since: Option<Tick>,
    /// The dynamic configuration last seen; that of the file before.
    dynamic: Map<String, Value>,
    asks: mpsc::Receiver<Ask>,
    scheduled: Option<Scheduled>,
    restart: Option<(RestartRequest, oneshot::Sender<bool>)>,
    reinitialize: Option<ReinitializeRequest>,
    next_request: u64,
    signals: Arc<Signals>,
    manager: ServiceManager,
    wake: Arc<Notify>,
    shown: watch::Sender<Option<Arc<Shown>>>,
    state: State,
    state_path: PathBuf,
    /// The listening side of the REST API.
    door: Door,
    upgrade: Upgrade,
    /// None: the guard is somebody else's to start.
    guard_program: Option<start::GuardProgram>,
    warned_of_solitude: bool,
    /// Somebody has asked for a reload, which is the server's too.
    reload_due: bool,
    /// The last decision wants to look again soon.
    hurried: bool,
    /// This look is made because something has happened or was asked for.
    called: bool,
    /// This member's word, and what this leader got of the others'.
    promises: Promises,
    lead: Option<Promised>,
    lead_slots: BTreeMap<String, Lsn>,
    watchdog_told: Option<crate::guard::protocol::WatchdogSettings>,
}

impl Agent {
    /// Looks, decides and acts until the decision is to end.
    async fn live(mut self) -> Ended {
        let mut alarm = Alarm::default();
        loop {
            // A loop that hangs for minutes, whatever at, is started anew by the service manager and adopts what runs.
            self.manager.alive(clock::now());
            self.take_asks();
            self.follow_upgrade().await;
            self.bring_guard_along().await;
            if self.signals.reload.swap(false, Ordering::Relaxed) {
                self.reload().await;
            }
            self.take_scheduled();
            let (view, looked) = self.look().await;
            let decision = decide(&view, &self.memory);
            self.keeper.certify();
            self.publish(&view, &looked, &decision);
            self.recorder.take(&view, &decision);
            tracing::debug!(reason = %decision.reason, actions = ?decision.actions, "decided");
            let (outcomes, ended) = self.act(&decision, &looked).await;
            self.reload_server().await;
            self.outcomes = outcomes;
            self.memory = decision.memory;
            self.recorder.save(&self.config.restapi);
            self.keep_state();
            if let Some(ended) = ended {
                return ended;
            }
            let (again, _) = decision.look_again;
            self.hurried = again.since(clock::now()) < HURRY;
            let done = clock::now();
            tokio::select! {
                () = alarm.until(again.min(done + self.until_scheduled())) => self.called = false,
                () = self.wake.notified() => self.called = true,
                ask = self.asks.recv() => {
                    self.called = true;
                    if let Some(ask) = ask {
                        self.take(ask);
                    }
                }
            }
            alarm.until(done + BREATH).await;
        }
    }

    /// Carries out the actions in order; the first that is not done ends the list.
    async fn act(&mut self, decision: &Decision, looked: &Looked) -> (Vec<Outcome>, Option<Ended>) {
        let mut outcomes = Vec::with_capacity(decision.actions.len());
        let mut ended = None;
        let mut failed = false;
        let mut actions = decision.actions.as_slice();
        while let Some((action, rest)) = actions.split_first() {
            actions = rest;
            if !failed
                && let Some((second, rest)) = rest.split_first()
                && let Some(verdict) = self.both(action, second, looked).await
            {
                failed = verdict != Verdict::Done;
                outcomes.extend([action, second].map(|action| Outcome { deed: action.deed(), verdict }));
                actions = rest;
                continue;
            }
            let deed = action.deed();
            let verdict = if failed { Verdict::Skipped } else { self.one(action, looked, &mut ended).await };
            // A callback or an answer that fails keeps nobody from what comes next.
            failed |= verdict != Verdict::Done && !matches!(deed, Deed::Callback | Deed::AnswerRequest);
            outcomes.push(Outcome { deed, verdict });
        }
        (outcomes, ended)
    }

    /// Carries out two actions as one where that spares a request.
    async fn both(&self, first: &Action, second: &Action, looked: &Looked) -> Option<Verdict> {
        let particulars = self.particulars(looked);
        let ground = Ground { read: Some(&self.read), particulars: &particulars, config: &self.dynamic };
        self.dcs.both(first, second, &ground).await
    }

    async fn one(&mut self, action: &Action, looked: &Looked, ended: &mut Option<Ended>) -> Verdict {
        if let Action::MoveLock { .. } = action {
            // A device that was fed by the longer lease's time could reset the host after the shorter one has ended.
            if !self.watchdog_is_in_step() {
                return Verdict::Failed;
            }
            // A process after this one must know both leases.
            self.keep_state();
        }
        let particulars = self.particulars(looked);
        let ground = Ground { read: Some(&self.read), particulars: &particulars, config: &self.dynamic };
        // A promise may have been given since the look.
        if let Action::TakeLeaderKey { .. } = action
            && self.settings.failsafe_mode
            && !self.promises.begin_taking(&self.me)
        {
            return Verdict::Fenced;
        }
        if let Some(verdict) = self.dcs.run(action, &ground).await {
            return verdict;
        }
        let mut site = Site { instance: &self.instance, observer: &mut self.observer, read: &self.read };
        if let Some(verdict) = self.server.run(action, &mut site).await {
            if let (Action::ApplyConfiguration, Verdict::Done, Some(role)) =
                (action, verdict, self.memory.announced.role)
            {
                self.callbacks.run(&self.config, CallbackEvent::Reload, role);
                self.reload_due = false;
            }
            return verdict;
        }
        match action {
            Action::AskPeers { also } => {
                let asked = clock::now();
                let known = self.read.documents.iter().filter(|(name, _)| **name != self.me);
                let places: BTreeMap<_, _> = known
                    .filter_map(|(name, document)| {
                        let keddah = document.keddah().is_some();
                        Some((name.clone(), peers::Place { api_url: document.api_url()?.to_owned(), keddah }))
                    })
                    .collect();
                let mut answers = peers::ask(&places, &self.tls).await;
                for name in also {
                    answers.entry(name.clone()).or_insert(view::Answer::Unreachable);
                }
                self.peers = Peers { asked: Some(asked), answers };
                Verdict::Done
            }
            Action::AskForPromises { members, slots } => {
                self.ask_for_promises(members, slots, &particulars).await
            }
            Action::StartJob { job } => {
                if self.jobs.start(job, &self.instance, &self.read) {
                    Verdict::Done
                } else {
                    Verdict::Failed
                }
            }
            Action::SettleLease { lease } => match self.keeper.settle(*lease).await {
                Ok(()) => Verdict::Done,
                Err(error) => {
                    tracing::warn!(error = %crate::sys::chain(&error), "the lease is not settled");
                    Verdict::Failed
                }
            },
            Action::CancelJob => {
                self.jobs.cancel();
                Verdict::Done
            }
            Action::SetDataAside => on_data(set_data_aside(self.instance.data_dir())),
            Action::SignTimeline { timeline } => {
                // What else is to be done does not wait for it; it is tried again in the next look.
                if let Err(error) = history::sign(self.instance.data_dir(), *timeline, &self.me) {
                    tracing::warn!(error = %crate::sys::chain(&error), "the timeline is not signed");
                }
                Verdict::Done
            }
            Action::LeaveTimeline { timeline } => {
                on_data(history::forget(self.instance.data_dir(), *timeline).map_err(JobError::from))
            }
            Action::EndBootstrap => on_data(birth::end(self.instance.data_dir()).map_err(JobError::from)),
            Action::Callback { event, role } => {
                self.callbacks.run(&self.config, *event, *role);
                Verdict::Done
            }
            Action::AnswerRequest { id, done } => {
                self.answer(*id, *done);
                Verdict::Done
            }
            Action::Exit { status } => {
                *ended = Some(match status {
                    ExitStatus::Clean => Ended::Clean,
                    ExitStatus::Failure => Ended::Failure,
                });
                Verdict::Done
            }
            other => {
                tracing::error!(action = ?other, "nobody carries this out; please report this");
                Verdict::Failed
            }
        }
    }

    async fn ask_for_promises(
        &mut self,
        members: &BTreeSet<MemberName>,
        slots: &BTreeMap<String, Lsn>,
        particulars: &Particulars,
    ) -> Verdict {
        let address = |name: &MemberName| self.read.failsafe.get(name.as_str()).and_then(Value::as_str);
        let urls: BTreeMap<MemberName, String> =
            members.iter().filter_map(|name| Some((name.clone(), address(name)?.to_owned()))).collect();
        if urls.len() != members.len() {
            return Verdict::Failed;
        }
        let user = self.config.restapi.authentication.as_ref();
        let asker = Asker {
            name: self.me.as_str(),
            conn_url: &particulars.conn_url,
            api_url: &particulars.api_url,
            user: user.and_then(|user| Some((user.username.as_str(), user.password.as_ref()?))),
            tls: &self.tls,
        };
        let asked = clock::now();
        let Some(round) = promises::ask(&urls, slots, self.settings.ttl, &asker).await else {
            return Verdict::Failed;
        };
        let deadline = Deadline::granted(asked, round.lasts, round.lasts);
        if let Err(error) = self.keeper.promised(deadline, asked).await {
            tracing::warn!(error = %crate::sys::chain(&error), "the guard did not take the deadline of the promises");
            return Verdict::Failed;
        }
        self.lead = Some(Promised { asked, deadline: deadline.at(), stop_at: deadline.stop_at() });
        self.lead_slots =
            round.positions.into_iter().map(|(member, lsn)| (member.slot_name(), lsn)).collect();
        Verdict::Done
    }

    fn publish(&self, view: &View, looked: &Looked, decision: &Decision) {
        let facts = decision.memory.published.as_ref().map(|(_, _, facts)| facts);
        let shown = Shown {
            view: view.clone(),
            read: self.read.clone(),
            extras: looked.extras.clone(),
            volumes: self.volumes.readings().clone(),
            state: facts.map_or(crate::cluster::State::Unknown, |facts| facts.state),
            role: facts.map_or(crate::cluster::Role::Uninitialized, |facts| facts.role),
            tags: crate::contract::tags::shown(&self.config.tags),
            reason: (decision.reason.code().to_owned(), decision.reason.to_string()),
            pending_restart_reason: looked.pending_restart_reason.clone(),
            upgrade_refused: self.upgrade.refused().map(str::to_owned),
            scheduled_restart: self.scheduled.as_ref().map(Scheduled::document),
            dcs_last_seen: self.answered.map_or(0, |(_, wall)| wall),
            looked_at: view.now,
        };
        self.shown.send_replace(Some(Arc::new(shown)));
        if self.silent_since.is_none() {
            self.promises.end_taking();
            if self.read.snapshot.leader.as_ref().is_some_and(|leader| leader.name == self.me) {
                self.promises.release();
            }
        }
    }

    fn particulars(&self, looked: &Looked) -> Particulars {
        let postgresql = &self.config.postgresql;
        Particulars {
            conn_url: format!("postgres://{}/postgres", postgresql.connect_address),
            api_url: self.config.restapi.api_url(),
            proxy_url: postgresql
                .proxy_address
                .as_ref()
                .map(|address| format!("postgres://{address}/postgres")),
            tags: crate::contract::tags::shown(&self.config.tags),
            pending_restart_reason: looked.pending_restart_reason.clone(),
            scheduled_restart: self.scheduled.as_ref().map(|scheduled| {
                let mut document = scheduled.document();
                document.insert("postmaster_start_time".to_owned(), scheduled.started.clone().into());
                document
            }),
            keddah: self.own_part(),
        }
    }

    /// Returns what the member document says beyond Patroni's: what the guard could not get, and which volume is scarce.
    fn own_part(&self) -> Map<String, Value> {
        let mut map = Map::new();
        if let Some(status) = self.gate.last() {
            if !status.lacking.is_empty() {
                map.insert("guard_lacks".to_owned(), status.lacking.clone().into());
            }
            if let Some(problem) = &status.watchdog.problem {
                map.insert("watchdog".to_owned(), problem.as_str().into());
            }
        }
        if let Some(sentence) = self.volumes.readings().sentence() {
            map.insert("disk".to_owned(), sentence.into());
        }
        map
    }
}

/// Wraps the last answer by whether it is of this look.
fn seen<T: Clone>(value: Option<&T>, silent_since: Option<Tick>) -> Seen<T> {
    match (value, silent_since) {
        (None, _) => Seen::Never,
        (Some(value), None) => Seen::Now(value.clone()),
        (Some(value), Some(since)) => Seen::Stale { value: value.clone(), since },
    }
}

/// Tells how an action on the data directory as a whole has ended.
fn on_data(done: Result<(), JobError>) -> Verdict {
    match done {
        Ok(()) => Verdict::Done,
        Err(error) => {
            tracing::error!(error = %crate::sys::chain(&error), "the data directory is left as it is");
            Verdict::Failed
        }
    }
}
