//! What a lab is made of, on disk before it is made.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::LabError;
use super::layout::{Layout, Member};
use super::network;
use crate::sys::files::{self, Attributes, FileError};

/// A host of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    pub name: String,
    pub groups: Vec<String>,
    pub address: Ipv4Addr,
}

/// A lab as its state file holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    /// The third number of the lab's network 10.89.N.0/24.
    pub subnet: u8,
    /// The folder of the base image that the hosts are laid over.
    pub image: PathBuf,
    /// Where the generated inventory lies.
    pub inventory: PathBuf,
    pub hosts: Vec<HostSpec>,
}

impl State {
    /// Chooses a network and addresses for the hosts of `layout`.
    pub fn plan(name: &str, layout: &Layout, image: &Path, inventory: &Path) -> Result<State, LabError> {
        let subnet = network::free_subnet(name)?;
        let address =
            |index: usize| Ipv4Addr::new(10, 89, subnet, u8::try_from(11 + index).unwrap_or(u8::MAX));
        let host = |(index, member): (usize, &Member)| HostSpec {
            name: member.name.clone(),
            groups: member.groups.clone(),
            address: address(index),
        };
        let hosts = layout.members.iter().enumerate().map(host).collect();
        let (name, image, inventory) = (name.to_owned(), image.to_owned(), inventory.to_owned());
        Ok(State { name, subnet, image, inventory, hosts })
    }

    /// Returns the layout that this lab was made from.
    pub fn layout(&self) -> Layout {
        let member = |host: &HostSpec| Member { name: host.name.clone(), groups: host.groups.clone() };
        Layout { members: self.hosts.iter().map(member).collect() }
    }

    pub fn bridge(&self) -> String {
        format!("keddah-{}", self.name).chars().take(15).collect()
    }

    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 89, self.subnet, 1)
    }

    /// Returns the host of that name.
    pub fn host(&self, name: &str) -> Result<&HostSpec, LabError> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| LabError::NoSuchHost {
            host: name.to_owned(),
            lab: self.name.clone(),
            known: self.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Returns the hosts meant by a comma-separated list of host and group names.
    pub fn select(&self, list: &str) -> Result<Vec<&HostSpec>, LabError> {
        let mut found: Vec<&HostSpec> = Vec::new();
        for word in list.split(',').filter(|word| !word.is_empty()) {
            let group: Vec<&HostSpec> =
                self.hosts.iter().filter(|host| host.groups.iter().any(|group| group == word)).collect();
            let hosts = if group.is_empty() { vec![self.host(word)?] } else { group };
            found.extend(hosts.into_iter().filter(|host| !found.contains(host)).collect::<Vec<_>>());
        }
        Ok(found)
    }

    pub(super) fn read(folder: &Path) -> Result<Option<State>, LabError> {
        let path = folder.join("state.json");
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| LabError::BadState { path, source })
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), LabError> {
        let path = folder.join("state.json");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| LabError::BadState { path: path.clone(), source })?;
        Ok(files::replace(&path, &text, Attributes::default())?)
    }
}

pub(super) fn lock_file(folder: &Path) -> PathBuf {
    folder.with_extension("lock")
}

/// Takes the lab for one run of the tool; freed when dropped, or when the process dies.
pub(super) fn lock(folder: &Path, name: &str) -> Result<Flock<File>, LabError> {
    let path = lock_file(folder);
    let failed = |source| FileError { operation: "open", path: path.clone(), source };
    files::make_folders(folder)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, _)| LabError::Busy { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let layout = Layout::default();
        let hosts = layout.members.iter().zip(11..).map(|(member, n)| HostSpec {
            name: member.name.clone(),
            groups: member.groups.clone(),
            address: Ipv4Addr::new(10, 89, 1, n),
        });
        State {
            name: "demo".into(),
            subnet: 1,
            image: "/image".into(),
            inventory: "inventory/lab".into(),
            hosts: hosts.collect(),
        }
    }

    #[test]
    fn a_list_may_name_hosts_and_groups_and_takes_each_host_once() {
        let state = state();
        let names: Vec<&str> =
            state.select("db1,postgres,etcd2").unwrap().iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["db1", "db2", "db3", "etcd2"]);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = state().select("db9").unwrap_err().to_string();
        assert!(error.contains("etcd1, etcd2"), "{error}");
    }

    #[test]
    fn the_layout_comes_back_from_the_state() {
        assert_eq!(state().layout(), Layout::default());
    }
}
