//! A healthy cluster of three for tests, in which one thing is changed: `a` leads, `b` and `c` stream.

use std::collections::BTreeSet;

use crate::agent::view::*;
use crate::cluster::slot::SlotKind;
use crate::cluster::*;
use crate::settings::{Settings, StandbyCluster};

/// The moment of every look.
pub(super) const NOW: Tick = Tick(1_000_000);

pub(super) fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

/// Where everybody's WAL ends.
pub(super) const END: Lsn = Lsn(0x300_0000);

pub(super) fn control() -> Control {
    Control {
        system_id: SystemId(7),
        state: ControlState::InArchiveRecovery,
        timeline: Timeline(1),
        checkpoint: Lsn(0x200_0000),
        minimum_recovery: None,
        history: Some(History::default()),
        rewindable: true,
        recovery_signal: true,
        bootstrap_unfinished: false,
        restored: false,
        half_rewound: None,
        beyond: None,
    }
}

fn member(role: Role, lease: i64) -> Member {
    Member {
        lease: LeaseId(lease),
        mod_revision: Revision(10),
        keddah: true,
        facts: MemberFacts {
            state: State::Running,
            role,
            version: Some(PgVersion(150_010)),
            lsn: Some(END),
            received: None,
            replayed: None,
            timeline: Some(Timeline(1)),
            replication: None,
            tags: Tags::default(),
            pause: false,
            pending_restart: false,
            checkpoint_pending: false,
            restart_at: None,
            gate_released: false,
            system_id: Some(SystemId(7)),
            room: Room::Ample,
        },
    }
}

/// A view in the making.
#[derive(Debug, Clone)]
pub(super) struct Fixture {
    pub(super) view: View,
    pub(super) snapshot: Snapshot,
}

/// Leases: `a` has 1, `b` 2, `c` 3. The leader key was created at revision 5.
pub(super) fn healthy(me: &str) -> Fixture {
    let me = name(me);
    let leads = me == name("a");
    let members = [("a", Role::Primary, 1), ("b", Role::Replica, 2), ("c", Role::Replica, 3)];
    let lease = members.iter().find(|(n, _, _)| name(n) == me).map_or(9, |(_, _, lease)| *lease);
    let snapshot = Snapshot {
        revision: Revision(20),
        leader: Some(LeaderKey {
            name: name("a"),
            lease: LeaseId(1),
            create_revision: Revision(5),
            mod_revision: Revision(5),
        }),
        members: members.iter().map(|(n, role, lease)| (name(n), member(*role, *lease))).collect(),
        initialize: Some(Keyed { value: Initialize::Done(SystemId(7)), mod_revision: Revision(2) }),
        config: Revision(3),
        status: Some(Keyed {
            value: Status { optime: Some(END), ..Status::default() },
            mod_revision: Revision(4),
        }),
        history: Some(Keyed { value: History::default(), mod_revision: Revision(6) }),
        ..Snapshot::default()
    };
    let standby = || Standby { streaming: true, sync: false, written: END, flushed: END, replayed: END };
    let slot = || Slot {
        kind: SlotKind::Physical,
        active: true,
        lsn: Some(END),
        has_xmin: false,
        lost: false,
        failover: false,
    };
    let running = if leads {
        Running::Primary(PrimaryFacts {
            timeline: Timeline(1),
            lsn: END,
            history: History::default(),
            sync_names: SyncNames::Off,
            commit_level: CommitLevel::Flush,
            standbys: [(name("b"), standby()), (name("c"), standby())].into(),
            slots: [("b".to_owned(), slot()), ("c".to_owned(), slot())].into(),
            checkpoint_pending: false,
        })
    } else {
        Running::Replica(ReplicaFacts {
            timeline: Timeline(1),
            history: Some(History::default()),
            received: Some(END),
            replayed: END,
            streaming: true,
            has_archive: true,
            upstream: Upstream::Member { name: name("a"), slot: Some(me.slot_name()) },
            sync_names: SyncNames::Off,
            slots: members
                .iter()
                .filter(|(n, _, _)| name(n) != me)
                .map(|(n, _, _)| ((*n).to_owned(), Slot { active: false, ..slot() }))
                .collect(),
        })
    };
    let fence = Fence { lease: LeaseId(1), create_revision: Revision(5) };
    let state = if leads { ControlState::InProduction } else { ControlState::InArchiveRecovery };
    let view = View {
        now: NOW,
        wall: UnixMs(1_800_000_000_000),
        me,
        tags: Tags::default(),
        local: Local::default(),
        settings: Settings::default(),
        dcs: Seen::Never,
        lease: Lease::Held {
            id: LeaseId(lease),
            next: None,
            deadline: NOW + secs(30),
            stop_at: NOW + secs(27),
        },
        failsafe: Failsafe::default(),
        guard: if leads { Guard::Armed { fence, until: NOW + secs(30) } } else { Guard::Closed },
        watchdog: Watchdog::NotRequired,
        postgres: Postgres {
            data: Data::Present(Control { state, recovery_signal: !leads, ..control() }),
            process: Process::Running(running),
            configuration: Configuration::InStep,
            pending_restart: false,
            braked: false,
            version: Some(PgVersion(150_010)),
        },
        disk: Disk { room: Room::Ample, ..Disk::default() },
        peers: Peers::default(),
        job: None,
        preflight: None,
        oldest_wal: None,
        remote: None,
        outcomes: Vec::new(),
        requests: Requests::default(),
    };
    Fixture { view, snapshot }
}

