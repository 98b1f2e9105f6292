//! `list` and `history`: who is in the cluster, and who led when.

use serde_json::{Map, Value};

use crate::contract::document::python_json;
use crate::contract::member::MemberDocument;
use crate::contract::rest::ClusterView;
use crate::ctl::table::{Column, Format, cell, objects, pretty, tsv, yaml, yaml_flow};

const MB: f64 = 1024.0 * 1024.0;

/// Columns that are shown only when somebody has something in them.
const OPTIONAL: [(&str, &str); 4] = [
    ("Pending restart", "pending_restart"),
    ("Pending restart reason", "pending_restart_reason"),
    ("Scheduled restart", "scheduled_restart"),
    ("Tags", "tags"),
];

/// Writes the members. With `extended`, columns that nobody has anything in are shown too.
pub fn list(scope: &str, view: &ClusterView, format: Format, extended: bool) -> String {
    let document = view.to_json();
    let members = members(&document);
    let titles = titles(&members, extended);
    let rows = rows(scope, &members, &titles, format);
    match format {
        Format::Json => python_json(&objects(&titles, &rows, true)),
        Format::Yaml => yaml(&objects(&titles, &rows, true)),
        Format::Tsv => tsv(&titles, &rows),
        Format::Pretty => table(scope, view, &document, &titles, &rows),
    }
}

/// Returns the members of a document as [`ClusterView::to_json`] makes it.
pub(super) fn members(document: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let all = document.get("members").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(|member| member.as_object().cloned()).collect()
}

/// Says what members lack, beyond the table: one line each.
pub fn warnings(view: &ClusterView) -> Vec<String> {
    let sentence = |member: &MemberDocument| member.keddah()?.get("disk")?.as_str().map(str::to_owned);
    let line = |(name, member): &(String, MemberDocument)| Some(format!(" {name}: {}", sentence(member)?));
    view.members.iter().filter_map(line).collect()
}

/// Writes the members in the order given, as a table with a line for each of them.
pub(super) fn rows_as_table(
    scope: &str,
    view: &ClusterView,
    document: &Map<String, Value>,
    members: &[Map<String, Value>],
) -> String {
    let titles = titles(members, false);
    let mut members = members.to_vec();
    for tags in members.iter_mut().filter_map(|member| member.get_mut("tags")) {
        *tags = yaml_flow(tags).into();
    }
    table(scope, view, document, &titles, &rows(scope, &members, &titles, Format::Pretty))
}

fn titles(members: &[Map<String, Value>], extended: bool) -> Vec<&'static str> {
    let mut titles = vec![
        "Cluster",
        "Member",
        "Host",
        "Role",
        "State",
        "TL",
        "Receive LSN",
        "Receive Lag",
        "Replay LSN",
        "Replay Lag",
    ];
    let shown = |key: &str| members.iter().any(|member| member.get(key).is_some_and(is_something));
    titles.extend(OPTIONAL.iter().filter(|(_, key)| extended || shown(key)).map(|(title, _)| *title));
    titles
}

fn rows(
    scope: &str,
    members: &[Map<String, Value>],
    titles: &[&'static str],
    format: Format,
) -> Vec<Vec<Value>> {
    let with_port = needs_port(members);
    let row = |member| titles.iter().map(|title| column(title, scope, member, with_port, format)).collect();
    members.iter().map(row).collect()
}

fn table(
    scope: &str,
    view: &ClusterView,
    document: &Map<String, Value>,
    titles: &[&'static str],
    rows: &[Vec<Value>],
) -> String {
    let initialize = match view.initialize.as_deref() {
        None => "uninitialized",
        Some("") => "initializing",
        Some(id) => id,
    };
    let columns: Vec<Column> = titles
        .iter()
        .skip(1)
        .map(|title| match *title {
            "Receive Lag" | "Replay Lag" => Column { title: "Lag", right: true },
            title => Column { title, right: matches!(title, "TL" | "Receive LSN" | "Replay LSN") },
        })
        .collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().skip(1).map(cell).collect()).collect();
    let mut text = pretty(&format!(" Cluster: {scope} ({initialize}) "), &columns, &rows);
    if document.get("pause").is_some() {
        text.push_str("\n Maintenance mode: on");
    }
    if let Some(scheduled) = document.get("scheduled_switchover").and_then(Value::as_object) {
        let part = |key: &str| scheduled.get(key).map(cell);
        text.push_str(&format!("\n Switchover scheduled at: {}", part("at").unwrap_or_default()));
        for key in ["from", "to"] {
            if let Some(name) = part(key) {
                text.push_str(&format!("\n{key:>24}: {name}"));
            }
        }
    }
    text
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Array(_) => true,
    }
}

