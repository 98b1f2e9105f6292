//! One look: etcd, the guard, Postgres, put together into a [`View`]; and what the configuration makes of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::agent::api::access::Access;
use crate::agent::decide::action::CallbackEvent;
use crate::agent::decide::needs_feedback;
use crate::agent::instance::Instance;
use crate::agent::lease::deadline::SLOW_TTL;
use crate::agent::lease::keeper::Times;
use crate::agent::observe::dcs;
use crate::agent::observe::disk::News;
use crate::agent::observe::postgres::Looked;
use crate::agent::state::State;
use crate::agent::view::{Failsafe, Guard, Lease, Process, Requests, Running, Tick, View, Watchdog};
use crate::agent::{Agent, seen, start};
use crate::cluster::{MemberName, UnixMs};
use crate::contract::config::AgentConfig;
use crate::contract::dynamic::effective_postgresql;
use crate::contract::tags;
use crate::etcd::{EtcdError, Range};
use crate::guard::protocol::{self, Gate as GateState, Request, Status};
use crate::settings::Settings;
use crate::settings::table::SHORTEST_TTL_OF_PATRONI;
use crate::sys::files::{self, Attributes};
use crate::sys::{children, clock};

/// How long the guard may take to answer.
const GUARD_LIMIT: Duration = Duration::from_secs(2);

/// How long etcd is waited for while it is silent and something is on its way here.
const SILENT_LIMIT: Duration = Duration::from_millis(300);

/// A look for which nothing has happened takes the guard's word of so long ago: a guard that is gone is noticed at once,
/// and one that hangs is in the way of nothing before something happens.
const GUARD_WORD: Duration = Duration::from_secs(30);

/// At most so many looks go by, at `loop_wait` each, before etcd is read again though nothing happens.
const SPARED_LOOKS: u32 = 30;

/// The copy of the dynamic configuration in the data directory, named as Patroni names it.
pub(super) const DYNAMIC_COPY: &str = "patroni.dynamic.json";

/// Reads that copy; None where there is none that can be read.
pub(super) fn dynamic_copy(data_dir: &Path) -> Option<Map<String, Value>> {
    let bytes = files::read_if_there(&data_dir.join(DYNAMIC_COPY)).ok()??;
    serde_json::from_slice(&bytes).ok()
}

impl Agent {
    /// Looks at the world.
    pub(super) async fn look(&mut self) -> (View, Looked) {
        self.read_etcd().await;
        let tags = tags::read(&self.config.tags);
        let feeds_back = needs_feedback(&self.read.snapshot, &self.settings, &self.me, &tags);
        let slot_wal_cap = self.volumes.slot_wal_cap();
        if (self.instance.feeds_back, self.instance.slot_wal_cap) != (feeds_back, slot_wal_cap) {
            self.instance.feeds_back = feeds_back;
            self.instance.slot_wal_cap = slot_wal_cap;
            self.observer.forget_configuration();
        }
        let status = self.guard_status().await;
        let looked = self.observer.look(&self.instance, status.as_ref(), &self.read).await;
        let answers = matches!(looked.postgres.process, Process::Running(_));
        if answers && !self.instance.data_dir().join(DYNAMIC_COPY).exists() {
            self.keep_dynamic();
        }
        self.look_at_volumes(&looked);
        let snapshot = self.answered.map(|_| &self.read.snapshot);
        let now = clock::now();
        let leads = self.lead.is_some_and(|lead| now < lead.deadline);
        let failsafe = Failsafe {
            lead: self.lead,
            promise: self.promises.current(),
            slots: if leads { self.lead_slots.clone() } else { self.promises.slots(now) },
        };
        let view = View {
            now,
            wall: UnixMs(clock::wall().as_millisecond()),
            me: self.me.clone(),
            tags,
            local: self.instance.local(),
            settings: self.settings.clone(),
            dcs: seen(snapshot, self.silent_since),
            lease: self.keeper.lease(),
            failsafe,
            guard: self.guard(status.as_ref()),
            watchdog: self.watchdog(status.as_ref()),
            postgres: looked.postgres.clone(),
            disk: self.volumes.readings().verdict(),
            peers: self.peers.clone(),
            job: self.jobs.report(),
            preflight: self.server.preflights.report(),
            oldest_wal: self.observer.oldest_wal.borrow().clone(),
            remote: self.observer.remote.borrow().clone(),
            outcomes: self.outcomes.clone(),
            requests: Requests {
                stop: self.signals.stop.load(Ordering::Relaxed),
                restart: self.restart.as_ref().map(|(request, _)| request.clone()),
                restart_at: self.scheduled.as_ref().map(|scheduled| scheduled.at),
                reinitialize: self.reinitialize.clone(),
            },
        };
        self.warn_of_solitude(&view);
        (view, looked)
    }

