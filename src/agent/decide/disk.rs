//! What a member does where its volumes have no room: it starts and promotes nothing that would end for the same reason,
//! leaves the lock to a member that has room, and keeps clients from writing while the brake is on.

use std::time::Duration;

use crate::agent::view::{Control, Fence, Room, Tick};
use crate::cluster::Lsn;

use super::draft::{Choice, Draft, Wake, successors};
use super::memory::Starts;
use super::situation::{Server, Situation, Was};
use super::{Action, Reason, Why, leader};

/// How soon to look again whether there is room.
const LOOK: Duration = Duration::from_secs(1);

/// The shortest time between looks at space that goes.
const SHORTEST_LOOK: Duration = Duration::from_millis(250);

/// Waits for room.
pub(super) fn wait(s: &Situation<'_>) -> Choice {
    (Reason::NoRoom, Wake::At(s.now() + LOOK, Why::Limit))
}

pub(super) fn is_full(s: &Situation<'_>) -> bool {
    s.view.disk.room == Room::Full
}

/// The lock is held and a primary has ended without its shutdown checkpoint. Without room its recovery would end like
/// that too, so another member leads, or all wait. None: there is room, or it ended well and needs none.
pub(super) fn keep_down(
    s: &Situation<'_>,
    fence: Fence,
    control: &Control,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    if !is_full(s) || Was::of(control) != Was::CrashedPrimary {
        return None;
    }
    // What was tried without room says nothing about a start with it.
    draft.memory.starts = Starts::default();
    Some(leave_or_wait(s, fence, None, draft))
}

/// The lock is held, and there is no room for what a promotion writes.
pub(super) fn keep_in_recovery(
    s: &Situation<'_>,
    fence: Fence,
    lsn: Lsn,
    draft: &mut Draft<'_>,
) -> Option<Choice> {
    is_full(s).then(|| leave_or_wait(s, fence, Some(lsn), draft))
}

fn leave_or_wait(s: &Situation<'_>, fence: Fence, lsn: Option<Lsn>, draft: &mut Draft<'_>) -> Choice {
    let told = s.snapshot().and_then(|snapshot| snapshot.status.as_ref()?.value.optime);
    // Who lacks too much would not stand.
    if successors(s, lsn.or(told)).is_empty() {
        return wait(s);
    }
    leader::release(s, fence, lsn, draft);
    (Reason::FullMeansFailover, Wake::After)
}

/// Puts the brake on, holds it, or lets it go. Returns whether it is on.
pub(super) fn brake(s: &Situation<'_>, draft: &mut Draft<'_>) -> bool {
    let on = s.view.disk.brake;
    if on || s.view.postgres.braked {
        draft.act(Action::Brake { on });
    }
    on
}

