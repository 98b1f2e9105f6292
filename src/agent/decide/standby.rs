//! What the holder of the lock of a standby cluster does: it follows the cluster named in `standby_cluster`, and its
//! own replicas follow it. Nobody is writable, so the gate stays closed.

use crate::agent::view::{
    Configuration, Control, Deed, Fence, Job, JobReport, JobState, Member, Origin, ReplicaFacts, Revision,
    Started, StopMode, Upstream, Verdict,
};
use crate::cluster::{FailoverRequest, MemberName, Role, State};

use super::draft::{Choice, Draft, Wake, successors};
use super::memory::GivingUp;
use super::reason::Refusal;
use super::rewind::Home;
use super::situation::{Divergence, Server, Situation, Was};
use super::{Action, Reason, leader, remote, replica, rewind, slots, stopping};

/// How often a server is started under the lock before the lock goes to another member.
const STARTS_UNDER_LOCK: u32 = 2;

pub(super) fn rule(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) -> Choice {
    replica::close_gate(s, draft);
    match s.server {
        Server::NoData | Server::Unfinished | Server::Unreadable => {
            leader::release(s, fence, None, draft);
            (Reason::LeadingWithoutData, Wake::After)
        }
        Server::Down { control, .. } if control.half_rewound.is_some() && !remote::is_known(s) => {
            leader::release(s, fence, None, draft);
            (Reason::LeadingWithoutData, Wake::After)
        }
        Server::Down { control, .. } => down(s, fence, control, draft),
        Server::Starting { role: Started::Replica, since, .. } => match leader::overdue(s, since) {
            true => leader::give_up(GivingUp::StartTookTooLong, Reason::StartTookTooLong, draft),
            false => (Reason::ReplicaIsStarting { since }, Wake::ProgressSince(since)),
        },
        Server::Unresponsive { role: Started::Replica, since } => match leader::overdue(s, since) {
            true => leader::give_up(GivingUp::StartTookTooLong, Reason::StartTookTooLong, draft),
            false => (Reason::ReplicaUnresponsive { since }, Wake::Progress),
        },
        Server::Stopping { mode, since } => {
            keep_gate_of_primary(s, fence, draft);
            stopping(s, draft, mode, since)
        }
        Server::Starting { role: Started::Primary, .. }
        | Server::Unresponsive { role: Started::Primary, .. } => {
            leader::keep_gate(s, fence, draft);
            demote(draft, false)
        }
        Server::Primary(_) => {
            leader::keep_gate(s, fence, draft);
            demote(draft, true)
        }
        Server::Replica(facts) => lead(s, fence, facts, draft),
    }
}

/// Makes a running primary a part of a standby cluster: it is stopped with the lock held, and starts in recovery.
fn demote(draft: &mut Draft<'_>, checkpoint: bool) -> Choice {
    draft.memory.demoting_cluster = true;
    draft.act(Action::Stop { mode: StopMode::Fast, checkpoint });
    (Reason::DemotingCluster, Wake::Progress)
}

/// A primary that is being demoted may write until it is down, so its deadline goes on until then.
fn keep_gate_of_primary(s: &Situation<'_>, fence: Fence, draft: &mut Draft<'_>) {
    if draft.memory.demoting_cluster {
        leader::keep_gate(s, fence, draft);
    }
}

fn down(s: &Situation<'_>, fence: Fence, control: &Control, draft: &mut Draft<'_>) -> Choice {
    if draft.memory.giving_up.is_some() {
        leader::release(s, fence, None, draft);
        return (Reason::StartTookTooLong, Wake::After);
    }
    if let Some(choice) = rewind::before_start(s, Home::Remote { leader: None }, draft) {
        // What keeps this member's data out may be well with another's.
        if let Reason::HandingToUnparted { peer } = &choice.0 {
            give_way(s, fence, peer, draft);
            return (choice.0, Wake::After);
        }
        if matches!(choice.0, Reason::Diverged { .. }) && !successors(s, None).is_empty() {
            leader::release(s, fence, None, draft);
            return (choice.0, Wake::After);
        }
        return choice;
    }
    if draft.memory.starts.tried >= STARTS_UNDER_LOCK {
        leader::release(s, fence, None, draft);
        return (Reason::StartFailed, Wake::After);
    }
    if draft.memory.demoting_cluster && Was::of(control) == Was::CleanPrimary {
        let job = Job::ArchiveLast { checkpoint: control.checkpoint };
        let done = s.view.job.as_ref().is_some_and(|report| report.job == job && is_over(report));
        if !done {
            return draft.start_job(job, Reason::ArchivingLast);
        }
    }
    draft.start_replica(upstream(s), Reason::StartingAsReplica)
}

