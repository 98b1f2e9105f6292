//! What is wrong with a cluster, the cause first: from what its keys hold, what members told before they went, and what
//! they answer.
//!
//! Reasons are known here by their codes, as they stand in etcd: a member may run another version of this program.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::UnixMs;
use crate::contract::explain::{Account, Told};
use crate::contract::failover::parse_time;
use crate::contract::rest::ClusterView;

/// What a member answers at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Code and sentence of its reason; a member that Patroni runs has none.
    Answers(Option<(String, String)>),
    /// Nothing listens where its agent did.
    Refuses,
    /// No way leads to its host.
    Unreachable,
    /// Its agent was given time, and said nothing.
    Silent,
    /// Nobody knows where to ask it.
    NoAddress,
}

/// With these a member says that it leads.
pub(crate) const LEADING: &[&str] = &[
    "Leading",
    "LeadingStandby",
    "PausedLeading",
    "TakingLock",
    "AdoptingData",
    "RegainingLock",
    "PausedTakingLock",
    "Promoting",
    "PreparingSyncForPromotion",
    "FinishingInitialize",
];

/// With these a member's server takes writes.
const SERVING: &[&str] = &["Leading", "PausedLeading"];

/// With these a leader waits for its own server.
const STARTING: &[&str] = &["StartingAsPrimary", "PrimaryIsStarting"];

/// With these a member has taken a lock that nobody handed to it.
pub(crate) const TAKING: &[&str] = &["TakingLock", "AdoptingData", "PausedTakingLock"];

/// With these a member ends because a person wants it.
pub(crate) const LEAVING: &[&str] = &["ShuttingDown", "Leaving"];

/// What keeps a member from leading while nobody leads.
pub(crate) const BLOCKING: &[&str] = &[
    "NotAllowedByTags",
    "TooFarBehind",
    "OldTimeline",
    "NotInSyncSet",
    "VotesMissing",
    "HasPromised",
    "NotInFailsafe",
    "NoLease",
    "DeletingOldLock",
    "OwnOldLease",
    "PeerIsPrimary",
    "GivingWay",
    "WalStillMoves",
    "WaitingForNamedCandidate",
    "PrePromoteFailed",
    "WatchdogUnusable",
    "GuardAbsent",
    "Diverged",
    "ForeignData",
    "UnreadableData",
    "NobodyToClone",
    "NoIdentifier",
    "IdentifiersDiffer",
    "IdentifierUntold",
    "RemainsOfCluster",
    "DataElsewhere",
    "JoiningOnly",
    "PausedIdle",
];

/// What a member tells when something has gone wrong with itself.
pub(crate) const FAULTS: &[&str] = &[
    "StartingAsPrimary",
    "PrimaryIsStarting",
    "PrimaryUnresponsive",
    "StartTookTooLong",
    "StartFailed",
    "CrashMeansFailover",
    "PromotionTookTooLong",
    "PrePromoteFailed",
    "LeadingWithoutData",
    "WatchdogUnusable",
    "GuardAbsent",
    "LeaseDoubtful",
    "LeaseLost",
    "LeaderKeyGone",
    "AnotherLeads",
    "StopTookTooLong",
    "DeletingOldLock",
    "OwnOldLease",
    "HandOverUndone",
    "TakingLockBack",
    "ReplicaStartFailed",
    "ReplicaUnresponsive",
    "ReplicaStartHangs",
    "WalGone",
    "RewindNotGranted",
    "NoRoomForCopy",
    "RecoveringFromCrash",
    "Diverged",
    "HandingToUnparted",
    "ForeignData",
    "UnreadableData",
    "InitializeFailed",
    "EtcdSilentLeading",
    "EtcdSilentFollowing",
    "EtcdSilentStarting",
    "FailsafeLeading",
    "AskingForPromises",
    "NotAllPromised",
];

/// What a member tells when something has gone wrong elsewhere.
pub(crate) const CONSEQUENCES: &[&str] = &[
    "WaitingForStream",
    "WaitingForLeader",
    "WaitingForCheckpoint",
    "ReplicaIsStarting",
    "JobBackoff",
    "NobodyToClone",
    "StoppingToRewind",
    "Rewinding",
    "CloningAfterDivergence",
    "PeerAhead",
    "PeerPreferred",
];

