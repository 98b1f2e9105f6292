//! Synchronous replication: one step at a time, in the order that never lets a member lead which lacks a commit.
//!
//! Start at [`step`]. What a taker begins with is [`set_of`]. Which steps are safe is the arithmetic of `agreement`; who should be synchronous is [`wanted`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::view::{CommitLevel, Fence, Member, PrimaryFacts, ReplicaFacts, Revision, Standby};
use crate::cluster::{Lsn, MemberName, State, SyncMode, SyncNames, SyncState};

use super::agreement::{Agreed, Goal, Standing, Step};
use super::draft::{Draft, Wake};
use super::memory::SyncChange;
use super::situation::Situation;
use super::{Action, Why};

/// How long the processes of a server may take to act on changed `synchronous_standby_names`.
///
/// Each WAL sender reads it by itself; one that has not may release a commit that the names have ceased to cover.
const SETTLE: Duration = Duration::from_millis(500);

/// How soon to look again for a standby that is not there yet.
const STANDBY_LOOK: Duration = Duration::from_secs(1);

/// Takes the next step towards the wanted set, if one is due.
pub(super) fn step(s: &Situation<'_>, fence: Fence, facts: &PrimaryFacts, draft: &mut Draft<'_>) -> Wake {
    let Some(snapshot) = s.snapshot() else { return Wake::Loop };
    let seen = snapshot.sync.as_ref().map_or(Revision(0), |keyed| keyed.mod_revision);
    let present = snapshot.sync.as_ref().map(|keyed| keyed.value.clone()).unwrap_or_default();
    let mode = s.view.settings.synchronous_mode;
    if mode == SyncMode::Off {
        return switch_off(fence, seen, &present, facts, draft);
    }
    let me = &s.view.me;
    if present.leader.as_ref() != Some(me) {
        let sync = SyncState { leader: Some(me.clone()), ..SyncState::default() };
        draft.act(Action::WriteSync { fence, seen, sync });
        return Wake::After;
    }
    let complete = complete(s, facts, draft);
    let quorum = usize::try_from(present.quorum).unwrap_or(usize::MAX);
    let goal = goal(mode, s, facts, &present.standbys);
    let standing =
        Standing { agreed: Agreed { voters: present.standbys, quorum }, names: &facts.sync_names, complete };
    match standing.step(&goal) {
        Step::Agree(Agreed { voters, quorum }) => {
            let quorum = u32::try_from(quorum).unwrap_or(u32::MAX);
            let sync = SyncState { leader: Some(me.clone()), standbys: voters, quorum };
            draft.act(Action::WriteSync { fence, seen, sync });
            Wake::After
        }
        Step::Wait => {
            draft.memory.sync_change = None;
            draft.act(Action::SetSyncNames { names: goal.names });
            Wake::After
        }
        Step::Settle => Wake::Progress,
        Step::Rest => until_standbys_stream(mode, s, standing.agreed.voters.len()),
    }
}

/// Returns when to look again while the set is not full: a standby that connects, or has caught up, is no event in etcd.
fn until_standbys_stream(mode: SyncMode, s: &Situation<'_>, have: usize) -> Wake {
    let others = s.snapshot().map_or(0, |snapshot| {
        let fit = |(name, member): &(&MemberName, &Member)| {
            **name != s.view.me
                && member.facts.state == State::Running
                && member.facts.tags.sync_priority() > 0
        };
        snapshot.members.iter().filter(fit).count()
    });
    let most = if mode.is_quorum() { usize::MAX } else { s.view.settings.synchronous_node_count };
    if have < most.min(others) { Wake::At(s.now() + STANDBY_LOOK, Why::Progress) } else { Wake::Loop }
}

/// Returns the synchronous set under which `taker` takes over; None where there is none and none is asked for.
///
/// Nobody holds what it will acknowledge. Strict mode acknowledges nothing alone, so there those who had everything
/// go on to: the standbys before, and who has led until then in the taker's place.
pub(super) fn set_of(s: &Situation<'_>, taker: &MemberName) -> Option<SyncState> {
    let mode = s.view.settings.synchronous_mode;
    let present = s.snapshot().and_then(|snapshot| snapshot.sync.as_ref()).map(|keyed| &keyed.value);
    let present = present.filter(|set| set.leader.is_some());
    let mut set = SyncState { leader: Some(taker.clone()), ..SyncState::default() };
    if let Some(before) = present.filter(|_| mode.is_strict()) {
        let others = before.standbys.iter().chain(&before.leader).filter(|name| *name != taker);
        let standbys: BTreeSet<MemberName> = others.cloned().collect();
        if usize::try_from(before.quorum).is_ok_and(|quorum| quorum < standbys.len()) {
            set = SyncState { standbys, quorum: before.quorum, ..set };
        }
    }
    (present.is_some() || mode != SyncMode::Off).then_some(set)
}

/// Makes a synchronous standby of strict mode ready to lead: whom its commits will wait for is set long before.
///
/// Set at the promotion it would wake recovery, which then asks the stopped leader for WAL once more and heeds the
/// promotion only after `wal_retrieve_retry_interval`.
pub(super) fn prepare(s: &Situation<'_>, facts: &ReplicaFacts, draft: &mut Draft<'_>) {
    let set = s.snapshot().and_then(|snapshot| snapshot.sync.as_ref()).map(|keyed| &keyed.value);
    if !set.is_some_and(|set| set.standbys.contains(&s.view.me)) {
        return;
    }
    let names = names_before_promotion(s.view.settings.synchronous_mode, set_of(s, &s.view.me).as_ref());
    if let Some(names) = names.filter(|names| facts.sync_names != *names) {
        draft.act(Action::SetSyncNames { names });
    }
}

