//! Who takes the free lock.

use super::*;

#[test]
fn the_others_are_asked_before_the_lock_is_taken() {
    let world = healthy("b").leader_gone().with(|f| f.view.peers = Peers::default());
    let decision = decision(world);

    assert_eq!(decision.reason, Reason::AskingPeers);
    assert_eq!(deeds(&decision), [Deed::AskPeers]);
}

#[test]
fn answers_from_before_the_leader_was_gone_do_not_count() {
    let world = healthy("b").leader_gone().with(|f| f.view.peers.asked = Some(NOW - secs(1)));
    assert_eq!(decision(world).reason, Reason::AskingPeers);
}

#[test]
fn the_lock_is_taken_by_comparing_all_that_eligibility_rested_on() {
    let decision = decision(healthy("b").leader_gone());

    assert_eq!(decision.reason, Reason::TakingLock { lsn: END, timeline: Timeline(1) });
    let compared = action::Compared {
        initialize: action::Identifier::Is(SystemId(7)),
        system_id: SystemId(7),
        sync: Revision(0),
        config: Revision(3),
        failover: Revision(0),
        failsafe: Revision(0),
        history: Revision(6),
    };
    let take = Action::TakeLeaderKey { lease: LeaseId(2), compared, sync: None, spend_failover: false };
    assert_eq!(decision.actions[0], take);
}

#[test]
fn among_equals_the_first_name_goes_first() {
    let decision = decision(healthy("c").leader_gone());

    assert_eq!(decision.reason, Reason::LettingPeerGoFirst { peer: name("b") });
    assert_eq!(decision.look_again, (NOW + std::time::Duration::from_millis(50), Why::Turn));
}

#[test]
fn replica_does_not_stand_when_another_replica_is_ahead() {
    let world = healthy("b").leader_gone().peer("c", |p| p.lsn = Lsn(END.0 + 1));
    let decision = decision(world);

    assert_eq!(decision.reason, Reason::PeerAhead { peer: name("c") });
    assert_eq!(deeds(&decision), [Deed::AskPeers]);
}

#[test]
fn a_peer_that_cannot_reach_etcd_is_not_waited_for() {
    let world = healthy("b").leader_gone().peer("c", |p| {
        p.lsn = Lsn(END.0 + 1);
        p.etcd_silent = true;
    });
    assert!(matches!(decision(world).reason, Reason::TakingLock { .. }));
}

#[test]
fn a_newer_timeline_is_ahead_whatever_its_position() {
    let world = healthy("b").leader_gone().peer("c", |p| {
        p.lsn = Lsn(1);
        p.timeline = Some(Timeline(2));
    });
    assert_eq!(decision(world).reason, Reason::PeerAhead { peer: name("c") });
}

#[test]
fn nobody_takes_the_lock_while_a_reached_member_runs_as_primary() {
    let world = healthy("b").leader_gone().peer("c", |p| p.primary = true);
    assert_eq!(decision(world).reason, Reason::PeerIsPrimary { peer: name("c") });
}

#[test]
fn nobody_takes_the_lock_while_a_document_says_that_its_member_may_write() {
    let deleted_by_hand = healthy("b").leader_gone().with(|f| {
        let a = healthy("a").snapshot.members.remove(&name("a")).unwrap();
        f.snapshot.members.insert(name("a"), a);
    });
    let stopped = deleted_by_hand.clone().with(|f| f.member("a").facts.state = State::Stopped);
    let given_away_by_patroni = deleted_by_hand.clone().with(|f| f.member("a").keddah = false);

    assert_eq!(decision(deleted_by_hand).reason, Reason::PeerIsPrimary { peer: name("a") });
    assert!(matches!(decision(stopped).reason, Reason::TakingLock { .. }));
    assert!(matches!(decision(given_away_by_patroni).reason, Reason::TakingLock { .. }));
}

#[test]
fn a_member_on_an_old_timeline_does_not_stand() {
    let view = healthy("b").leader_gone().view();
    let memory = Memory { leader_timeline: Some(Timeline(2)), ..Memory::default() };

    let decision = decide(&view, &memory);

    assert_eq!(decision.reason, Reason::OldTimeline { mine: Timeline(1), known: Timeline(2) });
    let named = |leader: Option<&str>| {
        let request =
            FailoverRequest { leader: leader.map(name), candidate: Some(name("b")), scheduled_at: None };
        let asked = healthy("b").leader_gone().with(|f| {
            f.snapshot.failover = Some(Keyed { value: request, mod_revision: Revision(9) });
        });
        decide(&asked.view(), &memory).reason
    };
    assert!(
        matches!(named(None), Reason::TakingLock { .. }),
        "a person wants what it has: {:?}",
        named(None)
    );
    assert_eq!(named(Some("a")), Reason::OldTimeline { mine: Timeline(1), known: Timeline(2) });
}

