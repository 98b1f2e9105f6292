//! The cluster that a standby cluster follows: its primary's WAL, and what becomes of it at a failover there.

use keddah::agent::view::*;
use keddah::settings::StandbyCluster;

use crate::world::World;

impl World {
    /// The cluster follows another one, which has been promoted from what the leader has at this moment.
    pub fn follow_another(&mut self) {
        let leader = self.leader().cloned().expect("somebody leads");
        let host = self.hosts.iter().position(|h| h.name == leader).unwrap();
        self.other = self.hosts[host].postgres.disk.clone();
        self.fail_over_there(0);
        let place = Some(("other".to_owned(), 5432));
        self.etcd
            .set_config(|settings| settings.standby_cluster = Some(StandbyCluster { place, slot: None }));
        self.say("*", "the cluster follows another one");
        self.wake_all();
    }

    /// A standby of the other cluster that lacks so many of the last records begins the next timeline.
    pub fn fail_over_there(&mut self, lacking: usize) {
        let id = self.next_record();
        let other = self.other.as_mut().expect("there is another cluster");
        other.lose(lacking);
        let timeline = other.timeline().0 + 1;
        other.append(timeline, id);
        self.say("*", &format!("the other cluster goes on, on timeline {timeline}"));
    }

    /// Its clients write.
    pub fn write_there(&mut self) {
        if let Some(other) = &mut self.other {
            self.records += 1;
            let timeline = other.timeline().0;
            other.append(timeline, self.records);
        }
    }

    /// Receives from there, if the timelines allow it.
    pub fn pull_from_there(&mut self, replica: usize) {
        let postgres = &mut self.hosts[replica].postgres;
        postgres.streaming = false;
        let (Some(theirs), Some(mine)) = (&self.other, &mut postgres.disk) else { return };
        if mine.may_follow(theirs) && mine.is_prefix_of(theirs) {
            mine.receive(theirs);
            mine.replayed = mine.len();
            postgres.streaming = true;
        }
    }

    pub fn ask_there(&mut self, host: usize) -> Verdict {
        let asked = self.hosts[host].tick(self.now);
        self.hosts[host].remote = self.other.as_ref().map(|disk| Remote {
            asked,
            system_id: disk.system_id,
            timeline: disk.timeline(),
            history: disk.history().clone(),
            checkpoint_pending: false,
        });
        Verdict::Done
    }

    /// A copy of the other cluster, or its blocks in place of those that differ.
    pub fn copy_from_there(&mut self, host: usize) -> bool {
        let Some(copy) = self.other.clone() else { return false };
        self.settle_copy(host, copy);
        true
    }

    /// Everybody has the other cluster's WAL and nothing else, and gets more of it.
    pub fn all_follow(&self) -> bool {
        let Some(theirs) = &self.other else { return false };
        self.hosts.iter().all(|h| {
            h.postgres.streaming && h.postgres.disk.as_ref().is_some_and(|disk| disk.is_prefix_of(theirs))
        })
    }
}
