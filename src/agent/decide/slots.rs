//! Which replication slots a server should have, and what is to be done to those it has.
//!
//! Every member that may lead keeps a slot for every other one, at the position that the leader tells in `status`, so
//! that after a failover each finds its WAL wherever it turns. Permanent slots are kept alike; logical ones come to
//! replicas as copies of the leader's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::agent::view::{
    Member, PrimaryFacts, ReplicaFacts, Running, Slot, Snapshot, Started, Status, Tick,
};
use crate::cluster::slot::SlotKind;
use crate::cluster::{Lsn, MemberName, Role, State, Tags};
use crate::settings::Settings;

use super::draft::{Choice, Draft, Wake};
use super::situation::Situation;
use super::{Action, Reason};

/// How soon copies of logical slots are asked for again where the leader had none to give.
const COPY_AGAIN: Duration = Duration::from_secs(10);

/// A slot that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    kind: SlotKind,
    /// As far as its user is known to be.
    lsn: Option<Lsn>,
    /// Whether its user streams from here; None where nobody knows.
    used_here: Option<bool>,
}

/// Makes, drops and moves slots of a primary.
pub(super) fn of_primary(s: &Situation<'_>, facts: &PrimaryFacts, draft: &mut Draft<'_>) {
    keep(s, &facts.slots, Started::Primary, None, draft);
}

/// Makes, drops and moves slots of the leader of a standby cluster, from which its members stream.
pub(super) fn of_standby_leader(s: &Situation<'_>, facts: &ReplicaFacts, draft: &mut Draft<'_>) {
    keep(s, &facts.slots, Started::Primary, Some(facts.replayed), draft);
}

/// Makes, drops and moves slots of a replica; asks for copies of logical slots that it lacks.
pub(super) fn of_replica(
    s: &Situation<'_>,
    leader: &MemberName,
    facts: &ReplicaFacts,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    keep(s, &facts.slots, Started::Replica, Some(facts.replayed), draft);
    let snapshot = s.snapshot()?;
    let serves = snapshot
        .members
        .get(leader)
        .is_some_and(|member| member.facts.role == Role::Primary && member.facts.state == State::Running);
    let copies: BTreeMap<String, SlotKind> = wanted(s, snapshot, Started::Replica)
        .into_iter()
        .filter(|(name, wanted)| {
            !wanted.kind.is_physical() && wanted.lsn.is_some() && !facts.slots.contains_key(name)
        })
        .map(|(name, wanted)| (name, wanted.kind))
        .collect();
    if copies.is_empty() || s.view.settings.pause || !serves || !facts.streaming {
        return None;
    }
    if draft.memory.slots_copied.is_some_and(|at| s.now().since(at) < COPY_AGAIN) {
        return None;
    }
    draft.memory.slots_copied = Some(s.now());
    // The stop is left out if there is nothing to copy: the first action that fails ends the list.
    draft.act(Action::FetchSlots { source: leader.clone(), slots: copies });
    draft.stop(crate::agent::view::StopMode::Fast);
    Some((Reason::CopyingSlots { leader: leader.clone() }, Wake::Progress))
}

/// Moves slots on while etcd is silent, by what members tell each other; makes and drops none.
pub(super) fn in_silence(
    s: &Situation<'_>,
    found: &BTreeMap<String, Slot>,
    role: Started,
    replayed: Option<Lsn>,
    draft: &mut Draft<'_>,
) {
    let told = &s.view.failsafe.slots;
    let Some(last) = s.view.dcs.last().filter(|_| !told.is_empty() && s.view.settings.use_slots) else {
        return;
    };
    let mut snapshot = last.clone();
    if let Some(status) = &mut snapshot.status {
        for (name, lsn) in told {
            let at = status.value.slots.entry(name.clone()).or_default();
            *at = (*at).max(*lsn);
        }
    }
    let wanted = wanted(s, &snapshot, role);
    let advance: BTreeMap<String, (SlotKind, Lsn)> = found
        .iter()
        .filter_map(|(name, slot)| {
            let wanted = wanted.get(name).filter(|wanted| !spoilt(slot, wanted, false))?;
            Some((name.clone(), (slot.kind.clone(), ahead(slot, wanted, role, replayed)?)))
        })
        .collect();
    if !advance.is_empty() {
        draft.act(Action::KeepSlots { create: BTreeMap::new(), drop: BTreeSet::new(), advance });
    }
}

