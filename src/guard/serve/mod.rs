//! The guard's loop: wait, look, obey. One thread, no runtime.
//!
//! Start at [`Guard::turn`]: what woke it is handled first, then [`Guard::look`] applies the rule to what is there.
//! `ending` is how a server goes, `requests` what agents may ask, `waking` what the loop waits for.

mod ending;
mod requests;
mod waking;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signalfd::SignalFd;
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use nix::unistd::{Pid, alarm};

use crate::guard::agents::{Agents, SEATS};
use crate::guard::gate::{Arm, BLIND_LOOK, CALM_LOOK, Origin, Posture, Sight, Verdict};
use crate::guard::group::Group;
use crate::guard::instance::Instance;
use crate::guard::log::say;
use crate::guard::packet;
use crate::guard::place::Place;
use crate::guard::protect::{Protection, protect};
use crate::guard::protocol::{
    Margins, ServerExit, ServerStatus, Status, StopMode, VERSION, WatchdogSettings,
};
use crate::guard::server::{Server, open_pidfd};
use crate::guard::sight::DataDir;
use crate::guard::stages::Progress;
use crate::guard::succession::{self, Birth, Received};
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
    plan: Option<ending::Plan>,
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
        let signals = waking::block_signals().map_err(cannot("block signals"))?;
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
}

fn number(pid: Pid) -> u32 {
    pid.as_raw().unsigned_abs()
}
