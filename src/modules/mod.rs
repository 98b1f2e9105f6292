//! Modules: one kind of thing on a host each, by one trait. `MODULES` is the table, the driver owns the order.
//!
//! Start at [`Module`], then read [`file`](self::file) as the example. A new module is its file and one row.
//!
//! Invariant: no module knows about check mode, about playbooks, or about how it was reached. What it may do on the
//! host is what [`Host`] and [`HostMut`] have methods for.

// What modules are made of.
mod apt_get;
pub mod attributes;
pub mod driver;
pub mod host;
pub mod line_edits;
pub mod outcome;
pub mod params;
mod postgres_session;
mod postgres_setting;
mod remote;
pub mod text_file;
pub mod words;

// One file per module.
pub mod agent;
pub mod apt_repository;
pub mod blockinfile;
pub mod cluster_config;
pub mod cluster_health;
pub mod cluster_pause;
pub mod cluster_restart;
pub mod cluster_switchover;
pub mod command;
pub mod copy;
pub mod etcd_cluster;
pub mod etcd_member;
pub mod file;
pub mod group;
pub mod haproxy_backend;
pub mod haproxy_config;
pub mod hostname;
pub mod lineinfile;
pub mod package;
pub mod postgres_database;
pub mod postgres_extension;
pub mod postgres_hba;
pub mod postgres_role;
pub mod postgres_settings;
pub mod replace;
pub mod slurp;
pub mod stat;
pub mod sysctl;
pub mod systemd;
pub mod template;
pub mod uri;
pub mod user;
pub mod wait_for;
pub mod watchdog;

use std::fmt::Display;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::expr::Dict;
use crate::source::Diagnostics;

use driver::Erased;
pub use driver::{AnyModule, named};
pub use host::{Host, HostMut};
pub use outcome::{
    Answer, ChangeLine, Diff, Fault, FaultKind, Mode, ModuleCall, ModuleReply, Outcome, Risk, SuppliedFile,
    Thing,
};

/// What a module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Converges: a second apply does nothing.
    Resource,
    /// Only tells.
    Query,
    /// Waits until something is so; changes nothing.
    Wait,
    /// Does something each time it is asked.
    Action,
}

/// What `observe` found out.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen<S> {
    Now(S),
    /// What it looks at is not there, and nothing can be said before it is.
    Blocked(Thing),
    /// It cannot be found out here; the reason.
    Unknowable(String),
}

impl<S> Seen<S> {
    /// Goes on with what was found; where nothing was, that is the answer.
    ///
    /// # Errors
    /// As `next`.
    pub fn and_then<T>(self, next: impl FnOnce(S) -> Result<Seen<T>, Fault>) -> Result<Seen<T>, Fault> {
        match self {
            Seen::Now(found) => next(found),
            Seen::Blocked(thing) => Ok(Seen::Blocked(thing)),
            Seen::Unknowable(why) => Ok(Seen::Unknowable(why)),
        }
    }

    /// Returns what changes have reached, which must be there to be looked at.
    ///
    /// # Errors
    /// It is not there, or cannot be found out.
    pub fn reached(self) -> Result<S, Fault> {
        match self {
            Seen::Now(reached) => Ok(reached),
            Seen::Blocked(thing) => Err(Fault::missing(thing)),
            Seen::Unknowable(why) => Err(Fault::refused(why)),
        }
    }
}

/// The differences of a [`Kind::Query`]: there are none.
#[derive(Debug)]
pub enum Never {}

