//! Clusters in which Patroni runs some of the members: their shortest ttl is everybody's.
//!
//! A Patroni member's word that it leaves the lock alone, and its own lease, are as long as its ttl, which is 20 s at the
//! least whatever the configuration says. A member that counted on less would take for over what still lasts.

use std::collections::BTreeMap;

use crate::agent::observe::dcs::DcsRead;
use crate::cluster::MemberName;

/// Whether a member is Keddah's, by the document last seen of it.
#[derive(Debug, Default)]
pub(super) struct Kinds(BTreeMap<MemberName, bool>);

impl Kinds {
    /// Takes what was read. Tells whether Patroni runs any of the members, or of those whose word a leader asks for.
    pub(super) fn are_mixed(&mut self, read: &DcsRead, me: &MemberName) -> bool {
        let members = &read.snapshot.members;
        let failsafe = read.snapshot.failsafe.as_ref().map(|keyed| &keyed.value);
        let asked = |name: &MemberName| failsafe.is_some_and(|set| set.contains(name));
        self.0.retain(|name, _| asked(name));
        self.0.extend(members.iter().map(|(name, member)| (name.clone(), member.keddah)));
        // Of a member that is away since before this agent began, its reasons tell whose it was.
        let is_ours = |name: &MemberName| {
            self.0.get(name).copied().unwrap_or_else(|| read.shown.reasons.contains_key(name.as_str()))
        };
        let all = members.keys().chain(failsafe.into_iter().flatten());
        all.into_iter().any(|name| name != me && !is_ours(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::observe::dcs;
    use crate::contract::keys::Keys;
    use crate::etcd::{Kv, Range};

    const KEDDAH: &str = r#"{"keddah": {"version": "0.1.0"}}"#;

    fn are_mixed(kinds: &mut Kinds, pairs: &[(&str, &str)]) -> bool {
        let kv = |(key, value): &(&str, &str)| Kv {
            key: format!("/service/demo/{key}"),
            value: (*value).to_owned(),
            create_revision: 5,
            mod_revision: 7,
            version: 1,
            lease: 42,
        };
        let range = Range { kvs: pairs.iter().map(kv).collect(), revision: 9 };
        kinds.are_mixed(&dcs::read(&Keys::new("service", "demo"), &range), &"a".parse().unwrap())
    }

    #[test]
    fn a_member_without_our_field_is_patronis() {
        let mut kinds = Kinds::default();

        assert!(!are_mixed(&mut kinds, &[("members/a", KEDDAH), ("members/b", KEDDAH)]));
        assert!(are_mixed(&mut kinds, &[("members/a", KEDDAH), ("members/b", "{}")]));
        assert!(!are_mixed(&mut kinds, &[("members/a", KEDDAH), ("members/b", KEDDAH)]));
        assert!(!are_mixed(&mut kinds, &[("members/a", "{}")]), "its own document may be of Patroni's time");
    }

    #[test]
    fn a_member_that_is_away_counts_as_last_seen_while_its_word_is_asked_for() {
        let failsafe = ("failsafe", r#"{"a": "http://a:8008/patroni", "b": "http://b:8008/patroni"}"#);
        let mut kinds = Kinds::default();

        assert!(are_mixed(&mut kinds, &[("members/b", "{}"), failsafe]));
        assert!(are_mixed(&mut kinds, &[failsafe]));
        assert!(are_mixed(&mut kinds, &[failsafe, ("keddah/b", "[]")]), "its document is the newer word");
        assert!(!are_mixed(&mut kinds, &[]));
        assert!(are_mixed(&mut kinds, &[failsafe]), "nothing tells whose it is");
        assert!(!are_mixed(&mut kinds, &[failsafe, ("keddah/b", "[]")]));
    }
}
