//! The arithmetic of synchronous replication: what etcd may say, given what commits wait for, and the next step from
//! one safe pair of both to the wanted one.
//!
//! A commit is acknowledged when `count` of the names have flushed it. A taker needs `quorum` + 1 of the voters (itself
//! counts as one), none of them ahead of it. Both meet in at least one member as long as
//! |voters ∪ names| ≤ count + quorum; with commits from before the present names, as long as no more than `quorum`
//! voters may lack them. Each step keeps both. Plain synchronous replication is the case of a quorum of zero.

use std::collections::BTreeSet;

use crate::cluster::{MemberName, SyncNames};

type Names = BTreeSet<MemberName>;

/// What etcd's `sync` says about everybody but the leader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Agreed {
    pub(super) voters: Names,
    pub(super) quorum: usize,
}

/// Where synchronous replication is to come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) standbys: Names,
    /// How many of them commits wait for; all of them unless `any`.
    pub(super) count: usize,
    pub(super) any: bool,
    pub(super) names: SyncNames,
}

/// How synchronous replication stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing<'a> {
    pub(super) agreed: Agreed,
    /// `synchronous_standby_names`, in force.
    pub(super) names: &'a SyncNames,
    /// The members that have every commit which was acknowledged before the names came into force; None while that
    /// moment is not known.
    pub(super) complete: Option<Names>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Write this to etcd.
    Agree(Agreed),
    /// Let commits wait for the goal's names.
    Wait,
    /// Nothing until standbys have flushed more.
    Settle,
    /// The goal is reached.
    Rest,
}

/// Returns the standbys that commits wait for, and how many of them; none and any number where nothing is committed.
fn waited(names: &SyncNames) -> (Names, usize) {
    match names {
        names if names.is_nobody() => (Names::new(), usize::MAX),
        SyncNames::Off | SyncNames::Nobody | SyncNames::Foreign(_) => (Names::new(), 0),
        SyncNames::All(names) => (names.clone(), names.len()),
        SyncNames::Any { count, names } => (names.clone(), *count),
    }
}

fn union(one: &Names, other: &Names) -> usize {
    one.union(other).count()
}

/// Tells whether each commit that `names` let through is with one of the members that a taker hears.
fn overlap(agreed: &Agreed, names: &SyncNames) -> bool {
    let (names, count) = waited(names);
    agreed.voters.is_empty() || union(&agreed.voters, &names) <= count.saturating_add(agreed.quorum)
}

impl Standing<'_> {
    /// Returns the next step to the goal.
    pub(super) fn step(&self, goal: &Goal) -> Step {
        if !overlap(&self.agreed, self.names) {
            return Step::Agree(Agreed::default()); // somebody else changed the names; nobody else can vouch for commits
        }
        if let Some(agreed) = self.reachable(goal).filter(|agreed| *agreed != self.agreed) {
            return Step::Agree(agreed);
        }
        if *self.names != goal.names {
            return if overlap(&self.agreed, &goal.names) {
                Step::Wait
            } else {
                Step::Agree(self.shrunk(goal))
            };
        }
        if self.agreed == goal.agreed() { Step::Rest } else { Step::Settle }
    }

    /// Returns what etcd may say at this moment that is nearest to the goal.
    fn reachable(&self, goal: &Goal) -> Option<Agreed> {
        if goal.any {
            let quorum = self.least_quorum(&goal.standbys).max(goal.standbys.len() - goal.count);
            let agreed = Agreed { voters: goal.standbys.clone(), quorum };
            return agreed.is_of_use().then_some(agreed);
        }
        let kept: Names = self.agreed.voters.intersection(&goal.standbys).cloned().collect();
        let complete = self.complete.iter().flatten().filter(|name| goal.standbys.contains(*name));
        let come: Names = kept.iter().chain(complete).cloned().collect();
        let voters = [goal.standbys.clone(), come, kept].into_iter().find(|v| self.least_quorum(v) == 0)?;
        Some(Agreed { voters, quorum: 0 })
    }

    /// Returns the smallest quorum that these voters may be given.
    fn least_quorum(&self, voters: &Names) -> usize {
        let before = &self.agreed.voters;
        if voters.is_empty() {
            return 0;
        }
        // Whoever hears so many of these hears enough of those before.
        let anyway = self.agreed.quorum + voters.difference(before).count();
        let Some(complete) = &self.complete else { return anyway };
        let lack = |name: &&MemberName| !complete.contains(*name);
        // At most `quorum` of the voters before lack an earlier commit, whatever else is known of them.
        let stay = voters.intersection(before).filter(lack).count().min(self.agreed.quorum);
        let come = voters.difference(before).filter(lack).count();
        let (names, count) = waited(self.names);
        let later = union(voters, &names).saturating_sub(count);
        anyway.min(later.max(stay + come))
    }

    /// Returns fewer voters, or a larger quorum, with which the goal's names are safe.
    fn shrunk(&self, goal: &Goal) -> Agreed {
        let voters: Names = self.agreed.voters.intersection(&goal.standbys).cloned().collect();
        let (names, count) = waited(&goal.names);
        let quorum = self.agreed.quorum.max(union(&voters, &names).saturating_sub(count));
        let agreed = Agreed { voters, quorum };
        if agreed.is_of_use() { agreed } else { Agreed::default() }
    }
}

