//! Waiting for a moment on the clock that deadlines are on.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clock::{self, Tick};
use super::descriptor;

/// Returns at `at` or a little after it, also where the machine was suspended meanwhile.
///
/// One descriptor and one wake-up: the runtime's own timers wake up to three times on their way to a moment that is
/// seconds away, which at rest would be most of what the agent does. Must be called within a runtime.
pub async fn until(at: Tick) {
    let pause = at.since(clock::now());
    if pause.is_zero() {
        return;
    }
    match set(at) {
        Ok(timer) if timer.readable().await.is_ok() => {}
        // No descriptor is free, say: the runtime's timer will do.
        _ => tokio::time::sleep(pause).await,
    }
}

fn set(at: Tick) -> std::io::Result<AsyncFd<OwnedFd>> {
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let moment = Expiration::OneShot(Duration::from_millis(at.0).into());
    timer.set(moment, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    descriptor::register(timer.into(), Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_wakes_at_its_moment_and_not_before() {
        let at = clock::now() + Duration::from_millis(30);
        until(at).await;
        assert!(clock::now() >= at);

        until(at).await;
        until(Tick(0)).await;
    }
}