/// Returns whom commits must wait for from the first moment on in strict mode; None in others.
pub(super) fn names_before_promotion(mode: SyncMode, set: Option<&SyncState>) -> Option<SyncNames> {
    let standbys = set.map(|set| set.standbys.clone()).unwrap_or_default();
    let quorum = set.map_or(0, |set| usize::try_from(set.quorum).unwrap_or(usize::MAX));
    mode.is_strict().then(|| match (standbys.is_empty(), mode.is_quorum()) {
        (true, _) => mode.names_of_nobody(),
        (false, true) => {
            SyncNames::Any { count: standbys.len().saturating_sub(quorum).max(1), names: standbys }
        }
        (false, false) => SyncNames::All(standbys),
    })
}

fn switch_off(
    fence: Fence,
    seen: Revision,
    present: &SyncState,
    facts: &PrimaryFacts,
    draft: &mut Draft<'_>,
) -> Wake {
    draft.memory.sync_change = None;
    if present.leader.is_some() {
        draft.act(Action::DeleteSync { fence, seen });
        return Wake::After;
    }
    match facts.sync_names {
        SyncNames::Off => Wake::Loop,
        SyncNames::All(_) | SyncNames::Any { .. } | SyncNames::Nobody | SyncNames::Foreign(_) => {
            draft.act(Action::SetSyncNames { names: SyncNames::Off });
            Wake::After
        }
    }
}

/// Returns where synchronous replication should come to.
fn goal(mode: SyncMode, s: &Situation<'_>, facts: &PrimaryFacts, present: &BTreeSet<MemberName>) -> Goal {
    let wanted = wanted(s, facts, present);
    let any = mode.is_quorum();
    let most = s.view.settings.synchronous_node_count;
    let mut standbys: BTreeSet<MemberName> =
        wanted.into_iter().take(if any { usize::MAX } else { most }).collect();
    // Strict mode commits nothing while they are away, so those that were synchronous still have everything.
    if standbys.is_empty() && mode.is_strict() {
        standbys = present.iter().filter(|name| !is_known_unfit(s, name)).cloned().collect();
    }
    let count = most.min(standbys.len());
    let names = match (standbys.is_empty(), any) {
        (true, _) => mode.names_of_nobody(),
        (false, true) => SyncNames::Any { count, names: standbys.clone() },
        (false, false) => SyncNames::All(standbys.clone()),
    };
    Goal { count: if any { count } else { standbys.len() }, standbys, any, names }
}

fn is_known_unfit(s: &Situation<'_>, name: &MemberName) -> bool {
    let member = s.snapshot().and_then(|snapshot| snapshot.members.get(name));
    member.is_some_and(|member| member.facts.tags.sync_priority() == 0)
}

/// Returns the standbys that have everything which was acknowledged before commits began to wait for the present names;
/// None while the server may still be taking them over.
fn complete(s: &Situation<'_>, facts: &PrimaryFacts, draft: &mut Draft<'_>) -> Option<BTreeSet<MemberName>> {
    let names = facts.sync_names.clone();
    let known = draft.memory.sync_change.take().filter(|change| change.names == names);
    let mut change = known.unwrap_or(SyncChange { names, seen: s.now(), lsn: None });
    if change.lsn.is_none() && s.now().since(change.seen) >= SETTLE {
        change.lsn = Some(facts.lsn);
    }
    let from = change.lsn;
    draft.memory.sync_change = Some(change);
    let passed = |standby: &Standby| from.is_some_and(|lsn| standby.sync && standby.flushed >= lsn);
    let passed = facts.standbys.iter().filter(|(_, standby)| passed(standby));
    from.map(|_| passed.map(|(name, _)| name.clone()).collect())
}

/// Returns the members that should be synchronous: running, streaming, allowed by their tags, near enough; those with
/// precedence first, and those in the set already before others of the same priority.
fn wanted(s: &Situation<'_>, facts: &PrimaryFacts, present: &BTreeSet<MemberName>) -> Vec<MemberName> {
    let Some(snapshot) = s.snapshot() else { return Vec::new() };
    let candidate = |(name, member): (&MemberName, &Member)| {
        let standby = facts.standbys.get(name)?;
        let position = position(facts.commit_level, standby);
        let behind = facts.lsn.bytes_ahead_of(position);
        let near = s.view.settings.maximum_lag_on_syncnode.is_none_or(|most| behind <= most);
        let fit = *name != s.view.me
            && member.facts.state == State::Running
            && member.facts.tags.sync_priority() > 0
            && standby.streaming
            && !streams_from_another(facts, member)
            && near;
        fit.then(|| {
            let tags = &member.facts.tags;
            let rank = (
                tags.failover_priority() > 0,
                tags.sync_priority(),
                present.contains(name),
                standby.sync,
                position,
            );
            (rank, name.clone())
        })
    };
    let mut candidates: Vec<_> = snapshot.members.iter().filter_map(candidate).collect();
    candidates.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    candidates.into_iter().map(|(_, name)| name).collect()
}

/// Returns how far a standby is in the sense of what commits wait for.
fn position(level: CommitLevel, standby: &Standby) -> Lsn {
    match level {
        CommitLevel::Write => standby.written,
        CommitLevel::Flush => standby.flushed,
        CommitLevel::Apply => standby.replayed,
    }
}

/// Tells whether a member belongs behind another one that streams from here: it will leave for there.
fn streams_from_another(facts: &PrimaryFacts, member: &Member) -> bool {
    let upstream = member.facts.tags.replicatefrom.as_ref();
    upstream.and_then(|name| facts.standbys.get(name)).is_some_and(|standby| standby.streaming)
}