/// `b`, on timeline 3 that it began at `left`, after a leader of another timeline 2 that was left at END has told of it.
fn after_a_failover_to_an_older_timeline(left: Lsn) -> Fixture {
    let history = |switch_point| {
        let entry = |timeline, switch_point| HistoryEntry {
            timeline: Timeline(timeline),
            switch_point,
            reason: "no recovery target specified".to_owned(),
            leader: None,
        };
        History(vec![entry(1, Lsn(100)), entry(2, switch_point)])
    };
    healthy("b").leader_gone().history(history(END)).with(|f| {
        f.replica().timeline = Timeline(3);
        f.replica().history = Some(history(left));
    })
}

/// `b` has begun timeline 2 where `c`, by what is told, has begun it too.
#[test]
fn who_began_a_timeline_that_is_told_to_be_anothers_does_not_stand() {
    let began = |leader: &str| {
        let entry = HistoryEntry {
            timeline: Timeline(1),
            switch_point: Lsn(100),
            reason: "no recovery target specified".to_owned(),
            leader: Some(name(leader)),
        };
        History(vec![entry])
    };
    let stands = |told: &str| {
        decision(healthy("b").leader_gone().history(began(told)).with(|f| {
            f.replica().timeline = Timeline(2);
            f.replica().history = Some(began("b"));
        }))
        .reason
    };

    assert_eq!(stands("c"), Reason::OldTimeline { mine: Timeline(2), known: Timeline(2) });
    assert!(matches!(stands("b"), Reason::TakingLock { .. }));
}

#[test]
fn a_timeline_that_was_given_up_does_not_lead_by_its_number() {
    let own = decision(after_a_failover_to_an_older_timeline(END));
    let other = decision(after_a_failover_to_an_older_timeline(Lsn(END.0 - 8)));
    let standby_cluster = after_a_failover_to_an_older_timeline(Lsn(END.0 - 8)).with(|f| {
        f.view.settings.standby_cluster = Some(crate::settings::StandbyCluster { place: None, slot: None });
    });

    assert!(matches!(own.reason, Reason::TakingLock { .. }), "{:?}", own.reason);
    assert_eq!(other.reason, Reason::OldTimeline { mine: Timeline(3), known: Timeline(3) });
    assert!(!matches!(decision(standby_cluster).reason, Reason::OldTimeline { .. }));
}

#[test]
fn a_member_named_on_an_older_timeline_stands_again_if_it_went_before_its_promotion() {
    let taken = |leader: &str, told: i64| {
        let world = after_a_failover_to_an_older_timeline(END).sync(leader, &[]).with(|f| {
            f.replica().timeline = Timeline(2);
            f.snapshot.history.as_mut().unwrap().mod_revision = Revision(told);
        });
        decision(world).reason
    };

    assert!(matches!(taken("b", 6), Reason::TakingLock { .. }), "{:?}", taken("b", 6));
    assert!(matches!(taken("b", 8), Reason::OldTimeline { .. }), "somebody has led since");
    assert!(matches!(taken("a", 6), Reason::OldTimeline { .. }));
}

#[test]
fn a_newer_timeline_that_does_not_take_the_lock_is_waited_for_a_ttl() {
    let world = || healthy("b").leader_gone().peer("c", |p| p.timeline = Some(Timeline(2)));
    let since = |seconds| Memory { leaderless_since: Some(NOW - secs(seconds)), ..Memory::default() };

    assert_eq!(decide(&world().view(), &since(29)).reason, Reason::PeerAhead { peer: name("c") });
    assert!(matches!(decide(&world().view(), &since(30)).reason, Reason::TakingLock { .. }));
}

#[test]
fn only_members_of_the_synchronous_set_stand() {
    let inside = decision(healthy("b").sync("a", &["b"]).leader_gone());
    let outside = decision(healthy("c").sync("a", &["b"]).leader_gone());

    assert!(matches!(inside.reason, Reason::TakingLock { .. }));
    assert_eq!(outside.reason, Reason::NotInSyncSet);
    let Action::TakeLeaderKey { sync: Some(set), .. } = &inside.actions[0] else {
        panic!("{:?}", inside.actions)
    };
    assert_eq!((set.leader.as_ref(), set.standbys.len()), (Some(&name("b")), 0));
}

#[test]
fn tags_and_lag_keep_a_member_from_standing() {
    let tags = healthy("b").leader_gone().with(|f| f.view.tags.nofailover = true);
    let lag = healthy("b").leader_gone().with(|f| {
        f.snapshot.status.as_mut().unwrap().value.optime = Some(Lsn(END.0 + 2_000_000));
    });

    assert_eq!(decision(tags).reason, Reason::NotAllowedByTags);
    assert_eq!(decision(lag).reason, Reason::TooFarBehind { bytes: 2_000_000 });
}

fn quorum_race(standbys: &[&str], quorum: u32) -> Fixture {
    healthy("b").leader_gone().sync("a", standbys).with(|f| {
        f.view.settings.synchronous_mode = SyncMode::Quorum;
        f.snapshot.sync.as_mut().unwrap().value.quorum = quorum;
    })
}