/// Disturbances that follow each other within this time are one.
const ONE_STORY_MS: i64 = 30_000;

/// How near something is to the root of what goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Nobody leads, and this is why.
    Blocks,
    /// It led.
    LostLeader,
    Fault,
    Lost,
    Consequence,
    /// A person wanted it.
    Asked,
}

/// Tells what is wrong, the cause first; empty where nothing is.
pub fn at_present(view: &ClusterView, heard: &BTreeMap<String, Heard>) -> Vec<String> {
    let mut found: Vec<(Rank, String)> =
        names(view).into_iter().flat_map(|name| of_member(view, heard, name)).collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, text)| text).collect()
}

/// Returns everybody who is a member or ever told something.
pub fn names(view: &ClusterView) -> BTreeSet<&str> {
    let members = view.members.iter().map(|(name, _)| name.as_str());
    members.chain(view.reasons.keys().map(String::as_str)).collect()
}

/// Returns why a member did what it did, oldest first.
fn told<'a>(view: &'a ClusterView, name: &str) -> Vec<&'a Told> {
    view.reasons.get(name).into_iter().flat_map(Account::decisions).collect()
}

fn of_member(view: &ClusterView, heard: &BTreeMap<String, Heard>, name: &str) -> Option<(Rank, String)> {
    let here = view.member_named(name).is_some();
    let last = told(view, name).last().copied();
    let heard_of = heard.get(name).unwrap_or(&Heard::NoAddress);
    if let Some(loss) = loss(here, heard_of, heard) {
        let left = last.filter(|told| LEAVING.contains(&told.reason.as_str()));
        if let (Some(told), false) = (left, here) {
            return Some((Rank::Asked, format!("{name} was asked to end, and left at {}", told.time)));
        }
        let led = view.leader.as_deref() == Some(name)
            || (last.is_some_and(|told| LEADING.contains(&told.reason.as_str())));
        let words = last
            .map_or_else(String::new, |told| format!("; its last words, at {}: {}", told.time, told.text));
        let who = if led { ", which led," } else { "" };
        return Some((if led { Rank::LostLeader } else { Rank::Lost }, format!("{name}{who} {loss}{words}")));
    }
    let (code, text) = match heard_of {
        Heard::Answers(reason) => reason.as_ref().map(|(code, text)| (code.as_str(), text.as_str()))?,
        _ => last.map(|told| (told.reason.as_str(), told.text.as_str()))?,
    };
    if !here {
        return Some((
            Rank::LostLeader,
            format!("{name} lives and has no member key in etcd; it says: {text}"),
        ));
    }
    let rank = if view.leader.is_none() && BLOCKING.contains(&code) {
        Rank::Blocks
    } else if FAULTS.contains(&code) {
        Rank::Fault
    } else if CONSEQUENCES.contains(&code) {
        Rank::Consequence
    } else {
        return None;
    };
    let stands = if rank == Rank::Blocks { "nobody leads, and " } else { "" };
    Some((rank, format!("{stands}{name} says: {text}")))
}

/// Says in which way a member is away; None: it is not.
fn loss(here: bool, heard: &Heard, all: &BTreeMap<String, Heard>) -> Option<&'static str> {
    // Where nobody answers it is the way to them that is broken.
    let reachable = all.values().any(|heard| matches!(heard, Heard::Answers(_)));
    match (here, heard) {
        (_, Heard::Answers(_)) | (true, Heard::NoAddress) => None,
        (true, _) if !reachable => None,
        (true, Heard::Refuses) => {
            Some("is down: nothing listens at its address, and its member key lives on for its ttl")
        }
        (false, Heard::Refuses) => {
            Some("is down: nothing listens at its address, and its member key has ended")
        }
        (_, Heard::Unreachable) => Some("cannot be reached: no way leads to its host"),
        (_, Heard::Silent) => Some("does not answer: its agent is stopped or hangs, or its host is away"),
        (false, Heard::NoAddress) => Some("has gone: its member key has ended"),
    }
}

