//! Turns a view's numbers into words: who holds the lock, what the server is, how far others are.
//!
//! Thresholds and arithmetic live here and have table tests; choices live in the rule files.

use std::time::Duration;

use crate::agent::view::{
    Answer, Control, ControlState, Data, Fence, Initialize, Keyed, LeaderKey, Lease, LeaseId, Member,
    PeerFacts, PrimaryFacts, Process, Remote, ReplicaFacts, Running, Seen, Snapshot, Started, StopMode, Tick,
    View,
};
use crate::cluster::{History, Lsn, MemberName, Role, State, Timeline};

use super::memory::Memory;

/// How old peers' answers may be to be judged by.
pub(super) const ANSWERS_FRESH: Duration = Duration::from_secs(1);

/// Who holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock<'a> {
    /// This member, under its own living lease.
    Mine(Fence),
    /// This member by name, under a lease that is not its own or is dead.
    OldMine(&'a LeaderKey),
    Other(&'a LeaderKey),
    /// Nobody does, and `initialize` is this member's claim under its own living lease: while the claim is there nobody
    /// can take the lock, so the server of the cluster in the making may write under it.
    Making(Fence),
    /// etcd has answered that nobody does.
    Free,
    /// etcd does not answer.
    Unknown,
}

/// How sure this member's lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseWord {
    /// Alive, and the first margin has not begun.
    Safe {
        id: LeaseId,
        deadline: Tick,
        stop_at: Tick,
    },
    /// The first margin has begun, or D has passed.
    Doubtful {
        deadline: Tick,
    },
    Lost,
    None,
}

impl LeaseWord {
    pub(super) fn of(lease: Lease, now: Tick) -> LeaseWord {
        match lease {
            Lease::None => LeaseWord::None,
            Lease::Lost { .. } => LeaseWord::Lost,
            Lease::Held { id, deadline, stop_at, .. } if now < stop_at => {
                LeaseWord::Safe { id, deadline, stop_at }
            }
            Lease::Held { deadline, .. } => LeaseWord::Doubtful { deadline },
        }
    }
}

/// What this member's server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server<'a> {
    NoData,
    /// Left by an interrupted clone.
    Unfinished,
    Unreadable,
    Down {
        control: &'a Control,
        crashed: bool,
    },
    Starting {
        role: Started,
        since: Tick,
        progressed: Tick,
    },
    Stopping {
        mode: StopMode,
        since: Tick,
    },
    Primary(&'a PrimaryFacts),
    Replica(&'a ReplicaFacts),
    Unresponsive {
        role: Started,
        since: Tick,
    },
}

impl<'a> Server<'a> {
    fn of(view: &'a View) -> Server<'a> {
        let down = |crashed| match &view.postgres.data {
            Data::Empty => Server::NoData,
            Data::Unfinished => Server::Unfinished,
            Data::Unreadable => Server::Unreadable,
            Data::Present(control) => Server::Down { control, crashed },
        };
        match &view.postgres.process {
            Process::Stopped => down(false),
            Process::Crashed => down(true),
            Process::Starting { role, since, progressed } => {
                Server::Starting { role: *role, since: *since, progressed: *progressed }
            }
            Process::Stopping { mode, since } => Server::Stopping { mode: *mode, since: *since },
            Process::Running(Running::Primary(facts)) => Server::Primary(facts),
            Process::Running(Running::Replica(facts)) => Server::Replica(facts),
            Process::Unresponsive { role, since } => Server::Unresponsive { role: *role, since: *since },
        }
    }

    /// Tells whether the server accepts writes or may come to.
    pub(super) fn may_write(self) -> bool {
        match self {
            Server::Primary(_) => true,
            Server::Starting { role, .. } | Server::Unresponsive { role, .. } => role == Started::Primary,
            Server::NoData
            | Server::Unfinished
            | Server::Unreadable
            | Server::Down { .. }
            | Server::Stopping { .. }
            | Server::Replica(_) => false,
        }
    }
}

/// What pg_control says the server was when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// A primary that wrote its shutdown checkpoint.
    CleanPrimary,
    /// A primary that did not.
    CrashedPrimary,
    Replica,
}

impl Was {
    pub(super) fn of(control: &Control) -> Was {
        if control.recovery_signal {
            return Was::Replica;
        }
        match control.state {
            ControlState::ShutDown => Was::CleanPrimary,
            ControlState::InProduction
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::StartingUp => Was::CrashedPrimary,
            ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => Was::Replica,
        }
    }
}

/// Whether this member's data is an ancestor of the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Divergence {
    None,
    /// What it takes to tell is not known yet.
    Unknown,
    /// A crashed primary's WAL has no readable end yet.
    CrashFirst,
    Parted {
        leader_timeline: Timeline,
    },
    /// Two timelines of the same number were begun, and this is of the other one: pg_rewind would see one timeline and do
    /// nothing.
    SameTimelineTwice,
    /// The data is an ancestor of the leader's, but WAL of this other timeline lies beside it, to which a start would lead.
    DeadWal {
        timeline: Timeline,
    },
}

