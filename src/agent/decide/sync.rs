//! Synchronous replication: one step at a time, in the order that never names a standby which lacks a commit.
//!
//! Invariant: every member that etcd's `sync` names holds every commit acknowledged while it was named. So a standby is
//! taken out of `sync` before commits stop waiting for it, and comes in only after they have begun to, and it has
//! flushed everything from before.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::view::{Fence, Member, PrimaryFacts, Revision, Standby};
use crate::cluster::{MemberName, State, SyncMode, SyncNames, SyncState};

use super::Action;
use super::draft::{Draft, Wake};
use super::memory::SyncChange;
use super::situation::Situation;

/// How long the processes of a server may take to act on changed `synchronous_standby_names`.
///
/// Each WAL sender reads it by itself; one that has not may release a commit that the names have ceased to cover.
const SETTLE: Duration = Duration::from_millis(500);

/// Takes the next step towards the wanted set, if one is due.
pub(super) fn step(s: &Situation<'_>, fence: Fence, facts: &PrimaryFacts, draft: &mut Draft<'_>) -> Wake {
    let Some(snapshot) = s.snapshot() else { return Wake::Loop };
    let seen = snapshot.sync.as_ref().map_or(Revision(0), |keyed| keyed.mod_revision);
    let present = snapshot.sync.as_ref().map(|keyed| keyed.value.clone()).unwrap_or_default();
    if s.view.settings.synchronous_mode == SyncMode::Off {
        return switch_off(fence, seen, &present, facts, draft);
    }
    let me = &s.view.me;
    if present.leader.as_ref() != Some(me) {
        let sync = SyncState { leader: Some(me.clone()), ..SyncState::default() };
        draft.act(Action::WriteSync { fence, seen, sync });
        return Wake::After;
    }
    let wanted = wanted(s, facts, &present.standbys);
    let kept: BTreeSet<MemberName> = present.standbys.intersection(&wanted).cloned().collect();
    if kept != present.standbys {
        let sync = SyncState { leader: Some(me.clone()), standbys: kept, quorum: 0 };
        draft.act(Action::WriteSync { fence, seen, sync });
        return Wake::After;
    }
    let names = names(s.view.settings.synchronous_mode, &wanted);
    if facts.sync_names != names {
        draft.memory.sync_change = None;
        draft.act(Action::SetSyncNames { names });
        return Wake::After;
    }
    let passed = passed(s, facts, draft);
    let mut standbys = kept;
    standbys.extend(wanted.into_iter().filter(|name| facts.standbys.get(name).is_some_and(&passed)));
    if standbys == present.standbys {
        let coming = names.standbys() != standbys;
        return if coming { Wake::Progress } else { Wake::Loop };
    }
    draft.act(Action::WriteSync {
        fence,
        seen,
        sync: SyncState { leader: Some(me.clone()), standbys, quorum: 0 },
    });
    Wake::After
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
        SyncNames::All(_) | SyncNames::Nobody | SyncNames::Foreign(_) => {
            draft.act(Action::SetSyncNames { names: SyncNames::Off });
            Wake::After
        }
    }
}

fn names(mode: SyncMode, wanted: &BTreeSet<MemberName>) -> SyncNames {
    match (wanted.is_empty(), mode) {
        (true, SyncMode::Strict) => SyncNames::Nobody,
        (true, SyncMode::On | SyncMode::Off) => SyncNames::Off,
        (false, SyncMode::Strict | SyncMode::On | SyncMode::Off) => SyncNames::All(wanted.clone()),
    }
}

/// Returns a test whether a standby has everything that was acknowledged before commits began to wait for it.
fn passed(
    s: &Situation<'_>,
    facts: &PrimaryFacts,
    draft: &mut Draft<'_>,
) -> impl Fn(&Standby) -> bool + use<> {
    let names = facts.sync_names.clone();
    let known = draft.memory.sync_change.take().filter(|change| change.names == names);
    let mut change = known.unwrap_or(SyncChange { names, seen: s.now(), lsn: None });
    if change.lsn.is_none() && s.now().since(change.seen) >= SETTLE {
        change.lsn = Some(facts.lsn);
    }
    let from = change.lsn;
    draft.memory.sync_change = Some(change);
    move |standby: &Standby| standby.sync && from.is_some_and(|lsn| standby.flushed >= lsn)
}

/// Returns the members that should be synchronous: running, streaming, allowed by their tags, near enough; the wanted
/// number, those in the set already before others of the same priority.
fn wanted(s: &Situation<'_>, facts: &PrimaryFacts, present: &BTreeSet<MemberName>) -> BTreeSet<MemberName> {
    let Some(snapshot) = s.snapshot() else { return BTreeSet::new() };
    let candidate = |(name, member): (&MemberName, &Member)| {
        let standby = facts.standbys.get(name)?;
        let behind = facts.lsn.bytes_ahead_of(standby.flushed);
        let near = s.view.settings.maximum_lag_on_syncnode.is_none_or(|most| behind <= most);
        let fit = *name != s.view.me
            && member.facts.state == State::Running
            && member.facts.tags.sync_priority() > 0
            && standby.streaming
            && near;
        fit.then(|| {
            let tags = &member.facts.tags;
            let rank = (
                tags.failover_priority() > 0,
                tags.sync_priority(),
                present.contains(name),
                standby.sync,
                standby.flushed,
            );
            (rank, name.clone())
        })
    };
    let mut candidates: Vec<_> = snapshot.members.iter().filter_map(candidate).collect();
    candidates.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    candidates.into_iter().take(s.view.settings.synchronous_node_count).map(|(_, name)| name).collect()
}
