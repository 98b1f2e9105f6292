//! A leader hands over because it was asked to.

use super::*;

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