/// A view and a memory, in words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) view: &'a View,
    pub(super) lock: Lock<'a>,
    pub(super) lease: LeaseWord,
    pub(super) server: Server<'a>,
}

impl<'a> Situation<'a> {
    pub(super) fn of(view: &'a View) -> Situation<'a> {
        let lease = LeaseWord::of(view.lease, view.now);
        Situation { view, lock: lock(view), lease, server: Server::of(view) }
    }

    pub(super) fn snapshot(&self) -> Option<&'a Snapshot> {
        self.view.dcs.now()
    }

    pub(super) fn now(&self) -> Tick {
        self.view.now
    }

    /// Returns the data where it is what an attempt to make a cluster has left, and not yet the cluster's.
    pub(super) fn unfinished(&self) -> Option<&'a Control> {
        let control = self.view.postgres.control().filter(|control| control.bootstrap_unfinished)?;
        let known = self.snapshot().and_then(|snapshot| snapshot.initialize.as_ref());
        let finished = known.is_some_and(|keyed| keyed.value == Initialize::Done(control.system_id));
        (!finished).then_some(control)
    }

    /// Returns the answers of the members reached, if they were asked at or after `since` and not too long ago.
    pub(super) fn answers_since(
        &self,
        since: Tick,
    ) -> Option<impl Iterator<Item = (&'a MemberName, &'a PeerFacts)>> {
        let asked = self.view.peers.asked?;
        if asked < since || self.now().since(asked) > ANSWERS_FRESH {
            return None;
        }
        let me = &self.view.me;
        Some(self.view.peers.answers.iter().filter_map(move |(name, answer)| match answer {
            Answer::Reached(facts) if name != me => Some((name, facts)),
            Answer::Reached(_) | Answer::Unreachable => None,
        }))
    }

    /// Returns the answer of one member, under the same conditions.
    pub(super) fn answer_since(&self, since: Tick, peer: &MemberName) -> Option<&'a PeerFacts> {
        self.answers_since(since)?.find(|(name, _)| *name == peer).map(|(_, facts)| facts)
    }

    /// Returns the highest timeline that the cluster is known to have reached.
    pub(super) fn known_timeline(&self, memory: &Memory) -> Option<Timeline> {
        let history = self.snapshot().and_then(|snapshot| snapshot.history.as_ref());
        let after_history =
            history.and_then(|keyed| keyed.value.last()).map(|entry| Timeline(entry.timeline.0 + 1));
        let in_status = self.snapshot().and_then(|snapshot| snapshot.status.as_ref()?.value.timeline);
        after_history.max(in_status).max(memory.leader_timeline)
    }

    /// Returns the leader's document while it says that it is a running primary.
    pub(super) fn running_primary(&self, leader: &MemberName) -> Option<&'a Member> {
        let member = self.snapshot()?.members.get(leader)?;
        (member.facts.role == Role::Primary && member.facts.state == State::Running).then_some(member)
    }

    /// Compares this member's data with the leader's.
    ///
    /// `leader` is the leader's document; its timeline counts only while it says that it is a running primary.
    pub(super) fn divergence(&self, leader: Option<&Member>) -> Divergence {
        // WAL of a standby cluster comes from elsewhere, and whether it parts is seen there.
        if leader.is_some_and(|member| member.facts.role == Role::StandbyLeader) {
            return Divergence::None;
        }
        let running_primary = leader
            .filter(|member| member.facts.role == Role::Primary && member.facts.state == State::Running);
        let Some((leader, theirs)) =
            running_primary.and_then(|member| Some((member, member.facts.timeline?)))
        else {
            return Divergence::Unknown;
        };
        self.divergence_from((theirs, self.branches(leader, theirs)))
    }

    /// Compares this member's data with that of the cluster which this standby cluster follows, if its primary answered a
    /// question of `since` or later.
    pub(super) fn divergence_from_remote(&self, since: Tick) -> Divergence {
        match self.remote().filter(|remote| remote.asked >= since) {
            Some(remote) => self.divergence_from((remote.timeline, Some((&remote.history, true)))),
            None => Divergence::Unknown,
        }
    }

    /// Returns what the other cluster's primary said last, unless that is another cluster than the data here is of.
    pub(super) fn remote(&self) -> Option<&'a Remote> {
        let mine = self.view.postgres.control().map(|control| control.system_id);
        self.view.remote.as_ref().filter(|remote| mine == Some(remote.system_id))
    }

    /// Tells whether another member's data is an ancestor of the other cluster's, by what its document says.
    pub(super) fn fits_remote(&self, member: &Member) -> bool {
        let (Some(remote), Some(timeline), Some(end)) =
            (self.remote(), member.facts.timeline, member.facts.lsn)
        else {
            return false;
        };
        let theirs = (remote.timeline, Some((&remote.history, true)));
        parted(theirs, (timeline, None), |switch| end > switch) == Divergence::None
    }

    /// Compares this member's data with that of a primary on a timeline which came to be so, as far as is known.
    fn divergence_from(&self, theirs: Theirs<'_>) -> Divergence {
        match self.server {
            Server::Replica(facts) => {
                let mine = (facts.timeline, facts.history.as_ref());
                parted(theirs, mine, |switch| facts.replayed > switch)
            }
            Server::Down { control, .. } => match Was::of(control) {
                // Each promotion begins a timeline, so only one member was ever primary on one. The leader is it.
                Was::CleanPrimary | Was::CrashedPrimary if control.reached() == theirs.0 => {
                    Divergence::SameTimelineTwice
                }
                Was::Replica => {
                    let (end, timeline) =
                        control.minimum_recovery.unwrap_or((control.checkpoint, control.timeline));
                    let data = parted(theirs, (timeline, control.history.as_ref()), |switch| end > switch);
                    let beyond = control.beyond.as_ref().filter(|_| data == Divergence::None);
                    match beyond {
                        Some((timeline, history)) if leads_away(theirs, *timeline, history) => {
                            Divergence::DeadWal { timeline: *timeline }
                        }
                        Some(_) | None => data,
                    }
                }
                // The shutdown checkpoint is the last record: it is shared if it begins before the branch.
                Was::CleanPrimary => {
                    let mine = (control.timeline, control.history.as_ref());
                    parted(theirs, mine, |switch| control.checkpoint >= switch)
                }
                Was::CrashedPrimary => Divergence::CrashFirst,
            },
            Server::NoData
            | Server::Unfinished
            | Server::Unreadable
            | Server::Starting { .. }
            | Server::Stopping { .. }
            | Server::Primary(_)
            | Server::Unresponsive { .. } => Divergence::Unknown,
        }
    }

    /// Returns how the leader's timeline came to be, and whether it is certain that this leader has said so: after a
    /// promotion the history of another timeline of this number may still be there.
    fn branches(&self, leader: &Member, theirs: Timeline) -> Option<(&'a History, bool)> {
        let keyed = self.snapshot()?.history.as_ref().filter(|keyed| keyed.value.leads_to(theirs))?;
        let written_since = match self.lock {
            Lock::Other(key) | Lock::OldMine(key) => keyed.mod_revision > key.mod_revision,
            Lock::Mine(_) | Lock::Making(_) | Lock::Free | Lock::Unknown => false,
        };
        let long_ago = leader.keddah && !leader.facts.checkpoint_pending;
        Some((&keyed.value, written_since || long_ago))
    }
}