/// Hosts are shown with their ports if one is unusual or two members share a host.
fn needs_port(members: &[Map<String, Value>]) -> bool {
    let hosts: Vec<&str> = members.iter().filter_map(|member| member.get("host")?.as_str()).collect();
    let unusual = members
        .iter()
        .any(|member| member.get("port").and_then(Value::as_u64).is_some_and(|port| port != 5432));
    let mut distinct = hosts.clone();
    distinct.sort_unstable();
    distinct.dedup();
    unusual || distinct.len() < hosts.len()
}

fn column(title: &str, scope: &str, member: &Map<String, Value>, with_port: bool, format: Format) -> Value {
    let text = |key: &str| member.get(key).cloned().unwrap_or_else(|| "".into());
    match title {
        "Cluster" => scope.into(),
        "Member" => text("name"),
        "Host" => match (member.get("host").and_then(Value::as_str), member.get("port")) {
            (Some(host), Some(port)) if with_port => format!("{host}:{port}").into(),
            (Some(host), _) => host.into(),
            (None, _) => "".into(),
        },
        "Role" => titled(member.get("role").and_then(Value::as_str).unwrap_or_default()).into(),
        "State" => text("state"),
        "TL" => text("timeline"),
        "Receive LSN" => text("receive_lsn"),
        "Replay LSN" => text("replay_lsn"),
        "Receive Lag" => lag(member.get("receive_lag")),
        "Replay Lag" => lag(member.get("replay_lag")),
        "Pending restart" => if is_something(&text("pending_restart")) { "*" } else { "" }.into(),
        "Pending restart reason" => reasons(member, format).into(),
        "Scheduled restart" => scheduled(member).unwrap_or_default().into(),
        "Tags" => tags(member, format),
        _ => "".into(),
    }
}

/// Writes when a member is to be restarted, and on what condition.
fn scheduled(member: &Map<String, Value>) -> Option<String> {
    let restart = member.get("scheduled_restart")?;
    let at = restart.get("schedule").map(cell)?;
    let version = restart.get("postgres_version").map(cell);
    Some(version.map_or_else(|| at.clone(), |version| format!("{at} if version < {version}")))
}

/// Writes `sync_standby` as `Sync Standby`.
fn titled(role: &str) -> String {
    let word = |word: &str| {
        let mut characters = word.chars();
        characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
    };
    role.split('_').map(word).collect::<Vec<_>>().join(" ")
}

/// Rounds bytes to megabytes, halves to the even one, as Python does.
fn lag(value: Option<&Value>) -> Value {
    match value.and_then(Value::as_u64) {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a lag is far below 2^53 bytes and not negative"
        )]
        Some(bytes) => ((bytes as f64 / MB).round_ties_even() as u64).into(),
        None => "".into(),
    }
}

