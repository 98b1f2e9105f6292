//! What the holder of the lock does: keep the gate, serve, and give up the lock when its server cannot.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agent::view::{
    Configuration, Control, Fence, Guard, Initialize, Job, JobState, PrimaryFacts, ReplicaFacts, Revision,
    Slot, Started, StopMode, Tick, Upstream, Watchdog,
};
use crate::cluster::{History, Lsn, SyncState};

use super::draft::{Choice, Draft, Wake, successors};
use super::memory::GivingUp;
use super::situation::{Server, Situation, Was};
use super::{Action, Reason, Why, disk, failsafe, replica, slots, stopping, switchover, sync};

/// How often a server is started under the lock before the lock goes to another member.
pub(super) const STARTS_UNDER_LOCK: u32 = 2;

/// How soon an order to promote that has had no effect is given again, and how often at least. Recovery that has just
/// begun to ask for WAL heeds it only after `wal_retrieve_retry_interval`, unless something wakes it.
const PROMOTE_AGAIN: Duration = Duration::from_millis(100);
const PROMOTE_AGAIN_MOST: Duration = Duration::from_secs(5);

/// How long the promotion may take where `primary_start_timeout` is zero: zero asks for a failover after a crash, and
/// a promotion is the failover.
const SHORTEST_PROMOTION_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn rule(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    match s.server {
        Server::NoData | Server::Unfinished | Server::Unreadable => {
            release(s, fence, None, draft);
            (Reason::LeadingWithoutData, Wake::After)
        }
        Server::Down { control, .. } if control.half_rewound.is_some() => {
            release(s, fence, None, draft);
            (Reason::LeadingWithoutData, Wake::After)
        }
        Server::Down { control, crashed } => down(s, fence, control, crashed, draft),
        Server::Starting { role, since, .. } => {
            if role == Started::Primary {
                keep_gate(s, fence, draft);
            }
            if overdue(s, since) {
                return give_up(GivingUp::StartTookTooLong, Reason::StartTookTooLong, draft);
            }
            replica::restart_unready(s, draft).unwrap_or_else(|| {
                let reason = match role {
                    Started::Primary => Reason::PrimaryIsStarting { since },
                    Started::Replica => Reason::ReplicaIsStarting { since },
                };
                (reason, Wake::ProgressSince(since))
            })
        }
        Server::Unresponsive { since, .. } => {
            keep_gate(s, fence, draft);
            if overdue(s, since) {
                return give_up(GivingUp::StartTookTooLong, Reason::StartTookTooLong, draft);
            }
            replica::restart_unready(s, draft)
                .unwrap_or((Reason::PrimaryUnresponsive { since }, Wake::Progress))
        }
        Server::Stopping { mode, since } => {
            if let Some(choice) = switchover::while_stopping(s, fence, draft) {
                return choice;
            }
            keep_gate(s, fence, draft);
            stopping(s, draft, mode, since)
        }
        Server::Primary(facts) => serve(s, fence, facts, draft),
        Server::Replica(facts) => promote(s, fence, facts, draft),
    }
}

/// Gives the guard this fence, if it has not got it.
pub(super) fn keep_gate(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) {
    let armed = match s.view.guard {
        Guard::Armed { fence: armed, .. } => armed == fence,
        Guard::Absent | Guard::Closed | Guard::Released | Guard::Fencing => false,
    };
    if !armed {
        draft.act(Action::Arm { fence });
    }
}

/// Tells whether a server that does not serve has used up its time and another member could serve in its place.
pub(super) fn overdue(s: &Situation<'_>, since: Tick) -> bool {
    s.now().since(since) >= s.view.settings.primary_start_timeout && !successors(s, None).is_empty()
}

/// Stops a server that cannot serve; the lock goes once it is down.
pub(super) fn give_up(why: GivingUp, reason: Reason, draft: &mut Draft<'_>) -> Choice {
    draft.memory.giving_up = Some(why);
    draft.stop(StopMode::Immediate);
    (reason, Wake::Progress)
}

pub(super) fn release(s: &Situation<'_>, fence: Fence, optime: Option<Lsn>, draft: &mut Draft<'_>) {
    if matches!(s.view.guard, Guard::Armed { .. } | Guard::Released) {
        draft.act(Action::Disarm);
    }
    draft.act(Action::ReleaseLeaderKey { fence, optime });
}

