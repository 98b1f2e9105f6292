//! What lies between segments: delegated steps, steps done once for all, includes, and the controller's own tasks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::executor::wire::{Details, FaultText, Status, StepReport};
use crate::expr::{Dict, Value, emit};
use crate::input::deployment::FileKind;
use crate::plan::compile::{CompileError, RoleAsked};
use crate::plan::program::{Meta, Task, What};
use crate::run::control::{self, Asked};
use crate::run::dispatcher::{RunError, evaluate};
use crate::run::files::candidates;
use crate::run::play::{Batch, truthy};

impl Batch<'_, '_> {
    /// Does the task at `at` for all hosts that stand there.
    pub async fn between(&mut self, at: usize, task: &Arc<Task>) -> Result<(), RunError> {
        let group = self.group(at);
        let Some(first) = group.first().cloned() else { return Ok(()) };
        let once = task.run_once.as_ref().is_some_and(|value| self.yes(&first, task, value));
        let doers = if once { vec![first.clone()] } else { group.clone() };
        if task.what == What::Host {
            if once {
                for name in group.iter().skip(1) {
                    if let Some(standing) = self.standing.get_mut(name) {
                        standing.follows = Some(first.clone());
                        standing.busy = true;
                    }
                }
            }
            for name in &doers {
                self.elsewhere(name, task).await?;
            }
            return Ok(());
        }
        let mut asked: Vec<(Asked, BTreeSet<Arc<str>>)> = Vec::new();
        for name in &doers {
            let segment = self.segment(name, std::slice::from_ref(task), Vec::new(), true);
            for report in control::evaluate(segment, &task.search) {
                let asks = if report.status == Status::Failed { Vec::new() } else { control::asked(&report) };
                let skipped = report.status == Status::Skipped && asks.is_empty();
                if task.what == What::IncludeVars
                    && let Some(state) = self.run.hosts.get_mut(name)
                {
                    control::loaded(&report).into_iter().for_each(|vars| state.included.extend(vars));
                }
                let meta = matches!(task.what, What::Meta(_));
                let failed = report.status == Status::Failed;
                if meta && !failed {
                    if let Some(standing) = self.standing.get_mut(name) {
                        standing.at = at + 1;
                    }
                } else {
                    self.reported(name, name, report)?;
                }
                if skipped || failed {
                    continue;
                }
                let for_hosts: Vec<Arc<str>> = if once { group.clone() } else { vec![name.clone()] };
                for ask in asks {
                    match asked.iter_mut().find(|(known, _)| *known == ask) {
                        Some((_, hosts)) => hosts.extend(for_hosts.iter().cloned()),
                        None => asked.push((ask, for_hosts.iter().cloned().collect())),
                    }
                }
            }
        }
        for name in group.iter().filter(|name| !doers.contains(name)) {
            if let Some(standing) = self.standing.get_mut(name) {
                standing.at = at + 1;
            }
        }
        self.act(at, task, asked).await
    }

    fn yes(&self, host: &Arc<str>, task: &Task, value: &Value) -> bool {
        truthy(value).unwrap_or_else(|| {
            let known = self.known_of(host);
            let value = evaluate(&known, host, &task.vars, task.search.clone(), value);
            value.ok().and_then(|value| truthy(&value)).unwrap_or(false)
        })
    }

    /// Opens a step of its own for a host, at the place to which it is delegated.
    async fn elsewhere(&mut self, name: &Arc<str>, task: &Arc<Task>) -> Result<(), RunError> {
        let mut place = name.clone();
        if let Some(to) = &task.delegate_to {
            let known = self.known_of(name);
            match evaluate(&known, name, &task.vars, task.search.clone(), to) {
                Ok(value) => place = Arc::from(emit::to_text(&value)),
                Err(error) => {
                    let report = failure(task, format!("delegate_to: {}", error.message));
                    return self.reported(name, name, report);
                }
            }
        } else if task.connection.is_some() {
            place = Arc::from("localhost");
        }
        if !self.run.links.contains_key(&place) {
            self.run.connect_all(std::slice::from_ref(&place), Some(self.play)).await?;
        }
        if !self.run.links.contains_key(&place) {
            let report = failure(task, format!("{place}, where it is to run, cannot be reached"));
            self.reported(name, name, report)?;
            return Ok(());
        }
        self.open(name, &place, std::slice::from_ref(task), Vec::new(), 1, false);
        Ok(())
    }

