//! The run as a whole: connections, locks, plays and their batches, interruption, and what it all came to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::executor::variables::Variables;
use crate::executor::wire::{FromHost, Mode, SegmentId, StepId, ToHost};
use crate::expr::{self, Data, Dict, Value, emit};
use crate::input::Deployment;
use crate::input::playbook::Play;
use crate::plan::compile::CompileError;
use crate::plan::order::Known;
use crate::plan::program::{Layer, Search, Vars};
use crate::run::Options;
use crate::run::control::read_vars;
use crate::run::event::{Event, Recap, Summary};
use crate::run::files::{Files, candidates};
use crate::run::hosts::{Hosts, Secrets};
use crate::run::lookups::OnController;
use crate::run::play::Batch;
use crate::run::worker::{Command, Connect, Incoming, Link};
use crate::sys::clock;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("play \"{play}\" cannot be compiled")]
    Compile { play: String, source: CompileError },
    #[error("the hosts of play \"{play}\" cannot be told: {why}")]
    Hosts { play: String, why: String },
    #[error("another run holds {host}: {holder}; nothing was changed")]
    Locked { host: Arc<str>, holder: String },
    #[error("{why}")]
    Play { why: String },
}

/// How long a run waits for executors that have nothing more to do.
const PART_LIMIT: Duration = Duration::from_secs(5);

/// What all plays of a run share.
pub(crate) struct Dispatcher<'a> {
    pub deployment: &'a Deployment,
    pub options: &'a Options,
    pub connect: &'a dyn Connect,
    pub listener: &'a mut (dyn FnMut(&Event) + Send),
    pub hosts: Hosts,
    pub links: BTreeMap<Arc<str>, Link>,
    pub inbox: mpsc::UnboundedReceiver<Incoming>,
    to_inbox: mpsc::UnboundedSender<Incoming>,
    /// What arrived while only locks were waited for.
    pub backlog: Vec<Incoming>,
    pub files: Files,
    pub secrets: Secrets,
    pub next_step: StepId,
    pub next_segment: SegmentId,
    pub summary: Summary,
    pub interrupted: u8,
    /// Groups and hosts that tasks have added.
    pub added: Added,
}

/// What `add_host` and `group_by` made: the inventory itself stays as it was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Added {
    pub groups: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    pub vars: BTreeMap<Arc<str>, Dict>,
}

/// Runs all plays of the deployment.
///
/// # Errors
/// A play cannot be compiled, its hosts cannot be told, or another run holds a host. Hosts that fail are no error of
/// this function: the summary has them.
pub async fn run(
    deployment: &Deployment,
    options: &Options,
    connect: &dyn Connect,
    listener: &mut (dyn FnMut(&Event) + Send),
) -> Result<Summary, RunError> {
    let begun = clock::now();
    let (to_inbox, inbox) = mpsc::unbounded_channel();
    let mut secrets = Secrets::default();
    deployment.extra_vars.values().for_each(|value| secrets.collect(value));
    let mut dispatcher = Dispatcher {
        deployment,
        options,
        connect,
        listener,
        hosts: Hosts::new(),
        links: BTreeMap::new(),
        inbox,
        to_inbox,
        backlog: Vec::new(),
        files: Files::default(),
        secrets,
        next_step: 1,
        next_segment: 1,
        summary: Summary::default(),
        interrupted: 0,
        added: Added::default(),
    };
    let done = dispatcher.plays().await;
    dispatcher.part().await;
    let mut summary = std::mem::take(&mut dispatcher.summary);
    summary.recap = dispatcher.hosts.iter().map(|(name, host)| (name.clone(), host.recap)).collect();
    summary.recap.retain(|(_, recap)| *recap != Recap::default());
    summary.elapsed_ms = u64::try_from(clock::now().since(begun).as_millis()).unwrap_or(u64::MAX);
    summary.interrupted = dispatcher.interrupted > 0;
    done?;
    (dispatcher.listener)(&Event::Ended(summary.clone()));
    Ok(summary)
}

