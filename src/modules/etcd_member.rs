//! Gives a host its place in an etcd cluster, through the cluster's live API.
//!
//! # What it manages
//! One member: that the cluster knows it, and how its process starts for the first time (`start_file`, environment
//! variables for the unit: the member list to begin with, and whether the cluster is new or exists).
//!
//! # Example
//! ```yaml
//! etcd_member:
//!   name: etcd1
//!   peer_url: http://10.0.0.1:2380
//!   members: {etcd1: "http://10.0.0.1:2380", etcd2: "http://10.0.0.2:2380", etcd3: "http://10.0.0.3:2380"}
//!   endpoints: ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]
//!   data_dir: /var/lib/etcd/demo
//!   start_file: /etc/etcd/start.env
//! ```
//!
//! # What it observes
//! The member list of the running cluster, asked at all endpoints; the start file; whether the data folder holds data.
//!
//! # What it never does
//! It begins no second cluster beside one that was begun before: without an answer and with a start file it changes
//! nothing. It deletes no data: the data folder of a member that the cluster has removed is moved aside.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::etcd::membership::Member;
use crate::modules::etcd_cluster::client;
use crate::modules::remote;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Risk, Seen, Thing};
use crate::sys::clock;
use crate::sys::files::Attributes;
use crate::sys::process::Program;

#[derive(Debug)]
pub struct EtcdMember;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The member's name.
    name: String,
    /// Where its peers reach it.
    peer_url: String,
    /// All members of the desired cluster, name to peer URL: how a new cluster begins.
    members: BTreeMap<String, String>,
    /// Client URLs of all members.
    endpoints: Vec<String>,
    /// The member's data folder.
    data_dir: String,
    /// Written once when the member gets its place; environment variables for its unit.
    start_file: String,
    /// The unit that is stopped before data is moved aside.
    #[serde(default = "etcd")]
    service: String,
}

fn etcd() -> String {
    "etcd".to_owned()
}

#[derive(Debug)]
pub struct State {
    /// What the cluster says; `None`: no endpoint answers.
    members: Option<Vec<Member>>,
    has_start_file: bool,
    has_data: bool,
}

impl State {
    fn own<'a>(&'a self, params: &Params) -> Option<&'a Member> {
        self.members.iter().flatten().find(|member| member.peer_urls.contains(&params.peer_url))
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// No cluster answers and this member has no place in one: it begins one with the others.
    Begin { members: usize },
    /// The cluster runs without this member.
    Join { name: String, moves_data: bool },
    /// The cluster expects it, but it was never started from here.
    Start,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Begin { members } => write!(f, "begin an etcd cluster of {members} members"),
            Change::Join { name, moves_data: false } => {
                write!(f, "add the member {name} to the running cluster")
            }
            Change::Join { name, moves_data: true } => {
                write!(f, "add the member {name} to the running cluster, with its old data moved aside")
            }
            Change::Start => write!(f, "start as a member that the cluster knows already"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    members: Vec<String>,
}

/// The variables with which a member's process starts for the first time; etcd ignores them once there is data.
fn start_text(state: &str, cluster: &BTreeMap<String, String>) -> String {
    let list: Vec<String> = cluster.iter().map(|(name, url)| format!("{name}={url}")).collect();
    format!(
        "# Made by keddah when this member got its place; etcd reads it while it has no data.\n\
         ETCD_INITIAL_CLUSTER_STATE={state}\nETCD_INITIAL_CLUSTER={}\n",
        list.join(",")
    )
}

/// The member list that a joining process must be given: exactly who the cluster has, by the names they use.
fn joined(members: &[Member], params: &Params) -> BTreeMap<String, String> {
    let named = |member: &Member| {
        let url = member.peer_urls.first()?.clone();
        let configured =
            params.members.iter().find(|(_, known)| **known == url).map(|(name, _)| name.clone());
        let name = if member.name.is_empty() { configured? } else { member.name.clone() };
        Some((name, url))
    };
    let mut all: BTreeMap<String, String> = members.iter().filter_map(named).collect();
    all.insert(params.name.clone(), params.peer_url.clone());
    all
}

fn ask(params: &Params) -> Result<Option<Vec<Member>>, Fault> {
    remote::block_on(async { client(&params.endpoints).members().await.ok() })
}