/// The lock is held and the server is down.
fn down(s: &Situation<'_>, fence: Fence, control: &Control, crashed: bool, draft: &mut Draft<'_>) -> Choice {
    if let Some(choice) = switchover::after_stop(s, fence, control, draft) {
        return choice;
    }
    if let Some(why) = draft.memory.giving_up {
        release(s, fence, None, draft);
        let reason = match why {
            GivingUp::StartTookTooLong => Reason::StartTookTooLong,
            GivingUp::PromotionTookTooLong => Reason::PromotionTookTooLong,
            GivingUp::NotAllPromised => Reason::NotAllPromised,
        };
        return (reason, Wake::After);
    }
    if s.view.watchdog == Watchdog::Unusable {
        release(s, fence, Some(control.checkpoint), draft);
        return (Reason::WatchdogUnusable, Wake::After);
    }
    if let Some(choice) = disk::keep_down(s, fence, control, draft) {
        return choice;
    }
    if draft.memory.starts.tried >= STARTS_UNDER_LOCK {
        release(s, fence, None, draft);
        return (Reason::StartFailed, Wake::After);
    }
    if Was::of(control) == Was::Replica {
        return match draft.memory.promotion_crashed {
            true => draft.start_without_archive(Reason::StartingToPromote),
            false => draft.start_replica(Upstream::Nobody, Reason::StartingToPromote),
        };
    }
    let failover_asked = s.view.settings.primary_start_timeout.is_zero();
    if crashed && failover_asked && !successors(s, None).is_empty() {
        release(s, fence, None, draft);
        return (Reason::CrashMeansFailover, Wake::After);
    }
    if s.view.guard == Guard::Absent {
        return (Reason::GuardAbsent, Wake::Progress);
    }
    if let Some(until) = draft.start_backoff() {
        return (Reason::StartingAsPrimary, Wake::At(until, Why::Backoff));
    }
    draft.count_start();
    keep_gate(s, fence, draft);
    draft.act(Action::StartPrimary { fence });
    (Reason::StartingAsPrimary, Wake::After)
}

/// The lock is held and the server is a replica: it leaves recovery, once the synchronous set is this member's.
pub(super) fn promote(
    s: &Situation<'_>,
    fence: Fence,
    facts: &ReplicaFacts,
    draft: &mut Draft<'_>,
) -> Choice {
    let (timeline, lsn) = (facts.timeline, facts.lsn());
    if let Some(since) = draft.memory.promoting_since {
        let limit = s.view.settings.primary_start_timeout.max(SHORTEST_PROMOTION_LIMIT);
        let waited = s.now().since(since);
        if waited >= limit && !successors(s, None).is_empty() {
            return give_up(GivingUp::PromotionTookTooLong, Reason::PromotionTookTooLong, draft);
        }
        keep_gate(s, fence, draft);
        let due =
            |given: Tick| s.now().since(given) >= given.since(since).clamp(PROMOTE_AGAIN, PROMOTE_AGAIN_MOST);
        if draft.memory.promote_given.is_none_or(due) {
            draft.memory.promote_given = Some(s.now());
            draft.act(Action::Promote { fence });
        }
        return (Reason::Promoting { timeline, lsn }, Wake::ProgressSince(since));
    }
    if s.view.watchdog == Watchdog::Unusable {
        release(s, fence, Some(lsn), draft);
        return (Reason::WatchdogUnusable, Wake::After);
    }
    if let Some(choice) = disk::keep_in_recovery(s, fence, lsn, draft) {
        return choice;
    }
    if s.view.guard == Guard::Absent {
        return (Reason::GuardAbsent, Wake::Progress);
    }
    if let Some(set) = set_before_promotion(s) {
        let seen = s
            .snapshot()
            .and_then(|snapshot| snapshot.sync.as_ref())
            .map_or(Revision(0), |key| key.mod_revision);
        draft.act(Action::WriteSync { fence, seen, sync: set });
        return (Reason::PreparingSyncForPromotion, Wake::After);
    }
    if s.view.local.pre_promote
        && let Some(choice) = pre_promote(s, fence, lsn, draft)
    {
        return choice;
    }
    let set = s.snapshot().and_then(|snapshot| snapshot.sync.as_ref()).map(|keyed| &keyed.value);
    let names = sync::names_before_promotion(s.view.settings.synchronous_mode, set);
    if let Some(names) = names.filter(|names| facts.sync_names != *names) {
        draft.act(Action::SetSyncNames { names });
    }
    keep_gate(s, fence, draft);
    draft.act(Action::Promote { fence });
    draft.memory.promoting_since = Some(s.now());
    draft.memory.promote_given = Some(s.now());
    (Reason::Promoting { timeline, lsn }, Wake::ProgressSince(s.now()))
}

