//! What the answers of a server say: pure but for the files of timelines.

use std::collections::BTreeMap;
use std::path::Path;

use crate::agent::instance::{Instance, read_sync_names};
use crate::agent::observe::dcs::DcsRead;
use crate::agent::shown::PostgresExtras;
use crate::agent::view::{CommitLevel, PrimaryFacts, ReplicaFacts, Running, Slot, Standby, Upstream};
use crate::cluster::{Lsn, MemberName, SegmentSize, Timeline};
use crate::postgres::query::Monitored;
use crate::postgres::standby::parse_conninfo;
use crate::postgres::{history, slots};

pub(super) fn running(
    instance: &Instance,
    seen: &Monitored,
    found: &[slots::Slot],
    read: &DcsRead,
    histories: &mut history::Reader,
) -> Running {
    let sync_names = read_sync_names(&seen.synchronous_standby_names, &instance.own_sync_names());
    let slots: BTreeMap<String, Slot> = found
        .iter()
        .map(|slot| {
            let seen = Slot {
                kind: slot.kind.clone(),
                active: slot.active,
                lsn: if slot.kind.is_physical() { slot.restart } else { slot.confirmed },
                has_xmin: slot.has_xmin,
                lost: slot.lost,
                failover: slot.failover,
            };
            (slot.name.clone(), seen)
        })
        .collect();
    if seen.in_recovery {
        return Running::Replica(ReplicaFacts {
            timeline: seen.timeline,
            history: histories.read(instance.data_dir(), seen.timeline),
            received: seen.received,
            replayed: seen.replayed.unwrap_or_default(),
            streaming: seen.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming"),
            has_archive: !seen.restore_command.is_empty(),
            upstream: upstream(instance, &seen.primary_conninfo, &seen.primary_slot_name, read),
            sync_names,
            slots,
        });
    }
    Running::Primary(PrimaryFacts {
        timeline: seen.timeline,
        lsn: seen.flushed.unwrap_or_default(),
        history: histories.read(instance.data_dir(), seen.timeline).unwrap_or_default(),
        sync_names,
        commit_level: match seen.synchronous_commit.as_str() {
            "remote_write" => CommitLevel::Write,
            "remote_apply" => CommitLevel::Apply,
            _ => CommitLevel::Flush,
        },
        standbys: standbys(seen, read),
        slots,
        checkpoint_pending: seen.checkpoint_timeline < seen.timeline,
    })
}

/// Returns the timeline that a replica is on.
///
/// Only a WAL receiver that lives says it; without one pg_control lags behind until the next restartpoint. What the
/// replica has received lies in a segment that is named after its timeline.
pub(super) fn replica_timeline(data_dir: &Path, seen: &Monitored) -> Timeline {
    if seen.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming") {
        return seen.timeline;
    }
    let end = seen.received.max(seen.replayed).unwrap_or_default();
    let found = newest_of(&data_dir.join("pg_wal"), seen.segment, end);
    found.map_or(seen.timeline, |found| found.max(seen.timeline))
}

/// Returns the highest timeline that has a segment with the WAL before `end`.
fn newest_of(wal_dir: &Path, segment: SegmentSize, end: Lsn) -> Option<Timeline> {
    let last = end.0.saturating_sub(1);
    let holds = |start: Lsn| start.0 <= last && last - start.0 < segment.bytes();
    let names = crate::sys::files::list(wal_dir).unwrap_or_default();
    let segments = names.iter().filter_map(|name| segment.parse(name.to_str()?));
    segments.filter(|(_, start)| holds(*start)).map(|(timeline, _)| timeline).max()
}

/// Tells whom a replica follows. A connection that leads to no member in its present place is `Other`.
fn upstream(instance: &Instance, conninfo: &str, slot: &str, read: &DcsRead) -> Upstream {
    if conninfo.trim().is_empty() {
        return Upstream::Nobody;
    }
    let Some(pairs) = parse_conninfo(conninfo) else {
        return Upstream::Other;
    };
    let host = pairs.get("host").map(String::as_str).unwrap_or_default();
    let port: u16 = pairs.get("port").and_then(|port| port.parse().ok()).unwrap_or(5432);
    let there = |document: &crate::contract::member::MemberDocument| {
        document.host_port().is_some_and(|(h, p)| h == host && p == port)
    };
    let slot = Some(slot.to_owned()).filter(|slot| !slot.is_empty());
    if instance.remote().is_some_and(|remote| (remote.host.as_str(), remote.port) == (host, port)) {
        return Upstream::Remote { slot };
    }
    match read.documents.iter().find(|(_, document)| there(document)) {
        Some((name, _)) => Upstream::Member { name: name.clone(), slot },
        None => Upstream::Other,
    }
}

