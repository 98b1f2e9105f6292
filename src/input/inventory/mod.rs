//! Hosts and groups, from YAML and INI files, with the variables written beside them.
//!
//! Start at [`Inventory`], which [`build::load`] makes. [`precedence`] says which of several values of one variable a host gets,
//! [`pattern`] which hosts a pattern means.

pub mod build;
mod ini;
mod literal;
pub mod pattern;
pub mod precedence;
mod ranges;
mod yaml;

use std::path::PathBuf;
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use crate::expr::Dict;
use crate::source::Span;

/// All hosts and groups. The groups `all` and `ungrouped` always exist.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// In the order of first mention.
    pub hosts: IndexMap<Arc<str>, Host>,
    pub groups: IndexMap<Arc<str>, Group>,
    /// What was given with `-i`, in order.
    pub sources: Vec<PathBuf>,
    /// `group_vars/` and `host_vars/` beside each source, in the order of the sources.
    pub adjacent: Vec<VarFiles>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    pub name: Arc<str>,
    /// Where it is first written; `None` for the implicit `localhost`.
    pub span: Option<Span>,
    /// The file of `span` (`inventory_file`).
    pub file: PathBuf,
    /// Variables written with the host in inventory files.
    pub vars: Dict,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: Arc<str>,
    pub span: Option<Span>,
    /// Hosts written directly in the group; for `all` only those of no other group.
    pub hosts: IndexSet<Arc<str>>,
    pub children: IndexMap<Arc<str>, Span>,
    /// Variables written with the group in inventory files.
    pub vars: Dict,
    /// The longest way from `all`, which is 0.
    pub depth: usize,
    /// `ansible_group_priority`: among groups of equal depth the higher one wins.
    pub priority: i64,
}

/// The variables of the folders `group_vars/` and `host_vars/` in one folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VarFiles {
    pub dir: PathBuf,
    pub groups: IndexMap<Arc<str>, Dict>,
    pub hosts: IndexMap<Arc<str>, Dict>,
}

impl Inventory {
    /// Returns the hosts of the group and of its children, in the order of first mention; empty for an unknown name.
    pub fn hosts_of_group(&self, group: &str) -> Vec<Arc<str>> {
        if group == "all" {
            return self.hosts.keys().cloned().collect();
        }
        let mut inside: IndexSet<Arc<str>> = IndexSet::new();
        let mut open: Vec<&str> = vec![group];
        let mut seen: IndexSet<&str> = IndexSet::new();
        while let Some(name) = open.pop() {
            let Some(group) = self.groups.get(name) else { continue };
            if seen.insert(group.name.as_ref()) {
                inside.extend(group.hosts.iter().cloned());
                open.extend(group.children.keys().map(AsRef::as_ref));
            }
        }
        self.hosts.keys().filter(|host| inside.contains(*host)).cloned().collect()
    }

    /// Returns the groups that hold the host, directly or through children, `all` first, in the order in which their
    /// variables are merged: by depth, then priority, then name.
    pub fn groups_of_host(&self, host: &str) -> Vec<&Group> {
        let mut inside: IndexSet<&str> = IndexSet::new();
        let mut open: Vec<&str> =
            self.groups.values().filter(|g| g.hosts.contains(host)).map(|g| g.name.as_ref()).collect();
        while let Some(name) = open.pop() {
            if inside.insert(name) {
                open.extend(
                    self.groups.values().filter(|g| g.children.contains_key(name)).map(|g| g.name.as_ref()),
                );
            }
        }
        if self.hosts.contains_key(host) {
            inside.insert("all");
        }
        let mut groups: Vec<&Group> = inside.iter().filter_map(|name| self.groups.get(*name)).collect();
        groups.sort_by(|a, b| (a.depth, a.priority, &a.name).cmp(&(b.depth, b.priority, &b.name)));
        groups
    }

    /// Returns the names of the host's groups without `all`, sorted (`group_names`).
    pub fn group_names(&self, host: &str) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self
            .groups_of_host(host)
            .iter()
            .map(|g| Arc::clone(&g.name))
            .filter(|n| n.as_ref() != "all")
            .collect();
        names.sort();
        names
    }
}
