//! How each stage of a stop is done.

use nix::sys::signal::{Signal, kill};

use crate::guard::group::Group;
use crate::guard::instance::{Found, Instance};
use crate::guard::protocol::StopMode;
use crate::guard::server::Server;

/// Stages past their first signal, so that each is done once and in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    reached: Option<StopMode>,
}

impl Progress {
    /// Returns the stage that was reached.
    pub(super) fn reached(self) -> Option<StopMode> {
        self.reached
    }

    /// Goes on to `stage`. Returns true where that stage has not been begun before; the kill is begun each time.
    pub(super) fn begin(&mut self, stage: StopMode) -> bool {
        let first = self.reached.is_none_or(|reached| reached < stage);
        if first {
            self.reached = Some(stage);
        }
        first || stage == StopMode::Kill
    }
}

/// Tells the postmaster to stop by itself. That it is gone already is fine.
pub(super) fn ask_to_stop(server: &mut Server, stage: StopMode) {
    let signal = match stage {
        StopMode::Fast => Signal::SIGINT,
        StopMode::Immediate => Signal::SIGQUIT,
        StopMode::Kill => Signal::SIGKILL,
    };
    server.told = true;
    let _gone = server.signal(signal);
}

/// One pass of the kill: stops the postmaster so that it forks no more, then ends every process of the instance that
/// `spared` does not name. Returns how many were there; when a whole pass finds none, that is the proof.
pub(super) fn kill_pass(
    instance: &mut Instance,
    server: Option<&mut Server>,
    group: Option<&Group>,
    spared: impl Fn(u64) -> bool,
) -> Found {
    let postmaster = server.map(|server| {
        server.told = true;
        let _gone = server.signal(Signal::SIGSTOP);
        server.process
    });
    if let Some(group) = group {
        group.kill();
    }
    let mut found = instance.scan(postmaster);
    found.members = 0;
    for member in instance.members().filter(|member| !spared(member.start_ticks)) {
        found.members += 1;
        if instance.lives(member) {
            let _gone = kill(member.pid, Signal::SIGKILL);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_begun_once_and_never_backwards_but_the_kill_goes_on() {
        let mut progress = Progress::default();
        assert!(progress.begin(StopMode::Fast));
        assert!(!progress.begin(StopMode::Fast));
        assert!(progress.begin(StopMode::Immediate));
        assert!(!progress.begin(StopMode::Fast), "no way back");
        assert!(progress.begin(StopMode::Kill));
        assert!(progress.begin(StopMode::Kill));
        assert_eq!(progress.reached(), Some(StopMode::Kill));
    }
}