    /// Acts on what the hosts asked for.
    async fn act(
        &mut self,
        at: usize,
        task: &Arc<Task>,
        asked: Vec<(Asked, BTreeSet<Arc<str>>)>,
    ) -> Result<(), RunError> {
        match &task.what {
            What::IncludeTasks(_) | What::IncludeRole(_) => {
                let mut place = at + 1;
                for (ask, hosts) in asked {
                    match self.included(task, &ask, Arc::new(hosts.clone())) {
                        Ok(tasks) => {
                            let count = tasks.len();
                            self.insert(place, tasks);
                            place += count;
                        }
                        Err(error) => {
                            for name in &hosts {
                                let report = failure(task, crate::sys::chain(&error));
                                self.reported(name, name, report)?;
                            }
                        }
                    }
                }
            }
            What::AddHost => asked.iter().for_each(|(ask, _)| self.add_host(ask)),
            What::GroupBy => asked.iter().for_each(|(ask, hosts)| self.group_by(ask, hosts)),
            What::Pause => {
                let seconds = |ask: &Asked| {
                    let number = |key: &str| {
                        let value = ask.params.get(key)?;
                        value.as_number().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
                    };
                    number("seconds")
                        .or_else(|| number("minutes").map(|minutes| minutes * 60.0))
                        .unwrap_or(0.0)
                };
                let longest = asked.iter().map(|(ask, _)| seconds(ask)).fold(0.0, f64::max);
                if self.run.options.mode == crate::executor::wire::Mode::Apply {
                    tokio::time::sleep(Duration::from_secs_f64(longest.clamp(0.0, 86_400.0))).await;
                }
            }
            What::Meta(meta) => {
                let hosts: BTreeSet<Arc<str>> = asked.into_iter().flat_map(|(_, hosts)| hosts).collect();
                self.meta(*meta, &hosts);
                if *meta == Meta::ResetConnection {
                    self.run.connect_all(&hosts.into_iter().collect::<Vec<_>>(), Some(self.play)).await?;
                }
            }
            What::IncludeVars | What::Host => {}
        }
        Ok(())
    }

    fn included(
        &mut self,
        task: &Arc<Task>,
        ask: &Asked,
        hosts: Arc<BTreeSet<Arc<str>>>,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let mut vars = task.own.as_ref().map(|own| (**own).clone()).unwrap_or_default();
        vars.extend(ask.locals.iter().map(|(name, value)| (name.clone(), value.clone())));
        let text = |key: &str| ask.params.get(key).filter(|value| !value.is_none()).map(emit::to_text);
        match &task.what {
            What::IncludeTasks(include) => {
                let file = text("file").unwrap_or_default();
                let sought = candidates(FileKind::Tasks, &file, &task.search);
                let found = sought.iter().find(|path| self.run.deployment.task_files.contains_key(*path));
                let path = found.cloned().unwrap_or_else(|| PathBuf::from(&file));
                self.compiler.include_tasks(task, &include.apply, &path, vars, hosts)
            }
            What::IncludeRole(include) => {
                let stem = |key: &str| -> Arc<str> {
                    let name = text(key).unwrap_or_else(|| "main".to_owned());
                    let name =
                        name.strip_suffix(".yml").or_else(|| name.strip_suffix(".yaml")).unwrap_or(&name);
                    Arc::from(name)
                };
                let asked = RoleAsked {
                    name: text("name").unwrap_or_default(),
                    tasks_from: stem("tasks_from"),
                    vars_from: stem("vars_from"),
                    defaults_from: stem("defaults_from"),
                    handlers_from: stem("handlers_from"),
                    public: ask.params.get("public").and_then(truthy) == Some(true),
                };
                self.compiler.include_role(task, &include.apply, &asked, vars, hosts)
            }
            What::Host | What::IncludeVars | What::AddHost | What::GroupBy | What::Pause | What::Meta(_) => {
                Ok(Vec::new())
            }
        }
    }

