//! The rule: what may be in this data directory at this moment. Pure; moments come as arguments.
//!
//! *No armed deadline in the future and not released ⇒ no writable server.* [`Arm::verdict`] applies it to what is there,
//! [`Arm::admits`] to what an agent wants to make.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::control_file::ControlState;
use crate::guard::protocol::{Gate, Margins, Refusal, StopMode};
use crate::sys::clock::Tick;

/// Time between two looks from the first stage on, until the proof.
const CLOSE_LOOK: Duration = Duration::from_millis(50);

/// Time between two passes of the kill.
const KILL_LOOK: Duration = Duration::from_millis(10);

/// Time between two looks at any other moment, where the kernel tells when the files change, and where it does not.
///
/// An agent asks or arms at least as often as the first, and each ask is a look: this one is for when nobody asks.
pub(super) const CALM_LOOK: Duration = Duration::from_secs(12);
pub(super) const BLIND_LOOK: Duration = Duration::from_millis(1_000);

/// What was promised about the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Nothing may become writable; what is writable has until `deadline`.
    Shut { deadline: Tick, margins: Margins },
    /// The lease lives until `deadline`.
    Armed { deadline: Tick, margins: Margins, lease: i64 },
    /// Pause: anything goes.
    Released,
}

/// What is in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posture {
    /// No process.
    Nobody,
    /// Processes, none of which can write, now or by itself later.
    ReadOnly,
    /// A server that is writable, or will be without being asked again; or nobody knows.
    Writable,
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Rest,
    Stop(StopMode),
}

impl Arm {
    /// The state of a guard that nobody has told anything.
    pub const NEW: Arm = Arm::Shut { deadline: Tick(0), margins: Margins::SHORTEST };

    /// Judges what is there.
    pub fn verdict(&self, posture: Posture, now: Tick) -> Verdict {
        let (deadline, margins) = match (*self, posture) {
            (Arm::Released, _) | (_, Posture::Nobody | Posture::ReadOnly) => return Verdict::Rest,
            (Arm::Shut { deadline, margins } | Arm::Armed { deadline, margins, .. }, Posture::Writable) => {
                (deadline, margins)
            }
        };
        if now >= deadline - margins.kill() {
            Verdict::Stop(StopMode::Kill)
        } else if now >= deadline - margins.immediate() {
            Verdict::Stop(StopMode::Immediate)
        } else if now >= deadline - margins.fast() {
            Verdict::Stop(StopMode::Fast)
        } else {
            Verdict::Rest
        }
    }

    /// Tells whether a server may be made writable at this instant.
    ///
    /// # Errors
    /// Nothing is armed, or the first stage has begun.
    pub fn admits(&self, now: Tick) -> Result<(), Refusal> {
        match *self {
            Arm::Released => Ok(()),
            Arm::Shut { .. } => Err(Refusal::NotArmed),
            Arm::Armed { deadline, margins, .. } if now < deadline - margins.fast() => Ok(()),
            Arm::Armed { deadline, .. } => Err(Refusal::TooLate { deadline, now }),
        }
    }

    /// Returns the state after a promise.
    ///
    /// # Errors
    /// It makes no sense, comes too late, or is about a lease that is dead.
    pub fn armed(
        &self,
        deadline: Tick,
        margins: Margins,
        lease: i64,
        sent: Tick,
        now: Tick,
    ) -> Result<Arm, Refusal> {
        if !margins.are_ordered() || sent > now || deadline <= sent {
            return Err(Refusal::Malformed);
        }
        // Dead for ever, whatever a late answer says.
        if let Arm::Armed { deadline: died, lease: earlier, .. } = *self
            && earlier == lease
            && now >= died
        {
            return Err(Refusal::LeaseDead { lease, died });
        }
        if now >= deadline {
            return Err(Refusal::TooLate { deadline, now });
        }
        Ok(Arm::Armed { deadline, margins, lease })
    }

    /// Returns the state after the promise is taken back: the stages begin at this moment, or go on where they are.
    pub fn disarmed(&self, now: Tick) -> Arm {
        match *self {
            Arm::Released => {
                Arm::Shut { deadline: now + Margins::SHORTEST.fast(), margins: Margins::SHORTEST }
            }
            Arm::Shut { deadline, margins } | Arm::Armed { deadline, margins, .. } => {
                Arm::Shut { deadline: deadline.min(now + margins.fast()), margins }
            }
        }
    }

    /// Returns when to look again at the latest, if nothing happens before.
    pub fn next_look(&self, posture: Posture, now: Tick) -> Tick {
        let (deadline, margins) = match (*self, posture) {
            (Arm::Released, _) | (_, Posture::Nobody | Posture::ReadOnly) => return now + CALM_LOOK,
            (Arm::Shut { deadline, margins } | Arm::Armed { deadline, margins, .. }, Posture::Writable) => {
                (deadline, margins)
            }
        };
        let stages = [deadline - margins.fast(), deadline - margins.immediate(), deadline - margins.kill()];
        let pace = match self.verdict(posture, now) {
            Verdict::Rest => CALM_LOOK,
            Verdict::Stop(StopMode::Kill) => KILL_LOOK,
            Verdict::Stop(_) => CLOSE_LOOK,
        };
        stages.into_iter().filter(|stage| *stage > now).fold(now + pace, Tick::min)
    }