/// Returns the positions of a leader's slots, as the others are told them while etcd is silent.
pub(super) fn positions(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    found: &BTreeMap<String, Slot>,
    end: Lsn,
) -> BTreeMap<String, Lsn> {
    let wanted = wanted(s, snapshot, Started::Primary);
    let mut slots: BTreeMap<String, Lsn> = found
        .iter()
        .filter(|(name, slot)| wanted.get(*name).is_some_and(|wanted| wanted.kind == slot.kind))
        .filter_map(|(name, slot)| Some((name.clone(), slot.lsn?)))
        .collect();
    slots.insert(s.view.me.slot_name(), end);
    slots
}

fn keep(
    s: &Situation<'_>,
    found: &BTreeMap<String, Slot>,
    role: Started,
    replayed: Option<Lsn>,
    draft: &mut Draft<'_>,
) {
    let Some(snapshot) = s.snapshot().filter(|_| s.view.settings.use_slots) else { return };
    let wanted = wanted(s, snapshot, role);
    let led = snapshot.leader.is_some();
    let mut drop = BTreeSet::new();
    let mut advance = BTreeMap::new();
    for (name, slot) in found {
        if slot.failover {
            // Postgres makes the standbys' copies itself, but not where one of a former primary has the name.
            if role == Started::Replica && led && !slot.active && !s.view.settings.pause {
                drop.insert(name.clone());
            }
            continue;
        }
        let Some(wanted) = wanted.get(name) else {
            let ignored =
                s.view.settings.ignore_slots.iter().any(|matcher| matcher.matches(name, &slot.kind));
            if !ignored && !slot.active && !s.view.settings.pause {
                drop.insert(name.clone());
            }
            continue;
        };
        if spoilt(slot, wanted, led) {
            if !slot.active {
                drop.insert(name.clone());
            }
        } else if let Some(lsn) = ahead(slot, wanted, role, replayed) {
            advance.insert(name.clone(), (slot.kind.clone(), lsn));
        }
    }
    let create: BTreeMap<String, SlotKind> = wanted
        .into_iter()
        .filter(|(name, wanted)| {
            !found.contains_key(name) && (wanted.kind.is_physical() || role == Started::Primary)
        })
        .map(|(name, wanted)| (name, wanted.kind))
        .collect();
    let asked: BTreeSet<String> = create.keys().cloned().collect();
    if !asked.is_subset(&draft.memory.slots_asked) {
        draft.look_soon();
    }
    draft.memory.slots_asked = asked;
    if !create.is_empty() || !drop.is_empty() || !advance.is_empty() {
        draft.act(Action::KeepSlots { create, drop, advance });
    }
}

/// Tells whether a slot is of no use as it is, so that it is made anew.
fn spoilt(slot: &Slot, wanted: &Wanted, led: bool) -> bool {
    let physical = slot.kind.is_physical();
    // Nobody who could move it on uses it, and it would hold back vacuum for ever.
    let holds_vacuum = physical && slot.has_xmin && led && wanted.used_here == Some(false);
    let keeps_nothing = physical && slot.lsn.is_none() && wanted.used_here != Some(true);
    slot.kind != wanted.kind || slot.lost || holds_vacuum || keeps_nothing
}

/// Returns the position that an unused slot is to be moved on to.
fn ahead(slot: &Slot, wanted: &Wanted, role: Started, replayed: Option<Lsn>) -> Option<Lsn> {
    let physical = slot.kind.is_physical();
    let moved_by_user = if physical { wanted.used_here == Some(true) } else { role == Started::Primary };
    if slot.active || moved_by_user || (physical && slot.has_xmin) {
        return None;
    }
    let lsn = wanted.lsn?;
    let lsn = replayed.map_or(lsn, |replayed| lsn.min(replayed));
    slot.lsn.is_some_and(|at| at < lsn).then_some(lsn)
}