impl Dispatcher<'_> {
    async fn plays(&mut self) -> Result<(), RunError> {
        // All hosts that any play names are connected at once: a play need not wait for those of the next one.
        let mut wanted = BTreeSet::new();
        for play in &self.deployment.plays {
            wanted.extend(self.hosts_of(play)?);
        }
        let first = self.deployment.plays.first();
        self.connect_all(&wanted.into_iter().collect::<Vec<_>>(), first).await?;
        for play in &self.deployment.plays {
            let hosts = self.hosts_of(play)?;
            let hosts: Vec<Arc<str>> = hosts
                .into_iter()
                .filter(|name| self.hosts.get(name).is_none_or(|host| !host.failed && !host.unreachable))
                .collect();
            (self.listener)(&Event::PlayStarted { name: play.title(), hosts: hosts.clone() });
            self.connect_all(&hosts, Some(play)).await?;
            let batches = self.batches(play, &hosts);
            for batch in batches {
                let mut alive = batch.clone();
                alive.retain(|name| {
                    self.hosts.get(name).is_some_and(|host| !host.failed && !host.unreachable)
                });
                if alive.is_empty() {
                    continue;
                }
                let goes_on = Batch::run(self, play, &hosts, alive).await?;
                if !goes_on || self.interrupted > 0 {
                    self.summary.stopped = Some(format!("play \"{}\" ended early", play.title()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Lets go of all hosts and waits until their executors have ended, so that the next run finds no lock of this one.
    async fn part(&mut self) {
        self.links.clear();
        let (to_nobody, _) = mpsc::unbounded_channel();
        self.to_inbox = to_nobody;
        let ended = async { while self.inbox.recv().await.is_some() {} };
        tokio::time::timeout(PART_LIMIT, ended).await.ok();
    }

    /// Returns the hosts of a play, in the inventory's order, within `--limit`.
    fn hosts_of(&self, play: &Play) -> Result<Vec<Arc<str>>, RunError> {
        let error = |why: String| RunError::Hosts { play: play.title(), why };
        let mut pattern = play.hosts.value.to_string();
        if pattern.contains("{{") {
            let text = Value::template(pattern).with_origin(play.hosts.span);
            let search = Search { playbook: play.dir(), here: play.dir(), ..Search::default() };
            let value = expr::template(&text, &self.deployment.extra_vars, &OnController { search });
            let value = value.map_err(|source| error(source.message))?;
            pattern = match value.as_list() {
                Some(list) => list.iter().map(emit::to_text).collect::<Vec<_>>().join(","),
                None => emit::to_text(&value),
            };
        }
        let mut hosts = self.deployment.hosts_of(&pattern).map_err(|source| error(source.to_string()))?.hosts;
        for word in pattern.split([',', ':']) {
            for host in self.added.groups.get(word.trim()).into_iter().flatten() {
                if !hosts.contains(host) {
                    hosts.push(host.clone());
                }
            }
        }
        if let Some(limit) = &self.options.limit {
            hosts.retain(|host| limit.contains(host));
        }
        Ok(hosts)
    }

    /// Divides hosts as `serial` says; a bad entry counts as all at once.
    fn batches(&mut self, play: &Play, hosts: &[Arc<str>]) -> Vec<Vec<Arc<str>>> {
        let mut sizes = Vec::new();
        for value in &play.serial {
            let value = match hosts.first() {
                Some(host) => self.evaluate(host, play, value).unwrap_or_else(|_| value.clone()),
                None => value.clone(),
            };
            let all = hosts.len();
            let size = match &value.data {
                Data::Int(number) => usize::try_from(*number).unwrap_or(all),
                Data::Str(text) => match text.trim().strip_suffix('%') {
                    Some(share) => (all * share.trim().parse::<usize>().unwrap_or(100) / 100).max(1),
                    None => text.trim().parse().unwrap_or(all),
                },
                _ => all,
            };
            sizes.push(if size == 0 { all } else { size });
        }
        let mut batches = Vec::new();
        let mut rest = hosts;
        let mut index = 0;
        while !rest.is_empty() {
            let size = sizes.get(index).or(sizes.last()).copied().unwrap_or(rest.len()).clamp(1, rest.len());
            let (batch, left) = rest.split_at(size);
            batches.push(batch.to_vec());
            rest = left;
            index += 1;
        }
        batches
    }

    /// Connects to hosts that are not connected; those that cannot be reached are marked. In apply mode each is locked.
    pub async fn connect_all(&mut self, hosts: &[Arc<str>], play: Option<&Play>) -> Result<(), RunError> {
        let missing: Vec<Arc<str>> = hosts
            .iter()
            .filter(|host| {
                !self.links.contains_key(*host) && self.hosts.get(*host).is_none_or(|h| !h.unreachable)
            })
            .cloned()
            .collect();
        let mut tries = Vec::new();
        for host in &missing {
            self.hosts.entry(host.clone()).or_default();
            let vars = self.connection_vars(host, play);
            vars.values().for_each(|value| self.secrets.collect(value));
            tries.push((host.clone(), vars));
        }
        let connect = self.connect;
        let inbox = self.to_inbox.clone();
        let limit = Arc::new(tokio::sync::Semaphore::new(self.options.forks.max(1)));
        let mut running: FuturesUnordered<_> = tries
            .into_iter()
            .map(|(host, vars)| {
                let (inbox, limit) = (inbox.clone(), limit.clone());
                async move {
                    let _permit = limit.acquire().await;
                    let text =
                        |name: &str| vars.get(name).filter(|value| !value.is_none()).map(emit::to_text);
                    let link = connect.connect(&host, &text, inbox).await;
                    (host, link)
                }
            })
            .collect();
        let mut connected = Vec::new();
        while let Some((host, link)) = running.next().await {
            match link {
                Ok(link) => {
                    self.links.insert(host.clone(), link);
                    connected.push(host);
                }
                Err(message) => self.lost(&host, message),
            }
        }
        drop(running);
        if self.options.mode == Mode::Apply {
            self.lock(&connected).await?;
        }
        Ok(())
    }

    /// Takes the locks of all hosts at once, and gives all back when one is held.
    async fn lock(&mut self, hosts: &[Arc<str>]) -> Result<(), RunError> {
        let who = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
        let machine =
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let holder = format!("keddah apply of {who} on {machine}, process {}", std::process::id());
        let mut held = self.lock_round(hosts, &holder).await;
        if !held.is_empty() {
            // Two names of one machine: the other one may have taken the lock a moment ago and not signed it yet.
            let again: Vec<Arc<str>> = held.into_keys().collect();
            held = self.lock_round(&again, &holder).await;
        }
        match held.pop_first() {
            Some((host, holder)) => {
                self.links.clear();
                Err(RunError::Locked { host, holder })
            }
            None => Ok(()),
        }
    }

    /// Asks hosts for their locks; returns those that somebody else holds, with what he says of himself.
    async fn lock_round(&mut self, hosts: &[Arc<str>], holder: &str) -> BTreeMap<Arc<str>, String> {
        let mut waiting: BTreeSet<Arc<str>> = BTreeSet::new();
        for host in hosts.iter().filter(|host| self.links.contains_key(*host)).cloned().collect::<Vec<_>>() {
            self.send(&host, ToHost::Lock { holder: holder.to_owned() });
            waiting.insert(host);
        }
        let mut held = BTreeMap::new();
        while !waiting.is_empty() {
            let Some((host, message)) = self.inbox.recv().await else { break };
            match message {
                Ok(FromHost::Lock(answer)) => {
                    waiting.remove(&host);
                    // A lock that this run holds under another name is as good.
                    if let Err(theirs) = answer
                        && !theirs.contains(holder)
                    {
                        held.insert(host, theirs);
                    }
                }
                Err(message) if waiting.remove(&host) => self.lost(&host, message),
                other => self.backlog.push((host, other)),
            }
        }
        held
    }

    /// Marks a host as unreachable and says so.
    pub fn lost(&mut self, host: &Arc<str>, mut message: String) {
        self.links.remove(host);
        let known = self.hosts.entry(host.clone()).or_default();
        if known.unreachable {
            return;
        }
        known.unreachable = true;
        known.recap.unreachable = 1;
        self.secrets.hide(&mut message);
        (self.listener)(&Event::Unreachable { host: host.clone(), message });
    }

    pub fn send(&mut self, place: &Arc<str>, message: ToHost) {
        // A link that breaks later is told by the inbox; one that is gone already has nobody left to tell it.
        let waits_for_answer = matches!(message, ToHost::Open(..) | ToHost::Advance(_));
        let sent = self.links.get(place).map(|link| link.send(Command::Work(Box::new(message))).is_ok());
        if sent != Some(true) && waits_for_answer {
            self.backlog.push((place.clone(), Err("the connection to the executor is gone".to_owned())));
        }
    }

    /// Passes an interruption on: the first lets changes in flight finish, the second ends their programs.
    pub fn interrupt(&mut self) {
        self.interrupted = self.interrupted.saturating_add(1);
        for link in self.links.values() {
            link.send(if self.interrupted > 1 { Command::Kill } else { Command::Cancel }).ok();
        }
        (self.listener)(&Event::Interrupted);
    }

    pub fn warn(&mut self, message: impl Into<String>) {
        let mut message = message.into();
        self.secrets.hide(&mut message);
        (self.listener)(&Event::Warning { message });
    }

    /// Returns the variables by which a host is reached, evaluated.
    fn connection_vars(&mut self, host: &Arc<str>, play: Option<&Play>) -> Dict {
        let known = match play {
            Some(play) => self.known(host, play, &Dict::new()),
            None => Known::default(),
        };
        let (layers, scope) = known.layers(&Vars::default());
        let names: BTreeSet<Arc<str>> = layers
            .iter()
            .flat_map(|layer| layer.keys())
            .filter(|name| name.starts_with("ansible_"))
            .cloned()
            .collect();
        let variables = Variables { subject: host.clone(), layers, ..Variables::default() };
        let locals = Dict::new();
        let seen = variables.seen(&scope, &locals);
        let search = Search { playbook: play.map(Play::dir).unwrap_or_default(), ..Search::default() };
        let lookups = OnController { search };
        let mut found = Dict::new();
        for name in names {
            let value = crate::expr::Scope::get(&seen, &name);
            if let Some(Ok(value)) = value.map(|value| expr::template(&value, &seen, &lookups)) {
                found.insert(name, value);
            }
        }
        found
    }

    /// Puts together what is known of a host in a play; `magic` are the batch's names.
    pub fn known(&self, host: &Arc<str>, play: &Play, magic: &Dict) -> Known {
        let mut inventory = self.deployment.vars_of(host, Some(play));
        if let Some(added) = self.added.vars.get(host) {
            inventory.extend(added.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let state = self.hosts.get(host);
        let mut names = self.deployment.magic_of(host, Some(play));
        names.extend(magic.iter().map(|(name, value)| (name.clone(), value.clone())));
        if !self.added.groups.is_empty() {
            self.added.put_into(&mut names, host);
        }
        Known {
            inventory: Arc::new(inventory),
            facts: state.map(|state| state.facts.clone()).unwrap_or_default(),
            play: vec![Arc::new(play.common.vars.clone())],
            included: state.map(|state| state.included.clone()).unwrap_or_default(),
            registers: state.map(|state| state.registers.clone()).unwrap_or_default(),
            over: vec![Arc::new(self.deployment.extra_vars.clone()), Arc::new(names)],
        }
    }

    /// Evaluates something of the play for a host.
    fn evaluate(&self, host: &Arc<str>, play: &Play, value: &Value) -> Result<Value, expr::EvalError> {
        let known = self.known(host, play, &Dict::new());
        let search = Search { playbook: play.dir(), here: play.dir(), ..Search::default() };
        evaluate(&known, host, &Vars::default(), search, value)
    }

    /// Loads the `vars_files` of a play for a host, in order.
    pub fn vars_files(&mut self, host: &Arc<str>, play: &Play, known: &Known) -> Result<Vec<Layer>, String> {
        let mut layers = Vec::new();
        let search = Search { playbook: play.dir(), here: play.dir(), ..Search::default() };
        for entry in &play.vars_files {
            let mut known = known.clone();
            known.play.extend(layers.iter().cloned());
            let mut found = None;
            let mut sought = Vec::new();
            for candidate in &entry.candidates {
                let name = evaluate(&known, host, &Vars::default(), search.clone(), candidate);
                let name = match name {
                    Ok(name) => emit::to_text(&name),
                    Err(_) if entry.first_found => continue,
                    Err(error) => return Err(format!("vars_files: {}", error.message)),
                };
                let places = candidates(crate::input::deployment::FileKind::Vars, &name, &search);
                found = places.into_iter().find(|path| path.is_file());
                if found.is_some() {
                    break;
                }
                sought.push(name);
            }
            match found {
                Some(path) => layers.push(Arc::new(read_vars(&path)?)),
                None if entry.first_found => {}
                None => return Err(format!("vars_files: `{}` was not found", sought.join("`, `"))),
            }
        }
        Ok(layers)
    }
}

impl Added {
    /// Adds the groups to the magic names of a host.
    fn put_into(&self, names: &mut Dict, host: &Arc<str>) {
        let texts = |hosts: &[Arc<str>]| -> Vec<Value> {
            hosts.iter().map(|host| Value::str(host.clone())).collect()
        };
        let mut groups = names.get("groups").and_then(Value::as_dict).cloned().unwrap_or_default();
        let mut own = names.get("group_names").and_then(Value::as_list).unwrap_or_default().to_vec();
        for (group, hosts) in &self.groups {
            let mut all = groups.get(group).and_then(Value::as_list).unwrap_or_default().to_vec();
            all.extend(texts(hosts));
            groups.insert(group.clone(), Value::from(all));
            if hosts.contains(host) {
                own.push(Value::str(group.clone()));
            }
        }
        names.insert(Arc::from("groups"), Value::from(groups));
        names.insert(Arc::from("group_names"), Value::from(own));
    }
}

/// Evaluates a value with what is known of a host.
///
/// # Errors
/// It has no value.
pub(crate) fn evaluate(
    known: &Known,
    host: &Arc<str>,
    vars: &Vars,
    search: Search,
    value: &Value,
) -> Result<Value, expr::EvalError> {
    let (layers, scope) = known.layers(vars);
    let variables = Variables {
        subject: host.clone(),
        layers,
        facts: known.facts.clone(),
        included: known.included.clone(),
        registers: known.registers.clone(),
        ..Variables::default()
    };
    let locals = Dict::new();
    expr::template(value, &variables.seen(&scope, &locals), &OnController { search })
}
