//! Which hosts a lab has.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::LabError;
use crate::source::{FileId, NodeValue};
use crate::sys::files;

/// One host and the inventory groups it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub groups: Vec<String>,
}

/// The hosts of a lab, in the order of their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub members: Vec<Member>,
}

/// Most hosts of one lab: its network is a /24 and the first ten addresses are kept for the bridge.
const HOSTS_MAX: usize = 200;

impl Default for Layout {
    /// Three etcd, three Postgres, two HAProxy and a spare.
    fn default() -> Layout {
        let row = |prefix: &str, group: Option<&str>, count: usize| {
            (1..=count)
                .map(|n| Member {
                    name: format!("{prefix}{n}"),
                    groups: group.map(str::to_owned).into_iter().collect(),
                })
                .collect::<Vec<_>>()
        };
        let members = [
            row("etcd", Some("etcd"), 3),
            row("db", Some("postgres"), 3),
            row("proxy", Some("haproxy"), 2),
            row("spare", Some("spare"), 1),
        ]
        .concat();
        Layout { members }
    }
}

impl Layout {
    /// Returns `count` bare hosts, `host1` and so on, in group `lab`.
    ///
    /// # Errors
    /// `count` is not between 1 and 200.
    pub fn bare(count: usize) -> Result<Layout, LabError> {
        if !(1..=HOSTS_MAX).contains(&count) {
            return Err(LabError::BadLayout {
                path: "--hosts".into(),
                message: format!("{count} hosts are asked for; a lab has 1 to {HOSTS_MAX}"),
            });
        }
        let member = |n| Member { name: format!("host{n}"), groups: vec!["lab".to_owned()] };
        Ok(Layout { members: (1..=count).map(member).collect() })
    }

    /// Reads a layout file: a map from host name to a list of groups.
    ///
    /// ```yaml
    /// db1: [postgres]
    /// db2: [postgres, etcd]
    /// ```
    ///
    /// # Errors
    /// The file cannot be read or is not such a map.
    pub fn read(path: &Path) -> Result<Layout, LabError> {
        let bad = |message: String| LabError::BadLayout { path: path.to_owned(), message };
        let text = String::from_utf8(files::read(path)?).map_err(|error| bad(error.to_string()))?;
        Layout::parse(&text).map_err(bad)
    }

    fn parse(text: &str) -> Result<Layout, String> {
        let (documents, problems) = crate::source::yaml::read(FileId(0), text);
        if let Some(problem) = problems.sorted().first() {
            return Err(problem.message.clone());
        }
        let expected = "expected a map from host name to a list of groups, e.g. `db1: [postgres]`";
        let Some(NodeValue::Map(entries)) = documents.first().map(|node| &node.value) else {
            return Err(expected.to_owned());
        };
        let mut members = Vec::new();
        for (key, value) in entries {
            let (NodeValue::String(name), NodeValue::List(groups)) = (&key.value, &value.value) else {
                return Err(expected.to_owned());
            };
            let groups = groups.iter().map(|group| match &group.value {
                NodeValue::String(group) => Ok(group.to_string()),
                _ => Err(expected.to_owned()),
            });
            if !is_host_name(name) {
                return Err(format!(
                    "`{name}` is no host name: use a-z, 0-9 and `-`, at most 30, beginning with a letter"
                ));
            }
            members.push(Member { name: name.to_string(), groups: groups.collect::<Result<_, _>>()? });
        }
        match members.len() {
            1..=HOSTS_MAX => Ok(Layout { members }),
            count => Err(format!("{count} hosts are asked for; a lab has 1 to {HOSTS_MAX}")),
        }
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 30
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_layout_is_the_supported_topology() {
        let names: Vec<String> = Layout::default().members.into_iter().map(|m| m.name).collect();
        assert_eq!(names.join(" "), "etcd1 etcd2 etcd3 db1 db2 db3 proxy1 proxy2 spare1");
    }

    #[test]
    fn a_layout_file_gives_hosts_and_groups() {
        let layout = Layout::parse("a: [etcd, postgres]\nb: []\n").unwrap();
        assert_eq!(layout.members[0].groups, ["etcd", "postgres"]);
        assert!(layout.members[1].groups.is_empty());
    }

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        assert!(Layout::parse("../x: []\n").unwrap_err().contains("no host name"));
    }
}
