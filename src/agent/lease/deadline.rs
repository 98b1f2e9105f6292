//! The arithmetic of a lease: when it surely still lives, and when a primary must be on its way down.
//!
//! Pure: moments come as arguments. Start at [`Deadline`].

use std::time::Duration;

use crate::sys::clock::Tick;

/// The shortest first margin.
///
/// A fast stop of an idle server takes 0.2 s and the proof that nobody is left as long; 1.2 s leaves each of the three
/// stages at least 0.3 s on a busy host.
const SHORTEST_FIRST_MARGIN: Duration = Duration::from_millis(1_200);

/// The period of keepalives below [`SLOW_TTL`] is at most this, so that at least four fit between the last answered
/// one and the first margin of the shortest ttl.
const LONGEST_FAST_PERIOD: Duration = Duration::from_secs(1);

/// From this ttl on, periods are Patroni's.
pub const SLOW_TTL: Duration = Duration::from_secs(20);

/// How long a keepalive may stay unanswered before it is sent through another endpoint as well.
///
/// Measured: through a follower of a frozen etcd leader a keepalive hangs for 7 s.
const HEDGE_AFTER: Duration = Duration::from_millis(300);

/// How long before the deadline each stage of the stop begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Margins {
    /// Fast stop: clients are disconnected, a shutdown checkpoint is tried.
    pub fast: Duration,
    /// Immediate stop.
    pub immediate: Duration,
    /// Kill.
    pub kill: Duration,
}

impl Margins {
    /// Returns the margins for a lease of `ttl`: `m1 = max(1.2 s, ttl/10)`, `m2 = m1/2`, `m3 = m1/4`.
    pub fn of(ttl: Duration) -> Margins {
        let fast = SHORTEST_FIRST_MARGIN.max(ttl / 10);
        Margins { fast, immediate: fast / 2, kill: fast / 4 }
    }
}

/// The moment until which a lease surely lives.
///
/// `D = time of sending the last answered grant or keepalive + min(ttl asked, ttl granted)`. It counts from the send
/// and not the answer: etcd may have started the ttl at any moment in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Deadline {
    at: Tick,
    margins: Margins,
}

impl Deadline {
    /// Returns the deadline that an answered grant gives.
    pub fn granted(sent: Tick, asked: Duration, granted: Duration) -> Deadline {
        let ttl = asked.min(granted);
        Deadline { at: sent + ttl, margins: Margins::of(ttl) }
    }

    /// Returns the deadline after a keepalive that was sent at `sent` and answered at `answered` with `granted` left.
    ///
    /// None where the lease counts as dead: the answer came after D, or says that nothing is left. Once D has passed,
    /// this lease is dead for ever and a late answer revives nothing. An answer to an older keepalive never moves D
    /// back, except that a smaller ttl is obeyed.
    pub fn renewed(self, sent: Tick, answered: Tick, asked: Duration, granted: Duration) -> Option<Deadline> {
        if self.has_passed(answered) || granted.is_zero() {
            return None;
        }
        let next = Deadline::granted(sent, asked, granted);
        Some(if next.at < self.at && next.margins == self.margins { self } else { next })
    }

    /// Returns the one that ends first: it counts while nobody knows on which of two leases a key hangs.
    #[must_use]
    pub fn earlier(self, other: Deadline) -> Deadline {
        if other.at < self.at { other } else { self }
    }

    /// Returns D.
    pub fn at(self) -> Tick {
        self.at
    }

    /// Returns the moment at which a primary begins to stop: `D − m1`.
    pub fn stop_at(self) -> Tick {
        self.at - self.margins.fast
    }

    /// Returns the moment of the immediate stop: `D − m2`.
    pub fn immediate_at(self) -> Tick {
        self.at - self.margins.immediate
    }

    /// Returns the moment of the kill: `D − m3`.
    pub fn kill_at(self) -> Tick {
        self.at - self.margins.kill
    }

    /// Tells whether the lease must be taken for dead.
    pub fn has_passed(self, now: Tick) -> bool {
        now >= self.at
    }

