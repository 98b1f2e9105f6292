//! Requests for a switchover or a failover: what is asked, and whether the cluster allows it. Texts and codes are
//! Patroni's.

use serde_json::Value;

use crate::cluster::{FailoverRequest, State, UnixMs};
use crate::contract::document::Document;
use crate::contract::failover::parse_time;
use crate::contract::rest::ClusterView;

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From a healthy leader.
    Switchover,
    /// To a named member, whatever the leader does.
    Failover,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Switchover => "switchover",
            Kind::Failover => "failover",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Kind::Switchover => "Switchover",
            Kind::Failover => "Failover",
        }
    }

    /// Returns the beginning of "switched over".
    pub fn stem(self) -> &'static str {
        match self {
            Kind::Switchover => "switch",
            Kind::Failover => "fail",
        }
    }

    pub fn stem_title(self) -> &'static str {
        match self {
            Kind::Switchover => "Switch",
            Kind::Failover => "Fail",
        }
    }
}

/// Why a request is not taken, with the HTTP status that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub status: u16,
    pub text: String,
}

fn refuse<T>(status: u16, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, text: text.into() })
}

/// Checks a request (`leader`, `candidate` or `member`, `scheduled_at`) against the cluster. A failover that names the
/// leader is a switchover.
///
/// # Errors
/// It makes no sense, or no member could take over.
pub fn check(
    kind: Kind,
    asked: &Document,
    view: &ClusterView,
    now: UnixMs,
) -> Result<(Kind, FailoverRequest), Refusal> {
    // What is no text is refused as nobody's name and no time, and not taken for something that nobody wrote.
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let name = |key: &str| asked.get(key).map(text).filter(|text| !text.is_empty());
    let leader = name("leader");
    let candidate = name("candidate").or_else(|| name("member"));
    let (leader, candidate) = (leader.as_deref(), candidate.as_deref());
    let paused = view.is_paused();
    match kind {
        Kind::Failover if candidate.is_none() => {
            return refuse(400, "Failover could be performed only to a specific candidate");
        }
        Kind::Switchover if leader.is_none() => {
            return refuse(400, "Switchover could be performed only from a specific leader");
        }
        Kind::Failover | Kind::Switchover => {}
    }
    let scheduled_at = match name("scheduled_at") {
        None => None,
        Some(_) if kind == Kind::Failover => return refuse(400, "Failover can't be scheduled"),
        Some(_) if paused => return refuse(400, "Can't schedule switchover in the paused state"),
        Some(text) => Some(moment(&text, kind.word(), now)?),
    };
    if paused && candidate.is_none() {
        return refuse(400, "Switchover is possible only to a specific candidate in a paused state");
    }
    let kind = if leader.is_some() { Kind::Switchover } else { kind };
    if leader.is_some() && leader == candidate {
        return refuse(400, "Switchover target and source are the same");
    }
    if scheduled_at.is_none() {
        possible(kind, leader, candidate, view)?;
    }
    let parse = |name: Option<&str>| name.and_then(|name| name.parse().ok());
    Ok((kind, FailoverRequest { leader: parse(leader), candidate: parse(candidate), scheduled_at }))
}

/// Reads the moment at which `what` is to happen.
///
/// # Errors
/// It cannot be read, lacks a time zone, or has passed.
pub fn moment(text: &str, what: &str, now: UnixMs) -> Result<UnixMs, Refusal> {
    let Some(at) = parse_time(text) else {
        return if text.parse::<jiff::civil::DateTime>().is_ok() {
            refuse(400, format!("Timezone information is mandatory for the scheduled {what}"))
        } else {
            refuse(
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
            )
        };
    };
    if at < now {
        return refuse(422, format!("Cannot schedule {what} in the past"));
    }
    Ok(at)
}

