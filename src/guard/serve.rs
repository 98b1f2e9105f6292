//! The guard's loop: wait, look, obey. One thread, no runtime.
//!
//! Start at [`Guard::turn`]: what woke it is handled first, then [`Guard::look`] applies the rule to what is there.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, alarm};

use crate::guard::agents::{Agents, SEATS};
use crate::guard::gate::{Arm, BLIND_LOOK, CALM_LOOK, Origin, Posture, Sight, Verdict};
use crate::guard::group::Group;
use crate::guard::instance::{Instance, Process};
use crate::guard::log::say;
use crate::guard::packet;
use crate::guard::place::Place;
use crate::guard::protect::{Protection, protect};
use crate::guard::protocol::{
    Margins, OLDEST, Refusal, Request, ServerExit, ServerStatus, StartAs, Status, StopMode, VERSION,
    WatchdogSettings, is_spoken,
};
use crate::guard::server::{Order, Server, open_pidfd, write_promote_file};
use crate::guard::sight::DataDir;
use crate::guard::stages::{self, Progress};
use crate::guard::succession::{self, Birth, Legacy, Received};
use crate::guard::watchdog::Watchdog;
use crate::sys::clock::{self, Tick};
use crate::sys::service_manager::ServiceManager;

/// A writable server that runs when the guard starts, and that nobody guarded before, has so long until an agent says
/// what is to become of it.
const ADOPTION_GRACE: Duration = Duration::from_secs(10);

/// A guard that nobody manages ends this long after both agent and instance are gone.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The same, for a guard to which no agent has come yet.
const FIRST_AGENT_LIMIT: Duration = Duration::from_secs(60);

/// A stop that was asked for in the next milder mode has so long once its own limit has passed.
const NEXT_MODE_LIMIT: Duration = Duration::from_secs(5);

/// A program that takes over has at least so long before the first stage of a stop, and at most the other.
const SUCCESSION_TIME: Duration = Duration::from_secs(2);
const SUCCESSION_LIMIT: Duration = Duration::from_secs(10);

/// How long a fast stop may take when the guard itself is told to end.
const ENDING_LIMIT: Duration = Duration::from_secs(60);

/// Clock ticks of `/proc` per second, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a guard is started with.
#[derive(Debug, Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    /// The server's program.
    pub server: PathBuf,
    pub place: Place,
    pub watchdog: Option<WatchdogSettings>,
}

/// Why a guard does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("another guard holds {lock} (pid {holder}): one data directory has one guard")]
    Held { lock: String, holder: String },
    #[error("the guard cannot {what}")]
    System {
        what: String,
        #[source]
        source: io::Error,
    },
}

fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
    let what = what.into();
    move |source| ServeError::System { what, source }
}

/// Guards a data directory until there is nothing left to guard.
///
/// # Errors
/// Another guard does already, or the system refuses something that it cannot do without.
pub fn serve(options: &Options, birth: Birth, ready: impl FnOnce()) -> Result<(), ServeError> {
    let mut guard = match birth {
        Birth::Successor(Some(received)) => Guard::resume(options, *received)?,
        Birth::New | Birth::Successor(None) => Guard::new(options)?,
    };
    ready();
    while guard.turn().map_err(cannot("wait"))? {}
    guard.manager.ending();
    // The lease may live on, and nobody is here to feed it.
    guard.watchdog.let_go();
    let _gone = std::fs::remove_file(&options.place.socket);
    say!("ends: {}", if guard.ending { "told to" } else { "no agent and no server is left" });
    Ok(())
}

fn lock(path: &Path) -> Result<Flock<File>, ServeError> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(cannot(format!("open {}", path.display())))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => ServeError::Held {
            lock: path.display().to_string(),
            holder: std::fs::read_to_string(path)
                .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned()),
        },
        errno => cannot(format!("lock {}", path.display()))(errno.into()),
    })?;
    let told = lock.set_len(0).and_then(|()| (&*lock).write_all(std::process::id().to_string().as_bytes()));
    told.map_err(cannot(format!("write {}", path.display())))?;
    Ok(lock)
}

