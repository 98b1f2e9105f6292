//! What a host is: the cheap facts, read natively within milliseconds, under Ansible's names without `ansible_`.
//!
//! Start at [`gather`]. [`machine`] is system and hardware, [`network`] interfaces and addresses.
//!
//! Facts that cost a program or a scan (mounts, devices, packages, services) are not here.

pub mod machine;
pub mod network;

use std::path::Path;
use std::sync::Arc;

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::expr::{Data, Dict, Value};
use crate::modules::Fault;
use crate::sys::{clock, users};

/// Arguments of `setup`. All subsets are cheap here, so choosing among them has no effect.
const ARGUMENTS: [&str; 4] = ["filter", "gather_subset", "gather_timeout", "fact_path"];

/// Gathers the facts of this host, seen by the user of this process. `args` are those of `setup`.
///
/// # Errors
/// An argument is not one of `setup`'s.
pub fn gather(args: &Value) -> Result<Dict, Fault> {
    let wanted = filters(args)?;
    let mut facts = Facts(Dict::new());
    machine::add(&mut facts, Path::new("/"));
    network::add(&mut facts, Path::new("/"));
    add_user(&mut facts);
    add_time(&mut facts, &clock::wall().to_zoned(TimeZone::system()));
    facts.put("module_setup", true);
    let mut all = facts.0;
    if !wanted.is_empty() {
        let named = |name: &str| {
            wanted.iter().any(|pattern| {
                matches(pattern, name) || pattern.strip_prefix("ansible_").is_some_and(|p| matches(p, name))
            })
        };
        all.retain(|name, _| named(name));
    }
    Ok(all)
}

fn filters(args: &Value) -> Result<Vec<String>, Fault> {
    let Data::Dict(args) = &args.data else { return Ok(Vec::new()) };
    if let Some(unknown) = args.keys().find(|name| !ARGUMENTS.contains(&name.as_ref())) {
        let known = ARGUMENTS.join("`, `");
        return Err(Fault::params(format!("`setup` has no parameter `{unknown}`; it has `{known}`")));
    }
    let patterns = match args.get("filter").map(|value| &value.data) {
        Some(Data::List(list)) => list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect(),
        Some(Data::Str(text)) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        _ => Vec::new(),
    };
    Ok(patterns.into_iter().filter(|pattern: &String| !pattern.is_empty() && pattern != "*").collect())
}

/// Matches `*` and `?`, as the `filter` of `setup` does.
fn matches(pattern: &str, name: &str) -> bool {
    let mut chars = pattern.chars();
    match chars.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = chars.as_str();
            (0..=name.len()).any(|at| name.get(at..).is_some_and(|tail| matches(rest, tail)))
        }
        Some(wanted) => {
            let mut name = name.chars();
            name.next().is_some_and(|c| wanted == '?' || wanted == c)
                && matches(chars.as_str(), name.as_str())
        }
    }
}

/// The facts so far.
#[derive(Debug, Default)]
pub(crate) struct Facts(Dict);

impl Facts {
    pub(crate) fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(Arc::from(name), value.into());
    }
}

fn add_user(facts: &mut Facts) {
    let uid = nix::unistd::getuid();
    let user = users::find_user(Path::new("/"), &uid.to_string()).ok().flatten();
    facts.put("user_uid", i64::from(uid.as_raw()));
    facts.put("user_gid", i64::from(nix::unistd::getgid().as_raw()));
    facts.put("real_user_id", i64::from(uid.as_raw()));
    facts.put("effective_user_id", i64::from(nix::unistd::geteuid().as_raw()));
    facts.put("real_group_id", i64::from(nix::unistd::getgid().as_raw()));
    facts.put("effective_group_id", i64::from(nix::unistd::getegid().as_raw()));
    if let Some(user) = user {
        facts.put("user_id", user.name);
        facts.put("user_dir", user.home);
        facts.put("user_shell", user.shell);
        facts.put("user_gecos", user.comment);
    }
    let environment: Dict = std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((Arc::from(name.to_str()?), Value::str(value.to_string_lossy().into_owned())))
        })
        .collect();
    facts.put("env", environment);
}