    fn add_host(&mut self, ask: &Asked) {
        let Some(params) = ask.params.as_dict() else { return };
        let Some(name) =
            ["name", "hostname", "host"].iter().find_map(|key| params.get(*key)).map(emit::to_text)
        else {
            return;
        };
        let name: Arc<str> = Arc::from(name);
        let groups = ["groups", "group", "groupname"].iter().find_map(|key| params.get(*key));
        let groups: Vec<String> = match groups.map(|groups| (groups.as_list(), groups)) {
            Some((Some(list), _)) => list.iter().map(emit::to_text).collect(),
            Some((None, one)) => emit::to_text(one).split(',').map(|group| group.trim().to_owned()).collect(),
            None => Vec::new(),
        };
        for group in groups {
            let members = self.run.added.groups.entry(Arc::from(group)).or_default();
            if !members.contains(&name) {
                members.push(name.clone());
            }
        }
        const OWN: [&str; 6] = ["name", "hostname", "host", "groups", "group", "groupname"];
        let vars = params.iter().filter(|(key, _)| !OWN.contains(&&***key));
        let known = self.run.added.vars.entry(name).or_default();
        known.extend(vars.map(|(key, value)| (key.clone(), value.clone())));
    }

    fn group_by(&mut self, ask: &Asked, hosts: &BTreeSet<Arc<str>>) {
        let Some(key) = ask.params.get("key").map(emit::to_text) else { return };
        let group: Arc<str> = Arc::from(key.replace([' ', '-'], "_"));
        let members = self.run.added.groups.entry(group).or_default();
        for host in hosts {
            if !members.contains(host) {
                members.push(host.clone());
            }
        }
    }

    fn meta(&mut self, meta: Meta, hosts: &BTreeSet<Arc<str>>) {
        match meta {
            Meta::EndHost => hosts.iter().for_each(|name| self.end(name)),
            Meta::EndPlay | Meta::EndBatch if !hosts.is_empty() => {
                self.names.clone().iter().for_each(|name| self.end(name));
            }
            Meta::ClearFacts => {
                for name in hosts {
                    if let Some(state) = self.run.hosts.get_mut(name) {
                        state.facts = Dict::new();
                    }
                }
            }
            Meta::ResetConnection => {
                for name in hosts {
                    self.run.links.remove(name);
                }
            }
            Meta::EndPlay | Meta::EndBatch | Meta::Noop | Meta::FlushHandlers { .. } => {}
        }
    }

    fn end(&mut self, name: &Arc<str>) {
        if let Some(standing) = self.standing.get_mut(name) {
            standing.ended = true;
        }
    }
}

/// Makes the report of a task that could not even begin.
fn failure(task: &Task, message: String) -> StepReport {
    let mut result = Dict::new();
    result.insert(Arc::from("failed"), Value::from(true));
    result.insert(Arc::from("changed"), Value::from(false));
    result.insert(Arc::from("msg"), Value::str(message.as_str()));
    StepReport {
        segment: 0,
        step: task.id,
        name: task.title(),
        status: Status::Failed,
        answered: crate::executor::wire::Answered::Known,
        ignored: task.step.ignore_errors.as_ref().and_then(truthy) == Some(true),
        no_log: false,
        details: Details { fault: Some(FaultText { message, ..FaultText::default() }), ..Details::default() },
        items: Vec::new(),
        result: Some(Value::from(result)),
        register: task.step.register.clone(),
        set: Dict::new(),
        facts: Dict::new(),
        notify: Vec::new(),
        pending: None,
        elapsed_ms: 0,
    }
}