/// Where the leader of a standby cluster gets its WAL from.
pub(super) fn other_cluster() -> Upstream {
    Upstream::Remote { slot: Some("here".to_owned()) }
}

/// Makes the cluster a standby cluster, which `a` leads.
pub(super) fn standby(world: Fixture) -> Fixture {
    world.with(|f| {
        let place = Some(("10.9.0.1".to_owned(), 5432));
        f.view.settings.standby_cluster = Some(StandbyCluster { place, slot: Some("here".to_owned()) });
        f.member("a").facts.role = Role::StandbyLeader;
    })
}

/// `a` holds the lock of a standby cluster and streams from the other cluster; the gate is closed.
pub(super) fn leads_standby() -> Fixture {
    let mut process = healthy("b").view.postgres.process;
    let Process::Running(Running::Replica(facts)) = &mut process else { panic!("a replica") };
    facts.upstream = other_cluster();
    facts.slots = healthy("a").primary().slots.clone();
    standby(healthy("a")).with(|f| {
        f.view.guard = Guard::Closed;
        f.view.postgres.process = process;
        f.view.postgres.data = Data::Present(control());
    })
}

/// A preparation that has just found nothing in the way.
pub(super) fn prepared(request: Revision) -> Preflight {
    Preflight { request, state: PreflightState::Ready { at: NOW, lsn: END, hazards: BTreeSet::new() } }
}

pub(super) fn secs(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

impl Fixture {
    pub(super) fn view(self) -> View {
        let Fixture { mut view, snapshot } = self;
        view.dcs = Seen::Now(snapshot);
        view
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Fixture)) -> Fixture {
        change(&mut self);
        self
    }

    pub(super) fn leader_timeline(self, timeline: u32) -> Fixture {
        self.with(|f| f.member("a").facts.timeline = Some(Timeline(timeline)))
    }

    pub(super) fn history(self, history: History) -> Fixture {
        self.with(|f| f.snapshot.history = Some(Keyed { value: history, mod_revision: Revision(6) }))
    }

    pub(super) fn member(&mut self, member: &str) -> &mut Member {
        self.snapshot.members.get_mut(&name(member)).unwrap()
    }

    /// The leader is gone with its document; the others have just been asked, and answer as far as this member.
    pub(super) fn leader_gone(self) -> Fixture {
        self.with(|f| {
            f.snapshot.leader = None;
            f.snapshot.members.remove(&name("a"));
            f.view.peers.asked = Some(NOW);
            let others =
                ["b", "c"].map(name).into_iter().filter(|n| *n != f.view.me).collect::<BTreeSet<_>>();
            f.view.peers.answers = others.into_iter().map(|n| (n, Answer::Reached(peer()))).collect();
            f.view.peers.answers.insert(name("a"), Answer::Unreachable);
        })
    }

    pub(super) fn peer(self, peer: &str, change: impl FnOnce(&mut PeerFacts)) -> Fixture {
        self.with(|f| {
            if let Some(Answer::Reached(facts)) = f.view.peers.answers.get_mut(&name(peer)) {
                change(facts);
            }
        })
    }

    pub(super) fn primary(&mut self) -> &mut PrimaryFacts {
        let Process::Running(Running::Primary(facts)) = &mut self.view.postgres.process else {
            panic!("no primary")
        };
        facts
    }

    pub(super) fn replica(&mut self) -> &mut ReplicaFacts {
        let Process::Running(Running::Replica(facts)) = &mut self.view.postgres.process else {
            panic!("no replica")
        };
        facts
    }

    pub(super) fn sync(self, leader: &str, standbys: &[&str]) -> Fixture {
        let standbys = standbys.iter().map(|n| name(n)).collect();
        self.with(|f| {
            let value = SyncState { leader: Some(name(leader)), standbys, quorum: 0 };
            f.snapshot.sync = Some(Keyed { value, mod_revision: Revision(7) });
            f.view.settings.synchronous_mode = SyncMode::On;
        })
    }
}

pub(super) fn peer() -> PeerFacts {
    PeerFacts {
        primary: false,
        timeline: Some(Timeline(1)),
        lsn: END,
        tags: Tags::default(),
        watchdog_usable: true,
        system_id: Some(SystemId(7)),
        etcd_silent: false,
        room: Room::Ample,
    }
}
