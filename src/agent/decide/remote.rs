//! Whether the data of a standby cluster's member is still an ancestor of that of the cluster which it follows.
//!
//! That cluster may have failed over to a timeline which branched off before the end of the WAL here. Nobody tells: its
//! primary is asked, and only by a member that gets no WAL.

use std::time::Duration;

use crate::agent::view::ReplicaFacts;
use crate::cluster::{Lsn, MemberName};

use super::Action;
use super::draft::{Draft, successors};
use super::memory::Adrift;
use super::situation::{Divergence, Situation};

/// How long a server may neither stream nor move before the other cluster is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon it is asked again. A question may take as long, where nobody answers.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How long a free lock is left to a member whose data has not parted.
const WAY_GIVEN: Duration = Duration::from_secs(30);

/// Tells whether there is another cluster to ask.
pub(super) fn is_known(s: &Situation<'_>) -> bool {
    s.view.settings.standby_cluster.as_ref().is_some_and(|cluster| cluster.place.is_some())
}

/// Compares a running server that gets no WAL with the other cluster.
pub(super) fn of_running(s: &Situation<'_>, facts: &ReplicaFacts, draft: &mut Draft<'_>) -> Divergence {
    if facts.streaming || !is_known(s) {
        draft.memory.adrift = None;
        return Divergence::None;
    }
    if s.view.settings.pause {
        return Divergence::Unknown;
    }
    let lsn = facts.lsn();
    let known = draft.memory.adrift.filter(|adrift| adrift.lsn == lsn);
    let divergence = ask(s, known.unwrap_or(fresh(s, lsn)), PATIENCE, draft);
    if let Some(adrift) = &mut draft.memory.adrift {
        adrift.parted = matches!(divergence, Divergence::Parted { .. }).then_some(facts.timeline);
    }
    divergence
}

/// Tells whether data that has not parted would do so again at its next start: the server has replayed WAL that lies
/// here, and has written nothing of what followed from it.
pub(super) fn would_part_again(s: &Situation<'_>, draft: &Draft<'_>) -> bool {
    let (Some(adrift), Some(control)) = (draft.memory.adrift, s.view.postgres.control()) else {
        return false;
    };
    let end = control.minimum_recovery.map_or(control.checkpoint, |(end, _)| end);
    is_known(s) && adrift.parted == Some(control.reached()) && end < adrift.lsn
}

/// The same for one that is down: it was stopped for that, or its start has failed.
pub(super) fn of_stopped(s: &Situation<'_>, draft: &mut Draft<'_>) -> Divergence {
    let doubtful = draft.memory.adrift.is_some()
        || draft.memory.starts.tried > 0
        || s.view.postgres.control().is_some_and(|control| control.half_rewound.is_some());
    if !doubtful || !is_known(s) {
        return Divergence::None;
    }
    ask(s, draft.memory.adrift.unwrap_or(fresh(s, Lsn(0))), Duration::ZERO, draft)
}

/// Returns a member that can lead while this one, whose data has parted, gets another member's; None where nobody has
/// taken the lock although it was free for a while.
pub(super) fn successor(s: &Situation<'_>, draft: &Draft<'_>) -> Option<MemberName> {
    if draft.memory.leaderless_since.is_some_and(|since| s.now().since(since) >= WAY_GIVEN) {
        return None;
    }
    let members = &s.snapshot()?.members;
    let fits = |name: &&MemberName| members.get(*name).is_some_and(|member| s.fits_remote(member));
    successors(s, None).into_iter().find(fits).cloned()
}

fn fresh(s: &Situation<'_>, lsn: Lsn) -> Adrift {
    Adrift { lsn, since: s.now(), asked: None, parted: None }
}

