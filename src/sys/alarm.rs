//! Waiting for a moment on the clock that deadlines are on.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clock::{self, Tick};
use super::descriptor;

/// A timer for one wait after the other.
///
/// One descriptor and one wake-up: the runtime's own timers wake up to three times on their way to a moment that is
/// seconds away, which at rest would be most of what the agent does.
#[derive(Debug, Default)]
pub struct Alarm {
    /// The timer, and what tells that it has gone off; None before the first wait.
    timer: Option<(TimerFd, AsyncFd<OwnedFd>)>,
}

impl Alarm {
    /// Returns at `at` or a little after it, also where the machine was suspended meanwhile. Must always be called within
    /// the same runtime.
    pub async fn until(&mut self, at: Tick) {
        let pause = at.since(clock::now());
        if !pause.is_zero() && self.wait(at).await.is_err() {
            // No descriptor is free, say: the runtime's timer will do.
            tokio::time::sleep(pause).await;
        }
    }

    async fn wait(&mut self, at: Tick) -> std::io::Result<()> {
        let (timer, bell) = match &mut self.timer {
            Some(made) => made,
            None => self.timer.insert(make()?),
        };
        let moment = Expiration::OneShot(Duration::from_millis(at.0).into());
        timer.set(moment, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        loop {
            bell.readable().await?.clear_ready();
            // It may have gone off for a wait before that was given up.
            if clock::now() >= at {
                return Ok(());
            }
        }
    }
}

fn make() -> std::io::Result<(TimerFd, AsyncFd<OwnedFd>)> {
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let bell = descriptor::register(timer.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    Ok((timer, bell))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Poll;

    #[tokio::test]
    async fn it_wakes_at_its_moment_and_not_before() {
        let mut alarm = Alarm::default();
        for _ in 0..3 {
            let at = clock::now() + Duration::from_millis(20);
            alarm.until(at).await;
            assert!(clock::now() >= at);
        }
        alarm.until(Tick(0)).await;
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_end_the_next() {
        let mut alarm = Alarm::default();
        for given_up in [5, 60_000] {
            let before = clock::now() + Duration::from_millis(given_up);
            let polled = std::future::poll_fn(|context| Poll::Ready(pin!(alarm.until(before)).poll(context)));
            assert!(polled.await.is_pending());
            tokio::time::sleep(Duration::from_millis(20)).await;

            let at = clock::now() + Duration::from_millis(50);
            alarm.until(at).await;
            assert!(clock::now() >= at, "after a wait of {given_up} ms");
        }
    }
}
