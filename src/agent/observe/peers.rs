//! Asks the other members how far they are, over their REST API.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::agent::observe::dcs::{room, watchdog_usable};
use crate::agent::view::{Answer, PeerFacts};
use crate::cluster::{Lsn, MemberName, Timeline};
use crate::contract::tags;
use crate::sys::{http, tls};

/// How long a member may take to answer. Nobody waits for a dead host longer.
const ASK_LIMIT: Duration = Duration::from_millis(150);

/// The same for Patroni's members, which ask Postgres before they answer; among themselves they wait as long.
const ASK_LIMIT_OF_PATRONI: Duration = Duration::from_secs(2);

/// Where a member is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub api_url: String,
    /// It is no Patroni member: it answers from memory.
    pub keddah: bool,
}

/// The field of a `/patroni` document by which a member says that etcd has not answered it for longer than its
/// `loop_wait`. Patroni's members lack it and count as reaching etcd.
pub const ETCD_SILENT: &str = "dcs_silent";

/// Asks all of them at once; each gets an answer, `Unreachable` where there is none.
pub async fn ask(places: &BTreeMap<MemberName, Place>, tls: &tls::Client) -> BTreeMap<MemberName, Answer> {
    let questions = places.iter().map(async |(name, place)| (name.clone(), ask_one(place, tls).await));
    futures_util::future::join_all(questions).await.into_iter().collect()
}

async fn ask_one(place: &Place, tls: &tls::Client) -> Answer {
    let limit = if place.keddah { ASK_LIMIT } else { ASK_LIMIT_OF_PATRONI };
    let Ok(reply) = http::send(&http::Request::get(&place.api_url, limit).over(tls)).await else {
        return Answer::Unreachable;
    };
    match serde_json::from_str(&reply.body) {
        Ok(Value::Object(document)) => read(&document),
        _ => Answer::Unreachable,
    }
}

/// Reads a `/patroni` document. One without a position counts as no answer.
fn read(document: &Map<String, Value>) -> Answer {
    let Some(xlog) = document.get("xlog").or_else(|| document.get("wal")).and_then(Value::as_object) else {
        return Answer::Unreachable;
    };
    let lsn = |key: &str| xlog.get(key).and_then(Value::as_u64);
    let primary = lsn("location");
    let replica = lsn("received_location").max(lsn("replayed_location"));
    let Some(position) = primary.or(replica) else {
        return Answer::Unreachable;
    };
    Answer::Reached(PeerFacts {
        primary: primary.is_some(),
        timeline: document
            .get("timeline")
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number > 0)
            .map(Timeline),
        lsn: Lsn(position),
        tags: document.get("tags").and_then(Value::as_object).map(tags::read).unwrap_or_default(),
        watchdog_usable: watchdog_usable(document),
        system_id: document
            .get("database_system_identifier")
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok()),
        room: room(document.get("keddah").and_then(Value::as_object)),
        etcd_silent: document.get(ETCD_SILENT).and_then(Value::as_bool) == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(value: Value) -> Answer {
        let Value::Object(document) = value else { panic!("not an object") };
        read(&document)
    }

    #[test]
    fn a_replica_is_as_far_as_it_has_received() {
        let answer =
            read_json(json!({"xlog": {"received_location": 20, "replayed_location": 10}, "timeline": 3}));

        let Answer::Reached(facts) = answer else { panic!("not reached") };
        assert_eq!((facts.primary, facts.lsn, facts.timeline), (false, Lsn(20), Some(Timeline(3))));
    }

    #[test]
    fn a_document_without_a_position_is_no_answer() {
        assert_eq!(read_json(json!({"state": "starting", "role": "replica"})), Answer::Unreachable);
    }
}