/// Gives the lock to this member and no other: in a race those that are ahead would win, whose WAL has parted like the
/// WAL here.
fn give_way(s: &Situation<'_>, fence: Fence, peer: &MemberName, draft: &mut Draft<'_>) {
    let Some(member) = s.snapshot().and_then(|snapshot| snapshot.members.get(peer)) else { return };
    let optime = member.facts.lsn.unwrap_or_default();
    if !member.keddah {
        draft.act(Action::ReleaseLeaderKey { fence, optime: Some(optime) });
        return;
    }
    draft.act(Action::HandOver {
        fence,
        candidate: peer.clone(),
        candidate_lease: member.lease,
        optime,
        sync: None,
        keep_failover: true,
    });
}

/// A failed attempt counts as well: who reads the archive can then be told apart, and is not kept waiting.
fn is_over(report: &JobReport) -> bool {
    match report.state {
        JobState::Done { .. } | JobState::Failed { .. } => true,
        JobState::Running => false,
    }
}

/// Follows the other cluster and serves the members of this one.
pub(super) fn lead(s: &Situation<'_>, fence: Fence, facts: &ReplicaFacts, draft: &mut Draft<'_>) -> Choice {
    draft.memory.giving_up = None;
    draft.memory.demoting_cluster = false;
    if let Some(choice) = hand_over(s, fence, facts, draft) {
        return choice;
    }
    if let Some(request) = &s.view.requests.reinitialize {
        draft.act(Action::AnswerRequest { id: request.id, done: false });
    }
    if let Some(choice) = replica::restart(s, draft) {
        return choice;
    }
    let divergence = remote::of_running(s, facts, draft);
    let parted = matches!(divergence, Divergence::Parted { .. } | Divergence::SameTimelineTwice);
    if parted && !s.view.settings.pause && rewind::is_curable(s, divergence, draft) {
        draft.stop(StopMode::Fast);
        return (Reason::StoppingToRewind { leader: Origin::Remote }, Wake::Progress);
    }
    let wanted = upstream(s);
    let streams = wanted != Upstream::Nobody;
    let moves = facts.upstream != wanted;
    if moves {
        draft.act(Action::Follow { upstream: wanted });
    }
    if s.view.postgres.configuration == Configuration::Differs {
        draft.act(Action::ApplyConfiguration);
    }
    slots::of_standby_leader(s, facts, draft);
    keys(s, fence, facts, draft);
    let wake = if moves || (streams && !facts.streaming) { Wake::Progress } else { Wake::Loop };
    let reason = if parted { Reason::Diverged { leader: Origin::Remote } } else { Reason::LeadingStandby };
    (reason, wake)
}

/// Returns where the standby leader gets its WAL from: the other cluster, or only the archive.
pub(super) fn upstream(s: &Situation<'_>) -> Upstream {
    match &s.view.settings.standby_cluster {
        Some(cluster) if cluster.place.is_some() => Upstream::Remote { slot: cluster.slot.clone() },
        Some(_) | None => Upstream::Nobody,
    }
}

fn keys(s: &Situation<'_>, fence: Fence, facts: &ReplicaFacts, draft: &mut Draft<'_>) {
    leader::cluster_keys(s, fence, draft);
    let Some(snapshot) = s.snapshot() else { return };
    if let Some(sync) = snapshot.sync.as_ref().filter(|keyed| keyed.value.leader.is_some()) {
        draft.act(Action::DeleteSync { fence, seen: sync.mod_revision });
    }
    leader::write_status(s, fence, &facts.slots, facts.lsn(), draft);
}