impl Module for EtcdMember {
    const NAME: &'static str = "etcd_member";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    // The cluster needs its first members' processes before it answers, and they start after this step.
    const LASTING: bool = false;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let data = Path::new(&params.data_dir).join("member");
        Ok(Seen::Now(State {
            members: ask(params)?,
            has_start_file: host.stat(&params.start_file)?.is_some(),
            has_data: host.stat(data)?.is_some(),
        }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        match (&found.members, found.own(params)) {
            (Some(_), Some(_)) if found.has_start_file || found.has_data => Vec::new(),
            (Some(_), Some(_)) => vec![Change::Start],
            (Some(_), None) => {
                vec![Change::Join { name: params.name.clone(), moves_data: found.has_data }]
            }
            (None, _) if found.has_start_file || found.has_data => Vec::new(),
            (None, _) => vec![Change::Begin { members: params.members.len() }],
        }
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let mut state = "existing";
        let mut cluster = joined(found.members.as_deref().unwrap_or_default(), params);
        for change in changes {
            match change {
                Change::Begin { .. } => (state, cluster) = ("new", params.members.clone()),
                Change::Start => {}
                Change::Join { .. } => {
                    make_room(params, found, host)?;
                    let urls = [params.peer_url.clone()];
                    remote::block_on(async { client(&params.endpoints).member_add(&urls, false).await })?
                        .map_err(|error| Fault::refused(crate::sys::chain(&error)))?;
                }
            }
        }
        let attributes = Attributes { mode: Some(0o644), ..Attributes::default() };
        host.replace(&params.start_file, start_text(state, &cluster).as_bytes(), attributes)?;
        let members = ask(params)?;
        Ok(State { members, has_start_file: true, has_data: false })
    }

    fn output(_params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let members = after.unwrap_or(before).members.iter().flatten();
        Output { members: members.map(|member| member.name.clone()).collect() }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            Change::Begin { .. } | Change::Start => Risk::None,
            Change::Join { .. } => Risk::Restart,
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        vec![Thing::Path(params.start_file.clone())]
    }
}

/// Stops the process of a removed member and moves its data aside: etcd refuses to join with another cluster's data.
fn make_room(params: &Params, found: &State, host: &mut HostMut<'_>) -> Result<(), Fault> {
    if !found.has_data {
        return Ok(());
    }
    host.must(Program::new("systemctl").args(["stop", &params.service]), "stopping the removed member")?;
    let old = Path::new(&params.data_dir).join("member");
    let aside = Path::new(&params.data_dir).join(format!("member.removed-{}", clock::wall().as_second()));
    let program = Program::new("mv").arg("--no-target-directory").arg(host.path(old)).arg(host.path(aside));
    host.must(program, "moving the removed member's data aside").map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        let url = |n: usize| format!("http://10.0.0.{n}:2380");
        Params {
            name: "etcd2".to_owned(),
            peer_url: url(2),
            members: (1..=3).map(|n| (format!("etcd{n}"), url(n))).collect(),
            endpoints: Vec::new(),
            data_dir: "/var/lib/etcd/demo".to_owned(),
            start_file: "/etc/etcd/start.env".to_owned(),
            service: etcd(),
        }
    }

    fn member(name: &str, n: usize) -> Member {
        Member {
            id: 1,
            name: name.to_owned(),
            peer_urls: vec![format!("http://10.0.0.{n}:2380")],
            client_urls: Vec::new(),
            is_learner: false,
        }
    }

    #[test]
    fn a_host_without_a_cluster_begins_one_and_never_twice() {
        let bare = State { members: None, has_start_file: false, has_data: false };
        assert_eq!(EtcdMember::diff(&params(), &bare), [Change::Begin { members: 3 }]);
        let begun = State { members: None, has_start_file: true, has_data: false };
        assert_eq!(EtcdMember::diff(&params(), &begun), []);
    }

    #[test]
    fn a_removed_member_joins_again_with_its_data_moved_aside() {
        let members = Some(vec![member("etcd1", 1), member("etcd3", 3)]);
        let removed = State { members, has_start_file: true, has_data: true };
        let changes = EtcdMember::diff(&params(), &removed);
        assert_eq!(changes, [Change::Join { name: "etcd2".to_owned(), moves_data: true }]);
    }

    #[test]
    fn who_joins_is_told_exactly_the_members_that_the_cluster_has() {
        let cluster = joined(&[member("etcd1", 1), member("", 3)], &params());
        let names: Vec<&str> = cluster.keys().map(String::as_str).collect();
        assert_eq!(names, ["etcd1", "etcd2", "etcd3"]);
        assert!(
            start_text("existing", &cluster)
                .contains("ETCD_INITIAL_CLUSTER=etcd1=http://10.0.0.1:2380,etcd2=")
        );
    }
}