/// Reads a time in seconds, or with a unit of Postgres: `30`, `"30"`, `"5min"`.
pub fn seconds(value: &Value) -> Option<u64> {
    let Value::String(text) = value else { return value.as_u64() };
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "" | "s" => 1,
        "min" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Tells why no member could take over, if none could.
fn possible(
    kind: Kind,
    leader: Option<&str>,
    candidate: Option<&str>,
    view: &ClusterView,
) -> Result<(), Refusal> {
    let current = view.leader.as_deref();
    if leader.is_some() && leader != current {
        return refuse(412, "leader name does not match");
    }
    let synchronous = view.is_synchronous() && !view.is_quorum();
    let names = view.members.iter().map(|(name, _)| name.as_str());
    let members: Vec<&str> = match candidate {
        Some(candidate) => {
            if kind == Kind::Switchover && synchronous && !view.is_in_sync(candidate) {
                return refuse(412, "candidate name does not match with sync_standby");
            }
            let found: Vec<&str> = names.filter(|name| *name == candidate).collect();
            if found.is_empty() {
                return refuse(412, "candidate does not exists");
            }
            found
        }
        None => {
            let others = names.filter(|name| Some(*name) != current);
            let found: Vec<&str> = others.filter(|name| !synchronous || view.is_in_sync(name)).collect();
            if found.is_empty() {
                let why = if synchronous {
                    "can not find sync_standby"
                } else {
                    "cluster does not have members except leader"
                };
                return refuse(412, format!("{} is not possible: {why}", kind.word()));
            }
            found
        }
    };
    let good = |name: &&str| {
        view.member_named(name).is_some_and(|member| {
            member.tags().failover_priority() > 0 && member.state() == Some(State::Running)
        })
    };
    if members.iter().any(good) {
        Ok(())
    } else {
        refuse(412, format!("{} is not possible: no good candidates have been found", kind.word()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::rest::view_of_demo as view;

    fn ask(kind: Kind, body: &str, view: &ClusterView) -> Result<Kind, (u16, String)> {
        let document = Document::parse("the request", body).unwrap();
        check(kind, &document, view, UnixMs(0))
            .map(|(kind, _)| kind)
            .map_err(|refusal| (refusal.status, refusal.text))
    }

    #[test]
    fn a_lonely_leader_cannot_be_switched_over() {
        let view = view(&[("leader", "a"), ("members/a", r#"{"state":"running","role":"primary"}"#)]);

        assert_eq!(
            ask(Kind::Switchover, r#"{"leader":"a"}"#, &view),
            Err((412, "switchover is not possible: cluster does not have members except leader".to_owned()))
        );
    }

    #[test]
    fn a_member_that_may_not_lead_is_no_candidate() {
        let replica = r#"{"state":"running","role":"replica","tags":{"nofailover":true}}"#;
        let view = view(&[("leader", "a"), ("members/b", replica)]);

        assert_eq!(
            ask(Kind::Failover, r#"{"candidate":"b"}"#, &view),
            Err((412, "failover is not possible: no good candidates have been found".to_owned()))
        );
    }

    #[test]
    fn a_failover_that_names_the_leader_is_a_switchover() {
        let view = view(&[("leader", "a"), ("members/b", r#"{"state":"running","role":"replica"}"#)]);

        assert_eq!(ask(Kind::Failover, r#"{"leader":"a","candidate":"b"}"#, &view), Ok(Kind::Switchover));
    }

    #[test]
    fn what_is_no_text_is_no_name_and_no_time() {
        let view = view(&[("leader", "a"), ("members/b", r#"{"state":"running","role":"replica"}"#)]);
        let refused = |body: &str| ask(Kind::Switchover, body, &view).map_err(|(status, _)| status);

        assert_eq!(refused(r#"{"leader":"a","candidate":"b","scheduled_at":5}"#), Err(422));
        assert_eq!(refused(r#"{"leader":"a","candidate":5}"#), Err(412));
        assert_eq!(refused(r#"{"leader":"a","candidate":null,"scheduled_at":null}"#), Ok(Kind::Switchover));
    }

    #[test]
    fn seconds_may_have_a_unit() {
        for (value, wanted) in
            [("30", Some(30)), (r#""30""#, Some(30)), (r#""5min""#, Some(300)), (r#""2 h""#, Some(7200))]
        {
            assert_eq!(seconds(&serde_json::from_str(value).unwrap()), wanted, "{value}");
        }
        assert_eq!(seconds(&"x".into()), None);
    }

    #[test]
    fn a_standby_cluster_has_no_synchronous_set_to_ask() {
        let view = view(&[
            ("leader", "a"),
            ("config", r#"{"synchronous_mode":true,"standby_cluster":{"port":5432}}"#),
            ("members/b", r#"{"state":"running","role":"replica"}"#),
        ]);

        assert_eq!(ask(Kind::Switchover, r#"{"leader":"a"}"#, &view), Ok(Kind::Switchover));
    }

    #[test]
    fn in_synchronous_mode_only_the_set_may_take_over() {
        let view = view(&[
            ("leader", "a"),
            ("config", r#"{"synchronous_mode":true}"#),
            ("sync", r#"{"leader":"a","sync_standby":"b"}"#),
            ("members/b", r#"{"state":"running"}"#),
            ("members/c", r#"{"state":"running"}"#),
        ]);

        assert_eq!(ask(Kind::Switchover, r#"{"leader":"a","candidate":"b"}"#, &view), Ok(Kind::Switchover));
        assert_eq!(
            ask(Kind::Switchover, r#"{"leader":"a","candidate":"c"}"#, &view),
            Err((412, "candidate name does not match with sync_standby".to_owned()))
        );
    }
}