/// A primary's timeline and how it came to be; whether it is certain that this primary has said so.
type Theirs<'a> = (Timeline, Option<(&'a History, bool)>);

/// Tells whether WAL of a timeline is surely none of the leader's.
fn leads_away(theirs: Theirs<'_>, timeline: Timeline, history: &History) -> bool {
    match parted(theirs, (timeline, Some(history)), |_| false) {
        Divergence::Parted { .. } | Divergence::SameTimelineTwice => true,
        Divergence::None | Divergence::Unknown | Divergence::CrashFirst | Divergence::DeadWal { .. } => false,
    }
}

/// Compares timelines with what is known of how they came to be; `beyond` tells whether this data goes on after a point
/// of its own timeline.
fn parted(
    (theirs, branches): Theirs<'_>,
    (mine, history): (Timeline, Option<&History>),
    beyond: impl Fn(Lsn) -> bool,
) -> Divergence {
    let parted = Divergence::Parted { leader_timeline: theirs };
    let certain = branches.filter(|(_, certain)| *certain).map(|(branches, _)| branches);
    if certain.zip(history).is_some_and(|(branches, history)| history.forks_in_place(branches)) {
        return Divergence::SameTimelineTwice;
    }
    if mine > theirs {
        return parted;
    }
    let forked = certain.zip(history).is_some_and(|(branches, history)| history.contradicts(branches));
    if mine == theirs {
        return if forked { Divergence::SameTimelineTwice } else { Divergence::None };
    }
    match branches {
        None => Divergence::Unknown,
        Some(_) if forked => parted,
        Some((branches, _)) => match branches.switch_point(mine) {
            Some(switch) if !beyond(switch) => Divergence::None,
            Some(_) | None => parted,
        },
    }
}