    /// Tells whether a server may be made writable: only before the first stage.
    pub fn allows_writing(self, now: Tick) -> bool {
        now < self.stop_at()
    }
}

/// How often a keepalive is sent and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    /// From one keepalive to the next.
    pub every: Duration,
    /// Unanswered for so long, it is sent through the next endpoint as well.
    pub hedge_after: Duration,
    /// Unanswered for so long, it is given up; later answers to it are not read.
    pub give_up_after: Duration,
}

impl Period {
    /// Returns the period for a lease of `ttl` under the loop's own times.
    ///
    /// Below 20 s: `min(ttl/5, 1 s)`. From there on Patroni's `loop_wait`, but never so long that fewer than two
    /// keepalives fit before the first margin.
    pub fn of(ttl: Duration, loop_wait: Duration, retry_timeout: Duration) -> Period {
        let usable = ttl.saturating_sub(Margins::of(ttl).fast);
        if ttl < SLOW_TTL {
            let every = (ttl / 5).min(LONGEST_FAST_PERIOD);
            return Period { every, hedge_after: HEDGE_AFTER, give_up_after: usable / 2 };
        }
        Period {
            every: loop_wait.min(usable * 2 / 5),
            hedge_after: HEDGE_AFTER,
            give_up_after: retry_timeout.min(usable / 2),
        }
    }

