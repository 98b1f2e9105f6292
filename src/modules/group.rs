//! Keeps groups.
//!
//! # What it manages
//! Whether a group is there, and its number.
//!
//! # Example
//! ```yaml
//! group:
//!   name: haproxy
//!   system: true
//! ```
//!
//! # What it observes
//! The group database: the file, then `getent`.
//!
//! # What it never does
//! It takes no user out of a group; that is `user`'s.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::lineinfile::Presence;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::sys::process::Program;
use crate::sys::users;

#[derive(Debug)]
pub struct Group;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    name: String,
    #[serde(default)]
    state: Presence,
    gid: Option<u32>,
    #[serde(default)]
    system: bool,
    /// Allow a number that another group has.
    #[serde(default)]
    non_unique: bool,
    #[serde(default)]
    force: bool,
    /// Accepted for Ansible's sake: `groupadd` always writes the local file.
    #[serde(rename = "local")]
    _local: Option<bool>,
}

#[derive(Debug)]
pub enum Change {
    Add(Option<u32>),
    Number { from: u32, to: u32 },
    Remove,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add(None) => write!(f, "add the group"),
            Change::Add(Some(gid)) => write!(f, "add the group with number {gid}"),
            Change::Number { from, to } => write!(f, "number {from} → {to}"),
            Change::Remove => write!(f, "remove the group"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
    state: &'static str,
    system: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
}

impl Module for Group {
    const NAME: &'static str = "group";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = Option<users::Group>;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<Self::State>, Fault> {
        Ok(Seen::Now(host.group(&params.name)?.filter(|g| g.name == params.name)))
    }

    fn diff(params: &Params, found: &Self::State) -> Vec<Change> {
        match (params.state, found) {
            (Presence::Absent, Some(_)) => vec![Change::Remove],
            (Presence::Absent, None) => Vec::new(),
            (Presence::Present, None) => vec![Change::Add(params.gid)],
            (Presence::Present, Some(group)) => match params.gid {
                Some(gid) if gid != group.gid => vec![Change::Number { from: group.gid, to: gid }],
                _ => Vec::new(),
            },
        }
    }

    fn apply(
        params: &Params,
        _found: &Self::State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<Self::State, Fault> {
        let name = params.name.as_str();
        for change in changes {
            let mut program = match change {
                Change::Add(_) => Program::new("groupadd"),
                Change::Number { .. } => Program::new("groupmod"),
                Change::Remove => Program::new("groupdel"),
            };
            if let Change::Add(Some(gid)) | Change::Number { to: gid, .. } = change {
                program = program.args(["-g", &gid.to_string()]);
                if params.non_unique {
                    program = program.arg("-o");
                }
            }
            if matches!(change, Change::Add(_)) && params.system {
                program = program.arg("-r");
            }
            if matches!(change, Change::Remove) && params.force {
                program = program.arg("-f");
            }
            host.must(program.arg(name), &format!("the group `{name}` could not be changed"))?;
        }
        Ok(host.group(name)?.filter(|g| g.name == name))
    }

    fn output(
        params: &Params,
        before: &Self::State,
        after: Option<&Self::State>,
        _changes: &[Change],
    ) -> Output {
        let group = after.unwrap_or(before).as_ref();
        Output {
            name: params.name.clone(),
            state: if params.state == Presence::Absent { "absent" } else { "present" },
            system: params.system,
            gid: group.map(|g| g.gid).or(params.gid),
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        match params.state {
            Presence::Present => vec![Thing::Group(params.name.clone())],
            Presence::Absent => Vec::new(),
        }
    }
}
