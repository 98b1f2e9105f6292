//! The rules, one story each: a healthy cluster in which one thing is changed.

use super::fixture::{END, Fixture, NOW, healthy, name, secs};
use super::*;
use crate::agent::view::*;
use crate::cluster::{
    FailoverRequest, History, HistoryEntry, Lsn, Role, State, SyncMode, SyncNames, SystemId, Timeline, UnixMs,
};

mod election;
mod switchover;
mod sync;

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
fn a_crashed_leader_with_the_lock_is_started_as_primary_again() {
    let decision = decision(healthy("a").with(|f| f.view.postgres.process = Process::Crashed));

    assert_eq!(decision.reason, Reason::StartingAsPrimary);
    // Its document says beforehand that it may write.
    let [Action::PublishMember { facts, .. }, start, ..] = decision.actions.as_slice() else {
        panic!("{:?}", decision.actions)
    };
    assert_eq!((facts.state, facts.role), (State::Starting, Role::Primary));
    assert_eq!(*start, Action::StartPrimary { fence: FENCE });
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
    assert_eq!(deeds(&decision), [Deed::Arm, Deed::Promote]);
    assert_eq!(decision.actions.first(), Some(&Action::Arm { fence }));
    let at = |deed: Deed| decision.actions.iter().position(|action| action.deed() == deed).unwrap();
    assert!(at(Deed::PublishMember) < at(Deed::Promote), "its document says beforehand that it may write");
    let Action::PublishMember { facts, .. } = &decision.actions[at(Deed::PublishMember)] else { panic!() };
    assert_eq!(facts.role, Role::Promoted);
}

#[test]
fn a_primary_signs_the_timeline_that_it_has_begun_also_while_etcd_is_silent() {
    let primary = |leader: Option<&str>| {
        let entry = crate::cluster::HistoryEntry {
            timeline: Timeline(1),
            switch_point: Lsn(100),
            reason: "no recovery target specified".to_owned(),
            leader: leader.map(name),
        };
        healthy("a").with(|f| {
            f.primary().timeline = Timeline(2);
            f.primary().history = History(vec![entry]);
        })
    };
    let mut silent = primary(None).view();
    silent.dcs = Seen::Stale { value: silent.dcs.last().unwrap().clone(), since: NOW };
    let sign = Action::SignTimeline { timeline: Timeline(2) };

    assert_eq!(decision(primary(None)).actions.first(), Some(&sign));
    assert_eq!(decide(&silent, &Memory::default()).actions.first(), Some(&sign));
    assert!(!deeds(&decision(primary(Some("a")))).contains(&Deed::SignTimeline));
}

#[test]
fn a_promotion_without_effect_is_asked_for_again_ever_less_often() {
    let world = healthy("b").with(|f| {
        let leader = f.snapshot.leader.as_mut().unwrap();
        leader.name = name("b");
        leader.lease = LeaseId(2);
    });
    let mut view = world.view();
    let mut memory = Memory::default();
    let mut given = Vec::new();
    let until = NOW + secs(12);
    while view.now < until {
        let decision = decide(&view, &memory);
        if deeds(&decision).contains(&Deed::Promote) {
            given.push(view.now.since(NOW).as_millis());
        }
        memory = decision.memory;
        view.now = view.now + std::time::Duration::from_millis(10);
    }

    assert_eq!(given, [0, 100, 200, 400, 800, 1600, 3200, 6400, 11400]);
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
            leader: None,
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