/// A stop that an agent asked for.
#[derive(Debug, Clone, Copy)]
struct Plan {
    mode: StopMode,
    next: Tick,
}

#[derive(Debug)]
struct Guard {
    options: Options,
    /// Of this data directory, for as long as this guard is.
    lock: Flock<File>,
    data: DataDir,
    instance: Instance,
    listener: OwnedFd,
    signals: SignalFd,
    timer: TimerFd,
    agents: Agents,
    manager: ServiceManager,
    protection: Protection,
    group: Result<Group, io::Error>,
    arm: Arm,
    server: Option<Server>,
    /// Processes of the instance that started up to this clock tick are left-overs and are ended.
    leftovers: Option<u64>,
    nobody_left: bool,
    progress: Progress,
    plan: Option<Plan>,
    last_exit: Option<ServerExit>,
    watchdog: Watchdog,
    /// The agent is the fence, and feeds the watchdog.
    fence_off: bool,
    posture: Posture,
    ending: bool,
    /// Since when there is neither an agent nor a process.
    idle_since: Tick,
    told: Option<Status>,
}

impl Guard {
    fn new(options: &Options) -> Result<Guard, ServeError> {
        let lock = lock(&options.place.lock)?;
        let listener = packet::serve(&options.place.socket)
            .map_err(cannot(format!("listen on {}", options.place.socket.display())))?;
        let mut guard = Guard::assemble(options, lock, listener)?;
        if let Some(settings) = &options.watchdog {
            guard.watchdog.set(settings.clone());
        }
        guard.adopt();
        if guard.server.is_some() {
            guard.arm = Arm::Shut { deadline: clock::now() + ADOPTION_GRACE, margins: Margins::SHORTEST };
        }
        guard.manager.ready();
        say!(
            "guards {} at {}; control group: {}; lacks: {}",
            guard.data.path.display(),
            options.place.socket.display(),
            guard.group.as_ref().map_or_else(ToString::to_string, |_| "its own".into()),
            guard.protection.lacking.join(", ")
        );
        Ok(guard)
    }

    /// Goes on where the program before left off, and answers who asked for this.
    fn resume(options: &Options, received: Received) -> Result<Guard, ServeError> {
        let Received { lock, listener, agents, asked, watchdog, arm, server, last_exit, fence_off, .. } =
            received;
        let mut guard = Guard::assemble(options, lock, listener)?;
        guard.nobody_left = server.is_none();
        guard.protection.oom_score = received.oom_score.and_then(|text| CString::new(text).ok());
        guard.idle_since = received.idle_since;
        guard = Guard { agents, watchdog, arm, server, last_exit, fence_off, ..guard };
        guard.posture = guard.see().posture();
        guard.manager.ready();
        say!("goes on in the program of version {}", env!("CARGO_PKG_VERSION"));
        let (seat, id) = asked;
        let status = guard.status(clock::now());
        guard.agents.answer(seat, id, None, status);
        Ok(guard)
    }

    /// Makes a guard that knows of nothing yet.
    fn assemble(options: &Options, lock: Flock<File>, listener: OwnedFd) -> Result<Guard, ServeError> {
        let manager = ServiceManager::from_environment();
        let signals = block_signals().map_err(cannot("block signals"))?;
        let protection = protect();
        let data = DataDir::new(&options.data_dir).map_err(cannot("watch files"))?;
        let instance = Instance::new(&data.path, &options.server).map_err(cannot("open /proc"))?;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(cannot("make a timer"))?;
        // Set by the program before, for the case that this one does not come so far.
        let _left = alarm::cancel();
        Ok(Guard {
            group: Group::make("instance"),
            options: options.clone(),
            lock,
            data,
            instance,
            listener,
            signals,
            timer,
            agents: Agents::default(),
            manager,
            protection,
            arm: Arm::NEW,
            server: None,
            leftovers: None,
            nobody_left: false,
            progress: Progress::default(),
            plan: None,
            last_exit: None,
            watchdog: Watchdog::default(),
            fence_off: false,
            posture: Posture::Nobody,
            ending: false,
            idle_since: clock::now() + FIRST_AGENT_LIMIT,
            told: None,
        })
    }