impl Goal {
    fn agreed(&self) -> Agreed {
        Agreed { voters: self.standbys.clone(), quorum: self.standbys.len() - self.count }
    }
}

impl Agreed {
    /// Tells whether anybody could ever have enough votes; nobody as a voter is of use, since it says so.
    fn is_of_use(&self) -> bool {
        self.quorum < self.voters.len() || (self.voters.is_empty() && self.quorum == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMBERS: [&str; 4] = ["b", "c", "d", "e"];

    fn set(mask: usize) -> Names {
        let chosen = MEMBERS.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
        chosen.map(|(_, name)| name.parse().unwrap()).collect()
    }

    fn goal(standbys: Names, wanted: usize, any: bool) -> Goal {
        let standbys: Names = if any { standbys } else { standbys.into_iter().take(wanted).collect() };
        let count = wanted.min(standbys.len());
        let names = match (standbys.is_empty(), any) {
            (true, _) => SyncNames::Off,
            (false, true) => SyncNames::Any { count, names: standbys.clone() },
            (false, false) => SyncNames::All(standbys.clone()),
        };
        Goal { standbys, count, any, names }
    }

    fn steps<'a>(mut standing: Standing<'a>, goal: &'a Goal) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..20 {
            match standing.step(goal) {
                Step::Agree(agreed) => {
                    let voters: Vec<&str> = agreed.voters.iter().map(MemberName::as_str).collect();
                    told.push(format!("sync {}/{}", voters.join(","), agreed.quorum));
                    standing.agreed = agreed;
                }
                Step::Wait => {
                    told.push("names".to_owned());
                    standing = Standing { names: &goal.names, ..standing };
                    standing.complete = None;
                }
                Step::Settle if standing.complete.is_none() => {
                    standing.complete = Some(goal.standbys.clone());
                }
                Step::Settle => panic!("all is known and nothing follows: {standing:?} to {goal:?}"),
                Step::Rest => return told,
            }
        }
        panic!("no end: {told:?}");
    }