/// Returns when to look again at a primary's space: while it goes, after half of the time that is left until the next
/// limit; and soon while clients wait for its return.
pub(super) fn next_look(s: &Situation<'_>) -> Option<Tick> {
    let Server::Primary(_) = s.server else { return None };
    let going = s.view.disk.left.map(|left| (left / 2).max(SHORTEST_LOOK));
    let waiting = s.view.disk.brake.then_some(LOOK);
    Some(s.now() + going.into_iter().chain(waiting).min()?)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW, control, healthy, secs};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::*;

    fn full(world: Fixture) -> Fixture {
        world.with(|f| f.view.disk.room = Room::Full)
    }

    /// `a` holds the lock and its primary has ended by itself.
    fn crashed() -> Fixture {
        healthy("a").with(|f| {
            f.view.postgres.process = Process::Crashed;
            f.view.postgres.data = Data::Present(Control {
                state: ControlState::InProduction,
                recovery_signal: false,
                ..control()
            });
        })
    }

    fn others_are(room: Room) -> impl FnOnce(&mut Fixture) {
        move |f| f.snapshot.members.values_mut().for_each(|member| member.facts.room = room)
    }

    fn decision(world: Fixture) -> Decision {
        decide(&world.view(), &Memory::default())
    }

    fn gives(decision: &Decision, deed: Deed) -> bool {
        decision.actions.iter().any(|action| action.deed() == deed)
    }

    #[test]
    fn a_primary_that_ended_for_lack_of_room_is_not_started_again() {
        let to_others = decision(full(crashed()));
        let all_full = decision(full(crashed()).with(others_are(Room::Full)));
        let with_room = decision(crashed());

        assert_eq!(to_others.reason, Reason::FullMeansFailover);
        assert!(gives(&to_others, Deed::ReleaseLeaderKey) && !gives(&to_others, Deed::StartPrimary));
        assert_eq!(all_full.reason, Reason::NoRoom);
        assert!(!gives(&all_full, Deed::ReleaseLeaderKey) && !gives(&all_full, Deed::StartPrimary));
        assert!(gives(&with_room, Deed::StartPrimary));
    }

    #[test]
    fn starts_without_room_do_not_count_against_one_with_it() {
        let memory =
            Memory { starts: Starts { tried: 2, last: Some(NOW), ..Starts::default() }, ..Memory::default() };
        let waits = decide(&full(crashed()).with(others_are(Room::Full)).view(), &memory);

        assert!(gives(&decide(&crashed().view(), &waits.memory), Deed::StartPrimary));
    }

    #[test]
    fn a_clean_stop_needs_no_room() {
        let world = full(crashed()).with(|f| {
            f.view.postgres.process = Process::Stopped;
            f.view.postgres.data =
                Data::Present(Control { state: ControlState::ShutDown, recovery_signal: false, ..control() });
        });

        assert!(gives(&decision(world), Deed::StartPrimary));
    }

    #[test]
    fn a_member_without_room_does_not_stand_and_nobody_waits_for_it() {
        let since = Memory { leaderless_since: Some(NOW), ..Memory::default() };
        let stands = decide(&full(healthy("b").leader_gone()).view(), &since);
        let ahead = healthy("c").leader_gone().peer("b", |facts| {
            facts.lsn = Lsn(facts.lsn.0 + 8);
            facts.room = Room::Full;
        });

        assert_eq!(stands.reason, Reason::NoRoom);
        assert!(gives(&decide(&ahead.view(), &since), Deed::TakeLeaderKey));
    }

    #[test]
    fn a_promotion_waits_for_room_or_another_member() {
        let replica = healthy("b").view.postgres.process;
        let holds = full(healthy("a").with(|f| f.view.postgres.process = replica));

        assert_eq!(decision(holds.clone()).reason, Reason::FullMeansFailover);
        let all_full = decision(holds.with(others_are(Room::Full)));
        assert_eq!(all_full.reason, Reason::NoRoom);
        assert!(!gives(&all_full, Deed::Promote));
    }

    #[test]
    fn the_brake_is_held_and_let_go() {
        let braked = healthy("a").with(|f| f.view.disk.brake = true);
        let let_go = healthy("a").with(|f| f.view.postgres.braked = true);
        let on = decision(braked);
        let off = decision(let_go);

        assert_eq!(on.reason, Reason::LeadingBraked);
        assert!(on.actions.contains(&Action::Brake { on: true }));
        assert_eq!(off.reason, Reason::Leading);
        assert!(off.actions.contains(&Action::Brake { on: false }));
        assert!(!gives(&decision(healthy("a")), Deed::Brake));
        let mut silent = healthy("a").with(|f| f.view.disk.brake = true).view();
        silent.dcs = Seen::Never;
        assert!(gives(&decide(&silent, &Memory::default()), Deed::Brake));
        // A file that cannot be written keeps no word from the others.
        assert!(matches!(on.actions.last(), Some(Action::Brake { .. })));
    }

    #[test]
    fn space_that_goes_is_looked_at_before_it_has_gone() {
        let look = |left: u64| {
            let world = healthy("a").with(|f| f.view.disk.left = Some(secs(left)));
            decision(world).look_again
        };

        assert_eq!(look(4), (NOW + secs(2), Why::Limit));
        assert_eq!(look(0), (NOW + SHORTEST_LOOK, Why::Limit));
        assert_eq!(look(10_000).1, Why::LoopWait);
    }
}
