//! What hangs on this member's lease moves to its successor when another ttl is asked for: nothing is between two leases
//! at any time, and nobody sees a key go.
//!
//! The lock and the member document move in one transaction. Whether one that is not answered was carried out, the next
//! read tells; until then the lease counts that ends first.

use crate::agent::view::{Fence, LeaseId, Snapshot};

use super::Action;
use super::draft::Draft;
use super::situation::{LeaseWord, Lock, Server, Situation};

/// Returns the lease that the member document belongs under: that of the lock where this member has it.
pub(super) fn of_document(s: &Situation<'_>, id: LeaseId, next: Option<LeaseId>) -> LeaseId {
    match s.lock {
        Lock::Mine(fence) => fence.lease,
        Lock::Making(_) => id,
        Lock::OldMine(_) | Lock::Other(_) | Lock::Free | Lock::Unknown => next.unwrap_or(id),
    }
}

/// Returns the lock and where it moves to, if it is to move now: while nothing else that it fences is under way.
pub(super) fn moves(
    s: &Situation<'_>,
    id: LeaseId,
    next: Option<LeaseId>,
    draft: &Draft<'_>,
) -> Option<(Fence, LeaseId)> {
    let (Lock::Mine(fence), LeaseWord::Safe { .. }) = (s.lock, s.lease) else { return None };
    let next = next.filter(|_| fence.lease == id)?;
    let settings = &s.view.settings;
    let steady = match s.server {
        Server::Primary(_) => true,
        // It is about to be promoted, unless it leads as it is.
        Server::Replica(_) => settings.standby_cluster.is_some() || settings.pause,
        Server::NoData
        | Server::Unfinished
        | Server::Unreadable
        | Server::Down { .. }
        | Server::Starting { .. }
        | Server::Stopping { .. }
        | Server::Unresponsive { .. } => false,
    };
    let ends = draft.actions.iter().any(|action| {
        matches!(
            action,
            Action::Stop { .. }
                | Action::Disarm
                | Action::ReleaseLeaderKey { .. }
                | Action::HandOver { .. }
                | Action::Exit { .. }
        )
    });
    (steady && !ends && draft.memory.handover.is_none()).then_some((fence, next))
}

/// Returns the successor where nothing hangs on the lease before it any more.
pub(super) fn settles(s: &Situation<'_>, snapshot: &Snapshot, next: Option<LeaseId>) -> Option<LeaseId> {
    let next = next?;
    let locked = match s.lock {
        Lock::Mine(fence) => fence.lease == next,
        Lock::Making(_) | Lock::Unknown => false,
        Lock::OldMine(_) | Lock::Other(_) | Lock::Free => true,
    };
    let told = snapshot.members.get(&s.view.me).is_some_and(|member| member.lease == next);
    (locked && told).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW, healthy, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Deed, Lease, LeaseId, Process, Revision, Seen, StopMode, View};

    const NEXT: LeaseId = LeaseId(40);

    /// The member's view with a successor of its lease.
    fn changing(me: &str) -> Fixture {
        healthy(me).with(|f| {
            let Lease::Held { next, .. } = &mut f.view.lease else { panic!("it has a lease") };
            *next = Some(NEXT);
        })
    }

    fn deeds(view: &View, memory: &Memory) -> Vec<Deed> {
        let actions = decide(view, memory).actions;
        actions.iter().map(Action::deed).filter(|deed| *deed != Deed::Callback).collect()
    }

    fn moved(decision: &Decision) -> bool {
        decision.actions.iter().any(|action| matches!(action, Action::MoveLock { to: NEXT, .. }))
    }

    #[test]
    fn the_lock_moves_with_the_document_and_then_the_old_lease_may_end() {
        let first = decide(&changing("a").view(), &Memory::default());
        assert!(moved(&first), "{:?}", first.actions);
        assert!(!first.actions.iter().any(|action| action.deed() == Deed::PublishMember));

        let there = changing("a").with(|f| {
            let key = f.snapshot.leader.as_mut().unwrap();
            (key.lease, key.mod_revision) = (NEXT, Revision(21));
            f.member("a").lease = NEXT;
        });
        let second = decide(&there.view(), &first.memory);
        let fence = Fence { lease: NEXT, create_revision: Revision(5) };
        let deeds: Vec<Deed> = second.actions.iter().map(Action::deed).collect();
        assert!(second.actions.contains(&Action::Arm { fence }), "{deeds:?}");
        assert!(deeds.ends_with(&[Deed::SettleLease]), "{deeds:?}");
        assert!(!deeds.contains(&Deed::Stop) && !deeds.contains(&Deed::PublishMember), "{deeds:?}");
    }

    #[test]
    fn it_stays_where_the_lease_is_doubtful_or_the_server_is_on_its_way_down() {
        let mut doubtful = changing("a").view();
        doubtful.now = NOW + secs(28);
        assert!(!moved(&decide(&doubtful, &Memory::default())));

        let mut stopping = changing("a").view();
        stopping.postgres.process = Process::Stopping { mode: StopMode::Fast, since: NOW };
        assert!(!moved(&decide(&stopping, &Memory::default())));
    }

    #[test]
    fn whoever_follows_moves_its_document_alone() {
        let first = changing("b").view();
        assert_eq!(deeds(&first, &Memory::default()), [Deed::PublishMember]);

        let memory = decide(&first, &Memory::default()).memory;
        let there = changing("b").with(|f| f.member("b").lease = NEXT).view();
        assert_eq!(deeds(&there, &memory), [Deed::SettleLease]);
    }

    #[test]
    fn a_lock_handed_over_under_the_successor_is_its_own() {
        let handed = changing("b").with(|f| {
            let key = f.snapshot.leader.as_mut().unwrap();
            (key.name, key.lease) = ("b".parse().unwrap(), NEXT);
            f.member("b").lease = NEXT;
        });
        let decision = decide(&handed.view(), &Memory::default());

        assert!(decision.actions.iter().any(|action| action.deed() == Deed::Promote), "{decision:?}");
    }

    #[test]
    fn silence_moves_nothing() {
        let Fixture { mut view, snapshot } = changing("a");
        view.dcs = Seen::Stale { value: snapshot, since: NOW };

        assert_eq!(deeds(&view, &Memory::default()), []);
    }
}
