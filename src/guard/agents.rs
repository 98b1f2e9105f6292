//! Who is connected, and which of them is served.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::guard::log::say;
use crate::guard::packet;
use crate::guard::protocol::{Ask, AskHead, Hold, PACKET_BYTES_MAX, Refusal, Reply, Request, Status};
use crate::sys::successor::{Estate, Inherited};

/// Connections at a time: one agent, its successor, and a few people who look.
pub(super) const SEATS: usize = 8;

#[derive(Debug)]
struct Visitor {
    fd: OwnedFd,
    /// Set once it has said hello and is served.
    served: Option<Served>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Served {
    pid: u32,
    hold: Option<Hold>,
}

/// A visitor as the next program takes him over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seat {
    seat: usize,
    fd: RawFd,
    served: Option<Served>,
}

/// The seats.
#[derive(Debug)]
pub(super) struct Agents {
    seats: [Option<Visitor>; SEATS],
    buffer: Vec<u8>,
}

impl Default for Agents {
    fn default() -> Agents {
        Agents { seats: [const { None }; SEATS], buffer: vec![0; PACKET_BYTES_MAX] }
    }
}

/// One ask. A verb that this build does not know has no request.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) id: u64,
    pub(super) request: Option<Request>,
}

impl Agents {
    /// Gives everybody's connection to the next program.
    pub(super) fn give(&self, estate: &mut Estate) -> std::io::Result<Vec<Seat>> {
        let taken =
            self.seats.iter().enumerate().filter_map(|(seat, visitor)| Some((seat, visitor.as_ref()?)));
        taken
            .map(|(seat, visitor)| {
                Ok(Seat { seat, fd: estate.give(visitor.fd.as_fd())?, served: visitor.served })
            })
            .collect()
    }

    /// Takes over those whom the program before served.
    pub(super) fn take(seats: Vec<Seat>, inherited: &mut Inherited) -> Agents {
        let mut agents = Agents::default();
        for Seat { seat, fd, served } in seats {
            if let (Some(slot), Some(fd)) = (agents.seats.get_mut(seat), inherited.take(fd)) {
                *slot = Some(Visitor { fd, served });
            }
        }
        agents
    }

    /// Seats whoever waits at the door: root, or this user.
    pub(super) fn welcome(&mut self, listener: BorrowedFd<'_>) {
        while let Ok(Some(fd)) = packet::take(listener) {
            let known = getsockopt(&fd, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
            match self.seats.iter_mut().find(|seat| seat.is_none()) {
                Some(seat) if known => *seat = Some(Visitor { fd, served: None }),
                _ => say!("turns a caller away: {}", if known { "no seat is free" } else { "another user" }),
            }
        }
    }

    /// Takes the next ask of a seat, if one is there. A visitor who has left, or talks nonsense, loses the seat.
    pub(super) fn hear(&mut self, seat: usize) -> Option<Heard> {
        let slot = self.seats.get_mut(seat)?;
        let visitor = slot.as_ref()?;
        match packet::read(visitor.fd.as_fd(), &mut self.buffer) {
            Ok(None) => None,
            Ok(Some(text)) => match serde_json::from_slice::<Ask>(text) {
                Ok(ask) => Some(Heard { id: ask.id, request: Some(ask.ask) }),
                Err(error) => match serde_json::from_slice::<AskHead>(text) {
                    Ok(head) => Some(Heard { id: head.id, request: None }),
                    Err(_) => {
                        say!("drops a visitor who talks nonsense: {error}");
                        *slot = None;
                        None
                    }
                },
            },
            Err(_) => {
                if let Some(served) = visitor.served {
                    say!("the agent with pid {} has left", served.pid);
                }
                *slot = None;
                None
            }
        }
    }

    /// Makes the visitor the served agent, or says who is. The newer leadership wins; without one, whoever is here.
    pub(super) fn serve(
        &mut self,
        seat: usize,
        pid: u32,
        hold: Option<Hold>,
        status: Status,
    ) -> Result<(), Refusal> {
        let other = self.seats.iter().enumerate().find_map(|(index, visitor)| {
            visitor.as_ref().and_then(|v| v.served).filter(|_| index != seat).map(|served| (index, served))
        });
        if let Some((index, served)) = other {
            let revision = |hold: Option<Hold>| hold.map_or(i64::MIN, |hold| hold.create_revision);
            if hold.is_none() || revision(hold) < revision(served.hold) {
                return Err(Refusal::Busy { pid: served.pid });
            }
            say!("the agent with pid {pid} takes over from that with pid {}", served.pid);
            self.answer(index, 0, Some(Refusal::Displaced), status);
            if let Some(slot) = self.seats.get_mut(index) {
                *slot = None;
            }
        }
        if let Some(Some(visitor)) = self.seats.get_mut(seat) {
            if visitor.served.is_none() {
                say!("serves the agent with pid {pid}");
            }
            visitor.served = Some(Served { pid, hold });
        }
        Ok(())
    }

    /// Tells whether the visitor may ask for more than the status.
    pub(super) fn is_served(&self, seat: usize) -> Result<(), Refusal> {
        match self.seats.get(seat) {
            Some(Some(Visitor { served: Some(_), .. })) => Ok(()),
            _ => Err(Refusal::NoHello),
        }
    }

    pub(super) fn serves_somebody(&self) -> bool {
        self.seats.iter().flatten().any(|visitor| visitor.served.is_some())
    }

    /// Answers an ask. Who does not read loses the seat: nobody is waited for.
    pub(super) fn answer(&mut self, seat: usize, id: u64, refusal: Option<Refusal>, status: Status) {
        let Some(slot) = self.seats.get_mut(seat) else { return };
        let Some(visitor) = slot else { return };
        let sent = serde_json::to_vec(&Reply { id, refusal, status })
            .map_err(std::io::Error::from)
            .and_then(|text| packet::write(visitor.fd.as_fd(), &text));
        if let Err(error) = sent {
            say!("drops a visitor who cannot be answered: {error}");
            *slot = None;
        }
    }

    /// Tells the served agent something that it did not ask for.
    pub(super) fn tell(&mut self, status: &Status) {
        for seat in 0..SEATS {
            if self.is_served(seat).is_ok() {
                self.answer(seat, 0, None, status.clone());
            }
        }
    }

    /// Returns the descriptors to wait for, one per seat.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = Option<BorrowedFd<'_>>> {
        self.seats.iter().map(|seat| seat.as_ref().map(|visitor| visitor.fd.as_fd()))
    }
}