impl Display for Never {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

/// One kind of thing on a host.
pub trait Module: 'static {
    const NAME: &'static str;
    /// The collection that makes the name fully qualified; `ansible.builtin` for Ansible's own.
    const COLLECTION: &'static str = "ansible.builtin";
    /// Other short names for the same module.
    const ALIASES: &'static [&'static str] = &[];
    const KIND: Kind;
    /// Programs that `observe` may run, each with the arguments that it must begin with.
    const OBSERVES_WITH: &'static [&'static str] = &[];
    /// Whether the parameters may be one plain text.
    const FREE_FORM: bool = false;
    /// Whether what `apply` reaches stays, so that a second observation must find it.
    const LASTING: bool = true;

    /// What the task says.
    type Params: DeserializeOwned + JsonSchema;
    /// What is there.
    type State;
    /// One difference; its text is its line in the plan.
    type Change: Display;
    /// What `register` sees.
    type Output: Serialize;

    /// Judges parameters without a host.
    fn check(_params: &Self::Params) -> Diagnostics {
        Diagnostics::default()
    }

    /// Looks at what is there.
    ///
    /// # Errors
    /// The host refused to be looked at.
    fn observe(params: &Self::Params, host: &Host) -> Result<Seen<Self::State>, Fault>;

    /// Compares what is there with what is asked for; empty is converged. Pure.
    fn diff(params: &Self::Params, found: &Self::State) -> Vec<Self::Change>;

    /// Makes all changes and answers what it reached. A [`Kind::Query`] has none.
    ///
    /// # Errors
    /// The host refused.
    fn apply(
        _params: &Self::Params,
        _found: &Self::State,
        _changes: &[Self::Change],
        _host: &mut HostMut<'_>,
    ) -> Result<Self::State, Fault> {
        Err(Fault::refused(format!("`{}` only tells and changes nothing", Self::NAME)))
    }

    /// What `register` sees: after apply, or before it in check mode and when nothing was to do.
    fn output(
        params: &Self::Params,
        before: &Self::State,
        after: Option<&Self::State>,
        changes: &[Self::Change],
    ) -> Self::Output;

    /// What a change interrupts.
    fn risk(_change: &Self::Change) -> Risk {
        Risk::None
    }

    /// How long an apply waits for what `observe` is blocked by.
    fn patience(_params: &Self::Params) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    /// Why it cannot be told before it is done, for an [`Kind::Action`] that nothing guards.
    fn opaque(_params: &Self::Params) -> Option<String> {
        None
    }

    /// Why the differences are repaired on another host and only arrive here, where that is so: an apply waits for them.
    fn elsewhere(_found: &Self::State) -> Option<&'static str> {
        None
    }

    /// Whether a difference makes the step a change; one that does not is made all the same, and not told.
    fn counts(_change: &Self::Change) -> bool {
        true
    }

    /// What will be there afterwards, for later steps of a plan.
    fn makes(_params: &Self::Params) -> Vec<Thing> {
        Vec::new()
    }

    /// The texts before and after, where the thing is a text.
    fn texts(_params: &Self::Params, _found: &Self::State, _host: &Host) -> Option<Diff> {
        None
    }

    /// Whether an apply that was made counts as a change.
    fn changed(_params: &Self::Params, _before: &Self::State, _after: &Self::State) -> bool {
        true
    }

    /// Facts to return as `ansible_facts`.
    fn facts(_params: &Self::Params, _state: &Self::State) -> Dict {
        Dict::new()
    }
}

/// All modules, one row each.
pub const MODULES: &[&dyn AnyModule] = &[
    &Erased::<file::File>::NEW,
    &Erased::<copy::Copy>::NEW,
    &Erased::<template::Template>::NEW,
    &Erased::<lineinfile::LineInFile>::NEW,
    &Erased::<replace::Replace>::NEW,
    &Erased::<blockinfile::BlockInFile>::NEW,
    &Erased::<package::Package>::NEW,
    &Erased::<apt_repository::AptRepository>::NEW,
    &Erased::<systemd::Systemd>::NEW,
    &Erased::<command::Command>::NEW,
    &Erased::<command::Shell>::NEW,
    &Erased::<stat::Stat>::NEW,
    &Erased::<slurp::Slurp>::NEW,
    &Erased::<user::User>::NEW,
    &Erased::<group::Group>::NEW,
    &Erased::<sysctl::Sysctl>::NEW,
    &Erased::<hostname::Hostname>::NEW,
    &Erased::<wait_for::WaitFor>::NEW,
    &Erased::<uri::Uri>::NEW,
    &Erased::<agent::Agent>::NEW,
    &Erased::<watchdog::Watchdog>::NEW,
    &Erased::<etcd_member::EtcdMember>::NEW,
    &Erased::<etcd_cluster::EtcdCluster>::NEW,
    &Erased::<cluster_health::ClusterHealth>::NEW,
    &Erased::<cluster_config::ClusterConfig>::NEW,
    &Erased::<cluster_switchover::ClusterSwitchover>::NEW,
    &Erased::<cluster_restart::ClusterRestart>::NEW,
    &Erased::<cluster_pause::ClusterPause>::NEW,
    &Erased::<haproxy_config::HaproxyConfig>::NEW,
    &Erased::<haproxy_backend::HaproxyBackend>::NEW,
    &Erased::<postgres_settings::PostgresSettings>::NEW,
    &Erased::<postgres_hba::PostgresHba>::NEW,
    &Erased::<postgres_role::PostgresRole>::NEW,
    &Erased::<postgres_database::PostgresDatabase>::NEW,
    &Erased::<postgres_extension::PostgresExtension>::NEW,
];

/// Finds a module by its short or fully qualified name. Only the collections of the table are known: `my.corp.copy` is
/// not `copy`.
pub fn find(name: &str) -> Option<&'static dyn AnyModule> {
    let (collection, short) = match name.rsplit_once('.') {
        Some((collection, short)) => (Some(collection), short),
        None => (None, name),
    };
    MODULES.iter().copied().find(|m| {
        let named = m.name() == short || m.aliases().contains(&short);
        named
            && collection.is_none_or(|c| {
                c == m.collection() || (c == "ansible.legacy" && m.collection() == "ansible.builtin")
            })
    })
}

/// Runs one call on a host: the whole of what the process of another identity does.
///
/// # Errors
/// There is no such module, its parameters are wrong, or the host refused.
pub fn run(call: &ModuleCall, host: &mut Host) -> ModuleReply {
    match find(&call.name) {
        Some(module) => module.run(call, host),
        None => Err(Fault::params(format!("there is no module `{}`", call.name))),
    }
}
