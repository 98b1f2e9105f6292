//! `topology`: the members as a tree, replicas below whom they follow.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::contract::rest::ClusterView;
use crate::ctl::list;

/// Writes the members in the order of the tree, each level two blanks further in.
pub fn topology(scope: &str, view: &ClusterView) -> String {
    let document = view.to_json();
    list::rows_as_table(scope, view, &document, &sorted(&list::members(&document)))
}

fn text<'a>(member: &'a Map<String, Value>, key: &str) -> &'a str {
    member.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn leads(member: &Map<String, Value>) -> bool {
    text(member, "role").ends_with("leader")
}

/// Sorts members by whom they follow. Who would follow nobody that is there follows the leader.
fn sorted(members: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
    let leader = members.iter().find(|member| leads(member));
    let root = leader.map_or("", |member| text(member, "name"));
    let replicas: BTreeSet<&str> =
        members.iter().filter(|member| !leads(member)).map(|member| text(member, "name")).collect();
    let mut below: BTreeMap<&str, Vec<&Map<String, Value>>> = BTreeMap::new();
    for member in members.iter().filter(|member| !leads(member)) {
        let wanted = member.get("tags").and_then(|tags| tags.get("replicatefrom")?.as_str());
        let parent = wanted.filter(|parent| *parent != text(member, "name") && replicas.contains(parent));
        below.entry(parent.unwrap_or(root)).or_default().push(member);
    }
    let mut tree = Vec::new();
    tree.extend(leader.cloned());
    descend(root, 1, &mut below, &mut tree);
    tree
}

fn descend<'a>(
    parent: &str,
    level: usize,
    below: &mut BTreeMap<&'a str, Vec<&'a Map<String, Value>>>,
    tree: &mut Vec<Map<String, Value>>,
) {
    // Taken out, so that a circle of replicas ends.
    for member in below.remove(parent).unwrap_or_default() {
        let name = text(member, "name");
        let mut shown = member.clone();
        shown.insert("name".to_owned(), format!("{}+ {name}", "  ".repeat(level - 1)).into());
        tree.push(shown);
        descend(name, level + 1, below, tree);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn replicas_stand_below_whom_they_follow() {
        let member = |name: &str, role: &str, from: Option<&str>| {
            let mut member = json!({"name": name, "role": role});
            if let Some(from) = from {
                member["tags"] = json!({"replicatefrom": from});
            }
            member.as_object().unwrap().clone()
        };
        let members = [
            member("a", "replica", Some("gone")),
            member("b", "leader", None),
            member("c", "replica", Some("a")),
        ];

        let names: Vec<String> =
            sorted(&members).iter().map(|member| text(member, "name").to_owned()).collect();

        assert_eq!(names, ["b", "+ a", "  + c"]);
    }
}
