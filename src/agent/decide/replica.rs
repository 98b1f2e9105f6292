//! What a member does while another one leads.

use crate::agent::view::{
    Configuration, Guard, Job, JobReport, JobState, Member, ReplicaFacts, StopMode, Upstream,
};
use crate::cluster::{MemberName, Role, State};

use super::draft::{Choice, Draft, Wake};
use super::memory::{Reinitialize, Restart};
use super::situation::{Divergence, Lock, Server, Situation};
use super::{Action, Reason, election, rewind, slots, stopping};

pub(super) fn rule(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Choice {
    close_gate(s, draft);
    match s.server {
        Server::NoData | Server::Unfinished => clone(s, leader, false, draft),
        Server::Unreadable => (Reason::UnreadableData, Wake::Loop),
        Server::Down { .. } => rewind::come_back(s, leader, draft),
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Starting { since, .. } => restart_unready(s, draft)
            .unwrap_or((Reason::ReplicaIsStarting { since }, Wake::ProgressSince(since))),
        Server::Unresponsive { since, .. } => {
            restart_unready(s, draft).unwrap_or((Reason::ReplicaUnresponsive { since }, Wake::Progress))
        }
        Server::Replica(facts) => follow(s, leader, facts, draft),
        // `must_not_write` has spoken before; outside a pause nothing comes here.
        Server::Primary(_) => {
            draft.stop(StopMode::Immediate);
            (Reason::AnotherLeads { leader: leader.clone() }, Wake::Progress)
        }
    }
}

/// Takes the deadline from the guard once nothing here can write.
pub(super) fn close_gate(s: &Situation<'_>, draft: &mut Draft<'_>) {
    let armed = matches!(s.view.guard, Guard::Armed { .. } | Guard::Released);
    let proven = matches!(s.server, Server::Down { .. } | Server::Replica(_))
        && draft.memory.promoting_since.is_none();
    if armed && proven {
        draft.act(Action::Disarm);
    }
}

/// Follows the leader with a server in recovery.
pub(super) fn follow(
    s: &Situation<'_>,
    leader: &MemberName,
    facts: &ReplicaFacts,
    draft: &mut Draft<'_>,
) -> Choice {
    if let Some(choice) = requests(s, leader, draft) {
        return choice;
    }
    let document = s.snapshot().and_then(|snapshot| snapshot.members.get(leader));
    if let Divergence::Parted { .. } = s.divergence(document)
        && !s.view.settings.pause
    {
        draft.stop(StopMode::Fast);
        return (Reason::StoppingToRewind { leader: leader.clone() }, Wake::Progress);
    }
    let wanted = upstream(s, leader);
    if s.view.postgres.configuration == Configuration::Differs {
        draft.act(Action::ApplyConfiguration);
    }
    if let Some(choice) = slots::of_replica(s, leader, facts, draft) {
        return choice;
    }
    match &wanted {
        Upstream::Nobody | Upstream::Remote { .. } | Upstream::Other => {
            if facts.upstream != wanted {
                draft.act(Action::Follow { upstream: wanted.clone() });
            }
            (Reason::FollowingNobody, Wake::Loop)
        }
        Upstream::Member { name, .. } => {
            let name = name.clone();
            if facts.upstream != wanted {
                draft.act(Action::Follow { upstream: wanted });
                let lost = election::lost_to(s, leader, facts);
                return (lost.unwrap_or(Reason::ChangingUpstream { upstream: name }), Wake::Progress);
            }
            if facts.streaming {
                (Reason::Following { upstream: name }, Wake::Loop)
            } else {
                (Reason::WaitingForStream { upstream: name }, Wake::Progress)
            }
        }
    }
}

/// Answers what a person asked of a replica.
fn requests(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Option<Choice> {
    if let Some(request) = &s.view.requests.reinitialize {
        let under_way = draft.memory.reinitialize.filter(|asked| asked.id == request.id);
        if under_way.is_some_and(|asked| asked.began) {
            draft.memory.reinitialize = None;
            draft.act(Action::AnswerRequest { id: request.id, done: true });
            return None;
        }
        asked_for_copy(s, leader, draft)?;
        draft.stop(StopMode::Immediate);
        return Some((Reason::Reinitializing, Wake::Progress));
    }
    restart(s, draft)
}

/// Begins a restart of a server that does not answer; one that was begun is over only once the server does.
pub(super) fn restart_unready(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    match draft.memory.restart {
        Some(Restart { stopped: true, .. }) => None,
        Some(Restart { stopped: false, .. }) | None => restart(s, draft),
    }
}

/// Takes up what a person asked for: a new copy, or says no where there is nobody to copy from. A member that is down
/// for good is the one that needs it most.
pub(super) fn asked_for_copy(
    s: &Situation<'_>,
    leader: &MemberName,
    draft: &mut Draft<'_>,
) -> Option<Reinitialize> {
    let request = s.view.requests.reinitialize.as_ref()?;
    if let Some(asked) = draft.memory.reinitialize.filter(|asked| asked.id == request.id) {
        return Some(asked);
    }
    if source(s, leader, request.from_leader).is_none() {
        draft.act(Action::AnswerRequest { id: request.id, done: false });
        return None;
    }
    draft.memory.reinitialize = Some(Reinitialize { id: request.id, began: false });
    draft.memory.reinitialize
}

/// Begins, goes on with or answers a restart of a running server.
pub(super) fn restart(s: &Situation<'_>, draft: &mut Draft<'_>) -> Option<Choice> {
    let request = s.view.requests.restart.as_ref()?;
    if let Some(Restart { id, stopped }) = draft.memory.restart
        && id == request.id
    {
        if stopped {
            draft.memory.restart = None;
            draft.act(Action::AnswerRequest { id, done: true });
            return None;
        }
        draft.stop(StopMode::Fast);
        return Some((Reason::Restarting, Wake::Progress));
    }
    let role = super::draft::started(s.server);
    let wrong_role = request.only_role.is_some_and(|wanted| Some(wanted) != role);
    let needless = request.only_if_pending && !s.view.postgres.pending_restart;
    if wrong_role || needless {
        draft.act(Action::AnswerRequest { id: request.id, done: false });
        return None;
    }
    draft.memory.restart = Some(Restart { id: request.id, stopped: false });
    let checkpoint = matches!(s.server, Server::Primary(_));
    draft.act(Action::Stop { mode: StopMode::Fast, checkpoint });
    Some((Reason::Restarting, Wake::Progress))
}

/// Returns where a replica gets its WAL from: the member of its tag while that one runs, else the leader.
pub(super) fn upstream(s: &Situation<'_>, leader: &MemberName) -> Upstream {
    if s.view.tags.nostream {
        return Upstream::Nobody;
    }
    let running = |name: &MemberName| {
        *name != s.view.me
            && s.snapshot()
                .and_then(|snapshot| snapshot.members.get(name))
                .is_some_and(|member| member.facts.state == State::Running && !circular(s, member))
    };
    let tagged = s.view.tags.replicatefrom.as_ref().filter(|name| running(name));
    let name = tagged.unwrap_or(leader).clone();
    let slot = s.view.settings.use_slots.then(|| s.view.me.slot_name());
    Upstream::Member { name, slot }
}

/// Tells whether a member streams from this one by its own tag.
fn circular(s: &Situation<'_>, member: &Member) -> bool {
    member.facts.tags.replicatefrom.as_ref() == Some(&s.view.me)
}

/// Fills the data directory from another member.
pub(super) fn clone(s: &Situation<'_>, leader: &MemberName, replaces: bool, draft: &mut Draft<'_>) -> Choice {
    match source(s, leader, false) {
        None => (Reason::NobodyToClone, Wake::Loop),
        Some(source) => {
            let reason = Reason::Cloning { source: source.clone() };
            draft.start_job(Job::Clone { source, replaces }, reason)
        }
    }
}

/// Tells whether a member is a running leader, of a standby cluster too.
fn leads_running(member: &Member) -> bool {
    matches!(member.facts.role, Role::Primary | Role::StandbyLeader) && member.facts.state == State::Running
}

/// Returns whom to copy from: a running member that offers itself, else the leader once it is a running primary. After
/// a failed copy from another member it is the leader's turn.
pub(super) fn source(s: &Situation<'_>, leader: &MemberName, from_leader: bool) -> Option<MemberName> {
    let snapshot = s.snapshot()?;
    let failed = match &s.view.job {
        Some(JobReport { job: Job::Clone { source, .. }, state: JobState::Failed { .. }, .. }) => {
            Some(source)
        }
        Some(_) | None => None,
    };
    let offers = |(name, member): &(&MemberName, &Member)| {
        **name != s.view.me
            && *name != leader
            && failed != Some(*name)
            && member.facts.tags.clonefrom
            && member.facts.role == Role::Replica
            && member.facts.state == State::Running
    };
    let replica = snapshot.members.iter().find(offers).map(|(name, _)| name);
    let leads = snapshot.members.get(leader).is_some_and(leads_running);
    let leading = (leads && *leader != s.view.me && !matches!(s.lock, Lock::Free)).then_some(leader);
    let chosen = if from_leader { leading } else { replica.or(leading) };
    chosen.cloned()
}
