//! The ttl is changed under a leader, and etcd is asked what came of it.

use std::time::Duration;

use crate::agents::{Agents, SLOW, within};

/// ttl 6, an election and a promotion, on a busy machine; less than a lease of 20 s would last.
const FAILOVER: Duration = Duration::from_secs(6 + 10);

/// A key, as far as leases matter.
#[derive(Debug, PartialEq, Eq)]
struct Leased {
    create_revision: i64,
    lease: i64,
    /// What the lease was granted for.
    ttl_s: i64,
}

fn leased(agents: &Agents, key: &str) -> Leased {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut etcd = etcd_client::Client::connect([agents.etcd_address()], None).await.unwrap();
        let found = etcd.get(format!("/service/demo/{key}"), None).await.unwrap();
        let kv = found.kvs().first().expect("the key is there");
        let ttl = etcd.lease_time_to_live(kv.lease(), None).await.unwrap();
        Leased { create_revision: kv.create_revision(), lease: kv.lease(), ttl_s: ttl.granted_ttl() }
    })
}

/// Has the ttl changed, and waits until lock and document of the leader live by it.
fn change(agents: &Agents, ttl_s: i64) -> Leased {
    agents.patch_config("a", &format!("{{\"ttl\": {ttl_s}}}"));
    within(SLOW, "the lock hangs on a lease of that length", || leased(agents, "leader").ttl_s == ttl_s);
    within(SLOW, "so do the documents", || {
        ["members/a", "members/b", "members/c"].iter().all(|key| leased(agents, key).ttl_s == ttl_s)
    });
    let (leader, member) = (leased(agents, "leader"), leased(agents, "members/a"));
    assert_eq!(leader.lease, member.lease);
    leader
}

#[test]
fn a_changed_ttl_counts_for_the_leader_that_there_is() {
    let mut agents = Agents::start("");
    let (first, postmaster) = (leased(&agents, "leader"), agents.postmaster("a"));
    assert_eq!(first.ttl_s, 6);

    let longer = change(&agents, 20);
    assert_eq!(longer.create_revision, first.create_revision, "the key never went");
    assert_ne!(longer.lease, first.lease);
    agents.kill_agent("a");
    agents.start_agent("a");
    within(SLOW, "the next agent leads", || agents.status("a", "/primary") == Some(200));
    assert!(agents.log("a").contains("leading=true"), "{}", agents.log("a"));

    let shorter = change(&agents, 6);
    assert_eq!(shorter.create_revision, first.create_revision, "the key never went");
    assert_eq!(agents.postmaster("a"), postmaster, "Postgres was not restarted");
    assert!(agents.sql("a", "CREATE TABLE t (id int)").is_some());

    agents.kill_host("a");
    within(FAILOVER, "another member leads", || agents.primary().is_some_and(|name| name != "a"));
}
