//! What the levels of the text hand down to the tasks below them: keywords, conditions, tags, variables, roles.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::expr::{Dict, Value};
use crate::input::playbook::{Common, Role};
use crate::plan::program::{BlockId, Layer, Part, Vars};
use crate::plan::tags::words;

use super::RoleAsked;
use super::task::condition;

/// What a level of the text hands down to the tasks below it.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    pub(super) common: Common,
    pub(super) when: Vec<Value>,
    pub(super) tags: BTreeSet<Arc<str>>,
    /// Variables of blocks and imports, the outermost first.
    pub(super) blocks: Vec<Layer>,
    /// Variables of dynamic includes: above nearly everything.
    pub(super) includes: Vec<Layer>,
    pub(super) roles: Vec<Arc<RoleScope>>,
    pub(super) path: Vec<(BlockId, Part)>,
    pub(super) here: PathBuf,
    pub(super) hosts: Option<Arc<BTreeSet<Arc<str>>>>,
    pub(super) depth: usize,
    pub(super) handler: bool,
}

impl Inherited {
    /// Returns what stands below a level with these keywords; the inner one wins, lists add up.
    pub(super) fn below(&self, common: &Common) -> Inherited {
        let mut inner = self.clone();
        let to = &mut inner.common;
        macro_rules! replace { ($($field:ident),*) => { $( if common.$field.is_some() { to.$field.clone_from(&common.$field); } )* } }
        replace!(become_, become_user, become_method, become_flags, check_mode, diff, no_log, run_once);
        replace!(ignore_errors, any_errors_fatal, connection, delegate_to, delegate_facts);
        to.environment.extend(common.environment.iter().cloned());
        to.notify.extend(common.notify.iter().cloned());
        for (module, params) in &common.module_defaults {
            to.module_defaults.insert(module.clone(), params.clone());
        }
        inner.when.extend(common.when.iter().map(condition));
        inner.tags.extend(words(&common.tags));
        if !common.vars.is_empty() {
            inner.blocks.push(Arc::new(common.vars.clone()));
        }
        inner
    }

    /// Returns what stands below a dynamic include that these `hosts` have reached, with its variables.
    pub(super) fn below_include(
        &self,
        apply: &Common,
        vars: Dict,
        hosts: Arc<BTreeSet<Arc<str>>>,
    ) -> Inherited {
        let mut inner = self.below(apply);
        if !vars.is_empty() {
            inner.includes.push(Arc::new(vars));
        }
        inner.hosts = Some(hosts);
        inner
    }

    /// Returns what a handler inherits where tasks inherit this: it runs when it is notified, whatever stands around it.
    pub(super) fn of_handler(&self) -> Inherited {
        let mut inherited = self.clone();
        inherited.when.clear();
        inherited.tags.clear();
        inherited.common.notify.clear();
        inherited.common.run_once = None;
        inherited.common.delegate_to = None;
        inherited.handler = true;
        inherited.path.clear();
        inherited
    }

    /// Collects the variables of a task on this level, which sees those of the `public` roles too.
    pub(super) fn vars(&self, public: &[Arc<RoleScope>], own: Option<Layer>) -> Vars {
        let mut vars = Vars::default();
        let filled = |layer: &Layer| (!layer.is_empty()).then(|| layer.clone());
        for role in public {
            vars.defaults.extend(filled(&role.defaults));
            vars.under.extend(filled(&role.vars));
        }
        for role in &self.roles {
            vars.defaults.extend(filled(&role.defaults));
            vars.under.extend(filled(&role.vars));
        }
        vars.under.extend(self.blocks.iter().cloned());
        vars.under.extend(own);
        for role in &self.roles {
            vars.over.extend(filled(&role.params));
        }
        vars.over.extend(self.includes.iter().cloned());
        vars.over.extend(self.roles.last().map(|role| role.magic.clone()));
        vars
    }
}

/// The variables of one use of a role.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleScope {
    pub name: Arc<str>,
    pub path: PathBuf,
    pub defaults: Layer,
    pub vars: Layer,
    pub params: Layer,
    /// `role_name`, `role_path` and their like.
    pub magic: Layer,
}

impl RoleScope {
    /// Makes the variables of `role` as it is asked for, below the roles `around` it, the outermost first.
    pub(super) fn new(
        role: &Role,
        asked: &RoleAsked,
        params: Dict,
        vars: Dict,
        around: &[Arc<RoleScope>],
    ) -> RoleScope {
        let from = |set: &indexmap::IndexMap<Arc<str>, Dict>, stem: &str| -> Dict {
            set.get(stem).cloned().unwrap_or_default()
        };
        let mut role_vars = from(&role.vars, &asked.vars_from);
        role_vars.extend(vars);
        RoleScope {
            name: role.name.clone(),
            path: role.path.clone(),
            defaults: Arc::new(from(&role.defaults, &asked.defaults_from)),
            vars: Arc::new(role_vars),
            params: Arc::new(params),
            magic: Arc::new(magic_of(role, around)),
        }
    }
}

/// Returns the names that a role's tasks see of the role itself and of those around it.
fn magic_of(role: &Role, around: &[Arc<RoleScope>]) -> Dict {
    let mut magic = Dict::new();
    magic.insert(Arc::from("role_name"), Value::str(role.name.clone()));
    magic.insert(Arc::from("ansible_role_name"), Value::str(role.name.clone()));
    magic.insert(Arc::from("role_path"), Value::str(role.path.to_string_lossy().into_owned()));
    let parents: Vec<Value> = around.iter().rev().map(|role| Value::str(role.name.clone())).collect();
    magic.insert(Arc::from("ansible_parent_role_names"), Value::from(parents));
    magic
}
