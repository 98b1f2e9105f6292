//! What a member does while another one leads.

use std::time::Duration;

use crate::agent::view::{
    Configuration, Guard, Job, JobReport, JobState, Member, ReplicaFacts, StopMode, Tick, Upstream,
};
use crate::cluster::{MemberName, Role, State};

use super::draft::{Choice, Draft, Wake};
use super::memory::{Reinitialize, Restart, Stuck};
use super::rewind::Home;
use super::situation::{Divergence, Lock, Server, Situation};
use super::{Action, Reason, election, remote, rewind, slots, stopping, sync};

/// How long a replica may neither stream nor move before its upstream is asked for the WAL that it lacks, and how often.
const STUCK: Duration = Duration::from_secs(15);

/// How long a start may do nothing where the configuration leaves a primary no time at all, and at least.
const HANGING: Duration = Duration::from_secs(300);
const HANGING_LEAST: Duration = Duration::from_secs(10);

pub(super) fn rule(s: &Situation<'_>, leader: &MemberName, draft: &mut Draft<'_>) -> Choice {
    close_gate(s, draft);
    match s.server {
        Server::NoData | Server::Unfinished => clone(s, leader, false, draft),
        Server::Unreadable => (Reason::UnreadableData, Wake::Loop),
        Server::Down { .. } => rewind::come_back(s, leader, draft),
        Server::Stopping { mode, since } => stopping(s, draft, mode, since),
        Server::Starting { since, progressed, .. } => restart_unready(s, draft)
            .or_else(|| hangs(s, since, progressed, draft))
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

/// Ends a start that does nothing for as long as a primary's may take. One that goes on doing something has all the time
/// that its WAL takes.
fn hangs(s: &Situation<'_>, since: Tick, progressed: Tick, draft: &mut Draft<'_>) -> Option<Choice> {
    let limit = match s.view.settings.primary_start_timeout {
        Duration::ZERO => HANGING,
        limit => limit.max(HANGING_LEAST),
    };
    if s.view.settings.pause || s.now().since(progressed) < limit {
        return None;
    }
    let starts = &mut draft.memory.starts;
    if starts.hung_since != Some(since) {
        (starts.hung, starts.hung_since) = (starts.hung.saturating_add(1), Some(since));
    }
    draft.stop(StopMode::Immediate);
    Some((Reason::ReplicaStartHangs { since }, Wake::Progress))
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
    let home = Home::of(s, leader);
    let (divergence, curable) = match home {
        Home::Leader(_) => {
            (s.divergence(s.snapshot().and_then(|snapshot| snapshot.members.get(leader))), true)
        }
        Home::Remote { .. } => {
            let divergence = remote::of_running(s, facts, draft);
            (divergence, rewind::is_curable(s, divergence, draft))
        }
    };
    let parted = matches!(divergence, Divergence::Parted { .. } | Divergence::SameTimelineTwice);
    if parted && curable && !s.view.settings.pause {
        draft.stop(StopMode::Fast);
        return (Reason::StoppingToRewind { leader: home.origin() }, Wake::Progress);
    }
    let wanted = upstream(s, leader);
    if s.view.postgres.configuration == Configuration::Differs {
        draft.act(Action::ApplyConfiguration);
    }
    sync::prepare(s, facts, draft);
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
                draft.memory.stuck = None;
                draft.memory.wal_gone = None;
                draft.memory.recovery.timelines_left = 0;
                return (Reason::Following { upstream: name }, Wake::Loop);
            }
            if parted && !curable {
                return (Reason::Diverged { leader: home.origin() }, Wake::Progress);
            }
            stuck(s, &name, facts, draft)
                .unwrap_or((Reason::WaitingForStream { upstream: name }, Wake::Progress))
        }
    }
}

/// A replica that gets no WAL, from its upstream or the archive, asks whether there is any for it. Where there is none,
/// its data is an old state of the leader's, and is copied anew where the configuration lets data go that cannot follow.
fn stuck(
    s: &Situation<'_>,
    upstream: &MemberName,
    facts: &ReplicaFacts,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    let here = facts.lsn();
    let fresh = Stuck { lsn: here, since: s.now(), asked: None };
    let known = draft.memory.stuck.filter(|stuck| stuck.lsn == here);
    let stuck = draft.memory.stuck.insert(known.unwrap_or(fresh));
    let Stuck { since, asked, .. } = *stuck;
    if s.now().since(since) < STUCK || s.view.settings.pause {
        return None;
    }
    if asked.is_none_or(|asked| s.now().since(asked) >= STUCK) {
        stuck.asked = Some(s.now());
        draft.act(Action::AskForWal { source: upstream.clone() });
        return None;
    }
    let answer = s.view.oldest_wal.as_ref();
    let oldest = answer.filter(|oldest| oldest.member == *upstream && oldest.asked >= since)?;
    if oldest.lsn <= here {
        return None;
    }
    let reason = Reason::WalGone { upstream: upstream.clone(), lsn: here };
    let allowed = s.view.settings.remove_data_directory_on_diverged_timelines;
    if !allowed || source(s, upstream, true).is_none() {
        return Some((reason, Wake::Loop));
    }
    draft.memory.wal_gone = Some(s.now());
    draft.stop(StopMode::Fast);
    Some((reason, Wake::Progress))
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
            let reason = Reason::Cloning { source: source.clone().into() };
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

#[cfg(test)]
mod tests {
    use super::super::fixture::{END, Fixture, NOW, healthy, name, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Deed, OldestWal, Process};
    use crate::cluster::Lsn;

    fn gives(decision: &Decision, deed: Deed) -> bool {
        decision.actions.iter().any(|action| action.deed() == deed)
    }

    /// `b` gets no WAL, so many seconds after it was first seen so.
    fn starved(seconds: u64, allowed: bool, oldest: Option<Lsn>) -> Fixture {
        let mut world = healthy("b").with(|f| {
            f.view.now = NOW + secs(seconds);
            f.view.settings.remove_data_directory_on_diverged_timelines = allowed;
            let asked = NOW + STUCK;
            f.view.oldest_wal = oldest.map(|lsn| OldestWal { member: name("a"), asked, lsn });
        });
        world.replica().streaming = false;
        world
    }

    /// The decision after those in which it began to be stuck and asked.
    fn after_asking(allowed: bool, oldest: Lsn) -> Decision {
        let begins = decide(&starved(0, allowed, None).view(), &Memory::default());
        let asks = decide(&starved(15, allowed, None).view(), &begins.memory);
        assert!(!gives(&begins, Deed::AskForWal) && gives(&asks, Deed::AskForWal));
        decide(&starved(16, allowed, Some(oldest)).view(), &asks.memory)
    }

    #[test]
    fn a_replica_for_which_there_is_wal_waits_for_it() {
        assert_eq!(after_asking(true, END).reason, Reason::WaitingForStream { upstream: name("a") });
    }

    #[test]
    fn one_for_which_none_is_left_is_copied_anew_where_that_is_allowed() {
        let gone = Reason::WalGone { upstream: name("a"), lsn: END };
        let kept = after_asking(false, Lsn(END.0 + 1));
        let stops = after_asking(true, Lsn(END.0 + 1));
        let down = starved(17, true, None).with(|f| f.view.postgres.process = Process::Stopped);
        let copies = decide(&down.view(), &stops.memory);

        assert!(kept.reason == gone && !gives(&kept, Deed::Stop));
        assert!(stops.reason == gone && gives(&stops, Deed::Stop));
        assert_eq!(copies.reason, Reason::CloningAfterDivergence { source: name("a").into() });
    }
}