fn reasons(member: &Map<String, Value>, format: Format) -> String {
    let reasons = member.get("pending_restart_reason").and_then(Value::as_object);
    let line = |(name, values): (&String, &Value)| {
        let part = |key: &str| values.get(key).map(cell).unwrap_or_default();
        let full = format!("{name}: {}->{}", part("old_value"), part("new_value"));
        if format == Format::Pretty && full.len() > 50 {
            format!("{name}: [hidden - too long]")
        } else {
            full
        }
    };
    reasons.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

fn tags(member: &Map<String, Value>, format: Format) -> Value {
    let Some(tags) = member.get("tags").filter(|tags| is_something(tags)) else {
        return "".into();
    };
    match format {
        Format::Json | Format::Yaml => tags.clone(),
        Format::Pretty if tags.is_string() => tags.clone(),
        Format::Pretty => yaml(tags).trim_end().into(),
        Format::Tsv => yaml_flow(tags).into(),
    }
}

/// Writes where each timeline was left, why, when and who led next.
pub fn history(view: &ClusterView, format: Format) -> String {
    let titles = ["TL", "LSN", "Reason", "Timestamp", "New Leader"];
    let rows: Vec<Vec<Value>> = view
        .history
        .iter()
        .map(|line| {
            let maybe = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
            vec![
                line.entry.timeline.0.into(),
                line.entry.switch_point.0.into(),
                line.entry.reason.as_str().into(),
                maybe(&line.time),
                maybe(&line.leader),
            ]
        })
        .collect();
    match format {
        Format::Json => python_json(&objects(&titles, &rows, false)),
        Format::Yaml => yaml(&objects(&titles, &rows, false)),
        Format::Tsv => tsv(&titles, &rows),
        Format::Pretty => {
            let columns: Vec<Column> =
                titles.iter().map(|title| Column { title, right: matches!(*title, "TL" | "LSN") }).collect();
            let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
            pretty("", &columns, &rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::rest::view_of_demo as view;

    fn two_members() -> ClusterView {
        view(&[
            ("leader", "a"),
            ("initialize", "7400000000000000001"),
            ("status", r#"{"optime":83886080}"#),
            (
                "members/a",
                r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary","timeline":2}"#,
            ),
            (
                "members/b",
                r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://10.0.0.2:8008/patroni","state":"running","role":"replica","timeline":2,"replication_state":"streaming","xlog_location":83886080,"receive_lsn":83886080,"replay_lsn":78643200}"#,
            ),
        ])
    }

    #[test]
    fn the_table_is_that_of_patronictl() {
        insta::assert_snapshot!(list("demo", &two_members(), Format::Pretty, false), @r"
        + Cluster: demo (7400000000000000001) ----+----+-------------+-----+------------+-----+
        | Member | Host     | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
        +--------+----------+---------+-----------+----+-------------+-----+------------+-----+
        | a      | 10.0.0.1 | Leader  | running   |  2 |             |     |            |     |
        | b      | 10.0.0.2 | Replica | streaming |  2 |   0/5000000 |   0 |  0/4B00000 |   5 |
        +--------+----------+---------+-----------+----+-------------+-----+------------+-----+
        ");
    }

    #[test]
    fn machine_formats_leave_out_what_is_empty() {
        let text = list("demo", &two_members(), Format::Json, false);

        assert!(text.starts_with(
            r#"[{"Cluster": "demo", "Member": "a", "Host": "10.0.0.1", "Role": "Leader", "State": "running", "TL": 2}, {"#
        ), "{text}");
        assert!(text.ends_with(r#""Receive LSN": "0/5000000", "Receive Lag": 0, "Replay LSN": "0/4B00000", "Replay Lag": 5}]"#), "{text}");
    }

    #[test]
    fn tags_take_as_many_lines_as_the_format_has() {
        let tagged = view(&[(
            "members/b",
            r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","state":"running","role":"replica","tags":{"zone":"x","nofailover":true}}"#,
        )]);
        let tree = crate::ctl::topology::topology("demo", &tagged);

        assert!(tree.contains("| {nofailover: true, zone: x} |"), "{tree}");
        assert!(list("demo", &tagged, Format::Tsv, false).ends_with("\t{nofailover: true, zone: x}"));
        assert!(list("demo", &tagged, Format::Pretty, false).contains("| nofailover: true |"));
    }

    #[test]
    fn a_scheduled_restart_says_its_condition() {
        let member = serde_json::json!({"scheduled_restart": {"schedule": "2036-01-01T00:00:00+00:00", "postgres_version": "15.9"}});

        assert_eq!(
            scheduled(member.as_object().unwrap()).unwrap(),
            "2036-01-01T00:00:00+00:00 if version < 15.9"
        );
    }

    #[test]
    fn roles_are_titled() {
        assert_eq!(titled("sync_standby"), "Sync Standby");
    }

    #[test]
    fn half_megabytes_round_to_the_even_one() {
        assert_eq!(lag(Some(&Value::from(512 * 1024))), Value::from(0));
        assert_eq!(lag(Some(&Value::from(1536 * 1024))), Value::from(2));
    }
}