fn add_time(facts: &mut Facts, local: &Zoned) {
    let utc = local.with_time_zone(TimeZone::UTC);
    let offset = local.offset();
    let formats = [
        ("year", "%Y"),
        ("month", "%m"),
        ("weekday", "%A"),
        ("weekday_number", "%w"),
        ("weeknumber", "%W"),
        ("day", "%d"),
        ("hour", "%H"),
        ("minute", "%M"),
        ("second", "%S"),
        ("epoch", "%s"),
        ("epoch_int", "%s"),
        ("date", "%Y-%m-%d"),
        ("time", "%H:%M:%S"),
        ("iso8601_basic", "%Y%m%dT%H%M%S%6f"),
        ("iso8601_basic_short", "%Y%m%dT%H%M%S"),
        ("tz", "%Z"),
        ("tz_dst", "%Z"),
    ];
    let mut time = Dict::new();
    for (name, format) in formats {
        time.insert(Arc::from(name), Value::str(local.strftime(format).to_string()));
    }
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    let text = format!("{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60);
    time.insert(Arc::from("tz_offset"), Value::str(text));
    time.insert(Arc::from("iso8601"), Value::str(utc.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    time.insert(Arc::from("iso8601_micro"), Value::str(utc.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()));
    facts.put("date_time", time);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Dict {
        gather(&Value::none()).unwrap()
    }

    #[test]
    fn the_facts_that_roles_use_are_there_with_ansible_types() {
        let facts = all();
        for name in [
            "hostname",
            "fqdn",
            "distribution",
            "distribution_version",
            "distribution_major_version",
            "distribution_release",
            "os_family",
            "kernel",
            "architecture",
            "machine",
            "service_mgr",
            "pkg_mgr",
            "user_id",
            "virtualization_type",
        ] {
            let value = facts.get(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{name}: {value:?}");
        }
        assert!(facts.get("memtotal_mb").unwrap().as_int().unwrap() > 0);
        assert!(facts.get("processor_vcpus").unwrap().as_int().unwrap() > 0);
        assert!(facts.get("env").unwrap().get("PATH").is_some());
        assert!(facts.get("interfaces").unwrap().as_list().unwrap().iter().any(|i| i.as_str() == Some("lo")));
    }

    #[test]
    fn a_filter_leaves_what_it_names_with_or_without_the_prefix() {
        let args = Value::from([("filter", Value::str("ansible_distribution*,hostname"))]);
        let facts = gather(&args).unwrap();
        assert!(facts.contains_key("distribution_version") && facts.contains_key("hostname"));
        assert!(!facts.contains_key("kernel"));
    }

    #[test]
    fn an_argument_that_setup_does_not_have_is_refused() {
        let fault = gather(&Value::from([("filters", "x")])).unwrap_err();
        assert!(fault.message.contains("`filters`") && fault.message.contains("`filter`"));
    }

    #[test]
    fn times_are_written_as_ansible_writes_them() {
        let mut facts = Facts::default();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        add_time(&mut facts, &"2024-03-09T21:05:06.789Z".parse::<jiff::Timestamp>().unwrap().to_zoned(zone));
        let time = facts.0.get("date_time").unwrap();
        let text = |name: &str| time.get(name).unwrap().as_str().unwrap().to_owned();
        assert_eq!(text("date"), "2024-03-09");
        assert_eq!(text("hour"), "23");
        assert_eq!(text("weekday"), "Saturday");
        assert_eq!(text("iso8601"), "2024-03-09T21:05:06Z");
        assert_eq!(text("iso8601_basic_short"), "20240309T230506");
        assert_eq!(text("tz_offset"), "+0200");
        assert_eq!(text("epoch"), "1710018306");
    }
}