    /// Looks, then waits for the next thing, then handles it. Returns false when there is nothing left to guard.
    fn turn(&mut self) -> io::Result<bool> {
        let now = clock::now();
        let next = self.look(now);
        if self.is_done(now) {
            return Ok(false);
        }
        self.set_timer(next)?;
        let ready = self.wait()?;
        if ready.timer {
            // Read so that it is quiet until it is set again; which moment it is, the clock says.
            let _quiet = nix::unistd::read(self.timer.as_fd(), &mut [0; 8]);
        }
        if ready.changes {
            self.data.forget_changes();
        }
        if ready.signals {
            self.take_signals();
        }
        // A server that has ended is seen before anything is asked about it.
        self.reap();
        if ready.listener {
            self.agents.welcome(self.listener.as_fd());
        }
        for seat in 0..SEATS {
            if ready.agents.get(seat).copied().unwrap_or(false) {
                self.hear(seat);
            }
        }
        Ok(true)
    }

    /// Applies the rule to what is there. Returns when to look again.
    fn look(&mut self, now: Tick) -> Tick {
        self.manager.alive(now);
        self.data.watch();
        self.adopt();
        self.posture = self.see().posture();
        match self.arm.verdict(self.posture, now) {
            Verdict::Stop(stage) if !self.fence_off => self.fence(stage, now),
            Verdict::Rest | Verdict::Stop(_) => {}
        }
        self.follow_plan(now);
        if self.server.is_none() && !self.nobody_left {
            self.clear_leftovers(now);
        }
        self.watchdog.look(&self.arm, self.posture, now, !self.fence_off);
        self.tell_news(now);
        self.next_look(now)
    }

    fn next_look(&self, now: Tick) -> Tick {
        let mut next = match self.fence_off {
            true => now + CALM_LOOK,
            false => self.arm.next_look(self.posture, now),
        };
        if !self.data.is_watched() {
            next = next.min(now + BLIND_LOOK);
        }
        let killing = self.progress.reached() == Some(StopMode::Kill)
            || self.plan.is_some_and(|plan| plan.mode == StopMode::Kill)
            || (self.server.is_none() && !self.nobody_left);
        if killing {
            next = next.min(now + Duration::from_millis(10));
        }
        let meal = self.watchdog.next().filter(|_| !self.fence_off);
        for other in [self.plan.map(|plan| plan.next), meal].into_iter().flatten() {
            next = next.min(other.max(now + Duration::from_millis(10)));
        }
        match self.manager.every() {
            Some(every) => next.min(now + every),
            None => next,
        }
    }

    /// Finds a postmaster that somebody else started.
    fn adopt(&mut self) {
        if self.server.is_some() {
            return;
        }
        let Some(process) = self.instance.postmaster() else { return };
        let Ok(pidfd) = open_pidfd(process.pid) else { return };
        if !self.instance.lives(process) {
            return;
        }
        say!("takes over the server with pid {}, which it did not start", process.pid);
        let (_, baseline) = self.data.control();
        let origin = Origin::Adopted;
        self.take_server(Server { process, pidfd, child: false, origin, baseline, told: false });
    }

    fn take_server(&mut self, server: Server) {
        self.server = Some(server);
        self.nobody_left = false;
        self.leftovers = None;
        self.progress = Progress::default();
        self.plan = None;
    }

    fn see(&self) -> Sight {
        let (state, stamp) = self.data.control();
        match &self.server {
            Some(server) => Sight {
                alive: true,
                origin: server.origin,
                state,
                rewritten: stamp.is_none() || stamp != server.baseline,
                signal: self.data.is_signalled(),
            },
            // Left-overs go on with what they were doing, whatever the files say.
            None => Sight {
                alive: !self.nobody_left && self.leftovers.is_some(),
                origin: Origin::Primary,
                state: None,
                rewritten: true,
                signal: false,
            },
        }
    }

