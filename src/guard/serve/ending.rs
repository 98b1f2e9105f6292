//! How a server goes: by the deadline, because somebody asked, or by itself; and the proof that nobody is left.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::guard::gate::Posture;
use crate::guard::log::say;
use crate::guard::protocol::{ServerExit, StopMode};
use crate::guard::stages::{self, Progress};
use crate::sys::clock::{self, Tick};

use super::{Guard, number};

/// A stop that was asked for in the next milder mode has so long once its own limit has passed.
const NEXT_MODE_LIMIT: Duration = Duration::from_secs(5);

/// How long a fast stop may take when the guard itself is told to end.
const ENDING_LIMIT: Duration = Duration::from_secs(60);

/// Clock ticks of `/proc` per second, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// A stop that an agent asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) mode: StopMode,
    pub(super) next: Tick,
}

impl Guard {
    /// One stage of the stop that the deadline asks for.
    pub(super) fn fence(&mut self, stage: StopMode, now: Tick) {
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

    pub(super) fn clear_leftovers(&mut self, now: Tick) {
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
    pub(super) fn follow_plan(&mut self, now: Tick) {
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

    pub(super) fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if (number == Signal::SIGTERM as i32 || number == Signal::SIGINT as i32) && !self.ending {
                say!("told to end: stops the server first");
                self.ending = true;
                self.begin_stop(StopMode::Fast, ENDING_LIMIT, clock::now());
            }
        }
    }

    pub(super) fn begin_stop(&mut self, mode: StopMode, limit: Duration, now: Tick) {
        if let Some(server) = &mut self.server {
            stages::ask_to_stop(server, if mode == StopMode::Kill { StopMode::Immediate } else { mode });
            self.plan = Some(Plan { mode, next: now + limit });
        }
    }

    /// Collects every child that has ended, and sees whether the server has.
    pub(super) fn reap(&mut self) {
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
}

fn ticks(moment: Tick) -> u64 {
    moment.0.saturating_mul(TICKS_PER_SECOND) / 1_000
}
