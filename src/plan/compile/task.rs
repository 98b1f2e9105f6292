//! A written task to one of the program: its step, with what the levels around it hand down.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::executor::wire::{Become, Loop, Step, Until};
use crate::expr::{Data, Dict, Value};
use crate::input::playbook::{Common, Condition, Include, LoopKind, Task as Written};
use crate::plan::program::{Meta, Search, Task, Vars, What};

use super::{CompileError, Compiler, Inherited, short_name};

impl Compiler<'_> {
    pub(super) fn written(
        &mut self,
        written: &Written,
        outer: &Inherited,
    ) -> Result<Vec<Arc<Task>>, CompileError> {
        let mut common = written.common.clone();
        let own = std::mem::take(&mut common.vars);
        let below = outer.below(&common);
        if !below.handler && !self.selection.selects(&below.tags) {
            return Ok(Vec::new());
        }
        let module = short_name(&written.module.value);
        let mut args = arguments(written);
        if let Some(defaults) = module_defaults(&below.common.module_defaults, module, &written.module.value)
            && let (Some(defaults), Some(given)) = (defaults.as_dict(), args.as_dict())
        {
            let mut merged = defaults.clone();
            merged.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
            args = Value { data: Data::Dict(Arc::new(merged)), marks: args.marks };
        }
        let what = what(written, module, &args)?;
        if let Some(asked) = asked_for(&what) {
            args = asked;
        }
        let mut step = self.bare_step(module, args, self.place(written.span));
        fill(&mut step, written, &below);
        let own = (!own.is_empty()).then(|| Arc::new(own));
        let vars = below.vars(&self.public, own.clone());
        let tags = below.tags.clone();
        let mut task = self.task(step, what, &below, vars, tags);
        task.own = own;
        // Tasks that an include brings in do not inherit its own keywords, only its variables.
        if matches!(task.what, What::IncludeTasks(_) | What::IncludeRole(_)) {
            task.inherited = Arc::new(outer.clone());
        }
        Ok(vec![Arc::new(task)])
    }

    pub(super) fn bare_step(&mut self, module: &str, args: Value, origin: Arc<str>) -> Step {
        let id = self.next_id;
        self.next_id += 1;
        Step {
            id,
            name: Value::str(""),
            origin,
            module: Arc::from(module),
            args,
            when: Vec::new(),
            looping: None,
            register: None,
            until: None,
            changed_when: None,
            failed_when: None,
            become_as: None,
            environment: Vec::new(),
            check_mode: None,
            diff: None,
            no_log: None,
            ignore_errors: None,
            notify: Vec::new(),
            poll: None,
            scope: 0,
            ordered: false,
        }
    }

    pub(super) fn task(
        &self,
        step: Step,
        what: What,
        below: &Inherited,
        vars: Vars,
        tags: BTreeSet<Arc<str>>,
    ) -> Task {
        let common = &below.common;
        Task {
            id: step.id,
            step,
            what,
            role: below.roles.last().map(|role| role.name.clone()),
            vars,
            search: Search {
                roles: below.roles.iter().map(|role| role.path.clone()).collect(),
                here: below.here.clone(),
                playbook: self.play.dir(),
            },
            tags,
            hosts: below.hosts.clone(),
            path: below.path.clone(),
            delegate_to: common.delegate_to.clone(),
            delegate_facts: common.delegate_facts.clone(),
            run_once: common.run_once.clone().filter(|value| value.as_bool() != Some(false)),
            any_errors_fatal: common.any_errors_fatal.clone(),
            connection: common.connection.clone().filter(|value| value.as_str() == Some("local")),
            own: None,
            inherited: Arc::new(below.clone()),
        }
    }
}

pub(super) fn condition(condition: &Condition) -> Value {
    Value::template(condition.value.clone()).with_origin(condition.span)
}

fn conditions(conditions: &[Condition]) -> Vec<Value> {
    conditions.iter().map(condition).collect()
}

fn module_defaults<'d>(defaults: &'d Dict, short: &str, written: &str) -> Option<&'d Value> {
    defaults.get(written).or_else(|| defaults.get(short)).or_else(|| {
        let full = format!("ansible.builtin.{short}");
        defaults.get(full.as_str())
    })
}

/// Returns the parameters, with free text as `_raw_params`, as Ansible names it.
fn arguments(written: &Written) -> Value {
    let Some(free) = &written.free_form else { return written.args.value.clone() };
    let mut args = written.args.value.as_dict().cloned().unwrap_or_default();
    args.insert(Arc::from("_raw_params"), free.clone());
    Value { data: Data::Dict(Arc::new(args)), marks: written.args.value.marks }
}