    /// Looks how much room there is, and says once what has changed.
    fn look_at_volumes(&mut self, looked: &Looked) {
        let server = looked.postgres.running().map(|_| looked.extras.kept_by_slot.clone());
        let segment = self.observer.segment_size();
        self.volumes.look(self.instance.data_dir(), self.config.disk, segment, server, clock::now());
        match self.volumes.news() {
            Some(News::Scarce(sentence)) => {
                tracing::warn!("{sentence}");
                self.recorder.note("DiskScarce", &sentence);
            }
            Some(News::Ample) => {
                tracing::info!("the volumes have room again");
                self.recorder.note("DiskAmple", "the volumes have room again");
            }
            None => {}
        }
    }

    /// Says once that nothing can be committed because no standby is there that may be synchronous.
    fn warn_of_solitude(&mut self, view: &View) {
        let may_be_synchronous = |name: &MemberName| {
            let member = view.dcs.last().and_then(|snapshot| snapshot.members.get(name));
            member.is_some_and(|member| member.facts.tags.sync_priority() > 0)
        };
        let alone = match view.postgres.running() {
            Some(Running::Primary(facts)) => {
                let mut standbys = facts.standbys.iter();
                !standbys.any(|(name, standby)| standby.streaming && may_be_synchronous(name))
            }
            Some(Running::Replica(_)) | None => false,
        };
        let stuck = alone && view.settings.synchronous_mode.is_strict();
        if stuck && !self.warned_of_solitude {
            tracing::warn!(
                "No active replication connections from Patroni members and synchronous_mode_strict is requested"
            );
        }
        self.warned_of_solitude = stuck;
    }

    async fn read_etcd(&mut self) {
        let asked = clock::now();
        if let Some((news, answered)) = self.spared_read(asked) {
            self.answered = Some((answered, clock::wall().as_second()));
            if let Some(range) = news {
                self.take_read(&range);
            }
            return;
        }
        let before = self.mirror.before_read(asked);
        let read = self.client.get_prefix(self.keys.prefix());
        // A server that is on its way down does not wait for an etcd that is known to be silent.
        let limit = if self.hurried && self.silent_since.is_some() { SILENT_LIMIT } else { Duration::MAX };
        let read = tokio::time::timeout(limit, read).await;
        match read.unwrap_or_else(|_| Err(still_silent())) {
            Ok(range) => {
                self.mirror.seed(&range, before);
                if self.silent_since.take().is_some() {
                    tracing::info!("etcd answers again");
                }
                self.answered = Some((clock::now(), clock::wall().as_second()));
                self.take_read(&range);
            }
            Err(error) => {
                if self.silent_since.is_none() {
                    tracing::warn!(error = %crate::sys::chain(&error), "etcd does not answer");
                }
                self.silent_since.get_or_insert(asked);
            }
        }
    }

    /// Returns the keys, as far as they are news, where a read would show nothing else: the watch has told of all that
    /// is, etcd answers the lease's keepalives, and nothing is under way. With them comes the moment of etcd's last
    /// answer.
    ///
    /// A short lease spares nothing: all that it has is how soon silence is seen.
    fn spared_read(&self, now: Tick) -> Option<(Option<Range>, Tick)> {
        if self.hurried || self.silent_since.is_some() || self.settings.ttl < SLOW_TTL {
            return None;
        }
        let answered = self.keeper.answered()?;
        let age = self.settings.loop_wait * SPARED_LOOKS;
        let known = self.mirror.revision(now, age)? == self.read.snapshot.revision.0;
        let news = if known { None } else { Some(self.mirror.range(now, age)?) };
        Some((news, answered))
    }

    fn take_read(&mut self, range: &Range) {
        let read = dcs::read(&self.keys, range);
        for (key, why) in &read.unreadable {
            if !self.read.unreadable.iter().any(|(known, _)| known == key) {
                tracing::warn!(key, why, "a value in etcd cannot be read; it counts as absent");
            }
        }
        self.read = Arc::new(read);
        self.take_settings();
    }

    /// Makes count what the last read says about the configuration.
    fn take_settings(&mut self) {
        let mixed = self.kinds.are_mixed(&self.read, &self.me);
        let config = self.read.config.clone().filter(|config| *config != self.dynamic);
        if config.is_none() && mixed == self.mixed {
            return;
        }
        self.mixed = mixed;
        self.dynamic = config.unwrap_or_else(|| std::mem::take(&mut self.dynamic));
        self.apply_settings();
    }