/// Returns the slots that this member should have while its server is of this role.
fn wanted(s: &Situation<'_>, snapshot: &Snapshot, role: Started) -> BTreeMap<String, Wanted> {
    let me = &s.view.me;
    let own = me.slot_name();
    let never_leads = s.view.tags.failover_priority() == 0;
    let status = snapshot.status.as_ref().map(|keyed| &keyed.value);
    let told = |name: &String| status.and_then(|status| status.slots.get(name)).copied();
    let leader = snapshot.leader.as_ref().map(|key| &key.name);
    let mut slots = BTreeMap::new();
    for (name, member) in &snapshot.members {
        let tags = &member.facts.tags;
        let follows_me = tags.replicatefrom.as_ref() == Some(me);
        let used_here = match role {
            Started::Primary => follows_me || !has_upstream(snapshot, tags),
            Started::Replica => follows_me && leader != Some(name),
        };
        let everywhere = !never_leads && !s.view.settings.member_slots_ttl.is_zero();
        let relevant = follows_me || everywhere || (used_here && s.view.settings.member_slots_ttl.is_zero());
        if name == me || tags.nostream || !relevant {
            continue;
        }
        let slot = name.slot_name();
        // The leader's slot of a member that streams from another one moves only by what that member says.
        let said = tags.replicatefrom.as_ref().and(member.facts.lsn);
        let lsn = said.max(told(&slot));
        slots.insert(slot, Wanted { kind: SlotKind::Physical, lsn, used_here: Some(used_here) });
    }
    if never_leads {
        return slots;
    }
    for slot in status.iter().flat_map(|status| &status.retain_slots).filter(|slot| **slot != own) {
        slots.entry(slot.clone()).or_insert_with(|| Wanted {
            kind: SlotKind::Physical,
            lsn: told(slot),
            used_here: None,
        });
    }
    let standby_cluster = &s.view.settings.standby_cluster;
    let feeds_back = !is_behind_nostream(snapshot, me, &s.view.tags);
    for (slot, kind) in &s.view.settings.permanent_slots {
        // In a standby cluster nothing is decoded.
        let decodes = standby_cluster.is_none() && (role == Started::Primary || feeds_back);
        let allowed = if kind.is_physical() { *slot != own } else { decodes };
        if allowed {
            let used_here = Some(role == Started::Primary && kind.is_physical());
            slots.entry(slot.clone()).or_insert_with(|| Wanted {
                kind: kind.clone(),
                lsn: told(slot),
                used_here,
            });
        }
    }
    slots
}

/// Tells whether a member streams from another one than the leader.
fn has_upstream(snapshot: &Snapshot, tags: &Tags) -> bool {
    tags.replicatefrom.as_ref().is_some_and(|upstream| snapshot.members.contains_key(upstream))
}

/// Tells whether no feedback of a member reaches the leader: somebody on the way reads the archive only.
fn is_behind_nostream(snapshot: &Snapshot, name: &MemberName, tags: &Tags) -> bool {
    let mut seen = BTreeSet::from([name]);
    let mut tags = tags;
    while !tags.nostream {
        let upstream = tags.replicatefrom.as_ref().and_then(|up| snapshot.members.get_key_value(up));
        let Some((up, member)) = upstream else { return false };
        if !seen.insert(up) {
            return true;
        }
        tags = &member.facts.tags;
    }
    true
}

/// Tells whether this member's server must tell its upstream which rows its logical slots, or those of members behind
/// it, need.
pub fn needs_feedback(snapshot: &Snapshot, settings: &Settings, me: &MemberName, tags: &Tags) -> bool {
    let logical = settings.permanent_slots.values().any(|kind| !kind.is_physical());
    if !logical
        || settings.standby_cluster.is_some()
        || !settings.use_slots
        || is_behind_nostream(snapshot, me, tags)
    {
        return false;
    }
    let mut through = BTreeSet::from([me.clone()]);
    let mut able = tags.failover_priority() > 0;
    loop {
        let behind: Vec<(&MemberName, &Member)> = snapshot
            .members
            .iter()
            .filter(|(name, member)| {
                let upstream = member.facts.tags.replicatefrom.as_ref();
                !through.contains(*name) && upstream.is_some_and(|upstream| through.contains(upstream))
            })
            .collect();
        able |= behind.iter().any(|(_, member)| member.facts.tags.failover_priority() > 0);
        if able || behind.is_empty() {
            return able;
        }
        through.extend(behind.into_iter().map(|(name, _)| name.clone()));
    }
}