/// Gives the lock to another member where a person asks for it: nobody writes, so nothing has to be stopped.
fn hand_over(s: &Situation<'_>, fence: Fence, facts: &ReplicaFacts, draft: &mut Draft<'_>) -> Option<Choice> {
    let snapshot = s.snapshot()?;
    let keyed = snapshot.failover.as_ref()?;
    let (request, seen) = (&keyed.value, keyed.mod_revision);
    if request.scheduled_at.is_some_and(|at| at > s.view.wall) {
        return None;
    }
    if request.candidate.as_ref() == Some(&s.view.me) {
        draft.act(Action::ClearFailover { fence, seen });
        return None;
    }
    match candidate(s, request) {
        // What was compared has changed; a person may ask again.
        Ok(_) if draft.last(Deed::HandOver, &[Verdict::Fenced]) => clear(fence, seen, request, draft),
        Ok((name, member)) => {
            let candidate = name.clone();
            if !member.keddah {
                draft.act(Action::ReleaseLeaderKey { fence, optime: Some(facts.lsn()) });
                return Some((Reason::ReleasedForCandidate { candidate }, Wake::After));
            }
            draft.act(Action::HandOver {
                fence,
                candidate: candidate.clone(),
                candidate_lease: member.lease,
                optime: facts.lsn(),
                sync: None,
                keep_failover: s.view.settings.pause,
            });
            Some((Reason::HandingOver { candidate }, Wake::After))
        }
        Err(why) => {
            draft.act(Action::ClearFailover { fence, seen });
            Some((Reason::SwitchoverRefused { request: request.clone(), why }, Wake::After))
        }
    }
}

fn clear(fence: Fence, seen: Revision, request: &FailoverRequest, draft: &mut Draft<'_>) -> Option<Choice> {
    draft.act(Action::ClearFailover { fence, seen });
    let why = Refusal::CandidateUnknown;
    Some((Reason::SwitchoverRefused { request: request.clone(), why }, Wake::After))
}

/// Returns the member that a request goes to: the one named, or the furthest.
fn candidate<'a>(
    s: &Situation<'a>,
    request: &FailoverRequest,
) -> Result<(&'a MemberName, &'a Member), Refusal> {
    if request.leader.as_ref().is_some_and(|leader| *leader != s.view.me) {
        return Err(Refusal::LeaderIsAnother);
    }
    let members = s.snapshot().into_iter().flat_map(|snapshot| &snapshot.members);
    let others = members.filter(|(name, _)| **name != s.view.me);
    let runs = |member: &Member| {
        member.facts.role == Role::Replica
            && member.facts.state == State::Running
            && member.facts.lsn.is_some()
    };
    let may_lead = |member: &Member| member.facts.tags.failover_priority() > 0;
    match &request.candidate {
        Some(wanted) => match others.into_iter().find(|(name, _)| *name == wanted) {
            None => Err(Refusal::CandidateUnknown),
            Some((_, member)) if !may_lead(member) => Err(Refusal::CandidateTags),
            Some((_, member)) if !runs(member) => Err(Refusal::CandidateNotStreaming),
            Some(found) => Ok(found),
        },
        None => others
            .filter(|(_, member)| runs(member) && may_lead(member))
            .max_by_key(|(_, member)| (member.facts.tags.failover_priority(), member.facts.lsn))
            .ok_or(Refusal::NoCandidate),
    }
}

#[cfg(test)]
mod tests {
    use super::super::action::{CallbackEvent, CallbackRole};
    use super::super::fixture::{
        END, NOW, control, healthy, leads_standby as leads, name, other_cluster, standby,
    };
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{ControlState, Data, Initialize, Keyed, LeaseId, Process, Snapshot};
    use crate::settings::StandbyCluster;

    const FENCE: Fence = Fence { lease: LeaseId(1), create_revision: Revision(5) };

    fn deeds(decision: &Decision) -> Vec<Deed> {
        let all = decision.actions.iter().map(Action::deed);
        all.filter(|deed| ![Deed::PublishMember, Deed::Callback, Deed::WriteStatus].contains(deed)).collect()
    }

    #[test]
    fn a_standby_leader_follows_and_leaves_the_gate_closed() {
        let decision = decide(&leads().view(), &Memory::default());

        assert_eq!(decision.reason, Reason::LeadingStandby);
        assert_eq!(deeds(&decision), []);
        let role = decision.actions.iter().find_map(|action| match action {
            Action::PublishMember { facts, .. } => Some(facts.role),
            _ => None,
        });
        assert_eq!(role, Some(Role::StandbyLeader));
        let told = Action::Callback { event: CallbackEvent::Start, role: CallbackRole::StandbyLeader };
        assert!(decision.actions.contains(&told));
    }

    #[test]
    fn another_place_to_follow_is_taken_at_once() {
        let archive = leads().with(|f| {
            f.view.settings.standby_cluster = Some(StandbyCluster { place: None, slot: None });
        });

        let decision = decide(&archive.view(), &Memory::default());

        assert_eq!(decision.actions[0], Action::Follow { upstream: Upstream::Nobody });
    }

