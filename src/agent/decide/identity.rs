//! Whose data this is: the identifier of the cluster, and what is done where etcd has lost it.
//!
//! A person may delete `initialize`, and nobody who holds data of the cluster may be there at that moment. So no new
//! cluster is made while anything else tells of one, and only a member whose data surely is the cluster's gives it its
//! identifier back.

use std::collections::BTreeSet;

use crate::agent::view::{Answer, Initialize, Member, Revision, Snapshot};
use crate::cluster::{MemberName, Role, State, SystemId};

use super::action::Identifier;
use super::draft::{Choice, Draft, Wake};
use super::situation::Situation;
use super::{Action, Reason};

/// Says why an empty member makes no new cluster although there is no identifier.
pub(super) fn not_new(s: &Situation<'_>, snapshot: &Snapshot) -> Option<Reason> {
    if let Some(key) = remains(snapshot) {
        return Some(Reason::RemainsOfCluster { key });
    }
    let (peer, _) = holders(s, snapshot).next()?;
    Some(Reason::DataElsewhere { peer: peer.clone() })
}

/// Returns what `initialize` must be for this member's data to be the cluster's, or why that cannot be told.
pub(super) fn of_cluster(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    draft: &mut Draft<'_>,
) -> Result<Identifier, Choice> {
    let seen = match &snapshot.initialize {
        None => Revision(0),
        Some(keyed) => match keyed.value {
            Initialize::Done(id) => return Ok(Identifier::Is(id)),
            Initialize::UnderWay { .. } => return Err((Reason::AnotherInitializes, Wake::Loop)),
            Initialize::Invalid => keyed.mod_revision,
        },
    };
    let Some(mine) = s.view.postgres.control().map(|control| control.system_id) else {
        return Err((Reason::UnreadableData, Wake::Loop));
    };
    if draft.memory.identifier == Some(mine) {
        return Ok(Identifier::Missing { seen });
    }
    let others: Vec<_> = holders(s, snapshot).collect();
    let differs = others.iter().find_map(|(peer, id)| Some((*peer, id.filter(|id| *id != mine)?)));
    if let Some((peer, theirs)) = differs {
        return Err((Reason::IdentifiersDiffer { peer: peer.clone(), mine, theirs }, Wake::Loop));
    }
    if let Some((peer, _)) = others.iter().find(|(_, id)| id.is_none()) {
        draft.act(Action::AskPeers { also: BTreeSet::new() });
        return Err((Reason::IdentifierUntold { peer: (*peer).clone() }, Wake::Loop));
    }
    // A primary's data is the cluster's that it leads. In a standby cluster, whose it is will be seen where it streams
    // from. A replica's data, alone in an empty place, may have come from anywhere.
    let told = draft.memory.adopting
        || s.view.settings.standby_cluster.is_some()
        || remains(snapshot).is_some()
        || !others.is_empty();
    if told { Ok(Identifier::Missing { seen }) } else { Err((Reason::NoIdentifier, Wake::Loop)) }
}

/// Returns the same for a running primary with this identifier, which leads the cluster that it is of.
pub(super) fn of_own(
    s: &Situation<'_>,
    snapshot: &Snapshot,
    mine: SystemId,
    draft: &mut Draft<'_>,
) -> Option<Identifier> {
    let initialize = of_cluster(s, snapshot, draft).ok()?;
    (!matches!(initialize, Identifier::Is(id) if id != mine)).then_some(initialize)
}

/// Names a key that only a cluster's leader writes, or what is left of the identifier.
fn remains(snapshot: &Snapshot) -> Option<&'static str> {
    let Snapshot { initialize, status, history, sync, failsafe, .. } = snapshot;
    let there = [
        ("initialize", initialize.is_some()),
        ("status", status.is_some()),
        ("history", history.is_some()),
        ("sync", sync.is_some()),
        ("failsafe", failsafe.is_some()),
    ];
    there.into_iter().find(|(_, there)| *there).map(|(key, _)| key)
}

/// Returns the other members that hold data, with its identifier where they tell it: in their documents, or, where
/// Patroni runs them, when they are asked.
fn holders<'a>(
    s: &Situation<'a>,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a MemberName, Option<SystemId>)> {
    let view = s.view;
    let others =
        snapshot.members.iter().filter(move |(name, member)| **name != view.me && holds_data(member));
    others.map(move |(name, member)| {
        let answered = match view.peers.answers.get(name) {
            Some(Answer::Reached(facts)) => facts.system_id,
            Some(Answer::Unreachable) | None => None,
        };
        (name, member.facts.system_id.or(answered))
    })
}