/// Tells what the last disturbance was, and what began it; None where none is known.
pub fn last_disturbance(view: &ClusterView) -> Option<String> {
    let mut all: Vec<(UnixMs, &str, &Told)> = Vec::new();
    for name in names(view) {
        let told = told(view, name);
        let before = std::iter::once(None).chain(told.iter().copied().map(Some));
        let noted = told.iter().zip(before).filter(|(told, before)| disturbs(told, *before));
        all.extend(noted.filter_map(|(told, _)| Some((parse_time(&told.time)?, name, *told))));
    }
    all.sort_by_key(|(at, _, _)| at.0);
    let apart = |pair: &[(UnixMs, &str, &Told)]| matches!(pair, [a, b] if b.0.0 - a.0.0 > ONE_STORY_MS);
    let begins = all.windows(2).rposition(apart).map_or(0, |at| at + 1);
    let story = all.get(begins..)?;
    let (_, name, first) = story.first()?;
    let taken = story.iter().find(|(_, _, told)| is(told, TAKING));
    if let Some((at, taker, lock)) = taken
        && let Some(leader) = silent_leader(view, *at, taker)
    {
        return Some(format!(
            "{leader} led and ended without a word: its host died, or its agent was killed or stopped; {taker} took the lock at {}",
            lock.time
        ));
    }
    let what = if is(first, STARTING) { "Postgres of it had ended by itself: " } else { "" };
    Some(format!("{name} said at {}: {what}{}", first.time, first.text))
}

/// Tells whether something went wrong when this was told. A server is started by plan too: it had ended by itself where it
/// served just before.
fn disturbs(told: &Told, before: Option<&Told>) -> bool {
    if is(told, STARTING) {
        return before.is_some_and(|before| is(before, SERVING));
    }
    is(told, FAULTS) || is(told, TAKING)
}

fn is(told: &Told, codes: &[&str]) -> bool {
    codes.contains(&told.reason.as_str())
}

