//! What agents may ask of the guard. What could make a server writable asks the gate at that instant.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::alarm;

use crate::guard::gate::{Arm, Origin, Posture};
use crate::guard::instance::{Instance, Process};
use crate::guard::log::say;
use crate::guard::protocol::{OLDEST, Refusal, Request, StartAs, VERSION, is_spoken};
use crate::guard::server::{Order, Server, open_pidfd, write_promote_file};
use crate::guard::sight::DataDir;
use crate::guard::succession::Legacy;
use crate::sys::clock;

use super::{Guard, number};

/// A program that takes over has at least so long before the first stage of a stop, and at most the other.
const SUCCESSION_TIME: Duration = Duration::from_secs(2);
const SUCCESSION_LIMIT: Duration = Duration::from_secs(10);

impl Guard {
    pub(super) fn hear(&mut self, seat: usize) {
        while let Some(heard) = self.agents.hear(seat) {
            let refusal = match heard.request {
                Some(Request::Upgrade { program }) => self.upgrade(seat, heard.id, Path::new(&program)).err(),
                Some(request) => self.obey(seat, request).err(),
                None => Some(Refusal::UnknownVerb),
            };
            if let Some(refusal) = &refusal {
                say!("refuses: {refusal}");
            }
            let now = clock::now();
            self.posture = self.see().posture();
            let status = self.status(now);
            self.agents.answer(seat, heard.id, refusal, status);
        }
    }

    fn obey(&mut self, seat: usize, request: Request) -> Result<(), Refusal> {
        let now = clock::now();
        match request {
            Request::Status => return Ok(()),
            Request::Hello { version, pid, hold } => {
                if !is_spoken(version) {
                    return Err(Refusal::OtherVersion { oldest: OLDEST, newest: VERSION });
                }
                let status = self.status(now);
                return self.agents.serve(seat, pid, hold, status);
            }
            _ => self.agents.is_served(seat)?,
        }
        if self.ending {
            return Err(Refusal::Ending);
        }
        match request {
            // Those that have been answered, and the one that needs to know who asks.
            Request::Status | Request::Hello { .. } | Request::Upgrade { .. } => Ok(()),
            Request::Arm { deadline, margins, lease, sent } => {
                let armed = self.arm.armed(deadline, margins, lease, sent, now)?;
                self.watchdog.activate(now).map_err(|problem| Refusal::WatchdogUnusable { problem })?;
                if !matches!(self.arm, Arm::Armed { .. }) {
                    say!("armed for lease {lease:x}");
                }
                self.arm = armed;
                if self.fence_off {
                    self.watchdog.feed(now);
                }
                Ok(())
            }
            Request::Disarm => {
                self.arm = self.arm.disarmed(now);
                say!("disarmed");
                Ok(())
            }
            Request::Release => {
                self.arm = Arm::Released;
                say!("released: the cluster is paused");
                Ok(())
            }
            Request::Start { start_as, argv, env, output } => {
                self.start(start_as, &argv, &env, output.as_deref().map(Path::new))
            }
            Request::Promote => self.promote(),
            Request::Stop { mode, limit_ms } => {
                if self.server.is_none() {
                    return if self.nobody_left { Err(Refusal::NotRunning) } else { Ok(()) };
                }
                self.begin_stop(mode, Duration::from_millis(limit_ms), now);
                Ok(())
            }
            Request::Watchdog(settings) => {
                self.watchdog.set(settings);
                Ok(())
            }
            Request::Fence { on } => {
                if self.fence_off == on {
                    say!(
                        "{}",
                        if on { "is a fence" } else { "is no fence: the agent stops the server in time" }
                    );
                }
                self.fence_off = !on;
                Ok(())
            }
        }
    }