fn holds_data(member: &Member) -> bool {
    let none_yet = match member.facts.state {
        State::CreatingReplica
        | State::Initializing
        | State::InitializeFailed
        | State::CustomBootstrap
        | State::CustomBootstrapFailed
        // What lies there cannot be read: it is nobody's data.
        | State::Unknown => true,
        State::Running
        | State::Starting
        | State::StartFailed
        | State::Restarting
        | State::RestartFailed
        | State::Stopping
        | State::StopFailed
        | State::Stopped
        | State::Crashed => false,
    };
    // Whoever writes holds data, be it that of a cluster in the making.
    member.facts.role == Role::Primary
        || member.facts.system_id.is_some()
        || (member.facts.role != Role::Uninitialized && !none_yet)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, healthy, name};
    use super::super::{Decision, Memory, decide};
    use super::*;
    use crate::agent::view::{Control, Data, Deed, Keyed, Process};

    /// Nobody leads and somebody has deleted `initialize`.
    fn lost(me: &str) -> Fixture {
        healthy(me).leader_gone().with(|f| f.snapshot.initialize = None)
    }

    fn empty(world: Fixture) -> Fixture {
        world.with(|f| {
            f.view.postgres.data = Data::Empty;
            f.view.postgres.process = Process::Stopped;
        })
    }

    fn takes(decision: &Decision) -> bool {
        decision.actions.iter().any(|action| {
            let missing = Identifier::Missing { seen: Revision(0) };
            matches!(action, Action::TakeLeaderKey { compared, .. } if compared.initialize == missing)
        })
    }

    fn claims(decision: &Decision) -> bool {
        decision.actions.iter().any(|action| action.deed() == Deed::ClaimInitialize)
    }

    #[test]
    fn an_empty_member_makes_no_cluster_beside_what_is_left_of_one() {
        let remains = decide(&empty(lost("b")).view(), &Memory::default());
        let gone = empty(lost("b")).with(|f| {
            f.snapshot.status = None;
            f.snapshot.history = None;
        });
        let data = decide(&gone.clone().view(), &Memory::default());
        let free = gone.with(|f| drop(f.snapshot.members.remove(&name("c"))));
        let claim = decide(&free.view(), &Memory::default());

        assert_eq!(remains.reason, Reason::RemainsOfCluster { key: "status" });
        assert_eq!(data.reason, Reason::DataElsewhere { peer: name("c") });
        assert!(!claims(&remains) && !claims(&data) && claims(&claim));
    }

    #[test]
    fn a_replica_gives_the_cluster_its_identifier_back_where_nobody_has_another_one() {
        let agreed = decide(&lost("b").view(), &Memory::default());
        let other = lost("b").with(|f| f.member("c").facts.system_id = Some(SystemId(8)));
        let differs = decide(&other.clone().view(), &Memory::default());
        let known = Memory { identifier: Some(SystemId(7)), ..Memory::default() };
        let remembers = decide(&other.view(), &known);

        assert!(takes(&agreed) && !takes(&differs) && takes(&remembers));
        let peer = name("c");
        let reason = Reason::IdentifiersDiffer { peer, mine: SystemId(7), theirs: SystemId(8) };
        assert_eq!(differs.reason, reason);
    }

    #[test]
    fn a_member_that_does_not_tell_its_identifier_is_asked() {
        let untold = lost("b").with(|f| {
            f.member("c").facts.system_id = None;
            f.view.peers.answers.clear();
        });
        let decision = decide(&untold.view(), &Memory::default());

        assert_eq!(decision.reason, Reason::IdentifierUntold { peer: name("c") });
        assert!(decision.actions.contains(&Action::AskPeers { also: BTreeSet::new() }));
    }

    #[test]
    fn a_replica_s_data_alone_in_an_empty_place_waits() {
        let alone = lost("b").with(|f| {
            f.snapshot.status = None;
            f.snapshot.history = None;
            f.snapshot.members.remove(&name("c"));
        });

        assert_eq!(decide(&alone.view(), &Memory::default()).reason, Reason::NoIdentifier);
    }

    #[test]
    fn an_identifier_that_cannot_be_read_is_written_anew() {
        let spoilt = lost("b").with(|f| {
            let value = Initialize::Invalid;
            f.snapshot.initialize = Some(Keyed { value, mod_revision: Revision(9) });
        });
        let decision = decide(&spoilt.view(), &Memory::default());

        let compared = decision.actions.iter().find_map(|action| match action {
            Action::TakeLeaderKey { compared, .. } => Some(compared.initialize),
            _ => None,
        });
        assert_eq!(compared, Some(Identifier::Missing { seen: Revision(9) }));
    }

    #[test]
    fn unfinished_data_is_nobody_s() {
        let attempt = lost("c").with(|f| {
            f.view.postgres.process = Process::Stopped;
            let control = f.view.postgres.control().cloned().unwrap();
            f.view.postgres.data = Data::Present(Control { bootstrap_unfinished: true, ..control });
        });
        let decision = decide(&attempt.view(), &Memory::default());

        assert!(decision.actions.iter().all(|action| match action {
            Action::PublishMember { facts, .. } => facts.system_id.is_none(),
            _ => true,
        }));
    }
}