#[test]
fn in_quorum_mode_a_taker_needs_one_vote_more_than_may_lack_a_commit() {
    let silent = |world: Fixture| world.with(|f| drop(f.view.peers.answers.remove(&name("c"))));
    let ahead = |world: Fixture| {
        world.peer("c", |p| {
            p.lsn = Lsn(END.0 + 8);
            p.tags.nofailover = true;
        })
    };
    let takes = |world| matches!(decision(world).reason, Reason::TakingLock { .. });

    assert!(takes(quorum_race(&["b", "c"], 1)), "its own and that of c");
    assert!(takes(silent(quorum_race(&["b", "c"], 0))), "its own");
    assert!(takes(quorum_race(&["c"], 0)), "that of c");
    assert_eq!(
        decision(silent(quorum_race(&["b", "c"], 1))).reason,
        Reason::VotesMissing { votes: 1, needed: 2 }
    );
    assert_eq!(decision(ahead(quorum_race(&["c"], 0))).reason, Reason::VotesMissing { votes: 0, needed: 1 });
}

#[test]
fn a_preferred_peer_that_is_as_far_goes_first() {
    let world = healthy("b").leader_gone().peer("c", |p| p.tags.failover_priority = Some(2));

    let reason = Reason::PeerPreferred { peer: name("c"), theirs: 2, mine: 1 };
    assert_eq!(decision(world).reason, reason);
}

#[test]
fn a_race_that_is_over_before_this_member_could_decide_says_why_it_was_lost() {
    let led = |world: Fixture| {
        world.with(|f| {
            f.snapshot.leader = Some(LeaderKey {
                name: name("c"),
                lease: LeaseId(3),
                create_revision: Revision(21),
                mod_revision: Revision(21),
            });
        })
    };
    let preferred = healthy("b").leader_gone().peer("c", |p| p.tags.failover_priority = Some(2));
    let decided = decision(led(preferred));
    let equal = decision(led(healthy("b").leader_gone()));

    let reason = Reason::PeerPreferred { peer: name("c"), theirs: 2, mine: 1 };
    assert_eq!((deeds(&decided), decided.reason), (vec![Deed::KeepSlots, Deed::Follow], reason));
    assert_eq!(equal.reason, Reason::ChangingUpstream { upstream: name("c") });
}

#[test]
fn a_primary_that_others_have_gone_on_without_does_not_take_the_lock_in_a_pause() {
    let paused = || healthy("a").leader_gone().with(|f| f.view.settings.pause = true);
    assert_eq!(decision(paused()).reason, Reason::PausedTakingLock);
    assert_eq!(decision(paused().sync("a", &["b"])).reason, Reason::PausedTakingLock);
    assert_eq!(decision(paused().sync("c", &["b"])).reason, Reason::NotInSyncSet);

    let promoted = Memory { leader_timeline: Some(Timeline(2)), ..Memory::default() };
    let behind = decide(&paused().view(), &promoted);
    assert_eq!(behind.reason, Reason::OldTimeline { mine: Timeline(1), known: Timeline(2) });
    let request = FailoverRequest { leader: None, candidate: Some(name("a")), scheduled_at: None };
    let named = paused().with(|f| {
        f.snapshot.failover = Some(Keyed { value: request, mod_revision: Revision(9) });
    });
    assert_eq!(decide(&named.view(), &promoted).reason, Reason::PausedTakingLock);
}

#[test]
fn nobody_stands_in_a_pause() {
    let decision = decision(healthy("b").leader_gone().with(|f| f.view.settings.pause = true));

    assert_eq!(decision.reason, Reason::PausedIdle);
    assert_eq!(deeds(&decision), []);
}

/// The former leader, whose server only reads by now, after etcd was away for longer than its lease.
fn after_an_outage() -> View {
    healthy("a")
        .with(|f| {
            let Lease::Held { id, .. } = &mut f.view.lease else { panic!("it has a lease") };
            *id = LeaseId(99);
            f.view.postgres = healthy("b").view.postgres;
        })
        .view()
}

#[test]
fn a_lock_that_was_ones_own_is_deleted_where_etcd_has_extended_its_lease() {
    let memory = decide(&healthy("a").view(), &Memory::default()).memory;
    let decision = decide(&after_an_outage(), &memory);

    assert_eq!(decision.reason, Reason::DeletingOldLock);
    assert!(decision.actions.contains(&Action::ReleaseLeaderKey { fence: FENCE, optime: None }));
    assert_eq!(deeds(&decision), [Deed::Disarm, Deed::ReleaseLeaderKey]);
}

#[test]
fn a_lock_of_an_earlier_process_is_waited_for() {
    let decision = decide(&after_an_outage(), &Memory::default());

    assert_eq!(decision.reason, Reason::OwnOldLease);
    assert_eq!(deeds(&decision), []);
}