    /// One stage of the stop that the deadline asks for.
    fn fence(&mut self, stage: StopMode, now: Tick) {
        if !self.progress.begin(stage) {
            return;
        }
        let first = self.told.as_ref().is_none_or(|told| told.stage != Some(stage));
        let had_server = self.server.is_some();
        match (stage, &mut self.server) {
            (StopMode::Kill, _) => self.kill_pass(now),
            (StopMode::Fast | StopMode::Immediate, Some(server)) => stages::ask_to_stop(server, stage),
            (StopMode::Fast | StopMode::Immediate, None) => {}
        }
        if first {
            let deadline = self.arm.deadline().unwrap_or(now);
            let whom = if had_server {
                "no lease for a writable server"
            } else {
                "no lease for what is left of a server that has ended"
            };
            say!("{whom}: {stage} stop, {} ms before the deadline", deadline.since(now).as_millis());
        }
    }

    /// One pass of the kill; with the proof when it found nobody.
    fn kill_pass(&mut self, now: Tick) {
        let limit = self.leftovers;
        let spared = |start_ticks: u64| limit.is_some_and(|limit| start_ticks > limit);
        let found =
            stages::kill_pass(&mut self.instance, self.server.as_mut(), self.group.as_ref().ok(), spared);
        self.reap();
        if found.members == 0 && found.complete && self.server.is_none() {
            self.proven(now);
        }
    }

    fn clear_leftovers(&mut self, now: Tick) {
        if self.leftovers.is_none() {
            self.leftovers = Some(ticks(now));
        }
        self.kill_pass(now);
    }

    fn proven(&mut self, now: Tick) {
        if let Ok(group) = &self.group {
            group.thaw();
        }
        if let Some(deadline) = self.arm.deadline()
            && self.progress.reached().is_some()
        {
            if now < deadline {
                say!("nobody is left, {} ms before the deadline", deadline.since(now).as_millis());
            } else {
                say!("nobody is left, {} ms after the deadline", now.since(deadline).as_millis());
            }
        }
        self.nobody_left = true;
        self.leftovers = None;
        self.progress = Progress::default();
        self.plan = None;
        self.posture = Posture::Nobody;
    }

    /// Goes on to the next mode of a stop whose limit has passed.
    fn follow_plan(&mut self, now: Tick) {
        let Some(plan) = &mut self.plan else { return };
        if plan.mode != StopMode::Kill && now >= plan.next {
            plan.mode = if plan.mode == StopMode::Fast { StopMode::Immediate } else { StopMode::Kill };
            plan.next = now + NEXT_MODE_LIMIT;
            say!("the stop is past its limit: {} stop", plan.mode);
            if let (Some(server), StopMode::Immediate) = (&mut self.server, plan.mode) {
                stages::ask_to_stop(server, StopMode::Immediate);
            }
        }
        if plan.mode == StopMode::Kill {
            self.kill_pass(now);
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if (number == Signal::SIGTERM as i32 || number == Signal::SIGINT as i32) && !self.ending {
                say!("told to end: stops the server first");
                self.ending = true;
                self.begin_stop(StopMode::Fast, ENDING_LIMIT, clock::now());
            }
        }
    }

    fn begin_stop(&mut self, mode: StopMode, limit: Duration, now: Tick) {
        if let Some(server) = &mut self.server {
            stages::ask_to_stop(server, if mode == StopMode::Kill { StopMode::Immediate } else { mode });
            self.plan = Some(Plan { mode, next: now + limit });
        }
    }