/// Runs the user's program before the promotion; where it fails, the lock goes. None: it has ended well.
fn pre_promote(s: &Situation<'_>, fence: Fence, lsn: Lsn, draft: &mut Draft<'_>) -> Option<Choice> {
    let here = s.view.job.as_ref().filter(|report| report.job == Job::PrePromote { fence });
    match here.map(|report| report.state) {
        Some(JobState::Done { .. }) => None,
        Some(JobState::Failed { .. }) => {
            release(s, fence, Some(lsn), draft);
            Some((Reason::PrePromoteFailed, Wake::After))
        }
        Some(JobState::Running) | None => {
            Some(draft.start_job(Job::PrePromote { fence }, Reason::RunningPrePromote))
        }
    }
}

/// Returns the synchronous set to write before this member may be promoted; None where it stands already.
fn set_before_promotion(s: &Situation<'_>) -> Option<SyncState> {
    let present = s.snapshot().and_then(|snapshot| snapshot.sync.as_ref()).map(|keyed| &keyed.value);
    let mine = present.is_some_and(|set| set.leader.as_ref() == Some(&s.view.me));
    if mine && s.view.settings.synchronous_mode.is_strict() {
        return None; // commits will wait for just these standbys
    }
    sync::set_of(s, &s.view.me).filter(|set| present != Some(set))
}

/// The lock is held and the server is a primary.
fn serve(s: &Situation<'_>, fence: Fence, facts: &PrimaryFacts, draft: &mut Draft<'_>) -> Choice {
    draft.memory.giving_up = None;
    keep_gate(s, fence, draft);
    if s.view.watchdog == Watchdog::Unusable {
        return give_up(GivingUp::StartTookTooLong, Reason::WatchdogUnusable, draft);
    }
    if let Some(choice) = switchover::rule(s, fence, facts, draft) {
        return choice;
    }
    if let Some(request) = &s.view.requests.reinitialize {
        draft.act(Action::AnswerRequest { id: request.id, done: false });
    }
    if let Some(choice) = replica::restart(s, draft) {
        return choice;
    }
    let wake = maintain(s, fence, facts, draft);
    let braked = disk::brake(s, draft);
    (if braked { Reason::LeadingBraked } else { Reason::Leading }, wake)
}

/// Keeps what a leader keeps in etcd and in its server.
pub(super) fn maintain(s: &Situation<'_>, fence: Fence, facts: &PrimaryFacts, draft: &mut Draft<'_>) -> Wake {
    if s.view.postgres.configuration == Configuration::Differs {
        draft.act(Action::ApplyConfiguration);
    }
    if facts.checkpoint_pending && draft.memory.checkpoint_asked != Some(facts.timeline) {
        draft.memory.checkpoint_asked = Some(facts.timeline);
        draft.act(Action::Checkpoint);
    }
    let wake = sync::step(s, fence, facts, draft);
    slots::of_primary(s, facts, draft);
    keys(s, fence, facts, draft);
    wake
}

/// Keeps the identifier and the configuration of the cluster.
pub(super) fn cluster_keys(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) {
    let Some(snapshot) = s.snapshot() else { return };
    let lost = match &snapshot.initialize {
        None => Some(Revision(0)),
        Some(keyed) => match keyed.value {
            Initialize::UnderWay { .. } | Initialize::Invalid => Some(keyed.mod_revision),
            Initialize::Done(_) => None,
        },
    };
    if let (Some(seen), Some(control)) = (lost, s.view.postgres.control()) {
        draft.act(Action::WriteInitialize { fence, seen, system_id: control.system_id });
    }
    if snapshot.config == Revision(0) {
        draft.act(Action::RestoreConfig { fence });
    }
}

