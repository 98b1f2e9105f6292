//! Every supported release of Postgres lives through the same: a cluster is made and copied, led by another member by plan
//! and after a death, and what was left behind comes back by rewind. Release 15 is that of all other tests.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agents::{Agents, BIN_DIR, NAMES, SLOW, within};
use crate::releases::{Release, V13, V14, V16, V17, V18};

/// ttl 6, an election and a promotion, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(6 + 10);

/// Whether a logical slot is there, with what it needs to be used.
const USABLE: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'kept'
    AND plugin = 'pgoutput' AND confirmed_flush_lsn IS NOT NULL AND catalog_xmin IS NOT NULL";

/// Whether Postgres itself keeps a copy of a slot, ready to be used after a promotion.
const COPIED: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc' AND failover AND synced AND NOT temporary";

/// Starts a cluster of this release, with WAL segments of so many megabytes and a permanent logical slot.
fn cluster(release: &Release, segment: u32) -> Agents {
    let bin_dir = release.bin_dir().display().to_string();
    let agents = Agents::prepare("", false);
    let copies = ", sync_replication_slots: true, hot_standby_feedback: true";
    let parameters = if has_failover_slots(release) { copies } else { "" };
    // No release has all of these: what it does not take is left out.
    let strange = ", stats_temp_directory: pg_stat_tmp, vacuum_buffer_usage_limit: 1MB, work_mem: 5XB";
    for name in NAMES {
        agents.edit_config(name, BIN_DIR, &bin_dir);
        agents.edit_config(name, "no-sync]", &format!("no-sync, wal-segsize: {segment}]"));
        let section = format!("use_pg_rewind: true, parameters: {{wal_level: logical{parameters}{strange}}}");
        agents.edit_config(name, "use_pg_rewind: true", &section);
    }
    let agents = agents.run();
    let major = agents.sql("a", "SELECT current_setting('server_version_num')::int / 10000");
    assert_eq!(major, Some(release.major.to_string()));
    assert_eq!(agents.sql("a", "SHOW wal_segment_size"), Some(format!("{segment}MB")));
    assert!(agents.sql("a", "CREATE PUBLICATION everything FOR ALL TABLES").is_some());
    // Not before the copies are made: one that begins later lacks the WAL that the slot begins with.
    let slot = r#"{"slots": {"kept": {"type": "logical", "database": "postgres", "plugin": "pgoutput"}}}"#;
    agents.patch_config("a", slot);
    // What is written before the slot is there, it does not tell.
    answers(&agents, "a", USABLE, "1");
    agents
}

fn has_failover_slots(release: &Release) -> bool {
    release.major >= 17
}

/// Waits until the servers of `standbys` have copied the slot of `primary`, whose subscriber goes on meanwhile.
fn copied(agents: &Agents, primary: &str, standbys: [&str; 2]) {
    let consume = "SELECT count(*) FROM pg_logical_slot_get_binary_changes('cdc', NULL, NULL,
        'proto_version', '1', 'publication_names', 'everything')";
    for name in standbys {
        within(SLOW, &format!("{name} has a copy of the slot"), || {
            agents.sql(primary, consume).is_some() && agents.sql(name, COPIED).as_deref() == Some("1")
        });
    }
}

fn answers(agents: &Agents, name: &str, question: &str, answer: &str) {
    within(SLOW, &format!("{name}: {question}"), || agents.sql(name, question).as_deref() == Some(answer));
}

fn switched(agents: &Agents, candidate: &str) {
    let done = agents.keddah(&["switchover", "--candidate", candidate, "--force"]);
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(done.status.success(), "{said}");
    within(SLOW, "both others follow", || agents.streaming() == 2);
}

/// Writes what reaches no other member, and has the host die.
fn dies_with_a_row_of_its_own(agents: &mut Agents, name: &str) {
    let senders = agents.sql(name, "SELECT pid FROM pg_stat_replication").expect("it is primary");
    for sender in senders.lines() {
        kill(Pid::from_raw(sender.parse().unwrap()), Signal::SIGSTOP).unwrap();
    }
    assert!(agents.sql(name, "INSERT INTO t VALUES ('lost')").is_some());
    agents.kill_host(name);
}

/// Tells how often the subscriber of the permanent slot would be sent a row.
fn decoded(agents: &Agents, name: &str, row: &str) -> String {
    let question = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('kept', NULL, NULL,
         'proto_version', '1', 'publication_names', 'everything') WHERE position('{row}'::bytea IN data) > 0"
    );
    let output = agents.psql(name, &question).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn lives_through(release: &Release, segment: u32) {
    let mut agents = cluster(release, segment);
    assert!(agents.sql("a", "CREATE TABLE t (step text)").is_some());
    assert!(agents.sql("a", "INSERT INTO t VALUES ('born')").is_some());
    for name in NAMES {
        answers(&agents, name, USABLE, "1");
        answers(&agents, name, "SELECT string_agg(step, ' ') FROM t", "born");
    }
    within(SLOW, "both stream with the slot", || agents.streaming() == 2);
    if has_failover_slots(release) {
        let create = "SELECT pg_create_logical_replication_slot('cdc', 'pgoutput', false, false, true)";
        assert!(agents.sql("a", create).is_some());
        copied(&agents, "a", ["b", "c"]);
    }

    switched(&agents, "b");
    if has_failover_slots(release) {
        copied(&agents, "b", ["a", "c"]);
    }
    assert!(agents.sql("b", "INSERT INTO t VALUES ('moved')").is_some());
    answers(&agents, "a", "SELECT string_agg(step, ' ') FROM t", "born moved");
    answers(&agents, "a", USABLE, "1");
    answers(&agents, "c", "SELECT string_agg(step, ' ') FROM t", "born moved");

    dies_with_a_row_of_its_own(&mut agents, "b");
    within(FAILOVER, "another member leads", || agents.primary().is_some_and(|name| name != "b"));
    let leader = agents.primary().expect("somebody leads");
    within(SLOW, "it takes writes", || agents.sql(leader, "INSERT INTO t VALUES ('saved')").is_some());
    agents.start_agent("b");
    within(SLOW, "the dead host streams again", || agents.streaming() == 2);
    answers(&agents, "b", "SELECT string_agg(step, ' ') FROM t", "born moved saved");
    assert!(agents.log("b").contains("rewind"), "it has come back by rewind: {}", agents.log("b"));

    for row in ["born", "moved", "saved"] {
        assert_eq!(decoded(&agents, leader, row), "1", "the slot has lost `{row}`");
    }
    assert_eq!(decoded(&agents, leader, "lost"), "0");
}

#[test]
fn postgres_13() {
    lives_through(&V13, 16);
}

#[test]
fn postgres_14() {
    lives_through(&V14, 64);
}

#[test]
fn postgres_16() {
    lives_through(&V16, 1);
}

#[test]
fn postgres_17() {
    lives_through(&V17, 16);
}

#[test]
fn postgres_18() {
    lives_through(&V18, 16);
}