fn lock(view: &View) -> Lock<'_> {
    let Seen::Now(snapshot) = &view.dcs else { return Lock::Unknown };
    let lives = |lease: LeaseId| match view.lease {
        Lease::Held { id, next, deadline, .. } => (id == lease || next == Some(lease)) && view.now < deadline,
        Lease::None | Lease::Lost { .. } => false,
    };
    match (&snapshot.leader, &snapshot.initialize) {
        (Some(key), _) if key.name != view.me => Lock::Other(key),
        (Some(key), _) if lives(key.lease) => Lock::Mine(key.fence()),
        (Some(key), _) => Lock::OldMine(key),
        // A claim is put once, so the revision at which it was changed last is that of its making.
        (None, Some(Keyed { value: Initialize::UnderWay { lease }, mod_revision })) if lives(*lease) => {
            Lock::Making(Fence { lease: *lease, create_revision: *mod_revision })
        }
        (None, _) => Lock::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{control, healthy};
    use super::*;
    use crate::agent::view::Revision;
    use crate::cluster::HistoryEntry;

    #[test]
    fn a_lease_turns_doubtful_at_its_first_margin() {
        let lease = Lease::Held { id: LeaseId(1), next: None, deadline: Tick(30_000), stop_at: Tick(27_000) };

        for (now, safe) in [(0, true), (26_999, true), (27_000, false), (40_000, false)] {
            assert_eq!(matches!(LeaseWord::of(lease, Tick(now)), LeaseWord::Safe { .. }), safe, "{now}");
        }
    }

    #[test]
    fn silence_is_not_absence() {
        let mut view = healthy("b").view();
        let Seen::Now(snapshot) = view.dcs.clone() else { panic!("healthy") };
        view.dcs = Seen::Stale { value: Snapshot { leader: None, ..snapshot }, since: Tick(0) };

        assert_eq!(Situation::of(&view).lock, Lock::Unknown);
    }

    #[test]
    fn the_own_name_under_another_lease_is_not_the_lock() {
        let mut view = healthy("a").view();
        let (deadline, stop_at) = (Tick(2_000_000), Tick(1_900_000));
        view.lease = Lease::Held { id: LeaseId(99), next: None, deadline, stop_at };
        assert!(matches!(Situation::of(&view).lock, Lock::OldMine(_)));

        view.lease = Lease::Held { id: LeaseId(99), next: Some(LeaseId(1)), deadline, stop_at };
        assert!(matches!(Situation::of(&view).lock, Lock::Mine(_)), "unless that is to be its own");
    }

    /// Old primary on timeline 1, leader on timeline 2 that branched off at 1000.
    #[test]
    fn data_has_parted_where_it_ends_behind_the_branch() {
        let table = [
            (ControlState::ShutDown, 900, Divergence::None),
            (ControlState::ShutDown, 1_000, Divergence::Parted { leader_timeline: Timeline(2) }),
            (ControlState::InProduction, 900, Divergence::CrashFirst),
            (ControlState::ShutDownInRecovery, 1_000, Divergence::None),
            (ControlState::ShutDownInRecovery, 1_001, Divergence::Parted { leader_timeline: Timeline(2) }),
        ];
        for (state, end, expected) in table {
            let mut world = healthy("b").leader_timeline(2);
            let entry = HistoryEntry {
                timeline: Timeline(1),
                switch_point: Lsn(1_000),
                reason: "promoted".to_owned(),
                leader: None,
            };
            world = world.history(History(vec![entry]));
            let mut view = world.view();
            view.postgres.process = Process::Stopped;
            let recovery = matches!(state, ControlState::ShutDownInRecovery);
            view.postgres.data = Data::Present(Control {
                state,
                checkpoint: Lsn(end),
                minimum_recovery: recovery.then_some((Lsn(end), Timeline(1))),
                recovery_signal: recovery,
                ..control()
            });
            let situation = Situation::of(&view);
            let leader = situation.snapshot().and_then(|s| s.members.get(&"a".parse().unwrap()));

            assert_eq!(situation.divergence(leader), expected, "{state:?} {end}");
        }
    }

    /// `b` followed a leader on timeline 2 that left timeline 1 at 900; the one that leads now left it at 1000.
    #[test]
    fn data_of_a_dead_timeline_of_the_same_number_is_told_apart() {
        let began = |lsn, leader: Option<&str>| {
            History(vec![HistoryEntry {
                timeline: Timeline(1),
                switch_point: Lsn(lsn),
                reason: "no recovery target specified".to_owned(),
                leader: leader.map(|name| name.parse().unwrap()),
            }])
        };
        let left_at = |lsn| began(lsn, Some("a"));
        let divergence = |own: Option<History>, pending: bool, running: bool| {
            let mut world = healthy("b").leader_timeline(2).history(left_at(1_000));
            world.member("a").facts.checkpoint_pending = pending;
            world.snapshot.leader.as_mut().unwrap().mod_revision = Revision(7);
            let facts = world.replica();
            (facts.timeline, facts.history) = (Timeline(2), own.clone());
            let mut view = world.view();
            if !running {
                view.postgres.process = Process::Stopped;
                let minimum_recovery = Some((Lsn(2_000), Timeline(2)));
                let down = Control { minimum_recovery, history: own, ..control() };
                view.postgres.data = Data::Present(down);
            }
            let situation = Situation::of(&view);
            situation.divergence(situation.snapshot().and_then(|s| s.members.get(&"a".parse().unwrap())))
        };

        for running in [true, false] {
            assert_eq!(divergence(Some(left_at(900)), false, running), Divergence::SameTimelineTwice);
            assert_eq!(divergence(Some(left_at(1_000)), false, running), Divergence::None);
            assert_eq!(divergence(Some(left_at(900)), true, running), Divergence::None, "not certain yet");
            assert_eq!(
                divergence(Some(began(1_000, Some("b"))), false, running),
                Divergence::SameTimelineTwice
            );
            assert_eq!(divergence(Some(began(1_000, Some("b"))), true, running), Divergence::None);
            assert_eq!(divergence(Some(began(1_000, None)), false, running), Divergence::None);
            assert_eq!(divergence(None, false, running), Divergence::None, "nothing is known");
        }
    }

    #[test]
    fn a_history_with_a_missing_line_tells_nothing() {
        let mut view = healthy("b").leader_timeline(3).view();
        view.postgres.process = Process::Stopped;
        let situation = Situation::of(&view);
        let leader = situation.snapshot().and_then(|s| s.members.get(&"a".parse().unwrap()));

        assert_eq!(situation.divergence(leader), Divergence::Unknown);
    }
}
