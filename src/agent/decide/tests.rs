//! The rules, one story each: a healthy cluster in which one thing is changed.

use super::fixture::{END, Fixture, NOW, healthy, name, secs};
use super::*;
use crate::agent::view::*;
use crate::cluster::{
    FailoverRequest, History, HistoryEntry, Lsn, Role, State, SyncMode, SyncNames, SystemId, Timeline, UnixMs,
};

const FENCE: Fence = Fence { lease: LeaseId(1), create_revision: Revision(5) };

fn decision(world: Fixture) -> Decision {
    decide(&world.view(), &Memory::default())
}

/// The decision's deeds without what every look does: publishing and callbacks.
fn deeds(decision: &Decision) -> Vec<Deed> {
    let all = decision.actions.iter().map(Action::deed);
    all.filter(|deed| ![Deed::PublishMember, Deed::Callback, Deed::WriteStatus].contains(deed)).collect()
}

#[test]
fn a_leader_in_a_healthy_cluster_only_reports() {
    let decision = decision(healthy("a"));

    assert_eq!(decision.reason, Reason::Leading);
    assert_eq!(deeds(&decision), []);
    assert!(decision.look_again.0 <= NOW + secs(10));
}

#[test]
fn a_replica_in_a_healthy_cluster_only_reports() {
    let decision = decision(healthy("b"));

    assert_eq!(decision.reason, Reason::Following { upstream: name("a") });
    assert_eq!(deeds(&decision), []);
}

#[test]
fn a_leader_goes_on_in_silence_until_the_first_margin() {
    let mut view = healthy("a").view();
    view.dcs = Seen::Stale { value: view.dcs.now().unwrap().clone(), since: NOW };

    let early = decide(&view, &Memory::default());
    view.now = NOW + secs(27);
    let late = decide(&view, &Memory::default());

    assert_eq!(early.reason, Reason::EtcdSilentLeading { deadline: NOW + secs(30) });
    assert_eq!(deeds(&early), []);
    assert_eq!(late.reason, Reason::LeaseDoubtful { deadline: NOW + secs(30) });
    assert_eq!(late.actions, [Action::Stop { mode: StopMode::Fast, checkpoint: false }]);
}

#[test]
fn a_primary_looks_again_no_later_than_its_first_margin() {
    let world = healthy("a").with(|f| {
        f.view.lease =
            Lease::Held { id: LeaseId(1), next: None, deadline: NOW + secs(5), stop_at: NOW + secs(2) };
    });

    assert_eq!(decision(world).look_again, (NOW + secs(2), Why::LeaseMargin));
}

#[test]
fn a_primary_stops_at_once_when_another_member_leads() {
    let world = healthy("a").with(|f| {
        let leader = f.snapshot.leader.as_mut().unwrap();
        leader.name = name("b");
        leader.lease = LeaseId(2);
    });

    let decision = decision(world);

    assert_eq!(decision.reason, Reason::AnotherLeads { leader: name("b") });
    let stop = Action::Stop { mode: StopMode::Immediate, checkpoint: false };
    assert_eq!(decision.actions[..2], [Action::Disarm, stop]);
}

#[test]
fn a_primary_stops_when_the_leader_key_is_seen_deleted() {
    let decision = decision(healthy("a").with(|f| f.snapshot.leader = None));

    assert_eq!(decision.reason, Reason::LeaderKeyGone);
    assert_eq!(
        decision.actions[..2],
        [Action::Disarm, Action::Stop { mode: StopMode::Fast, checkpoint: false }]
    );
}