fn keys(s: &Situation<'_>, fence: Fence, facts: &PrimaryFacts, draft: &mut Draft<'_>) {
    cluster_keys(s, fence, draft);
    let Some(snapshot) = s.snapshot() else { return };
    // The timeline is told here and in the history: it must survive a person who deletes either.
    write_status(s, fence, &facts.slots, facts.lsn, draft);
    let present = snapshot.history.as_ref().map(|keyed| &keyed.value);
    let wanted = match s.view.settings.max_timelines_history {
        Some(lines) => facts.history.trimmed(lines),
        None => facts.history.clone(),
    };
    if present.is_none_or(|present| !same_branches(present, &wanted)) {
        draft.act(Action::WriteHistory { fence, seen: snapshot.revision, history: wanted });
    }
    if let Some(members) = failsafe::members(s, snapshot) {
        draft.act(Action::WriteFailsafe { fence, members });
    }
}

/// Writes how far this member is, once in a `loop_wait`; slots that have come or gone at once.
pub(super) fn write_status(
    s: &Situation<'_>,
    fence: Fence,
    found: &BTreeMap<String, Slot>,
    lsn: Lsn,
    draft: &mut Draft<'_>,
) {
    let Some(snapshot) = s.snapshot() else { return };
    let status = slots::status(s, snapshot, found, lsn, draft);
    let due = draft.memory.status_written.as_ref().is_none_or(|(at, written)| {
        let time = s.now().since(*at) >= s.view.settings.loop_wait;
        (time && *written != status) || !written.slots.keys().eq(status.slots.keys())
    });
    if due {
        draft.memory.status_written = Some((s.now(), status.clone()));
        draft.act(Action::WriteStatus { fence, status });
    }
}

/// Compares two histories by where timelines were left and who led next; the words of the reasons may differ.
fn same_branches(one: &History, other: &History) -> bool {
    one.0.len() == other.0.len()
        && !one.forks_in_place(other)
        && one
            .0
            .iter()
            .zip(&other.0)
            .all(|(a, b)| (a.timeline, a.switch_point) == (b.timeline, b.switch_point))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW, healthy, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Deed, JobFailure, JobReport, LeaseId};

    #[test]
    fn the_first_checkpoint_of_a_timeline_is_asked_for_once() {
        let promoted = healthy("a").with(|f| f.primary().checkpoint_pending = true).view();
        let asks = |decision: &Decision| decision.actions.contains(&Action::Checkpoint);
        let first = decide(&promoted, &Memory::default());

        assert!(asks(&first));
        assert!(!asks(&decide(&promoted, &first.memory)));
        assert!(!asks(&decide(&healthy("a").view(), &Memory::default())));
    }

    /// `a` holds the lock with a server in recovery, and has a program to run before a promotion.
    fn to_promote(job: Option<JobState>) -> Decision {
        let replica = healthy("b").view.postgres.process;
        let fence = Fence { lease: LeaseId(1), create_revision: Revision(5) };
        let world: Fixture = healthy("a").with(|f| {
            f.view.local.pre_promote = true;
            f.view.postgres.process = replica;
            let job = job.map(|state| (Job::PrePromote { fence }, state));
            f.view.job = job.map(|(job, state)| JobReport { job, started: NOW, progressed: NOW, state });
        });
        decide(&world.view(), &Memory::default())
    }

    fn gives(decision: &Decision, deed: Deed) -> bool {
        decision.actions.iter().any(|action| action.deed() == deed)
    }

    #[test]
    fn the_program_before_a_promotion_runs_once_under_each_lock() {
        let begins = to_promote(None);
        let done = to_promote(Some(JobState::Done { at: NOW }));

        assert!(gives(&begins, Deed::StartJob) && !gives(&begins, Deed::Promote));
        assert!(gives(&done, Deed::Promote) && !gives(&done, Deed::StartJob));
    }

    #[test]
    fn where_it_fails_the_lock_goes_and_this_member_stands_back_for_a_ttl() {
        let failed = to_promote(Some(JobState::Failed { at: NOW, why: JobFailure::Transient }));
        let mut later = healthy("b").leader_gone().view();
        let waits = decide(&later, &failed.memory);
        later.now = NOW + secs(30);
        let stands = decide(&later, &failed.memory);

        assert_eq!(failed.reason, Reason::PrePromoteFailed);
        assert!(gives(&failed, Deed::ReleaseLeaderKey) && !gives(&failed, Deed::Promote));
        assert_eq!(waits.reason, Reason::PrePromoteFailed);
        assert_ne!(stands.reason, Reason::PrePromoteFailed);
    }
}