fn what(written: &Written, module: &str, args: &Value) -> Result<What, CompileError> {
    match &written.include {
        Some(Include::Tasks(include)) => return Ok(What::IncludeTasks(include.clone())),
        Some(Include::Role(include)) => return Ok(What::IncludeRole(include.clone())),
        None => {}
    }
    Ok(match module {
        "include_vars" => What::IncludeVars,
        "add_host" => What::AddHost,
        "group_by" => What::GroupBy,
        "pause" => What::Pause,
        "meta" => What::Meta(meta(args.get("_raw_params").and_then(Value::as_str).unwrap_or_default())?),
        _ => What::Host,
    })
}

/// Returns what an include asks for as parameters, to be rendered like any others.
fn asked_for(what: &What) -> Option<Value> {
    let mut args = Dict::new();
    match what {
        What::IncludeTasks(include) => {
            args.insert(Arc::from("file"), include.file.clone());
        }
        What::IncludeRole(include) => {
            args.insert(Arc::from("name"), include.name.clone());
            let named = [
                ("tasks_from", &include.tasks_from),
                ("vars_from", &include.vars_from),
                ("defaults_from", &include.defaults_from),
                ("handlers_from", &include.handlers_from),
                ("public", &include.public),
            ];
            for (name, value) in named {
                if let Some(value) = value {
                    args.insert(Arc::from(name), value.clone());
                }
            }
        }
        What::Host | What::IncludeVars | What::AddHost | What::GroupBy | What::Pause | What::Meta(_) => {
            return None;
        }
    }
    Some(Value::from(args))
}

fn meta(word: &str) -> Result<Meta, CompileError> {
    Ok(match word.trim() {
        "flush_handlers" => Meta::FlushHandlers { from: 0 },
        "end_play" => Meta::EndPlay,
        "end_host" => Meta::EndHost,
        "end_batch" => Meta::EndBatch,
        "clear_facts" => Meta::ClearFacts,
        "reset_connection" => Meta::ResetConnection,
        "noop" => Meta::Noop,
        other => return Err(CompileError::NoMeta { word: other.to_owned() }),
    })
}

pub(super) fn become_as(common: &Common) -> Option<Become> {
    let enabled = common.become_.clone()?;
    Some(Become {
        enabled,
        user: common.become_user.clone(),
        method: common.become_method.clone(),
        exe: None,
        flags: common.become_flags.clone(),
    })
}

fn fill(step: &mut Step, written: &Written, below: &Inherited) {
    let common = &below.common;
    step.name = written.common.name.clone().unwrap_or_else(|| Value::str(""));
    step.when.clone_from(&below.when);
    step.looping = written.loop_.as_ref().map(|over| {
        let control = &written.loop_control;
        Loop {
            lookup: match &over.kind {
                LoopKind::Loop => None,
                LoopKind::With(lookup) => Some(lookup.clone()),
            },
            over: over.over.clone(),
            var: control.loop_var.as_ref().map_or_else(|| Arc::from("item"), |var| var.value.clone()),
            index_var: control.index_var.as_ref().map(|var| var.value.clone()),
            label: control.label.clone(),
            pause: control.pause.clone(),
            extended: control.extended.as_ref().and_then(Value::as_bool) == Some(true),
            break_when: conditions(&control.break_when),
        }
    });
    step.register = written.register.as_ref().map(|name| name.value.clone());
    step.until = (written.until.is_some() || written.retries.is_some()).then(|| Until {
        conditions: written.until.as_deref().map(conditions).unwrap_or_default(),
        retries: written.retries.clone(),
        delay: written.delay.clone(),
    });
    step.changed_when = written.changed_when.as_deref().map(conditions);
    step.failed_when = written.failed_when.as_deref().map(conditions);
    step.become_as = become_as(common);
    step.environment.clone_from(&common.environment);
    step.check_mode.clone_from(&common.check_mode);
    step.diff.clone_from(&common.diff);
    step.no_log.clone_from(&common.no_log);
    step.ignore_errors.clone_from(&common.ignore_errors);
    step.notify.clone_from(&common.notify);
    step.poll = written
        .poll
        .clone()
        .filter(|_| written.async_.as_ref().is_some_and(|limit| limit.as_int() != Some(0)));
}