#[test]
fn a_replica_never_acts_on_silence() {
    let mut view = healthy("b").view();
    let mut old = view.dcs.now().unwrap().clone();
    old.leader = None;
    view.dcs = Seen::Stale { value: old, since: Tick(0) };

    let decision = decide(&view, &Memory::default());

    assert_eq!(decision.reason, Reason::EtcdSilentFollowing);
    assert_eq!(deeds(&decision), []);
}

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
        };
        History(vec![entry(1, Lsn(100)), entry(2, switch_point)])
    };
    healthy("b").leader_gone().history(history(END)).with(|f| {
        f.replica().timeline = Timeline(3);
        f.replica().history = Some(history(left));
    })
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
fn a_leader_that_was_asked_to_hand_over_gives_those_as_far_time_to_take_the_free_lock() {
    let world = |scheduled_at: Option<UnixMs>, theirs: u64| {
        let value = FailoverRequest { leader: Some(name("b")), candidate: None, scheduled_at };
        healthy("b").leader_gone().peer("c", |p| (p.timeline, p.lsn) = (None, Lsn(theirs))).with(|f| {
            f.snapshot.failover = Some(Keyed { value, mod_revision: Revision(9) });
        })
    };
    let reason = |world: Fixture, seconds| {
        let memory = Memory { leaderless_since: Some(NOW - secs(seconds)), ..Memory::default() };
        decide(&world.view(), &memory).reason
    };
    let tomorrow = UnixMs(healthy("b").view.wall.0 + 86_400_000);
    let back = Reason::TakingLockBack { lsn: END, timeline: Timeline(1) };

    assert_eq!(reason(world(None, END.0), 14), Reason::GivingWay { peer: name("c") });
    assert_eq!(reason(world(None, END.0), 15), back);
    assert_eq!(reason(world(None, END.0 - 8), 0), back, "nobody else has everything");
    assert!(matches!(reason(world(Some(tomorrow), END.0), 0), Reason::TakingLock { .. }));
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

#[test]
fn a_crashed_leader_with_the_lock_is_started_as_primary_again() {
    let decision = decision(healthy("a").with(|f| f.view.postgres.process = Process::Crashed));

    assert_eq!(decision.reason, Reason::StartingAsPrimary);
    assert_eq!(decision.actions[0], Action::StartPrimary { fence: FENCE });
}

#[test]
fn a_crash_means_failover_where_the_start_timeout_is_zero() {
    let world = healthy("a").with(|f| {
        f.view.postgres.process = Process::Crashed;
        f.view.settings.primary_start_timeout = secs(0);
    });
    let decision = decision(world);

    assert_eq!(decision.reason, Reason::CrashMeansFailover);
    assert_eq!(deeds(&decision), [Deed::Disarm, Deed::ReleaseLeaderKey]);
}

#[test]
fn a_start_that_takes_too_long_ends_in_a_release_only_after_the_stop() {
    let world = healthy("a").with(|f| {
        f.view.postgres.process =
            Process::Starting { role: Started::Primary, since: NOW - secs(300), progressed: NOW };
    });
    let stop = decision(world);
    let down = healthy("a").with(|f| f.view.postgres.process = Process::Stopped).view();
    let release = decide(&down, &stop.memory);

    assert_eq!((&stop.reason, deeds(&stop)), (&Reason::StartTookTooLong, vec![Deed::Stop]));
    assert_eq!(deeds(&release), [Deed::Disarm, Deed::ReleaseLeaderKey]);
}

#[test]
fn a_replica_that_does_not_come_up_to_be_promoted_gives_up_the_lock_too() {
    let world = healthy("a").with(|f| {
        f.view.postgres.process =
            Process::Starting { role: Started::Replica, since: NOW - secs(300), progressed: NOW };
    });

    assert_eq!(decision(world).reason, Reason::StartTookTooLong);
}

#[test]
fn a_server_that_hangs_is_restarted_on_request_and_answered_for_once_it_runs() {
    let world = healthy("a").with(|f| {
        f.view.postgres.process = Process::Unresponsive { role: Started::Primary, since: NOW };
        let id = RequestId(1);
        f.view.requests.restart = Some(RestartRequest { id, only_role: None, only_if_pending: false });
    });
    let stop = decision(world.clone());
    let start =
        decide(&world.clone().with(|f| f.view.postgres.process = Process::Stopped).view(), &stop.memory);
    let starting = Process::Starting { role: Started::Primary, since: NOW, progressed: NOW };
    let waits = decide(&world.with(|f| f.view.postgres.process = starting).view(), &start.memory);

    assert_eq!((&stop.reason, deeds(&stop)), (&Reason::Restarting, vec![Deed::Stop]));
    assert_eq!(start.reason, Reason::StartingAsPrimary);
    assert_eq!((waits.reason.code(), deeds(&waits)), ("PrimaryIsStarting", vec![]));
}

#[test]
fn a_fast_stop_is_hurried_past_its_limit_and_sooner_in_a_crash_recovery() {
    let stopping = |state, seconds| {
        decision(healthy("a").with(|f| {
            let Data::Present(control) = &mut f.view.postgres.data else { panic!("no data") };
            control.state = state;
            let since = NOW - secs(seconds);
            f.view.postgres.process = Process::Stopping { mode: StopMode::Fast, since };
        }))
        .reason
    };

    assert_ne!(stopping(ControlState::ShuttingDown, 59), Reason::StopTookTooLong);
    assert_eq!(stopping(ControlState::ShuttingDown, 60), Reason::StopTookTooLong);
    assert_eq!(stopping(ControlState::InCrashRecovery, 5), Reason::StopTookTooLong);
}

#[test]
fn a_replica_with_the_lock_is_promoted_through_the_gate() {
    let world = healthy("b").with(|f| {
        let leader = f.snapshot.leader.as_mut().unwrap();
        leader.name = name("b");
        leader.lease = LeaseId(2);
    });
    let decision = decision(world);
    let fence = Fence { lease: LeaseId(2), create_revision: Revision(5) };

    assert_eq!(decision.reason, Reason::Promoting { timeline: Timeline(1), lsn: END });
    assert_eq!(decision.actions[..2], [Action::Arm { fence }, Action::Promote { fence }]);
}

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
fn a_switchover_stops_the_leader_and_hands_over_when_the_candidate_has_all() {
    let request = FailoverRequest { leader: Some(name("a")), candidate: Some(name("b")), scheduled_at: None };
    let world = healthy("a").with(|f| {
        f.snapshot.failover = Some(Keyed { value: request, mod_revision: Revision(15) });
        f.snapshot.failover_revision = Revision(15);
        f.view.preflight = Some(super::fixture::prepared(Revision(15)));
    });
    let stop = decision(world.clone());
    let mut view = world.view();
    view.now = NOW + secs(1);
    view.postgres.process = Process::Stopped;
    let Data::Present(control) = &mut view.postgres.data else { panic!("no data") };
    control.state = ControlState::ShutDown;
    control.checkpoint = END;
    let waiting = decide(&view, &stop.memory);
    view.peers.asked = Some(view.now);
    let facts = PeerFacts { lsn: Lsn(END.0 + 120), ..super::fixture::peer() };
    view.peers.answers.insert(name("b"), Answer::Reached(facts));
    let over = decide(&view, &waiting.memory);

    assert_eq!(stop.reason, Reason::SteppingDownFor { candidate: name("b") });
    assert_eq!(stop.actions[0], Action::Stop { mode: StopMode::Fast, checkpoint: false });
    assert_eq!(waiting.reason, Reason::WaitingForCandidate { candidate: name("b"), lsn: END });
    assert_eq!(over.reason, Reason::HandingOver { candidate: name("b") });
    assert_eq!(deeds(&over), [Deed::Disarm, Deed::HandOver]);
}

#[test]
fn a_switchover_to_a_member_that_does_not_stream_is_refused() {
    let request = FailoverRequest { leader: Some(name("a")), candidate: Some(name("b")), scheduled_at: None };
    let mut world = healthy("a").with(|f| {
        f.snapshot.failover = Some(Keyed { value: request.clone(), mod_revision: Revision(15) });
    });
    world.primary().standbys.remove(&name("b"));

    let decision = decision(world);

    let why = reason::Refusal::CandidateNotStreaming;
    assert_eq!(decision.reason, Reason::SwitchoverRefused { request, why });
    assert_eq!(deeds(&decision), [Deed::ClearFailover]);
}

#[test]
fn a_switchover_to_a_member_that_is_behind_is_refused_once_it_had_time_to_catch_up() {
    let request = FailoverRequest { leader: Some(name("a")), candidate: Some(name("b")), scheduled_at: None };
    let mut world = healthy("a").with(|f| {
        f.snapshot.failover = Some(Keyed { value: request.clone(), mod_revision: Revision(15) });
        f.view.settings.maximum_lag_on_failover = 1;
    });
    let primary = world.primary();
    let behind = Lsn(primary.lsn.0 - 2);
    primary.standbys.get_mut(&name("b")).expect("b streams").flushed = behind;
    let mut view = world.view();
    let waits = decide(&view, &Memory::default());
    view.now = NOW + secs(2);
    let refused = decide(&view, &waits.memory);

    assert_eq!(waits.reason, Reason::SwitchoverAwaitsCandidate { request: request.clone() });
    assert!(!deeds(&waits).contains(&Deed::ClearFailover));
    assert_eq!(refused.reason, Reason::SwitchoverRefused { request, why: reason::Refusal::CandidateBehind });
    assert_eq!(deeds(&refused), [Deed::ClearFailover]);
}

#[test]
fn a_scheduled_switchover_asks_nothing_of_its_candidate_before_its_time() {
    let mut world = healthy("a").with(|f| {
        let at = Some(crate::cluster::UnixMs(f.view.wall.0 + 10_000));
        let request =
            FailoverRequest { leader: Some(name("a")), candidate: Some(name("b")), scheduled_at: at };
        f.snapshot.failover = Some(Keyed { value: request, mod_revision: Revision(9) });
    });
    world.primary().standbys.remove(&name("b"));

    let decision = decision(world);

    assert!(matches!(decision.reason, Reason::SwitchoverScheduled { .. }), "{:?}", decision.reason);
    assert!(!deeds(&decision).contains(&Deed::ClearFailover));
}

#[test]
fn data_of_another_cluster_is_refused() {
    let world = healthy("b").with(|f| {
        f.snapshot.initialize =
            Some(Keyed { value: Initialize::Done(SystemId(8)), mod_revision: Revision(2) });
    });
    let stop = decision(world.clone());
    let exit = decision(world.with(|f| f.view.postgres.process = Process::Stopped));

    assert_eq!(stop.reason, Reason::ForeignData { mine: SystemId(7), theirs: SystemId(8) });
    assert_eq!(deeds(&stop), [Deed::Stop]);
    assert_eq!(deeds(&exit), [Deed::Exit]);
}

#[test]
fn an_empty_member_copies_the_running_leader() {
    let world = healthy("c").with(|f| {
        f.view.postgres.data = Data::Empty;
        f.view.postgres.process = Process::Stopped;
    });
    let decision = decision(world);

    let job = Job::Clone { source: name("a"), replaces: false };
    assert_eq!(decision.actions[0], Action::StartJob { job });
}

#[test]
fn the_first_member_claims_to_make_the_cluster_and_then_makes_it() {
    let empty = healthy("b").with(|f| {
        f.snapshot = Snapshot::default();
        f.view.postgres.data = Data::Empty;
        f.view.postgres.process = Process::Stopped;
    });
    let claim = decision(empty.clone());
    let claimed = empty.with(|f| {
        let value = Initialize::UnderWay { lease: LeaseId(2) };
        f.snapshot.initialize = Some(Keyed { value, mod_revision: Revision(1) });
    });
    let initdb = decision(claimed.clone());
    let made = claimed.with(|f| {
        let control =
            Control { bootstrap_unfinished: true, recovery_signal: false, ..super::fixture::control() };
        f.view.postgres.data = Data::Present(Control { state: ControlState::ShutDown, ..control });
    });
    let start = decision(made);

    assert_eq!(deeds(&claim), [Deed::ClaimInitialize]);
    assert_eq!(deeds(&initdb), [Deed::StartJob]);
    assert_eq!(deeds(&start), [Deed::Arm, Deed::StartPrimary]);
}

#[test]
fn a_vanished_leader_that_goes_on_sending_is_waited_for_within_its_limit() {
    let world = healthy("b").leader_gone().with(|f| {
        f.view.settings.primary_race_backoff = secs(6);
        f.view.settings.loop_wait = secs(3);
    });
    let later = |seconds: u64, bytes: u64| {
        world.clone().with(|f| {
            f.view.now = NOW + secs(seconds);
            f.view.peers.asked = Some(f.view.now);
            f.replica().received = Some(Lsn(END.0 + bytes));
        })
    };
    let waits = |decision: &Decision| matches!(decision.reason, Reason::WalStillMoves { .. });

    let first = decide(&later(0, 0).view(), &Memory::default());
    let moved = decide(&later(3, 100).view(), &first.memory);
    let limit = decide(&later(6, 200).view(), &moved.memory);
    assert!(waits(&first) && waits(&moved) && !waits(&limit), "{limit:?}");

    let still = decide(&later(3, 0).view(), &first.memory);
    let after = decide(&later(4, 0).view(), &still.memory);
    assert!(!waits(&still) && !waits(&after), "{after:?}");
}

#[test]
fn a_parted_former_primary_rewinds_once_the_leader_has_checkpointed() {
    let parted = healthy("c").leader_timeline(2).with(|f| {
        f.view.settings.use_pg_rewind = true;
        f.view.postgres.process = Process::Stopped;
        let control =
            Control { state: ControlState::ShutDown, recovery_signal: false, ..super::fixture::control() };
        f.view.postgres.data = Data::Present(control);
        let entry = crate::cluster::HistoryEntry {
            timeline: Timeline(1),
            switch_point: Lsn(1),
            reason: String::new(),
        };
        let value = crate::cluster::History(vec![entry]);
        f.snapshot.history = Some(Keyed { value, mod_revision: Revision(6) });
        f.member("a").facts.checkpoint_pending = true;
    });
    let waiting = decision(parted.clone());
    let rewinding = decision(parted.clone().with(|f| f.member("a").facts.checkpoint_pending = false));
    let forbidden = decision(parted.clone().with(|f| f.view.settings.use_pg_rewind = false));
    let copied = decision(parted.clone().with(|f| {
        f.view.settings.use_pg_rewind = false;
        f.view.settings.remove_data_directory_on_diverged_timelines = true;
    }));

    assert_eq!(waiting.reason, Reason::WaitingForCheckpoint { leader: name("a").into() });
    assert_eq!(rewinding.reason, Reason::Rewinding { leader: name("a").into() });
    assert_eq!(
        (&forbidden.reason, deeds(&forbidden)),
        (&Reason::Diverged { leader: name("a").into() }, vec![])
    );
    assert_eq!(copied.reason, Reason::CloningAfterDivergence { source: name("a").into() });

    let asked = parted.with(|f| {
        f.view.settings.use_pg_rewind = false;
        f.view.requests.reinitialize = Some(ReinitializeRequest { id: RequestId(4), from_leader: false });
    });
    let asked = decision(asked);
    assert_eq!((&asked.reason, deeds(&asked)), (&Reason::Reinitializing, vec![Deed::StartJob]));
}

#[test]
fn a_pause_opens_the_gate_and_its_end_closes_it() {
    let paused = decision(healthy("a").with(|f| f.view.settings.pause = true));
    let resumed = decision(healthy("a").with(|f| f.view.guard = Guard::Released));

    assert_eq!((&paused.reason, deeds(&paused)), (&Reason::PausedLeading, vec![Deed::ReleaseGate]));
    assert_eq!((&resumed.reason, deeds(&resumed)), (&Reason::Leading, vec![Deed::Arm]));
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

#[test]
fn an_asked_leader_stops_then_releases_then_ends() {
    let asked = healthy("a").with(|f| f.view.requests.stop = true);
    let stop = decision(asked.clone());
    let end = decision(asked.with(|f| f.view.postgres.process = Process::Stopped));

    assert_eq!(deeds(&stop), [Deed::Stop]);
    assert_eq!(deeds(&end), [Deed::Disarm, Deed::ReleaseLeaderKey, Deed::Exit]);
    let kinds: Vec<Deed> = end.actions.iter().map(Action::deed).collect();
    assert_eq!(kinds, [Deed::Disarm, Deed::PublishMember, Deed::ReleaseLeaderKey, Deed::Exit]);
}

#[test]
fn a_restart_is_answered_when_the_server_runs_again() {
    let request = RestartRequest { id: RequestId(4), only_role: None, only_if_pending: false };
    let asked = healthy("b").with(|f| f.view.requests.restart = Some(request));
    let stop = decision(asked.clone());
    let mut down = asked.clone().view();
    down.postgres.process = Process::Stopped;
    let start = decide(&down, &stop.memory);
    let answer = decide(&asked.view(), &start.memory);

    assert_eq!(deeds(&stop), [Deed::Stop]);
    assert_eq!(deeds(&start), [Deed::StartReplica]);
    assert_eq!(deeds(&answer), [Deed::AnswerRequest]);
}

#[test]
fn the_document_says_what_the_server_is() {
    let decision = decision(healthy("b"));
    let published = decision.actions.iter().find_map(|action| match action {
        Action::PublishMember { lease, facts, .. } => Some((*lease, facts.role, facts.state)),
        _ => None,
    });

    assert_eq!(published, Some((LeaseId(2), Role::Replica, State::Running)));
}

#[test]
fn every_reason_has_a_sentence_and_a_meaning() {
    assert!(Reason::ALL.iter().all(|(code, meaning)| !code.is_empty() && meaning.ends_with('.')));
    let shown = Reason::TakingLock { lsn: END, timeline: Timeline(2) }.to_string();
    assert_eq!(
        shown,
        "there is no leader and nobody is ahead of me at 0/3000000 on timeline 2; I take the lock"
    );
}