    #[test]
    fn a_running_primary_is_demoted_with_the_lock_held_and_its_last_wal_archived() {
        let writes = standby(healthy("a"));
        let stop = decide(&writes.clone().view(), &Memory::default());
        let down = writes.with(|f| {
            f.view.postgres.process = Process::Stopped;
            let shut = Control { state: ControlState::ShutDown, recovery_signal: false, ..control() };
            f.view.postgres.data = Data::Present(shut);
        });
        let archive = decide(&down.clone().view(), &stop.memory);
        let job = Job::ArchiveLast { checkpoint: control().checkpoint };
        let archived = down.with(|f| {
            let state = JobState::Done { at: NOW };
            f.view.job = Some(JobReport { job: job.clone(), started: NOW, progressed: NOW, state });
        });
        let start = decide(&archived.view(), &archive.memory);

        assert_eq!((&stop.reason, deeds(&stop)), (&Reason::DemotingCluster, vec![Deed::Stop]));
        assert!(archive.actions.contains(&Action::StartJob { job }));
        assert!(start.actions.contains(&Action::StartReplica { upstream: other_cluster(), archive: true }));
        assert!(!deeds(&start).contains(&Deed::ReleaseLeaderKey));
    }

    #[test]
    fn without_the_section_the_standby_leader_is_promoted_through_the_gate() {
        let alone = leads().with(|f| f.view.settings.standby_cluster = None);

        assert_eq!(deeds(&decide(&alone.view(), &Memory::default())), [Deed::Arm, Deed::Promote]);
    }

    #[test]
    fn replicas_follow_the_standby_leader_and_copy_from_it() {
        let follows = decide(&standby(healthy("b")).view(), &Memory::default());
        let empty = standby(healthy("b")).with(|f| {
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
        });
        let copies = decide(&empty.view(), &Memory::default());

        assert_eq!(follows.reason, Reason::Following { upstream: name("a") });
        assert_eq!(copies.reason, Reason::Cloning { source: name("a").into() });
    }

    #[test]
    fn the_lock_goes_to_the_candidate_and_nothing_is_stopped() {
        let asked = leads().with(|f| {
            let value = FailoverRequest { leader: Some(name("a")), candidate: None, scheduled_at: None };
            f.snapshot.failover = Some(Keyed { value, mod_revision: Revision(9) });
            f.member("c").facts.tags.nofailover = true;
        });

        let decision = decide(&asked.view(), &Memory::default());

        assert_eq!(decision.reason, Reason::HandingOver { candidate: name("b") });
        let handed = Action::HandOver {
            fence: FENCE,
            candidate: name("b"),
            candidate_lease: LeaseId(2),
            optime: END,
            sync: None,
            keep_failover: false,
        };
        assert!(decision.actions.contains(&handed));
    }

    #[test]
    fn a_standby_cluster_is_made_by_a_copy_of_the_other_one() {
        let claimed = standby(healthy("b")).with(|f| {
            let value = Initialize::UnderWay { lease: LeaseId(2) };
            let initialize = Some(Keyed { value, mod_revision: Revision(1) });
            f.snapshot = Snapshot { initialize, ..Snapshot::default() };
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
        });
        let copies = decide(&claimed.clone().view(), &Memory::default());
        let copied = claimed.with(|f| f.view.postgres.data = Data::Present(control()));
        let finishes = decide(&copied.view(), &Memory::default());

        assert!(copies.actions.contains(&Action::StartJob { job: Job::CloneRemote { replaces: false } }));
        assert_eq!(deeds(&finishes), [Deed::FinishInitialize]);
    }

    #[test]
    fn data_that_is_there_becomes_a_standby_cluster_even_if_it_is_a_replica_s() {
        let alone = standby(healthy("b")).leader_gone().with(|f| {
            f.snapshot.initialize = None;
            f.view.postgres.process = Process::Stopped;
        });

        let decision = decide(&alone.view(), &Memory::default());

        assert!(
            decision.actions.contains(&Action::StartReplica { upstream: other_cluster(), archive: true })
        );
        assert!(decision.memory.adopting);
    }

    #[test]
    fn a_paused_standby_leader_keeps_the_lock() {
        let paused = leads().with(|f| f.view.settings.pause = true);

        let decision = decide(&paused.view(), &Memory::default());

        assert_eq!((&decision.reason, deeds(&decision)), (&Reason::LeadingStandby, vec![]));
    }
}