    fn from(voters: usize, quorum: usize, names: &SyncNames) -> Standing<'_> {
        Standing { agreed: Agreed { voters: set(voters), quorum }, names, complete: None }
    }

    #[test]
    fn steps_come_in_the_safe_order() {
        let any = |count, names| SyncNames::Any { count, names: set(names) };
        let all = |names| SyncNames::All(set(names));
        let table = [
            ("the first standbys", (0, 0, SyncNames::Off), goal(set(0b11), 1, true), "names; sync b,c/1"),
            ("one more standby", (0b1, 0, any(1, 0b1)), goal(set(0b11), 1, true), "sync b,c/1; names"),
            ("one standby less", (0b11, 1, any(1, 0b11)), goal(set(0b1), 1, true), "names; sync b/0"),
            ("the last standby lost", (0b1, 0, any(1, 0b1)), goal(set(0), 1, true), "sync /0; names"),
            ("wait for more", (0b11, 1, any(1, 0b11)), goal(set(0b11), 2, true), "names; sync b,c/0"),
            ("wait for fewer", (0b11, 0, any(2, 0b11)), goal(set(0b11), 1, true), "sync b,c/1; names"),
            ("quorum to all", (0b11, 1, any(1, 0b11)), goal(set(0b10), 1, false), "names; sync c/0"),
            ("all to quorum", (0b1, 0, all(0b1)), goal(set(0b11), 1, true), "sync b,c/1; names"),
            ("another instead", (0b1, 0, all(0b1)), goal(set(0b10), 1, false), "sync /0; names; sync c/0"),
            ("two gone", (0b111, 1, any(2, 0b111)), goal(set(0b100), 2, true), "sync /0; names; sync d/0"),
        ];
        for (what, (voters, quorum, names), goal, expected) in table {
            assert_eq!(steps(from(voters, quorum, &names), &goal).join("; "), expected, "{what}");
        }
    }

    #[test]
    fn names_that_somebody_else_wrote_leave_no_voter() {
        let foreign = SyncNames::Foreign("*".to_owned());
        let step = from(0b1, 0, &foreign).step(&goal(set(0b1), 1, true));
        assert_eq!(step, Step::Agree(Agreed::default()));
    }

    /// A commit, and who has flushed it.
    type Commit = usize;

    /// Tells whether some set of voters that suffices for a taker lacks the commit.
    fn lost(agreed: &Agreed, holders: Commit) -> bool {
        let lacking = agreed.voters.difference(&set(holders)).count();
        !agreed.voters.is_empty() && lacking > agreed.quorum
    }

    /// Returns the sets of holders with which a commit is acknowledged.
    fn acknowledged(names: &SyncNames) -> Vec<Commit> {
        let (names, count) = waited(names);
        (0..1 << MEMBERS.len())
            .filter(|holders| set(*holders).intersection(&names).count() >= count)
            .collect()
    }

    proptest! {
        /// From whatever goal to whatever goal, with standbys that fall behind and catch up: no commit is ever out of
        /// the sight of a taker.
        #[test]
        fn no_commit_is_out_of_a_takers_sight(
            goals in prop::collection::vec((0usize..16, 1usize..4, any::<bool>(), 0usize..16, 0usize..12), 1..12)
        ) {
            let mut agreed = Agreed::default();
            let mut in_force = SyncNames::Off;
            // Commits, each with those that surely have it; a list of the worst that may have been acknowledged.
            let mut commits: Vec<Commit> = acknowledged(&in_force);
            let mut complete: Option<Names> = None;
            for (active, wanted, any, catching_up, looks) in goals {
                let goal = goal(set(active), wanted, any);
                for _ in 0..looks {
                    let standing = Standing { agreed: agreed.clone(), names: &in_force, complete: complete.clone() };
                    match standing.step(&goal) {
                        Step::Agree(next) => agreed = next,
                        Step::Wait => {
                            in_force = goal.names.clone();
                            complete = None;
                            commits.extend(acknowledged(&in_force));
                        }
                        Step::Settle => {
                            // The moment is known from here on, and some have all from before it.
                            let flushed = complete.as_ref().map_or(0, |_| catching_up);
                            for holders in &mut commits {
                                *holders |= flushed;
                            }
                            complete = Some(complete.take().unwrap_or_default().union(&set(flushed)).cloned().collect());
                            commits.extend(acknowledged(&in_force));
                        }
                        Step::Rest => {}
                    }
                    for holders in &commits {
                        prop_assert!(!lost(&agreed, *holders), "{agreed:?} {in_force:?} {holders:b}");
                    }
                }
            }
        }
    }
}