    /// Returns the deadline until which a writable server may be here; None where there is none.
    pub fn deadline(&self) -> Option<Tick> {
        match *self {
            Arm::Shut { deadline, .. } | Arm::Armed { deadline, .. } => Some(deadline),
            Arm::Released => None,
        }
    }

    /// Returns what agents are told.
    pub(super) fn told(&self) -> Gate {
        match *self {
            Arm::Shut { deadline, .. } => Gate::Shut { deadline },
            Arm::Armed { deadline, lease, .. } => Gate::Armed { deadline, lease },
            Arm::Released => Gate::Released,
        }
    }
}

/// How the running server came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Origin {
    /// This guard started it to be writable, or promoted it.
    Primary,
    /// This guard started it with a signal file in place.
    Replica,
    /// Somebody else started it.
    Adopted,
}

/// What was seen of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// A process of the instance lives, or it is not proven that none does.
    pub(super) alive: bool,
    pub(super) origin: Origin,
    /// What pg_control says; None where it cannot be read.
    pub(super) state: Option<ControlState>,
    /// pg_control was written since the server was started.
    pub(super) rewritten: bool,
    /// A signal file is there.
    pub(super) signal: bool,
}

impl Sight {
    /// Judges whether what is seen can write. In doubt it can.
    pub(super) fn posture(&self) -> Posture {
        if !self.alive {
            return Posture::Nobody;
        }
        let read_only = match (self.origin, self.state) {
            // It has not looked at its files yet, and will find the signal: what pg_control says is of an earlier life.
            (Origin::Replica, _) if !self.rewritten => self.signal,
            (_, None) => false,
            // Written by this server: its last word.
            (_, Some(ControlState::ShutDown | ControlState::ShutDownInRecovery)) if self.rewritten => true,
            (Origin::Primary, _) => false,
            (Origin::Replica | Origin::Adopted, Some(ControlState::ArchiveRecovery)) => true,
            (
                Origin::Replica | Origin::Adopted,
                Some(
                    ControlState::StartingUp
                    | ControlState::CrashRecovery
                    | ControlState::ShutDown
                    | ControlState::ShutDownInRecovery,
                ),
            ) => self.signal,
            (
                Origin::Replica | Origin::Adopted,
                Some(ControlState::InProduction | ControlState::ShuttingDown),
            ) => false,
        };
        if read_only { Posture::ReadOnly } else { Posture::Writable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: Margins = Margins::SHORTEST;
    const ARMED: Arm = Arm::Armed { deadline: Tick(10_000), margins: M, lease: 7 };
    const POSTURES: [Posture; 3] = [Posture::Nobody, Posture::ReadOnly, Posture::Writable];

    #[test]
    fn every_moment_of_a_lease_has_its_verdict() {
        for now in 0..12_000 {
            let expected = match now {
                0..8_800 => Verdict::Rest,
                8_800..9_400 => Verdict::Stop(StopMode::Fast),
                9_400..9_700 => Verdict::Stop(StopMode::Immediate),
                _ => Verdict::Stop(StopMode::Kill),
            };
            assert_eq!(ARMED.verdict(Posture::Writable, Tick(now)), expected, "at {now}");
            assert_eq!(
                ARMED.verdict(Posture::ReadOnly, Tick(now)),
                Verdict::Rest,
                "a replica is never stopped"
            );
            assert_eq!(ARMED.verdict(Posture::Nobody, Tick(now)), Verdict::Rest);
            assert_eq!(ARMED.admits(Tick(now)).is_ok(), now < 8_800, "at {now}");
        }
    }

    #[test]
    fn the_rule_holds_in_every_state() {
        let arms = [Arm::NEW, ARMED, Arm::Shut { deadline: Tick(10_000), margins: M }, Arm::Released];
        for arm in arms {
            for now in (0..20_000).step_by(100).map(Tick) {
                let open =
                    matches!(arm, Arm::Released) || arm.deadline().is_some_and(|deadline| now < deadline);
                let stopping = arm.verdict(Posture::Writable, now) != Verdict::Rest;
                assert!(open || stopping, "{arm:?} at {now} lets a writable server be");
                assert!(!(stopping && arm.admits(now).is_ok()), "{arm:?} at {now} opens while it stops");
                for posture in POSTURES {
                    let next = arm.next_look(posture, now);
                    assert!(next > now && next <= now + CALM_LOOK, "{arm:?} at {now}");
                }
            }
        }
    }

    #[test]
    fn no_stage_is_slept_through() {
        let mut now = Tick(0);
        let mut seen = Vec::new();
        while now < Tick(10_000) {
            let verdict = ARMED.verdict(Posture::Writable, now);
            if seen.last().is_none_or(|(_, last)| *last != verdict) {
                seen.push((now.0, verdict));
            }
            now = ARMED.next_look(Posture::Writable, now);
        }
        let expected = [
            (0, Verdict::Rest),
            (8_800, Verdict::Stop(StopMode::Fast)),
            (9_400, Verdict::Stop(StopMode::Immediate)),
            (9_700, Verdict::Stop(StopMode::Kill)),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn nothing_is_opened_before_somebody_promises() {
        assert_eq!(Arm::NEW.admits(Tick(0)), Err(Refusal::NotArmed));
        assert_eq!(Arm::NEW.verdict(Posture::Writable, Tick(0)), Verdict::Stop(StopMode::Kill));
        assert_eq!(Arm::Released.admits(Tick(0)), Ok(()));
    }

    #[test]
    fn a_dead_lease_is_not_revived_and_another_one_is_believed() {
        let late = ARMED.armed(Tick(20_000), M, 7, Tick(9_000), Tick(10_000));
        assert_eq!(late, Err(Refusal::LeaseDead { lease: 7, died: Tick(10_000) }));

        let other = ARMED.armed(Tick(20_000), M, 8, Tick(9_000), Tick(10_000));
        assert_eq!(other, Ok(Arm::Armed { deadline: Tick(20_000), margins: M, lease: 8 }));
    }

    #[test]
    fn a_smaller_deadline_is_obeyed_and_a_past_one_refused() {
        let sooner = ARMED.armed(Tick(9_000), M, 7, Tick(1_000), Tick(2_000));
        assert_eq!(sooner.map(|arm| arm.deadline()), Ok(Some(Tick(9_000))));

        let past = Arm::NEW.armed(Tick(2_000), M, 7, Tick(1_000), Tick(2_000));
        assert_eq!(past, Err(Refusal::TooLate { deadline: Tick(2_000), now: Tick(2_000) }));
        assert_eq!(Arm::NEW.armed(Tick(9), M, 7, Tick(5), Tick(2)), Err(Refusal::Malformed), "sent later");
        assert_eq!(
            Arm::NEW.armed(Tick(5), M, 7, Tick(5), Tick(6)),
            Err(Refusal::Malformed),
            "no time at all"
        );
    }

    #[test]
    fn taking_a_promise_back_begins_the_stages_and_never_gives_time() {
        let early = ARMED.disarmed(Tick(1_000));
        assert_eq!(early.verdict(Posture::Writable, Tick(1_000)), Verdict::Stop(StopMode::Fast));
        assert_eq!(early.deadline(), Some(Tick(2_200)));

        let late = ARMED.disarmed(Tick(9_900));
        assert_eq!(late.deadline(), Some(Tick(10_000)), "the lease's own end comes first");
        assert_eq!(
            Arm::Released.disarmed(Tick(5)).verdict(Posture::Writable, Tick(5)),
            Verdict::Stop(StopMode::Fast)
        );
    }

    const STATES: [Option<ControlState>; 8] = [
        None,
        Some(ControlState::StartingUp),
        Some(ControlState::ShutDown),
        Some(ControlState::ShutDownInRecovery),
        Some(ControlState::ShuttingDown),
        Some(ControlState::CrashRecovery),
        Some(ControlState::ArchiveRecovery),
        Some(ControlState::InProduction),
    ];

    fn sights() -> impl Iterator<Item = Sight> {
        STATES.into_iter().flat_map(|state| {
            [Origin::Primary, Origin::Replica, Origin::Adopted].into_iter().flat_map(move |origin| {
                [false, true].into_iter().flat_map(move |rewritten| {
                    [false, true].map(|signal| Sight { alive: true, origin, state, rewritten, signal })
                })
            })
        })
    }

    #[test]
    fn what_is_or_becomes_writable_by_itself_is_never_taken_for_a_replica() {
        for sight in sights() {
            let posture = sight.posture();
            if sight.origin == Origin::Primary {
                let stopped =
                    matches!(sight.state, Some(ControlState::ShutDown | ControlState::ShutDownInRecovery));
                let expected = if stopped && sight.rewritten { Posture::ReadOnly } else { Posture::Writable };
                assert_eq!(posture, expected, "{sight:?}");
            }
            if sight.state == Some(ControlState::InProduction) && sight.rewritten {
                assert_eq!(posture, Posture::Writable, "{sight:?}");
            }
            if sight.state.is_none() && sight.rewritten {
                assert_eq!(posture, Posture::Writable, "unknown is not harmless: {sight:?}");
            }
            assert_eq!(Sight { alive: false, ..sight }.posture(), Posture::Nobody);
        }
    }

    #[test]
    fn a_replica_is_left_alone_from_its_start_on() {
        let crashed_primary = Sight {
            alive: true,
            origin: Origin::Replica,
            state: Some(ControlState::InProduction),
            rewritten: false,
            signal: true,
        };
        assert_eq!(crashed_primary.posture(), Posture::ReadOnly);

        for state in [ControlState::CrashRecovery, ControlState::ArchiveRecovery] {
            let sight = Sight { state: Some(state), rewritten: true, ..crashed_primary };
            assert_eq!(sight.posture(), Posture::ReadOnly, "{sight:?}");
        }
        let promoted = Sight { rewritten: true, ..crashed_primary };
        assert_eq!(promoted.posture(), Posture::Writable);
    }
}