    /// Makes the configuration count: settings, the instance's files (written by a decision), the lease's times.
    pub(super) fn apply_settings(&mut self) {
        let (settings, complaints) = settings_of(&self.dynamic, &self.config.section("postgresql"));
        for complaint in complaints {
            tracing::warn!("{complaint}");
        }
        self.settings = within_reach(settings, self.config.guard_fences, self.mixed);
        self.keeper.set_times(times(&self.settings));
        let mut instance = Instance::new(&self.config, &self.dynamic);
        instance.weigh(Some(&self.instance));
        self.instance = instance;
        self.observer.forget_configuration();
        if crate::postgres::has_data(self.instance.data_dir()) {
            self.keep_dynamic();
        }
    }

    /// Keeps a copy of the dynamic configuration beside the data: it counts where etcd has none.
    fn keep_dynamic(&self) {
        let text = Value::Object(self.dynamic.clone()).to_string();
        let path = self.instance.data_dir().join(DYNAMIC_COPY);
        if let Err(error) = files::replace(&path, text.as_bytes(), Attributes::OWNER_ONLY) {
            tracing::warn!(error = %crate::sys::chain(&error), "the copy of the dynamic configuration is not written");
        }
    }

    /// Reads the file again. What is wrong with it is told, and the old one goes on counting.
    pub(super) async fn reload(&mut self) {
        self.reload_due = true;
        match start::read_config(&self.config_path) {
            Ok(config) if config.name != self.config.name || config.scope != self.config.scope => {
                tracing::error!("name and scope cannot be changed by a reload; the old configuration stays");
            }
            Ok(config) => {
                tracing::info!("the configuration is read again");
                self.reload_api(&config).await;
                self.config = config;
                warn_of_tags(&self.config);
                self.apply_settings();
            }
            Err(error) => tracing::error!("the configuration cannot be read, the old one stays: {error}"),
        }
    }

    /// Has the server read its files again where a reload was asked for and no change of them has done so: certificates are
    /// renewed and `pg_hba.conf` is edited without this agent's doing. A server that is not up reads them when it starts.
    pub(super) async fn reload_server(&mut self) {
        if !std::mem::take(&mut self.reload_due) {
            return;
        }
        let Some(session) = self.observer.session() else { return };
        if let Err(error) = session.reload().await {
            tracing::warn!(error = %crate::sys::chain(&error), "the server is not reloaded");
        } else if let Some(role) = self.memory.announced.role {
            self.callbacks.run(&self.config, CallbackEvent::Reload, role);
        }
    }

    /// Reads the certificates and rules of the REST API again. Where they cannot be used the old ones stay.
    async fn reload_api(&mut self, config: &AgentConfig) {
        if config.restapi.listen != self.config.restapi.listen {
            tracing::warn!("restapi.listen changes when the agent is started again");
        }
        match Access::of(&config.restapi).await {
            Ok(access) => {
                self.access.send_replace(Arc::new(access));
            }
            Err(error) => {
                tracing::error!(error = %crate::sys::chain(&error), "the REST API keeps its certificates");
            }
        }
        match start::members_client(&config.ctl) {
            Ok(tls) => self.tls = tls,
            Err(error) => {
                tracing::error!(error = %crate::sys::chain(&error), "the other members are asked as before");
            }
        }
    }

    async fn guard_status(&mut self) -> Option<Status> {
        let known = if self.called || self.hurried { None } else { self.gate.recent(GUARD_WORD) };
        let status = match known {
            Some(status) => Some(status),
            None => self.gate.status().await,
        };
        let Some(status) = status else {
            self.watchdog_told = None;
            if let Some(program) = &self.guard_program {
                program.start().await;
                return self.gate.status().await;
            }
            return None;
        };
        let fences = self.config.guard_fences;
        if status.fence_off == fences
            && let Err(error) = self.gate.ask(Request::Fence { on: fences }, GUARD_LIMIT).await
        {
            tracing::warn!(error = %crate::sys::chain(&error), "the guard is not told whether it is a fence");
        }
        let wanted = self.watchdog_settings();
        if self.watchdog_told.as_ref() != Some(&wanted) {
            match self.gate.ask(Request::Watchdog(wanted.clone()), GUARD_LIMIT).await {
                Ok(status) => {
                    self.watchdog_told = Some(wanted);
                    return Some(status);
                }
                Err(error) => tracing::warn!(error = %crate::sys::chain(&error), "the watchdog is not set"),
            }
        }
        Some(status)
    }

    /// Tells whether the guard has taken the device's times that go with the ttl.
    pub(super) fn watchdog_is_in_step(&self) -> bool {
        self.watchdog_told.as_ref() == Some(&self.watchdog_settings())
    }