    /// Becomes `program`. Returns only if this one goes on.
    ///
    /// Whatever stands in the new program's way, the promise is kept: an alarm that outlives the exec ends this process
    /// before the first stage, and the server with it.
    fn upgrade(&mut self, seat: usize, id: u64, program: &Path) -> Result<Infallible, Refusal> {
        self.agents.is_served(seat)?;
        let under_way = self.plan.is_some()
            || self.progress.reached().is_some()
            || (self.server.is_none() && !self.nobody_left);
        if self.ending || under_way {
            return Err(if self.ending { Refusal::Ending } else { Refusal::Stopping });
        }
        let now = clock::now();
        let limit = match self.arm {
            Arm::Armed { deadline, margins, .. } | Arm::Shut { deadline, margins }
                if self.posture == Posture::Writable && !self.fence_off =>
            {
                let left = (deadline - margins.fast()).since(now);
                if left < SUCCESSION_TIME {
                    return Err(Refusal::TooLate { deadline, now });
                }
                left.min(SUCCESSION_LIMIT)
            }
            Arm::Armed { .. } | Arm::Shut { .. } | Arm::Released => SUCCESSION_LIMIT,
        };
        say!("becomes {}", program.display());
        let legacy = Legacy {
            lock: &self.lock,
            listener: &self.listener,
            agents: &self.agents,
            asked: (seat, id),
            watchdog: &self.watchdog,
            arm: self.arm,
            server: self.server.as_ref(),
            last_exit: self.last_exit,
            fence_off: self.fence_off,
            idle_since: self.idle_since,
            oom_score: self.protection.oom_score.as_ref().map(|score| score.to_string_lossy().into_owned()),
        };
        alarm::set(u32::try_from(limit.as_secs()).unwrap_or(u32::MAX));
        let error = legacy.execute(program);
        let _left = alarm::cancel();
        let what = format!("execute {}", program.display());
        Err(Refusal::Failed { what, problem: error.to_string() })
    }

    fn start(
        &mut self,
        start_as: StartAs,
        argv: &[String],
        env: &[(String, String)],
        output: Option<&Path>,
    ) -> Result<(), Refusal> {
        let failed =
            |what: &str, error: io::Error| Refusal::Failed { what: what.into(), problem: error.to_string() };
        self.follow_data_dir().map_err(|error| failed("look at the data directory", error))?;
        self.adopt();
        if let Some(server) = &self.server {
            return Err(Refusal::Running { pid: number(server.process.pid) });
        }
        if self.instance.scan(None).members > 0 {
            self.nobody_left = false;
            return Err(Refusal::StillEnding);
        }
        let (origin, not_at) = match start_as {
            StartAs::Replica if !self.data.is_signalled() => return Err(Refusal::NotAStandby),
            StartAs::Replica => (Origin::Replica, None),
            StartAs::Primary => {
                self.watchdog
                    .activate(clock::now())
                    .map_err(|problem| Refusal::WatchdogUnusable { problem })?;
                let not_at = match self.arm {
                    Arm::Armed { deadline, margins, .. } => Some(deadline - margins.fast()),
                    Arm::Shut { .. } | Arm::Released => None,
                };
                (Origin::Primary, not_at)
            }
        };
        let group = self.group.as_ref().ok().and_then(|group| group.entrance().ok());
        let score = self.protection.oom_score.clone();
        let order = Order::new(argv, env, output, group, score, not_at)
            .map_err(|error| failed("prepare the start", error))?;
        let (_, baseline) = self.data.control();
        // The last look at the clock before the fork; the child looks once more before it becomes the server.
        if start_as == StartAs::Primary {
            self.arm.admits(clock::now())?;
        }
        let pid = order.start().map_err(|error| match (error.raw_os_error(), self.arm.deadline()) {
            (Some(libc::ETIMEDOUT), Some(deadline)) => Refusal::TooLate { deadline, now: clock::now() },
            _ => failed("start the server", error),
        })?;
        let process = self.instance.living(pid).unwrap_or(Process { pid, start_ticks: 0 });
        let pidfd = open_pidfd(pid).map_err(|error| failed("hold on to the server", error))?;
        say!("started the server as {start_as:?}, pid {pid}");
        self.take_server(Server { process, pidfd, child: true, origin, baseline, told: false });
        Ok(())
    }

    /// The data directory may have come, or become a link, since the guard was started.
    fn follow_data_dir(&mut self) -> io::Result<()> {
        let path = self.options.data_dir.canonicalize()?;
        if path != self.data.path {
            self.data = DataDir::new(&path)?;
            self.instance = Instance::new(&path, &self.options.server)?;
        }
        Ok(())
    }

    fn promote(&mut self) -> Result<(), Refusal> {
        let failed =
            |error: io::Error| Refusal::Failed { what: "promote".into(), problem: error.to_string() };
        let Some(server) = &mut self.server else { return Err(Refusal::NotRunning) };
        self.watchdog.activate(clock::now()).map_err(|problem| Refusal::WatchdogUnusable { problem })?;
        self.arm.admits(clock::now())?;
        write_promote_file(&self.data.promote).map_err(failed)?;
        // From here on the server counts as writable; the file alone does nothing, the signal does.
        if let Err(refusal) = self.arm.admits(clock::now()) {
            let _gone = std::fs::remove_file(&self.data.promote);
            return Err(refusal);
        }
        server.origin = Origin::Primary;
        server.signal(Signal::SIGUSR1).map_err(failed)?;
        say!("promotes the server with pid {}", server.process.pid);
        Ok(())
    }
}
