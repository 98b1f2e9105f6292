//! The synchronous set and whom commits wait for.

use super::*;

#[test]
fn the_synchronous_set_is_written_before_a_promotion() {
    let world = healthy("b").sync("a", &["b"]).with(|f| {
        let leader = f.snapshot.leader.as_mut().unwrap();
        leader.name = name("b");
        leader.lease = LeaseId(2);
    });
    let decision = decision(world);

    assert_eq!(decision.reason, Reason::PreparingSyncForPromotion);
    assert_eq!(deeds(&decision), [Deed::WriteSync]);
}

#[test]
fn a_strict_primary_never_starts_without_waiting_for_anybody() {
    let world = healthy("b").sync("b", &[]).with(|f| {
        f.view.settings.synchronous_mode = SyncMode::Strict;
        let leader = f.snapshot.leader.as_mut().unwrap();
        leader.name = name("b");
        leader.lease = LeaseId(2);
    });

    assert_eq!(deeds(&decision(world)), [Deed::SetSyncNames, Deed::Arm, Deed::Promote]);
}

#[test]
fn a_lost_standby_leaves_the_set_before_commits_stop_waiting_for_it() {
    let mut world = healthy("a").sync("a", &["b"]);
    world.primary().sync_names = SyncNames::All([name("b")].into());
    world.primary().standbys.clear();

    let first = decision(world.clone());
    let second = decision(world.sync("a", &[]));

    assert_eq!(deeds(&first), [Deed::WriteSync]);
    assert_eq!(deeds(&second), [Deed::SetSyncNames]);
}

#[test]
fn a_standby_enters_the_set_only_after_commits_wait_for_it_and_it_has_flushed_the_rest() {
    let mut world = healthy("a").sync("a", &[]);
    let names = decision(world.clone());
    world.primary().sync_names = SyncNames::All([name("b")].into());
    world.primary().standbys.get_mut(&name("b")).unwrap().sync = true;
    let settling = decision(world.clone());
    let mut view = world.view();
    view.now = NOW + secs(1);
    let passed = decide(&view, &settling.memory);

    assert_eq!(deeds(&names), [Deed::SetSyncNames]);
    assert_eq!(deeds(&settling), []);
    assert_eq!(deeds(&passed), [Deed::WriteSync]);
}

#[test]
fn a_synchronous_standby_of_strict_mode_sets_beforehand_whom_its_commits_will_wait_for() {
    let standby = |member: &str, mode| {
        healthy(member).sync("a", &["b"]).with(|f| f.view.settings.synchronous_mode = mode)
    };
    let after_the_leader = SyncNames::All([name("a")].into());
    let mut ready = standby("b", SyncMode::Strict);
    ready.replica().sync_names = after_the_leader.clone();

    let set = Action::SetSyncNames { names: after_the_leader };
    assert!(decision(standby("b", SyncMode::Strict)).actions.contains(&set));
    assert_eq!(deeds(&decision(ready)), []);
    assert_eq!(deeds(&decision(standby("c", SyncMode::Strict))), []);
    assert_eq!(deeds(&decision(standby("b", SyncMode::On))), []);
}

#[test]
fn a_prepared_standby_is_promoted_without_touching_its_configuration() {
    let mut world = healthy("b").sync("b", &["a"]).with(|f| {
        f.view.settings.synchronous_mode = SyncMode::Strict;
        let leader = f.snapshot.leader.as_mut().unwrap();
        leader.name = name("b");
        leader.lease = LeaseId(2);
    });
    world.replica().sync_names = SyncNames::All([name("a")].into());

    assert_eq!(deeds(&decision(world)), [Deed::Arm, Deed::Promote]);
}