    fn watchdog_settings(&self) -> protocol::WatchdogSettings {
        let section = &self.config.watchdog;
        // A device that waits longer than the lease in force lasts could never be fed, and would reset the host. A shorter
        // ttl counts at once, a longer one when the lock hangs on its lease.
        let lease = self.keeper.ttl().unwrap_or(self.settings.ttl);
        let ttl = self.settings.ttl.min(lease).as_secs();
        let margin = section.safety_margin.and_then(|margin| u64::try_from(margin).ok()).unwrap_or(5);
        // Below Patroni's shortest ttl the device has half of it; from there on what Patroni gives it.
        let timeout = if ttl < 20 { (ttl / 2).max(1) } else { ttl.saturating_sub(margin).max(1) };
        let seconds = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let driver = self.config.section("watchdog").get("driver").and_then(Value::as_str).map(str::to_owned);
        protocol::WatchdogSettings {
            mode: match section.mode.as_str() {
                "off" | "false" => protocol::WatchdogMode::Off,
                "required" => protocol::WatchdogMode::Required,
                _ => protocol::WatchdogMode::Automatic,
            },
            device: section.device.display().to_string(),
            driver: match driver.as_deref() {
                Some("testing") => protocol::WatchdogDriver::Testing,
                _ => protocol::WatchdogDriver::Default,
            },
            timeout_s: seconds(timeout),
            timeout_s_max: seconds(ttl.saturating_sub(2).max(1)),
        }
    }

    fn watchdog(&self, status: Option<&Status>) -> Watchdog {
        if self.config.watchdog.mode != "required" {
            return Watchdog::NotRequired;
        }
        match status {
            Some(status) if status.watchdog.problem.is_none() => Watchdog::Usable,
            Some(_) | None => Watchdog::Unusable,
        }
    }

    fn guard(&self, status: Option<&Status>) -> Guard {
        let Some(status) = status else {
            return Guard::Absent;
        };
        match (status.gate, status.stage) {
            (GateState::Released, _) => Guard::Released,
            (GateState::Shut { .. }, Some(_)) => Guard::Fencing,
            (GateState::Shut { .. }, None) => Guard::Closed,
            (GateState::Armed { deadline, lease }, _) => match self.keeper.armed() {
                Some(fence) if fence.lease.0 == lease => Guard::Armed { fence, until: deadline },
                Some(_) | None => Guard::Closed,
            },
        }
    }

    /// Writes down the lease, and the leadership under it, for a process after this one.
    pub(super) fn keep_state(&mut self) {
        let (lease, next_lease) = match self.keeper.lease() {
            Lease::Held { id, next, .. } => (id.0, next.map_or(0, |next| next.0)),
            Lease::None | Lease::Lost { .. } => (0, 0),
        };
        let armed = self.keeper.armed().filter(|fence| fence.lease.0 == lease);
        let state = State {
            boot_id: children::boot_id(),
            name: self.config.name.clone(),
            scope: self.config.scope.clone(),
            lease,
            next_lease,
            create_revision: armed.map_or(0, |fence| fence.create_revision.0),
            cluster_id: self.client.cluster_id(),
        };
        if state != self.state {
            match state.save(&self.state_path) {
                Ok(()) => self.state = state,
                Err(error) => {
                    tracing::warn!(error = %crate::sys::chain(&error), "the state for a restart is not written");
                }
            }
        }
    }
}

/// Says which tags contradict each other.
pub(super) fn warn_of_tags(config: &AgentConfig) {
    for sentence in tags::contradictions(&config.tags) {
        tracing::warn!("{sentence}");
    }
}

fn still_silent() -> EtcdError {
    let limit_ms = u64::try_from(SILENT_LIMIT.as_millis()).unwrap_or(u64::MAX);
    EtcdError::NoAnswer { limit_ms, tried: "a server is on its way".to_owned() }
}

/// Reads the settings out of the dynamic configuration, with the file's `postgresql` section over its own.
pub(super) fn settings_of(
    dynamic: &Map<String, Value>,
    local: &Map<String, Value>,
) -> (Settings, Vec<crate::settings::Complaint>) {
    let mut document = dynamic.clone();
    let section = effective_postgresql(&Value::Object(dynamic.clone()), local);
    document.insert("postgresql".to_owned(), Value::Object(section));
    Settings::from_dynamic(&Value::Object(document))
}

/// Keeps the ttl where all can hold to it: without a fence, and where Patroni runs a member, that is not below Patroni's
/// shortest.
pub(super) fn within_reach(settings: Settings, guard_fences: bool, mixed: bool) -> Settings {
    let shortest = Duration::from_secs(SHORTEST_TTL_OF_PATRONI);
    if settings.ttl >= shortest || (guard_fences && !mixed) {
        return settings;
    }
    let why = if mixed { "where Patroni runs a member" } else { "with guard.mode off" };
    tracing::warn!("{why} the ttl is not below {} s", shortest.as_secs());
    settings.with_ttl(shortest)
}

pub(super) fn times(settings: &Settings) -> Times {
    Times { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout }
}