fn ask(s: &Situation<'_>, adrift: Adrift, patience: Duration, draft: &mut Draft<'_>) -> Divergence {
    let due = adrift.asked.is_none_or(|asked| s.now().since(asked) >= ASK_AGAIN);
    let asks = due && s.now().since(adrift.since) >= patience;
    if asks {
        draft.act(Action::AskRemote);
    }
    let asked = if asks { Some(s.now()) } else { adrift.asked };
    draft.memory.adrift = Some(Adrift { asked, ..adrift });
    s.divergence_from_remote(adrift.since)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{END, Fixture, NOW, control, healthy, leads_standby, name, secs, standby};
    use super::super::{Decision, Memory, Reason, decide};
    use super::*;
    use crate::agent::view::{
        Control, ControlState, Data, Deed, Job, JobFailure, JobReport, JobState, Origin, Process, Remote,
        Tick,
    };
    use crate::cluster::{History, HistoryEntry, SystemId, Timeline};

    /// The other cluster is on timeline 2, which left timeline 1 at this point.
    fn failed_over(asked: Tick, at: Lsn) -> Remote {
        let entry = HistoryEntry {
            timeline: Timeline(1),
            switch_point: at,
            reason: "no recovery target".to_owned(),
            leader: None,
        };
        Remote {
            asked,
            system_id: SystemId(7),
            timeline: Timeline(2),
            history: History(vec![entry]),
            checkpoint_pending: false,
        }
    }

    /// So many seconds after it was first seen without WAL.
    fn starved(world: Fixture, seconds: u64) -> Fixture {
        world.with(|f| {
            f.view.now = NOW + secs(seconds);
            f.view.settings.use_pg_rewind = true;
            f.replica().streaming = false;
        })
    }

    fn gives(decision: &Decision, deed: Deed) -> bool {
        decision.actions.iter().any(|action| action.deed() == deed)
    }

    /// The decision that follows this answer, after those in which the server began to lack WAL and asked.
    fn answered(world: &Fixture, remote: Remote, change: impl FnOnce(&mut Fixture)) -> Decision {
        let begins = decide(&starved(world.clone(), 0).view(), &Memory::default());
        let asks = decide(&starved(world.clone(), 5).view(), &begins.memory);
        assert!(!gives(&begins, Deed::AskRemote) && gives(&asks, Deed::AskRemote));
        let then = starved(world.clone(), 6).with(|f| f.view.remote = Some(remote)).with(change);
        decide(&then.view(), &asks.memory)
    }

    fn behind() -> Lsn {
        Lsn(END.0 - 1)
    }

    /// The server of a decision that stopped it is down.
    fn down(
        world: &Fixture,
        stopped: &Decision,
        change: impl FnOnce(&mut Fixture, &mut Control),
    ) -> Decision {
        let then = starved(world.clone(), 7).with(|f| {
            f.view.remote = Some(failed_over(NOW + secs(5), behind()));
            f.view.postgres.process = Process::Stopped;
            let state = ControlState::ShutDownInRecovery;
            let mut control = Control { state, minimum_recovery: Some((END, Timeline(1))), ..control() };
            change(f, &mut control);
            f.view.postgres.data = Data::Present(control);
        });
        decide(&then.view(), &stopped.memory)
    }

    #[test]
    fn the_other_cluster_is_asked_only_while_there_is_no_wal() {
        let streams = decide(&leads_standby().view(), &Memory::default());
        let paused = decide(
            &starved(leads_standby(), 60).with(|f| f.view.settings.pause = true).view(),
            &Memory::default(),
        );
        let fits = answered(&leads_standby(), failed_over(NOW + secs(5), END), |_| {});
        let moves = answered(&leads_standby(), failed_over(NOW + secs(5), behind()), |f| {
            f.replica().received = Some(Lsn(END.0 + 1));
        });
        let of_before = answered(&leads_standby(), failed_over(Tick(NOW.0 - 1), behind()), |_| {});

        assert!(!gives(&streams, Deed::AskRemote) && streams.memory.adrift.is_none());
        assert!(!gives(&paused, Deed::AskRemote));
        for goes_on in [fits, moves, of_before] {
            assert!(goes_on.reason == Reason::LeadingStandby && !gives(&goes_on, Deed::Stop));
        }
    }

    #[test]
    fn a_standby_leader_that_has_parted_rewinds_under_its_lock() {
        let world = leads_standby();
        let stops = answered(&world, failed_over(NOW + secs(5), behind()), |_| {});
        let waits = down(&world, &stops, |f, _| {
            f.view.remote = Some(Remote { checkpoint_pending: true, ..failed_over(NOW + secs(5), behind()) });
        });
        let rewinds = down(&world, &stops, |_, _| {});

        let parted = Reason::StoppingToRewind { leader: Origin::Remote };
        assert!(stops.reason == parted && gives(&stops, Deed::Stop));
        assert_eq!(waits.reason, Reason::WaitingForCheckpoint { leader: Origin::Remote });
        let job = Job::Rewind { source: Origin::Remote, timeline: Timeline(2) };
        assert!(rewinds.actions.contains(&Action::StartJob { job }));
        assert!(!gives(&rewinds, Deed::ReleaseLeaderKey));
    }

    #[test]
    fn where_it_may_not_rewind_it_is_copied_anew_or_goes_on_being_read() {
        let world = leads_standby().with(|f| f.view.settings.use_pg_rewind = false);
        let no_rewind = |f: &mut Fixture| f.view.settings.use_pg_rewind = false;
        let removes = |f: &mut Fixture| {
            no_rewind(f);
            f.view.settings.remove_data_directory_on_diverged_timelines = true;
        };
        let remote = || failed_over(NOW + secs(5), behind());
        let goes_on = answered(&world, remote(), no_rewind);
        let stops = answered(&world, remote(), removes);
        let copies = down(&world, &stops, |f, _| removes(f));

        assert_eq!(goes_on.reason, Reason::Diverged { leader: Origin::Remote });
        assert!(!gives(&goes_on, Deed::Stop));
        assert!(copies.actions.contains(&Action::StartJob { job: Job::CloneRemote { replaces: true } }));
    }

    #[test]
    fn data_that_pg_rewind_is_not_let_to_is_copied_or_another_member_leads() {
        let world = leads_standby();
        let stops = answered(&world, failed_over(NOW + secs(5), behind()), |_| {});
        let refused = |f: &mut Fixture, why| {
            let job = Job::Rewind { source: Origin::Remote, timeline: Timeline(2) };
            let at = NOW + secs(6);
            f.view.job =
                Some(JobReport { job, started: at, progressed: at, state: JobState::Failed { at, why } });
        };
        let copies = down(&world, &stops, |f, _| {
            refused(f, JobFailure::NotGranted);
            f.view.settings.remove_data_directory_on_rewind_failure = true;
        });
        let mut failed = stops.clone();
        failed.memory.recovery.rewinds_failed = Some((Timeline(2), 3));
        let lets_go = down(&world, &failed, |_, _| {});

        assert_eq!(copies.reason, Reason::RewindNotGranted { leader: Origin::Remote });
        assert!(gives(&copies, Deed::StartJob));
        assert_eq!(lets_go.reason, Reason::Diverged { leader: Origin::Remote });
        assert!(gives(&lets_go, Deed::ReleaseLeaderKey));
    }

    #[test]
    fn wal_that_parted_and_is_not_in_the_data_yet_is_made_part_of_it_before_a_rewind() {
        let stops = answered(&leads_standby(), failed_over(NOW + secs(5), behind()), |_| {});
        let recovers = down(&leads_standby(), &stops, |_, control| {
            control.minimum_recovery = Some((behind(), Timeline(1)));
        });
        let rewound = down(&leads_standby(), &stops, |_, control| {
            control.timeline = Timeline(2);
            control.minimum_recovery = Some((behind(), Timeline(2)));
        });

        assert_eq!(recovers.reason, Reason::RecoveringFromCrash);
        assert_eq!(rewound.reason, Reason::StartingAsReplica);
    }

    #[test]
    fn a_member_that_has_not_parted_leads_while_the_leader_is_copied() {
        let world = leads_standby();
        let removes = |f: &mut Fixture| {
            f.view.settings.use_pg_rewind = false;
            f.view.settings.remove_data_directory_on_diverged_timelines = true;
        };
        let stops = answered(&world, failed_over(NOW + secs(5), behind()), removes);
        let copy = |free: Option<u64>, rewinds: bool| {
            let mut stopped = stops.clone();
            stopped.memory.leaderless_since = free.map(|seconds| Tick(NOW.0 + 7_000 - seconds * 1_000));
            down(&world, &stopped, |f, _| {
                removes(f);
                f.view.settings.use_pg_rewind = rewinds;
                f.member("c").facts.lsn = Some(behind());
                if free.is_some() {
                    f.snapshot.leader = None;
                }
            })
        };
        let (gives_way, rewinds) = (copy(None, false), copy(None, true));
        let (waits, copies) = (copy(Some(29), false), copy(Some(30), false));

        let reason = Reason::HandingToUnparted { peer: name("c") };
        assert!(gives_way.reason == reason && gives(&gives_way, Deed::HandOver));
        assert_eq!(rewinds.reason, Reason::Rewinding { leader: Origin::Remote });
        assert!(waits.reason == reason && !gives(&waits, Deed::StartJob));
        assert!(copies.actions.contains(&Action::StartJob { job: Job::CloneRemote { replaces: true } }));
    }

    /// This cluster was on timeline 5 before it became the other one's standby.
    #[test]
    fn numbers_of_its_own_timelines_keep_nobody_of_a_standby_cluster_from_the_lock() {
        let old =
            HistoryEntry { timeline: Timeline(4), switch_point: Lsn(9), reason: String::new(), leader: None };
        let world = standby(healthy("b")).leader_gone().history(History(vec![old]));

        let decision = decide(&world.view(), &Memory::default());

        assert!(matches!(decision.reason, Reason::TakingLock { .. }), "{}", decision.reason);
    }

    #[test]
    fn another_cluster_in_its_place_is_no_reason_to_give_data_up() {
        let foreign = Remote { system_id: SystemId(8), ..failed_over(NOW + secs(5), behind()) };

        assert_eq!(answered(&leads_standby(), foreign, |_| {}).reason, Reason::LeadingStandby);
    }

    #[test]
    fn a_replica_of_a_standby_leader_rewinds_from_the_other_cluster_and_is_copied_from_its_leader() {
        let world = standby(healthy("b"));
        let stops = answered(&world, failed_over(NOW + secs(5), behind()), |_| {});
        let rewinds = down(&world, &stops, |_, _| {});
        let copies = down(&world, &stops, |f, _| {
            f.view.settings.use_pg_rewind = false;
            f.view.settings.remove_data_directory_on_diverged_timelines = true;
        });

        assert_eq!(stops.reason, Reason::StoppingToRewind { leader: Origin::Remote });
        assert_eq!(rewinds.reason, Reason::Rewinding { leader: Origin::Remote });
        assert_eq!(copies.reason, Reason::CloningAfterDivergence { source: name("a").into() });
    }

    #[test]
    fn a_start_that_fails_is_a_reason_to_ask_and_half_written_data_waits_for_the_answer() {
        let mut memory = Memory::default();
        memory.starts.tried = 1;
        let fresh = Decision { memory, ..decide(&leads_standby().view(), &Memory::default()) };
        let asks = down(&leads_standby(), &fresh, |f, _| f.view.remote = None);
        let waits = down(&leads_standby(), &fresh, |f, control| {
            f.view.remote = None;
            control.half_rewound = Some(Timeline(2));
        });

        assert!(gives(&asks, Deed::AskRemote) && gives(&asks, Deed::StartReplica));
        assert_eq!(waits.reason, Reason::WaitingForLeader { leader: Origin::Remote });
        assert!(gives(&waits, Deed::AskRemote) && !gives(&waits, Deed::StartReplica));
    }

    #[test]
    fn without_a_leader_members_that_are_down_come_back_all_the_same() {
        let world = standby(healthy("b"));
        let stops = answered(&world, failed_over(NOW + secs(5), behind()), |_| {});
        let rewinds = down(&world, &stops, |f, _| f.snapshot.leader = None);
        let empty = starved(standby(healthy("b")), 0).with(|f| {
            f.snapshot.leader = None;
            f.view.postgres.process = Process::Stopped;
            f.view.postgres.data = Data::Empty;
        });
        let waits = decide(&empty.clone().view(), &Memory::default());
        let alone = empty.with(|f| f.snapshot.members.retain(|member, _| *member == name("b")));
        let copies = decide(&alone.view(), &Memory::default());

        assert_eq!(rewinds.reason, Reason::Rewinding { leader: Origin::Remote });
        assert_eq!(waits.reason, Reason::NobodyToClone);
        assert_eq!(copies.reason, Reason::Cloning { source: Origin::Remote });
    }
}