/// Returns who led until `taker` took the lock, if it told nothing of its end.
fn silent_leader<'a>(view: &'a ClusterView, taken: UnixMs, taker: &str) -> Option<&'a str> {
    let last_before = |name: &'a str| {
        let mut times = told(view, name).into_iter().filter_map(|told| Some((parse_time(&told.time)?, told)));
        times.rfind(|(at, _)| at.0 < taken.0).map(|(at, told)| (at, name, told))
    };
    let others = names(view).into_iter().filter(|name| *name != taker);
    let leaders = others.filter_map(last_before).filter(|(_, _, told)| is(told, LEADING));
    leaders.max_by_key(|(at, _, _)| at.0).map(|(_, name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::member::MemberDocument;

    /// Leads by `a`; `b` and `c` follow.
    fn healthy() -> ClusterView {
        let mut view = ClusterView { leader: Some("a".to_owned()), ..ClusterView::default() };
        for name in ["a", "b", "c"] {
            let document =
                MemberDocument::parse(r#"{"state": "running", "api_url": "http://x/patroni"}"#).unwrap();
            view.members.push((name.to_owned(), document));
            tell(&mut view, name, "00:00", if name == "a" { "Leading" } else { "Following" });
        }
        view
    }

    fn tell(view: &mut ClusterView, name: &str, at: &str, code: &str) {
        let account: &mut Account = view.reasons.entry(name.to_owned()).or_default();
        account.told.push(Told {
            time: format!("2026-01-31T12:{at}.000000+00:00"),
            revision: 1,
            reason: code.to_owned(),
            text: format!("sentence of {code}"),
            actions: Vec::new(),
        });
    }

    fn gone(view: &mut ClusterView, name: &str) {
        view.members.retain(|(other, _)| other != name);
        if view.leader.as_deref() == Some(name) {
            view.leader = None;
        }
    }

    fn heard(pairs: &[(&str, Heard)]) -> BTreeMap<String, Heard> {
        let fine = || Heard::Answers(None);
        let mut all: BTreeMap<String, Heard> = ["a", "b", "c"].map(|name| (name.to_owned(), fine())).into();
        all.extend(pairs.iter().map(|(name, heard)| ((*name).to_owned(), heard.clone())));
        all
    }

    fn says(code: &str) -> Heard {
        Heard::Answers(Some((code.to_owned(), format!("sentence of {code}"))))
    }

    #[test]
    fn a_healthy_cluster_has_no_cause() {
        assert_eq!(at_present(&healthy(), &heard(&[])), Vec::<String>::new());
        assert_eq!(last_disturbance(&healthy()), None);
    }

    #[test]
    fn a_leader_that_is_gone_comes_before_those_who_wait_for_it() {
        let mut view = healthy();
        gone(&mut view, "a");
        tell(&mut view, "b", "00:40", "WaitingForStream");
        let waits = says("WaitingForStream");

        let causes = at_present(&view, &heard(&[("a", Heard::Refuses), ("b", waits)]));

        assert!(causes[0].starts_with("a, which led, is down"), "{causes:?}");
        assert!(causes[0].ends_with("sentence of Leading"), "{causes:?}");
        assert!(causes[1].starts_with("b says"), "{causes:?}");
    }

    #[test]
    fn a_leader_whose_last_words_were_of_its_volume_led_all_the_same() {
        let mut view = healthy();
        tell(&mut view, "a", "00:10", "DiskScarce");
        gone(&mut view, "a");

        let causes = at_present(&view, &heard(&[("a", Heard::Refuses)]));

        assert!(causes[0].starts_with("a, which led, is down"), "{causes:?}");
    }

    #[test]
    fn what_keeps_all_others_from_leading_comes_before_the_death() {
        let mut view = healthy();
        gone(&mut view, "a");
        let blocked =
            heard(&[("a", Heard::Refuses), ("b", says("NotAllowedByTags")), ("c", says("TooFarBehind"))]);

        let causes = at_present(&view, &blocked);

        assert!(causes[0].contains("b says: sentence of NotAllowedByTags"), "{causes:?}");
        assert!(causes[1].contains("c says: sentence of TooFarBehind"), "{causes:?}");
        assert!(causes[2].starts_with("a, which led"), "{causes:?}");
    }

    #[test]
    fn stopped_cut_off_and_dead_are_told_apart() {
        let mut view = healthy();
        assert!(at_present(&view, &heard(&[("c", Heard::Silent)]))[0].starts_with("c does not answer"));
        gone(&mut view, "a");
        let cut = at_present(&view, &heard(&[("a", says("EtcdSilentLeading"))]));
        assert!(cut[0].starts_with("a lives and has no member key"), "{cut:?}");
        let away = at_present(&view, &heard(&[("a", Heard::Unreachable)]));
        assert!(away[0].contains("no way leads to its host"), "{away:?}");
    }

    #[test]
    fn who_reaches_no_member_says_nothing_of_them() {
        let all = ["a", "b", "c"].map(|name| (name, Heard::Silent));
        assert_eq!(at_present(&healthy(), &heard(&all)), Vec::<String>::new());
    }

    #[test]
    fn who_was_asked_to_end_is_named_last() {
        let mut view = healthy();
        tell(&mut view, "b", "00:10", "Leaving");
        gone(&mut view, "b");
        let causes = at_present(&view, &heard(&[("b", Heard::Refuses), ("c", says("ReplicaStartFailed"))]));
        assert!(causes[0].starts_with("c says") && causes[1].starts_with("b was asked"), "{causes:?}");
    }

    #[test]
    fn the_last_failover_is_told_by_who_was_silent_or_by_its_own_words() {
        let mut view = healthy();
        tell(&mut view, "b", "00:40", "TakingLock");
        tell(&mut view, "a", "01:00", "StartingAsReplica");
        let silent = last_disturbance(&view).unwrap();
        assert!(silent.starts_with("a led and ended without a word"), "{silent}");

        let mut view = healthy();
        tell(&mut view, "a", "00:20", "EtcdSilentLeading");
        tell(&mut view, "b", "00:40", "TakingLock");
        let cut = last_disturbance(&view).unwrap();
        assert!(cut.starts_with("a said at") && cut.ends_with("sentence of EtcdSilentLeading"), "{cut}");
    }

    #[test]
    fn a_crash_is_told_from_a_restart_that_was_asked_for() {
        let mut view = healthy();
        tell(&mut view, "a", "00:20", "StartingAsPrimary");
        assert!(last_disturbance(&view).unwrap().contains("had ended by itself"));

        let mut view = healthy();
        tell(&mut view, "a", "00:20", "Restarting");
        tell(&mut view, "a", "00:21", "StartingAsPrimary");
        tell(&mut view, "a", "00:22", "PrimaryIsStarting");
        assert_eq!(last_disturbance(&view), None);
    }
}