/// Returns the `status` of a leader: its position, those of its slots, and the members whose slots are kept although
/// they may be away.
pub(super) fn status(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    found: &BTreeMap<String, Slot>,
    end: Lsn,
    draft: &mut Draft<'_>,
) -> Status {
    let mut slots = positions(s, snapshot, found, end);
    let timeline = match s.view.postgres.running() {
        Some(Running::Primary(facts)) => Some(facts.timeline),
        // That of a standby cluster is another cluster's.
        Some(Running::Replica(_)) | None => None,
    };
    let ttl = s.view.settings.member_slots_ttl;
    if ttl.is_zero() || !s.view.settings.use_slots {
        slots.retain(|name, _| s.view.settings.permanent_slots.contains_key(name));
        return Status { optime: Some(end), slots, retain_slots: BTreeSet::new(), timeline };
    }
    let before = snapshot.status.iter().flat_map(|keyed| &keyed.value.retain_slots);
    let mut seen: BTreeMap<String, Tick> = before.map(|slot| (slot.clone(), s.now())).collect();
    seen.extend(std::mem::take(&mut draft.memory.members_seen));
    let present = snapshot.members.iter().filter(|(_, member)| !member.facts.tags.nostream);
    seen.extend(present.map(|(name, _)| (name.slot_name(), s.now())));
    seen.retain(|slot, at| s.now().since(*at) < ttl && !s.view.settings.permanent_slots.contains_key(slot));
    let retain_slots = seen.keys().cloned().collect();
    draft.memory.members_seen = seen;
    Status { optime: Some(end), slots, retain_slots, timeline }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{END, Fixture, NOW, healthy, name, secs};
    use super::super::{Memory, Why, decide};
    use super::*;
    use crate::agent::view::{Deed, Running, View};
    use std::time::Duration;

    fn slot(lsn: u64) -> Slot {
        Slot {
            kind: SlotKind::Physical,
            active: false,
            lsn: Some(Lsn(lsn)),
            has_xmin: false,
            lost: false,
            failover: false,
        }
    }

    fn logical() -> SlotKind {
        SlotKind::Logical { database: "postgres".to_owned(), plugin: "pgoutput".to_owned() }
    }

    type Kept = (Vec<String>, Vec<String>, Vec<(String, u64)>);

    fn kept(view: &View) -> Kept {
        let decision = decide(view, &Memory::default());
        let found = decision.actions.iter().find_map(|action| match action {
            Action::KeepSlots { create, drop, advance } => Some((
                create.keys().cloned().collect(),
                drop.iter().cloned().collect(),
                advance.iter().map(|(name, (_, lsn))| (name.clone(), lsn.0)).collect(),
            )),
            _ => None,
        });
        found.unwrap_or_default()
    }

    fn replica(change: impl FnOnce(&mut Fixture)) -> View {
        let mut world = healthy("b");
        world.snapshot.status.as_mut().unwrap().value.slots = [("c".to_owned(), Lsn(500))].into();
        change(&mut world);
        let mut view = world.view();
        has(&mut view, &[]);
        view
    }

    fn has(view: &mut View, slots: &[(&str, Slot)]) {
        let Some(Running::Replica(facts)) = (match &mut view.postgres.process {
            crate::agent::view::Process::Running(running) => Some(running),
            _ => None,
        }) else {
            panic!("no replica")
        };
        facts.slots = slots.iter().map(|(name, slot)| ((*name).to_owned(), slot.clone())).collect();
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_replica_keeps_a_slot_for_every_other_member() {
        assert_eq!(kept(&replica(|_| {})).0, texts(&["a", "c"]));
        assert_eq!(kept(&replica(|f| f.view.tags.nofailover = true)).0, texts(&[]));
        let cascade = |f: &mut Fixture| {
            f.view.tags.nofailover = true;
            f.member("c").facts.tags.replicatefrom = Some(name("b"));
        };
        assert_eq!(kept(&replica(cascade)).0, texts(&["c"]));
        assert_eq!(kept(&replica(|f| f.member("c").facts.tags.nostream = true)).0, texts(&["a"]));
    }

    #[test]
    fn unused_slots_are_moved_on_and_strange_ones_dropped() {
        let mut view = replica(|f| {
            let matcher =
                crate::cluster::slot::SlotMatcher { name: Some("mine".to_owned()), ..Default::default() };
            f.view.settings.ignore_slots = vec![matcher];
        });
        has(&mut view, &[("a", slot(1)), ("c", slot(400)), ("mine", slot(1)), ("strange", slot(1))]);

        assert_eq!(kept(&view), (vec![], texts(&["strange"]), vec![("c".to_owned(), 500)]));
    }

    #[test]
    fn what_a_former_primary_has_of_a_failover_slot_makes_room_for_the_servers_copy() {
        let cdc = Slot { kind: logical(), failover: true, ..slot(400) };
        let mut view = replica(|_| {});
        has(&mut view, &[("a", slot(1)), ("c", slot(500)), ("cdc", cdc.clone())]);
        assert_eq!(kept(&view).1, texts(&["cdc"]));

        let of_primary = healthy("a").with(|f| f.primary().slots = [("cdc".to_owned(), cdc)].into()).view();
        assert_eq!(kept(&of_primary).1, texts(&[]));
    }

    #[test]
    fn a_slot_that_would_hold_back_vacuum_for_ever_is_made_anew() {
        let mut view = replica(|_| {});
        has(&mut view, &[("a", slot(1)), ("c", Slot { has_xmin: true, ..slot(400) })]);
        assert_eq!(kept(&view).1, texts(&["c"]));
    }

    #[test]
    fn permanent_slots_are_made_on_the_primary_and_logical_ones_copied_to_replicas() {
        let permanent = |f: &mut Fixture| {
            f.view.settings.permanent_slots =
                [("cdc".to_owned(), logical()), ("x".to_owned(), SlotKind::Physical)].into();
            f.snapshot.status.as_mut().unwrap().value.slots = [("cdc".to_owned(), Lsn(9))].into();
        };
        let primary = healthy("a").with(permanent).view();
        let mut follower = replica(permanent);
        has(&mut follower, &[("a", slot(1)), ("c", slot(1)), ("x", slot(1))]);

        let decision = decide(&follower, &Memory::default());
        let deeds: Vec<Deed> = decision.actions.iter().map(Action::deed).collect();
        let mut again = follower.clone();
        again.now = NOW + secs(1);

        assert_eq!(kept(&primary).0, texts(&["cdc", "x"]));
        assert_eq!(decision.reason, Reason::CopyingSlots { leader: name("a") });
        assert!(deeds.contains(&Deed::FetchSlots) && deeds.contains(&Deed::Stop), "{deeds:?}");
        assert!(matches!(decide(&again, &decision.memory).reason, Reason::Following { .. }));
    }

    #[test]
    fn a_new_slot_is_told_to_the_others_at_once_and_asked_for_in_no_circle() {
        let with = |slots: &[(&str, Slot)]| {
            let found = slots.iter().map(|(name, slot)| ((*name).to_owned(), slot.clone())).collect();
            healthy("a").with(|f| f.primary().slots = found).view()
        };
        let (without, whole) = (with(&[("b", slot(1))]), with(&[("b", slot(1)), ("c", slot(1))]));
        let first = decide(&without, &Memory::default());
        let again = decide(&without, &first.memory);
        let made = decide(&whole, &again.memory);

        assert_eq!(first.look_again, (NOW + Duration::from_millis(10), Why::AfterAction));
        assert_eq!(again.look_again.1, Why::LoopWait);
        assert!(!again.actions.iter().any(|action| action.deed() == Deed::WriteStatus));
        assert!(made.actions.iter().any(|action| action.deed() == Deed::WriteStatus), "{:?}", made.actions);
    }

    #[test]
    fn a_leader_retains_the_slots_of_members_that_went_away_for_a_while() {
        let view = |at: Tick, gone: bool| {
            let mut world = healthy("a");
            world.view.settings.permanent_slots = [("b".to_owned(), SlotKind::Physical)].into();
            if gone {
                world.snapshot.members.remove(&name("c"));
                let status = &mut world.snapshot.status.as_mut().unwrap().value;
                status.retain_slots = ["a", "c"].map(str::to_owned).into();
            }
            world.view.now = at;
            world.view.lease = crate::agent::view::Lease::Held {
                next: None,
                id: crate::agent::view::LeaseId(1),
                deadline: at + secs(30),
                stop_at: at + secs(27),
            };
            world.view()
        };
        let retained = |view: &View, memory: &Memory| {
            let decision = decide(view, memory);
            let status = decision.actions.iter().find_map(|action| match action {
                Action::WriteStatus { status, .. } => Some(status.clone()),
                _ => None,
            });
            (status, decision.memory)
        };
        let (first, memory) = retained(&view(NOW, false), &Memory::default());
        let (soon, memory) = retained(&view(NOW + secs(60), true), &memory);
        let (late, _) = retained(&view(NOW + secs(60 * 31), true), &memory);

        let first = first.unwrap();
        assert_eq!(first.retain_slots, BTreeSet::from(["a".to_owned(), "c".to_owned()]));
        assert_eq!(first.slots.get("a"), Some(&END));
        assert_eq!(soon, None, "nothing has changed");
        assert_eq!(late.unwrap().retain_slots, BTreeSet::from(["a".to_owned()]));
    }
}