fn standbys(seen: &Monitored, read: &DcsRead) -> BTreeMap<MemberName, Standby> {
    let mut standbys = BTreeMap::new();
    for sender in &seen.senders {
        let member =
            read.documents.keys().find(|name| name.as_str().eq_ignore_ascii_case(&sender.application_name));
        let Some(name) = member.cloned().or_else(|| sender.application_name.parse().ok()) else {
            continue;
        };
        if sender.state == "backup" {
            continue;
        }
        let facts = Standby {
            streaming: sender.state == "streaming",
            sync: matches!(sender.sync_state.as_str(), "sync" | "quorum"),
            written: sender.written.unwrap_or_default(),
            flushed: sender.flushed.unwrap_or_default(),
            replayed: sender.replayed.unwrap_or_default(),
        };
        // Of two connections with one name the one that is further counts.
        standbys
            .entry(name)
            .and_modify(|known: &mut Standby| {
                if known.flushed < facts.flushed {
                    *known = facts.clone();
                }
            })
            .or_insert(facts);
    }
    standbys
}

/// Fills in what is shown and not decided on.
pub(super) fn fill(extras: &mut PostgresExtras, seen: &Monitored) {
    extras.postmaster_start_time = python_time(seen.started);
    extras.replay_paused = seen.replay_paused;
    extras.replayed_timestamp = seen.replayed_at.and_then(python_time);
    extras.latest_end_lsn =
        seen.receiver.as_ref().and_then(|receiver| receiver.latest_end).map_or(0, |lsn| lsn.0);
    extras.replication = seen
        .senders
        .iter()
        .map(|sender| {
            serde_json::json!({
                "usename": sender.user,
                "application_name": sender.application_name,
                "client_addr": sender.address,
                "state": sender.state,
                "sync_state": sender.sync_state,
                "sync_priority": sender.sync_priority,
            })
        })
        .collect();
}

/// Who is connected takes what its slot keeps, most times: such a slot counts for so many parts less.
const IN_USE_COUNTS: u64 = 4;

/// Returns the slot that keeps the most WAL, and how many bytes of it.
pub(super) fn kept_by_slot(found: &[slots::Slot], seen: &Monitored) -> Option<(String, u64)> {
    let end = seen.flushed.or(seen.received).max(seen.replayed)?;
    let kept = |slot: &slots::Slot| slot.restart.map_or(0, |from| end.bytes_ahead_of(from));
    let weight = |slot: &&slots::Slot| if slot.active { kept(slot) / IN_USE_COUNTS } else { kept(slot) };
    found.iter().max_by_key(weight).map(|slot| (slot.name.clone(), kept(slot)))
}

/// Writes seconds since 1970 as Python prints a time with its zone.
fn python_time(seconds: f64) -> Option<String> {
    let micros = (seconds * 1e6).round();
    if !(0.0..1e18).contains(&micros) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let time = jiff::Timestamp::from_microsecond(micros as i64).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_is_that_of_the_segment_with_the_last_wal_whatever_its_size() {
        let end = Lsn(0x0300_0100);
        for megabytes in [1, 16, 64] {
            let segment = SegmentSize::new(megabytes << 20).unwrap();
            let temp = tempfile::tempdir().unwrap();
            let found = |timeline, lsn| {
                std::fs::File::create(temp.path().join(segment.name(Timeline(timeline), lsn))).unwrap();
                newest_of(temp.path(), segment, end)
            };

            assert_eq!(found(1, end), Some(Timeline(1)));
            assert_eq!(
                found(3, Lsn(end.0 + segment.bytes())),
                Some(Timeline(1)),
                "{megabytes}: not there yet"
            );
            assert_eq!(found(2, end), Some(Timeline(2)), "{megabytes}");
        }
    }

    #[test]
    fn times_are_written_as_python_prints_them() {
        assert_eq!(python_time(1_769_860_800.123_456).unwrap(), "2026-01-31 12:00:00.123456+00:00");
    }
}