    /// Collects every child that has ended, and sees whether the server has.
    fn reap(&mut self) {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, None, Some(signal as i32)),
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        if let Some(server) = &self.server
            && !server.child
            && !self.instance.lives(server.process)
        {
            self.ended(server.process.pid, None, None);
        }
    }

    fn ended(&mut self, pid: Pid, code: Option<i32>, signal: Option<i32>) {
        let Some(server) = self.server.take_if(|server| server.process.pid == pid) else { return };
        let at = clock::now();
        let number = number(server.process.pid);
        say!("the server with pid {number} has ended (code {code:?}, signal {signal:?})");
        self.last_exit = Some(ServerExit { pid: number, at, code, signal, asked: server.told });
        self.leftovers = Some(ticks(at));
        self.nobody_left = false;
        self.idle_since = at;
    }

    fn is_done(&mut self, now: Tick) -> bool {
        let served = self.agents.serves_somebody();
        if self.server.is_some() || served {
            self.idle_since = now;
        }
        if self.server.is_some() || !self.nobody_left || (served && !self.ending) {
            return false;
        }
        self.ending || (!self.manager.is_managed() && now.since(self.idle_since) >= IDLE_LIMIT)
    }

    fn hear(&mut self, seat: usize) {
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

    fn status(&self, now: Tick) -> Status {
        Status {
            version: VERSION,
            pid: std::process::id(),
            now,
            gate: self.arm.told(),
            server: self.server.as_ref().map(|server| ServerStatus {
                pid: number(server.process.pid),
                start_ticks: server.process.start_ticks,
                child: server.child,
                writable: self.posture == Posture::Writable,
                stopping: server.told,
            }),
            last_exit: self.last_exit,
            stage: self.progress.reached(),
            nobody_left: self.nobody_left,
            watchdog: self.watchdog.told(),
            lacking: self.protection.lacking.clone(),
            control_group: self.group.is_ok(),
            fence_off: self.fence_off,
            succession: Some(succession::VERSION),
        }
    }

    /// Tells the agent what changed without being asked.
    fn tell_news(&mut self, now: Tick) {
        let status = self.status(now);
        if self.told.as_ref().is_none_or(|told| status.differs_from(told)) {
            self.agents.tell(&status);
            self.told = Some(status);
        }
    }

    fn set_timer(&self, next: Tick) -> io::Result<()> {
        // Zero would disarm it.
        let at = TimeSpec::from_duration(Duration::from_millis(next.0.max(1)));
        Ok(self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 5 + SEATS];
        let fixed: [Option<BorrowedFd<'_>>; 5] = [
            Some(self.timer.as_fd()),
            Some(self.signals.as_fd()),
            Some(self.listener.as_fd()),
            Some(self.data.changes()),
            self.server.as_ref().map(|server| server.pidfd.as_fd()),
        ];
        for (slot, fd) in fds.iter_mut().zip(fixed.into_iter().chain(self.agents.descriptors())) {
            slot.fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        }
        wait_for(&mut fds)?;
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| fd.revents != 0);
        let mut agents = [false; SEATS];
        for (seat, ready) in agents.iter_mut().enumerate() {
            *ready = is_ready(5 + seat);
        }
        Ok(Ready {
            timer: is_ready(0),
            signals: is_ready(1),
            listener: is_ready(2),
            changes: is_ready(3),
            agents,
        })
    }
}

/// What woke the guard. A server that ended is looked for in any case.
#[derive(Debug)]
struct Ready {
    timer: bool,
    signals: bool,
    listener: bool,
    changes: bool,
    agents: [bool; SEATS],
}

#[expect(unsafe_code, reason = "nix's poll wants borrowed descriptors for every slot, and some are empty")]
fn wait_for(fds: &mut [libc::pollfd]) -> io::Result<()> {
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: the kernel reads and writes the given number of structures.
    let done = unsafe { libc::poll(fds.as_mut_ptr(), count, -1) };
    if done >= 0 || Errno::last() == Errno::EINTR { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGPIPE] {
        set.add(signal);
    }
    // Exactly these: the program before may have blocked more.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn number(pid: Pid) -> u32 {
    pid.as_raw().unsigned_abs()
}

fn ticks(moment: Tick) -> u64 {
    moment.0.saturating_mul(TICKS_PER_SECOND) / 1_000
}
