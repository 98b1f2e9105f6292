//! The certificate under which the keeper renews: somebody who sees Postgres and etcd is alive and content.
//!
//! The keeper is independent of the loop, and not blind to it: a loop that hangs, or a job without progress, must not
//! hold the lock for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::clock::Tick;

/// When the last certificate was issued.
#[derive(Debug, Default)]
pub struct Confidence {
    issued: AtomicU64,
}

impl Confidence {
    /// Issues a certificate: a look was completed, or a long job gave a sign of progress.
    pub fn certify(&self, now: Tick) {
        self.issued.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Tells whether the certificate is young enough: at most `max(2 × loop_wait, ttl)` old.
    pub fn holds(&self, now: Tick, ttl: Duration, loop_wait: Duration) -> bool {
        now.since(Tick(self.issued.load(Ordering::Relaxed))) <= ttl.max(loop_wait * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hangs_loses_the_lease() {
        let confidence = Confidence::default();
        let (ttl, wait) = (Duration::from_secs(5), Duration::from_secs(1));
        confidence.certify(Tick(10_000));

        assert!(confidence.holds(Tick(15_000), ttl, wait));
        assert!(!confidence.holds(Tick(15_001), ttl, wait));
    }

    #[test]
    fn a_slow_loop_has_two_rounds() {
        let confidence = Confidence::default();
        confidence.certify(Tick(0));

        assert!(confidence.holds(Tick(60_000), Duration::from_secs(30), Duration::from_secs(30)));
    }
}