    /// Returns the period of a member that does not lead: nothing that may write rests on its lease of `ttl`.
    ///
    /// From 20 s on it is half as long again, which spares etcd a third of the requests. It still ends before the lock of
    /// a leader that has died can: one whose connection is as dead as the leader learns it in time to race.
    #[must_use]
    pub fn while_following(self, ttl: Duration) -> Period {
        if ttl < SLOW_TTL {
            return self;
        }
        let usable = ttl.saturating_sub(Margins::of(ttl).fast);
        Period { every: (self.every * 3 / 2).min(usable / 2), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_deadline_counts_from_the_send_and_the_smaller_ttl() {
        let deadline = Deadline::granted(Tick(1_000), secs(30), secs(20));

        assert_eq!(deadline.at(), Tick(21_000));
        assert_eq!(deadline.stop_at(), Tick(19_000));
        assert_eq!(deadline.immediate_at(), Tick(20_000));
        assert_eq!(deadline.kill_at(), Tick(20_500));
    }

    #[test]
    fn the_shortest_ttl_leaves_more_than_a_second_to_stop() {
        let margins = Margins::of(secs(5));

        assert_eq!(margins.fast, Duration::from_millis(1_200));
        assert_eq!(margins.immediate, Duration::from_millis(600));
        assert_eq!(margins.kill, Duration::from_millis(300));
    }

    #[test]
    fn a_late_answer_revives_nothing() {
        let deadline = Deadline::granted(Tick(0), secs(5), secs(5));

        assert_eq!(deadline.renewed(Tick(4_900), Tick(5_000), secs(5), secs(5)), None);
        assert!(deadline.renewed(Tick(4_900), Tick(4_999), secs(5), secs(5)).is_some());
    }

    #[test]
    fn an_answer_without_a_ttl_is_the_end() {
        let deadline = Deadline::granted(Tick(0), secs(5), secs(5));
        assert_eq!(deadline.renewed(Tick(1_000), Tick(1_010), secs(5), Duration::ZERO), None);
    }

    #[test]
    fn an_answer_to_an_older_keepalive_does_not_shorten_the_lease() {
        let deadline = Deadline::granted(Tick(2_000), secs(5), secs(5));
        let renewed = deadline.renewed(Tick(1_000), Tick(2_100), secs(5), secs(5)).unwrap();
        assert_eq!(renewed, deadline);
    }

    #[test]
    fn a_smaller_ttl_is_obeyed_at_once() {
        let deadline = Deadline::granted(Tick(0), secs(30), secs(30));
        let renewed = deadline.renewed(Tick(1_000), Tick(1_010), secs(5), secs(30)).unwrap();
        assert_eq!(renewed.at(), Tick(6_000));
    }

    #[test]
    fn of_two_leases_the_one_that_ends_first_counts() {
        let (long, short) = (secs(30), secs(6));
        let long = Deadline::granted(Tick(0), long, long);

        let beside = Deadline::granted(Tick(20_000), short, short);
        assert_eq!((long.earlier(beside), beside.earlier(long)), (beside, beside));
        let later = Deadline::granted(Tick(25_000), short, short);
        assert_eq!((long.earlier(later), later.earlier(long)), (long, long));
    }

    #[test]
    fn periods_below_twenty_seconds_are_our_own() {
        assert_eq!(Period::of(secs(5), secs(1), secs(1)).every, secs(1));
        assert_eq!(Period::of(secs(19), secs(10), secs(3)).every, secs(1));
        assert_eq!(Period::of(secs(30), secs(10), secs(10)).every, secs(10));
        assert_eq!(Period::of(secs(20), secs(10), secs(5)).every, Duration::from_millis(7_200));
        assert_eq!(Period::of(secs(30), secs(2), secs(10)).every, secs(2));
    }

    #[test]
    fn who_does_not_lead_renews_less_often_from_twenty_seconds_on() {
        let following =
            |ttl, wait| Period::of(secs(ttl), secs(wait), secs(10)).while_following(secs(ttl)).every;

        assert_eq!(following(19, 10), secs(1));
        assert_eq!(following(20, 10), secs(9));
        assert_eq!(following(30, 10), Duration::from_millis(13_500));
        assert_eq!(following(30, 2), secs(3));
    }

    proptest! {
        #[test]
        fn stages_come_in_order_before_the_deadline(sent in 0u64..1 << 40, ttl in 5u64..600) {
            let deadline = Deadline::granted(Tick(sent), secs(ttl), secs(ttl));
            prop_assert!(Tick(sent) < deadline.stop_at());
            prop_assert!(deadline.stop_at() < deadline.immediate_at());
            prop_assert!(deadline.immediate_at() < deadline.kill_at());
            prop_assert!(deadline.kill_at() < deadline.at());
            prop_assert!(deadline.allows_writing(Tick(sent)));
            prop_assert!(!deadline.allows_writing(deadline.stop_at()));
        }

        /// Whatever is answered in whatever order, D is never beyond what some answered request has earned.
        #[test]
        fn no_answer_gives_more_than_its_own_send_earned(
            ttl in 5u64..60, answers in prop::collection::vec((0u64..100_000, 0u64..5_000, 1u64..60), 1..20)
        ) {
            let mut deadline = Some(Deadline::granted(Tick(0), secs(ttl), secs(ttl)));
            let mut earned = Tick(ttl * 1_000);
            let mut clock = 0;
            for (gap, late, granted) in answers {
                let sent = Tick(clock);
                clock += gap.min(3_000) + late;
                let answered = Tick(clock);
                let Some(before) = deadline else { break };
                deadline = before.renewed(sent, answered, secs(ttl), secs(granted));
                earned = earned.max(sent + secs(ttl.min(granted)));
                if let Some(after) = deadline {
                    prop_assert!(after.at() <= earned);
                    prop_assert!(answered < before.at());
                }
            }
        }

        #[test]
        fn at_least_two_keepalives_fit_before_the_first_stage(ttl in 5u64..600, wait in 1u64..600, retry in 1u64..600) {
            let period = Period::of(secs(ttl), secs(wait), secs(retry));
            prop_assert!(period.every * 2 <= secs(ttl) - Margins::of(secs(ttl)).fast);
            prop_assert!(period.give_up_after <= (secs(ttl) - Margins::of(secs(ttl)).fast) / 2);
        }

        /// A leader that has died was to renew `every` after its last keepalive at the latest.
        #[test]
        fn who_follows_finds_a_dead_connection_before_a_dead_leaders_lock_ends(
            ttl in 5u64..600, wait in 1u64..600, retry in 1u64..600
        ) {
            let leading = Period::of(secs(ttl), secs(wait), secs(retry));
            let following = leading.while_following(secs(ttl));
            prop_assert!(following.every + following.hedge_after * 2 < secs(ttl) - leading.every);
            prop_assert!(following.every >= leading.every);
        }
    }
}
